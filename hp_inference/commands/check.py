# SPDX-License-Identifier: Apache-2.0
"""`hp check`: random plans of a model, run in one process, against the unsplit model."""

from __future__ import annotations

import math
import sys
import time

import torch

from hp_inference.commands import Outcome
from hp_inference.commands.common import number, open_image, open_subject, random_image
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import TOLERANCE, worst_error
from hp_inference.split.plan import make_plan
from hp_inference.split.program import compile_plan


def run(args) -> Outcome:
    """Compare ``args.plans`` random plans, the first drawn under ``args.seed``."""
    dtype = getattr(torch, args.dtype)
    tolerance = TOLERANCE[dtype]
    begun = time.monotonic()
    subject = open_subject(args, dtype)
    layout = subject.layout
    image = (open_image(args.image, subject.shape) if args.image
             else random_image(subject.shape, args.seed))
    wanted = subject.reference(image)
    strange = sum(int((~tensor.isfinite()).sum()) for tensor in wanted.values())
    if strange:
        print(f'note: {strange} numbers of the unsplit answer are NaN or infinite; there a split '
              'only has to give the same', file=sys.stderr)
    # An answer of NaNs or zeros is the same whatever is computed before it: nothing is shown.
    empty = not any(bool((tensor.isfinite() & (tensor != 0)).any()) for tensor in wanted.values())
    if empty:
        print('note: the unsplit answer to this image has no number but 0, NaN and infinity, so '
              'that no error can show; give other --weights or another --image', file=sys.stderr)
    worst, worst_plan, wrong, sent_bytes = -1.0, '', 0, 0
    for done in range(args.plans):
        name = f'random:{args.seed + done}'
        try:
            frame = run_both(layout, compile_plan(layout, make_plan(name, layout)), image)
            error = worst_error(frame.outputs, wanted)
            sent_bytes += frame.sent_bytes
        except Exception as failure:  # finding these is what the command is for
            error = math.inf
            _progress('')
            print(f'plan {name} failed: {type(failure).__name__}: {failure}', file=sys.stderr)
        wrong += error > tolerance
        if error > worst:
            worst, worst_plan = error, name
        _progress(f'{done + 1} of {args.plans} plans, worst relative error {worst:.3g}')
    _progress('')
    seconds = time.monotonic() - begun
    data = {'plans': args.plans, 'worst_relative_error': number(worst), 'tolerance': tolerance,
            'sent_bytes': sent_bytes, 'ok': not (wrong or empty), 'worst_plan': worst_plan,
            'model': args.model, 'dtype': args.dtype, 'seconds': round(seconds, 3)}
    text = (f'{subject.title}\n\n'
            f'{args.plans} random plans (random:{args.seed} to '
            f'random:{args.seed + args.plans - 1}) in {seconds:.1f} s, '
            f'{sent_bytes / 1e6:.2f} MB sent\n'
            f'worst relative error {worst:.3g} (plan {worst_plan}), tolerance {tolerance:g}\n'
            + (f'WRONG: {wrong} plans do not give the answer of the unsplit model' if wrong
               else 'WRONG: nothing could be compared (see the note)' if empty
               else 'ok: every plan gives the answer of the unsplit model'))
    return Outcome(data, text, ok=not (wrong or empty))


def _progress(text: str) -> None:
    """Show one line in place of the last one, where somebody watches."""
    if sys.stderr.isatty():
        print(f'\r\x1b[K{text}', end='', file=sys.stderr, flush=True)
