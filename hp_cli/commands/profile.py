# SPDX-License-Identifier: Apache-2.0
"""`hp profile`: what every operator of a model takes on this device."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import median
import time

import torch

from hp_cli.commands import Outcome, UserError
from hp_cli.commands.common import columns, open_image, open_subject, writable
from hp_cli.commands.progress import bar
from hp_inference.graph.layout import Layout
from hp_inference.profile.device import DeviceProfile
from hp_inference.profile.measure import profile, SHARES
from hp_inference.profile.power import measure_power
from hp_inference.profile.sample import sample_image
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.meters import find_meter, NO_POWER, Power
from hp_inference.split.plan import robot_only
from hp_inference.split.program import compile_plan

SLOWEST = 8
WATTS = ('waiting_w', 'communicating_w', 'computing_w')
# Outside of this, operators and the whole frame were not measured under the same conditions.
STEADY = 0.8, 1.25


def run(args) -> Outcome:
    """Measure a model on ``args.device`` and write the profile to ``args.out``."""
    out, device = writable(args.out), _device(args.device)
    subject = open_subject(args)
    image = (open_image(args.image, subject.shape) if args.image
             else sample_image(subject.shape))
    graph = subject.layout.graph
    layout = subject.layout if device.type == 'cpu' else Layout(graph.to(device))
    begun = time.monotonic()
    with bar(not args.json) as progress:
        power = _power(args, layout, image)
        made = profile(layout, image, power, progress=progress)
    made.save(out)
    seconds = time.monotonic() - begun
    slowest = sorted(range(1, len(layout.rows)), key=lambda v: -made.operators[v - 1].seconds[-1])
    shares = {share: _time_share(made, layout, share) for share in SHARES}
    data = {'profile': args.out, **{key: getattr(made, key) for key in (
        'model', 'model_digest', 'device', 'host', 'threads', 'whole_s', 'scale', 'message_s',
        'byte_s')}, 'operators': len(made.operators), 'spread': _spread(made),
        'slowest': [{'value': v, 'name': graph.values[v].name, **asdict(made.operators[v - 1])}
                    for v in slowest[:SLOWEST]],
        'time_share_by_row_share': {str(share): part for share, part in shares.items()},
        'codecs': {name: asdict(speed) for name, speed in made.codecs.items()},
        'power': asdict(made.power), 'seconds': round(seconds, 3)}
    lines = [subject.title, '', *_lines(made, shares), '', *_operators(made, layout, slowest), '',
             f'{len(made.operators)} operators in {seconds:.0f} s -> {args.out}']
    return Outcome(data, '\n'.join(lines))


def _device(text: str) -> torch.device:
    """Return a device that is here; raises UserError."""
    try:
        device = torch.device(text)
    except (RuntimeError, ValueError):  # the latter for text that is none
        device = None
    if device is None or device.type not in ('cpu', 'cuda'):
        raise UserError(f'--device {text} is no device, expected cpu, cuda or cuda:N')
    if device.type == 'cuda':
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UserError(f'--device {text}: PyTorch {torch.__version__} sees {count} GPUs '
                            'here; give --device cpu, or install a PyTorch and a driver for CUDA')
        return torch.device('cuda', device.index or 0)
    return torch.device('cpu')


def _power(args, layout: Layout, image: torch.Tensor) -> Power:
    """Return the power that was given, and what was not given as measured where that can be."""
    given = {name: getattr(args, name) for name in WATTS if getattr(args, name) is not None}
    if len(given) == len(WATTS):
        return Power(**given)
    meter = find_meter(str(layout.graph.device))
    if meter is None:
        if given:
            raise UserError('this machine has no power meter that may be read: give all of '
                            '--waiting-w, --communicating-w and --computing-w, or none')
        return NO_POWER
    frame = Executor(layout, compile_plan(layout, robot_only(layout))[0])
    try:
        measured = measure_power(meter, lambda: frame.run(None, image, Trace()))
    except OSError as error:
        raise UserError(f'the power meter {meter.source} failed: {error}; give --waiting-w, '
                        '--communicating-w and --computing-w') from error
    told = f', {", ".join(given)} given' if given else ''
    return replace(measured, **given, source=measured.source + told)


def _spread(made: DeviceProfile) -> float:
    return median(operator.spread for operator in made.operators)


def _time_share(made: DeviceProfile, layout: Layout, share: float) -> float | None:
    """Return which part of their time the row-wise operators take for a share of their rows."""
    rowwise = [v for v, rows in enumerate(layout.rows) if v and rows > 1]
    whole = sum(made.seconds(v, layout.rows[v]) for v in rowwise)
    return sum(made.seconds(v, share * layout.rows[v]) for v in rowwise) / whole if whole else None


def _lines(made: DeviceProfile, shares: dict[float, float | None]) -> list[str]:
    low, high = STEADY
    lines = [f'{made.device} of {made.host}, {made.threads} thread(s)',
             f'whole frame {1e3 * made.whole_s:.2f} ms, the sum of its operators times '
             f'{made.scale:.3f}; median spread of an operator {100 * _spread(made):.0f} %']
    if made.device == 'cpu' and not low <= made.scale <= high:
        lines.append('note: operators alone and in a frame took different times: other programs '
                     'kept the machine busy, measure again when it is idle')
    if None not in shares.values():
        lines.append('of their time, operators need ' + ', '.join(
            f'{100 * part:.0f} % for {100 * share:.0f} %' for share, part in shares.items())
            + ' of their rows')
    lines.append('codecs, MB/s to encode / decode: ' + ', '.join(
        f'{name} {speed.encode_bytes_per_s / 1e6:.0f} / {speed.decode_bytes_per_s / 1e6:.0f}'
        for name, speed in made.codecs.items() if name != 'none'))
    lines.append(f'a chunk costs its sender {1e6 * made.message_s:.0f} us and '
                 f'{1e9 * made.byte_s:.3f} ns per byte')
    if made.power == NO_POWER:
        lines.append('power unknown: no meter was found; give --waiting-w, --communicating-w and '
                     '--computing-w to plan for energy')
    else:
        power = made.power
        lines.append(f'power {power.waiting_w:.1f} W waiting, {power.communicating_w:.1f} W '
                     f'communicating, {power.computing_w:.1f} W computing ({power.source})')
    return lines


def _operators(made: DeviceProfile, layout: Layout, slowest: list[int]) -> list[str]:
    """Return a table of the slowest operators."""
    rows = [['value', 'name', 'operator', 'rows', 'ms', 'of whole', 'spread']]
    for v in slowest[:SLOWEST]:
        operator = made.operators[v - 1]
        rows.append([f'%{v}', layout.graph.values[v].name,
                     operator.operator.removeprefix('aten.'), str(operator.rows[-1]),
                     f'{1e3 * operator.seconds[-1]:.3f}',
                     f'{100 * operator.seconds[-1] / made.whole_s:.1f} %',
                     f'{100 * operator.spread:.0f} %'])
    return columns(rows)
