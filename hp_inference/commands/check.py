# SPDX-License-Identifier: Apache-2.0
"""`hp check`: random plans of a model, run in one process, against the unsplit model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math
import sys
import time

import torch

from hp_inference.commands import Outcome, UserError
from hp_inference.commands.common import number, open_image, open_subject, random_image, Subject
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import TOLERANCE, worst_error
from hp_inference.split.codecs import CODECS, LOSSY_CODECS
from hp_inference.split.plan import make_plan
from hp_inference.split.program import compile_plan
from hp_inference.text import line

Answer = Mapping[str, torch.Tensor]
Question = tuple[torch.Tensor, Answer]  # an image and what the unsplit model says of it


@dataclass
class _Tally:
    """What all plans together came to; ``same_class`` of ``classified`` agree on the class."""

    worst: float = -1.0
    worst_plan: str = ''
    wrong: int = 0
    sent_bytes: int = 0
    same_class: int = 0
    classified: int = 0
    strange: int = 0
    empty: bool = True

    def ask(self, wanted: Answer) -> None:
        """Note what the unsplit answer can show."""
        self.strange += sum(int((~tensor.isfinite()).sum()) for tensor in wanted.values())
        # An answer of NaNs or zeros is the same whatever is computed before it: nothing is shown.
        self.empty &= not any(bool((tensor.isfinite() & (tensor != 0)).any())
                              for tensor in wanted.values())

    def judge(self, plan: str, error: float, tolerance: float) -> None:
        """Note the error of a plan, infinite where it failed or gave something else."""
        self.wrong += error > tolerance
        if error > self.worst:
            self.worst, self.worst_plan = error, plan

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
    # What is lost is reported; an infinite error, numbers that are none, is wrong all the same.
    tolerance = sys.float_info.max if lossy else TOLERANCE[dtype]
    begun = time.monotonic()
    subject = open_subject(args, dtype)
    layout = subject.layout
    plans = [make_plan(f'random:{args.seed + i}', layout, args.codec) for i in range(args.plans)]
    question, images = _questions(args, subject, lossy)
    tally = _Tally()
    for done, plan in enumerate(plans):
        image, wanted = question(done)
        if done < images:
            tally.ask(wanted)
        try:
            frame = run_both(layout, compile_plan(layout, plan), image)
            error = worst_error(frame.outputs, wanted)
            tally.sent_bytes += frame.sent_bytes
        except Exception as failure:  # finding these is what the command is for
            error = math.inf
            _progress('')
            print(f'plan {plan.name} failed: {type(failure).__name__}: {line(failure)}',
                  file=sys.stderr)
        if error < math.inf:
            tally.classify(frame.outputs, wanted)
        tally.judge(plan.name, error, tolerance)
        _progress(f'{done + 1} of {args.plans} plans, worst relative error {tally.worst:.3g}')
    _progress('')
    return _outcome(args, subject, tally, images, lossy, time.monotonic() - begun)


def _questions(args, subject: Subject, lossy: bool) -> tuple[Callable[[int], Question], int]:
    """
    Return what gives the question for the i-th plan, and how many different ones there are.

    What a codec loses depends on the image, so that a lossy one gets a new one for each plan.
    """
    images = [open_image(path, subject.shape) for path in args.image]
    if not images and lossy:
        def draw(i: int) -> Question:
            image = _smooth_image(subject.shape, args.seed + i)
            return image, subject.reference(image)
        return draw, args.plans
    images = images or [random_image(subject.shape, args.seed)]
    asked = [(image, subject.reference(image)) for image in images]
    return lambda i: asked[i % len(asked)], min(len(asked), args.plans)


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


def _outcome(args, subject: Subject, tally: _Tally, images: int, lossy: bool,
             seconds: float) -> Outcome:
    if tally.strange:
        print(f'note: {tally.strange} numbers of the unsplit answer are NaN or infinite; there a '
              'split only has to give the same', file=sys.stderr)
    if tally.empty:
        print('note: the unsplit answer to this image has no number but 0, NaN and infinity, so '
              'that no error can show; give other --weights or another --image', file=sys.stderr)
    ok = not (tally.wrong or tally.empty)
    tolerance = None if lossy else TOLERANCE[getattr(torch, args.dtype)]
    agreement = tally.same_class / tally.classified if tally.classified else None
    data = {'plans': args.plans, 'codec': args.codec, 'lossy': lossy, 'images': images,
            'worst_relative_error': number(tally.worst), 'tolerance': tolerance,
            'top1_agreement': agreement, 'sent_bytes': tally.sent_bytes, 'ok': ok,
            'worst_plan': tally.worst_plan, 'model': args.model, 'dtype': args.dtype,
            'seconds': round(seconds, 3)}
    judged = 'which is reported, not judged' if lossy else f'tolerance {tolerance:g}'
    lines = [subject.title, '',
             f'{args.plans} random plans (random:{args.seed} to '
             f'random:{args.seed + args.plans - 1}) under {args.codec}, {images} image(s), in '
             f'{seconds:.1f} s, {tally.sent_bytes / 1e6:.2f} MB sent',
             f'worst relative error {tally.worst:.3g} (plan {tally.worst_plan}), {judged}']
    if lossy and tally.classified:
        lines.append(f'the class with the greatest score is the same in {tally.same_class} of '
                     f'{tally.classified} answers ({100 * agreement:.1f} %)')
    lines.append(_verdict(tally, lossy))
    return Outcome(data, '\n'.join(lines), ok=ok)


def _verdict(tally: _Tally, lossy: bool) -> str:
    if tally.wrong and lossy:
        return f'WRONG: {tally.wrong} plans failed or gave what the unsplit model never would'
    if tally.wrong:
        return f'WRONG: {tally.wrong} plans do not give the answer of the unsplit model'
    if tally.empty:
        return 'WRONG: nothing could be compared (see the note)'
    if lossy:
        return 'ok: every plan gives an answer; whether it is near enough is for you to say'
    return 'ok: every plan gives the answer of the unsplit model'


def _progress(text: str) -> None:
    """Show one line in place of the last one, where somebody watches."""
    if sys.stderr.isatty():
        print(f'\r\x1b[K{text}', end='', file=sys.stderr, flush=True)
