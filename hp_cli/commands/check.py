# SPDX-License-Identifier: Apache-2.0
"""`hp check`: random plans of a model, run in one process, against the unsplit model."""

from __future__ import annotations

from dataclasses import dataclass
import math
import sys
import time

import torch

from hp_cli.commands import Outcome, UserError
from hp_cli.commands.common import (
    measured,
    number,
    open_image,
    open_subject,
    random_image,
    Subject,
)
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import (
    Answer,
    judge,
    Judgement,
    showing,
    TOLERANCE,
    Unsplit,
    worst_error,
)
from hp_inference.split.codecs import CODECS, LOSSY_CODECS
from hp_inference.split.plan import make_plan
from hp_inference.split.program import compile_plan
from hp_inference.text import line


@dataclass
class _Tally:
    """What all plans together came to; ``same_class`` of ``classified`` agree on the class."""

    worst: Judgement | None = None
    worst_plan: str = ''
    wrong: int = 0
    sent_bytes: int = 0
    same_class: int = 0
    classified: int = 0

    def judge(self, plan: str, found: Judgement) -> None:
        """Note how a plan was judged."""
        self.wrong += not found.ok
        if self.worst is None or found.times > self.worst.times:
            self.worst, self.worst_plan = found, plan

    def classify(self, got: Answer, wanted: Answer) -> None:
        """Note where the greatest of what looks like class scores, a row of floats, lies."""
        for name, scores in wanted.items():
            if scores.ndim == 2 and scores.shape[1] > 1 and scores.is_floating_point():
                same = got[name].argmax(1) == scores.argmax(1)
                self.classified += len(same)
                self.same_class += int(same.sum())


def run(args) -> Outcome:
    """Compare ``args.plans`` random plans, the first drawn under ``args.seed``."""
    if args.codec not in CODECS:
        raise UserError(f'--codec {args.codec}: expected one of {", ".join(CODECS)}')
    dtype, lossy = getattr(torch, args.dtype), args.codec in LOSSY_CODECS
    begun = time.monotonic()
    subject = open_subject(args, dtype)
    layout = subject.layout
    plans = [make_plan(f'random:{args.seed + i}', layout, args.codec) for i in range(args.plans)]
    asked = subject.ask(_images(args, subject, lossy), dtype, lossy)
    tally, turns = _Tally(), max(len(plans), len(asked))
    for done in range(turns):
        plan, unsplit = plans[done % len(plans)], asked[done % len(asked)]
        try:
            frame = run_both(layout, compile_plan(layout, plan), unsplit.image)
            found = _judged(frame.outputs, unsplit, lossy)
            tally.sent_bytes += frame.sent_bytes
        except Exception as failure:  # finding these is what the command is for
            found = Judgement(False, math.inf, None, TOLERANCE[dtype])
            _progress('')
            print(f'plan {plan.name} failed: {type(failure).__name__}: {line(failure)}',
                  file=sys.stderr)
        if found.worst_relative_error < math.inf:
            tally.classify(frame.outputs, unsplit.answer)
        tally.judge(plan.name, found)
        _progress(f'{done + 1} of {turns} runs, worst relative error '
                  f'{tally.worst.worst_relative_error:.3g}')
    _progress('')
    return _outcome(args, subject, tally, asked, lossy, time.monotonic() - begun)


def _judged(got: Answer, unsplit: Unsplit, lossy: bool) -> Judgement:
    if not lossy:
        return judge(got, unsplit)
    # What is lost is reported; an infinite error, numbers that are none, is wrong all the same.
    error = worst_error(got, unsplit.answer)
    return Judgement(error < math.inf, error, None, TOLERANCE[unsplit.dtype])


def _images(args, subject: Subject, lossy: bool) -> list[torch.Tensor]:
    """
    Return the images to ask, two different ones at least, as one alone can't show enough.

    What a codec loses depends on the image, so that a lossy one gets a new one for each plan.
    """
    images = [open_image(path, subject.shape) for path in args.image]
    if not images and lossy:
        return [_smooth_image(subject.shape, args.seed + i) for i in range(max(2, args.plans))]
    images = images or [random_image(subject.shape, args.seed)]
    if all(torch.equal(image, images[0]) for image in images):
        images.append(_smooth_image(subject.shape, args.seed))
    return images


def _smooth_image(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return noise that is weaker the finer it is, as in photographs, as uint8 ``shape``."""
    _, channels, height, width = shape
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    falling = 1 / (rows ** 2 + columns ** 2).sqrt().clamp_min(1 / max(height, width))
    noise = torch.randn(channels + 1, height, width, generator=draw)
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) * falling, s=(height, width))
    smooth = smooth[:1] + smooth[1:] / 3  # colours follow the brightness
    smooth = smooth / smooth.std(dim=(1, 2), keepdim=True, correction=0).clamp_min(1e-9)
    image = (128 + 50 * smooth).round().clamp(0, 255).to(torch.uint8)[None]
    return image.contiguous(memory_format=torch.channels_last)


def _outcome(args, subject: Subject, tally: _Tally, asked: list[Unsplit], lossy: bool,
             seconds: float) -> Outcome:
    strange = sum(int((~tensor.isfinite()).sum()) for unsplit in asked
                  for tensor in unsplit.answer.values())
    if strange:
        print(f'note: {strange} numbers of the unsplit answer are NaN or infinite; there a '
              'split only has to give the same', file=sys.stderr)
    showing_names = showing(asked)
    silent = [name for name in asked[0].answer if name not in showing_names]
    if silent:
        print(f'note: the unsplit answers to {len(asked)} images differ by no more than rounding '
              f'explains in {line(", ".join(silent), 300)}: no error can show there; give other '
              '--weights or --image', file=sys.stderr)
    if asked[0].note:
        print(f'note: {asked[0].note}; the fixed tolerance holds', file=sys.stderr)
    ok, worst = not tally.wrong and bool(showing_names), tally.worst
    agreement = tally.same_class / tally.classified if tally.classified else None
    data = {'plans': args.plans, 'codec': args.codec, 'lossy': lossy, 'images': len(asked),
            'worst_relative_error': number(worst.worst_relative_error),
            'reference_error': number(worst.reference_error),
            'tolerance': None if lossy else worst.tolerance,
            'top1_agreement': agreement, 'sent_bytes': tally.sent_bytes, 'ok': ok,
            'worst_plan': tally.worst_plan, 'model': args.model, 'dtype': args.dtype,
            'seconds': round(seconds, 3)}
    place = f' (plan {tally.worst_plan})'
    figures = measured(worst, place) if not lossy else (
        f'worst relative error {worst.worst_relative_error:.3g}{place}, which is reported, not '
        'judged')
    lines = [subject.title, '',
             f'{args.plans} random plans (random:{args.seed} to '
             f'random:{args.seed + args.plans - 1}) under {args.codec}, {len(asked)} image(s), in '
             f'{seconds:.1f} s, {tally.sent_bytes / 1e6:.2f} MB sent', figures]
    if lossy and tally.classified:
        lines.append(f'the class with the greatest score is the same in {tally.same_class} of '
                     f'{tally.classified} answers ({100 * agreement:.1f} %)')
    lines.append(_verdict(tally, bool(showing_names), lossy))
    return Outcome(data, '\n'.join(lines), ok=ok)


def _verdict(tally: _Tally, shows: bool, lossy: bool) -> str:
    if tally.wrong and lossy:
        return f'WRONG: {tally.wrong} plans failed or gave what the unsplit model never would'
    if tally.wrong:
        return f'WRONG: {tally.wrong} plans do not give the answer of the unsplit model'
    if not shows:
        return 'NOTHING SHOWN: the unsplit answer hardly depends on the image (see the note)'
    if lossy:
        return 'ok: every plan gives an answer; whether it is near enough is for you to say'
    return 'ok: every plan gives the answer of the unsplit model'


def _progress(text: str) -> None:
    """Show one line in place of the last one, where somebody watches."""
    if sys.stderr.isatty():
        print(f'\r\x1b[K{text}', end='', file=sys.stderr, flush=True)
