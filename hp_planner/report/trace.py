# SPDX-License-Identifier: Apache-2.0
"""Inferences back to back along a recorded bandwidth, under the plans that somebody chooses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
import math
from pathlib import Path
from statistics import median
from typing import NamedTuple

from hp_inference.split.errors import shown

COLUMNS = ('time_s', 'mbit_s')
MAX_BYTES = 64 << 20
MOST_MBIT_S = 1e6
#: A step longer than this many usual steps is a gap: nobody knows what the link did meanwhile.
GAP_STEPS = 10
# An inference of which this part is left has ended: the rest is rounding.
ROUNDING = 1e-9


class TraceError(ValueError):
    """A trace that can't be used; the text says where and why."""


class Sample(NamedTuple):
    """From ``time_s`` until the next sample the link carries ``mbit_s`` (1e6 bit/s, 0: nothing)."""

    time_s: float
    mbit_s: float


@dataclass(frozen=True)
class Outcome:
    """
    What inferences back to back along a trace came to.

    Per finished inference: mean and 95th percentile of the latency in seconds, mean energy in
    joules; None where none finished. ``switches``: how often the plan in force changed.
    ``unfinished_s``: how long the last one had been under way when the trace ended. ``time_share``:
    which part of the time inferences ran under each plan.
    """

    mean_s: float | None
    p95_s: float | None
    energy_j: float | None
    inferences: int
    switches: int
    unfinished_s: float
    time_share: dict[Hashable, float]


def read_trace(path: str | Path) -> list[Sample]:
    """
    Return the samples of a CSV file, two at least, with the columns time_s and mbit_s.

    The first line names the columns; lines that begin with # are left out. Raises TraceError for
    what is no number, times that do not ascend and gaps.
    """
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise TraceError(f'trace {path}: it has more than {MAX_BYTES} bytes')
        lines = Path(path).read_text('utf-8-sig').splitlines()
    except OSError as error:
        raise TraceError(f'can not read trace {path}: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise TraceError(f'trace {path} is not text: {error}') from error
    numbered = [(number, line) for number, line in enumerate(lines, 1)
                if line.strip() and not line.startswith('#')]
    head = _cells(numbered[0][1]) if numbered else []
    if any(name not in head for name in COLUMNS):
        raise TraceError(f'trace {path}: its first line names the columns {shown(head)}, expected '
                         f'{" and ".join(COLUMNS)}')
    places = [head.index(name) for name in COLUMNS]
    samples = [_sample(line, places, f'trace {path}, line {number}') for number, line in
               numbered[1:]]
    _check_times(samples, [number for number, _ in numbered[1:]], path)
    return samples


def _cells(line: str) -> list[str]:
    return [cell.strip(' "') for cell in line.split(',')]


def _sample(line: str, places: list[int], where: str) -> Sample:
    cells = _cells(line)
    numbers = []
    for name, place in zip(COLUMNS, places):
        text = cells[place] if place < len(cells) else ''
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or name == 'mbit_s' and not 0 <= number <= MOST_MBIT_S:
            raise TraceError(f'{where}: {name} is {text[:40]!r}, expected a finite number'
                             + (f' from 0 to {MOST_MBIT_S:g}' if name == 'mbit_s' else ''))
        numbers.append(number)
    return Sample(*numbers)


def _check_times(samples: list[Sample], lines: list[int], path: str | Path) -> None:
    if len(samples) < 2:
        raise TraceError(f'trace {path}: it has {len(samples)} samples, expected two at least')
    steps = [after.time_s - before.time_s for before, after in zip(samples, samples[1:])]
    places = list(zip(lines[1:], steps, samples, samples[1:]))
    for line, step, before, after in places:
        if step <= 0:
            raise TraceError(f'trace {path}, line {line}: time_s goes from {before.time_s:g} to '
                             f'{after.time_s:g}, expected ascending times')
    usual = median(steps)
    for line, step, before, after in places:
        if step > GAP_STEPS * usual:
            raise TraceError(f'trace {path}, line {line}: a gap from {before.time_s:g} s to '
                             f'{after.time_s:g} s, the usual step is {usual:g} s: fill it, or cut '
                             'the trace in two there')


def durations(samples: Sequence[Sample]) -> list[float]:
    """Return for how many seconds each sample holds; the last one for as long as most do."""
    steps = [after[0] - before[0] for before, after in zip(samples, samples[1:])]
    return [*steps, median(steps)]


def run_trace(samples: Sequence[Sample], choose: Callable[[float], Hashable],
              cost: Callable[[Hashable, float], tuple[float, float]],
              waiting_w: float) -> Outcome:
    """
    Run inferences back to back along a trace of two samples or more.

    ``choose(mbit_s)`` names the plan for a bandwidth; in force is that for the sample before the
    present one (the first sample's own at first, as nothing else is known). An inference keeps the
    plan that was in force when it began. ``cost(plan, mbit_s)`` gives latency in seconds, above 0,
    and energy in joules of an inference that sees one bandwidth only. One that outlasts a sample
    goes on at the pace of each sample that it lives through: in dt seconds it gets dt / latency of
    its way done and takes dt / latency of that energy. Where the latency is infinite (no link) it
    stands still and takes ``waiting_w`` watts. What is under way at the end counts for nothing but
    ``unfinished_s``.
    """
    known: dict[tuple[Hashable, float], tuple[float, float]] = {}
    done: list[tuple[float, float, int]] = []  # latency, energy, how many of them
    shares: Counter = Counter()
    force, switches = choose(samples[0][1]), 0
    running, left, age, spent = None, 0.0, 0.0, 0.0  # of the inference under way

    def pace(plan: Hashable, rate: float) -> tuple[float, float]:
        """Return the seconds of a whole inference, and its watts meanwhile."""
        if (plan, rate) not in known:
            seconds, joules = cost(plan, rate)
            if not seconds > 0:
                raise ValueError(f'the latency of {plan} at {rate} Mbit/s is {seconds} s')
            known[plan, rate] = (seconds, joules / seconds if seconds < math.inf else waiting_w)
        return known[plan, rate]

    for place, ((_, rate), free) in enumerate(zip(samples, durations(samples))):
        if place:
            before, force = force, choose(samples[place - 1][1])
            switches += force != before
        if age:
            seconds, watts = pace(running, rate)
            to_go = left - free / seconds
            taken = free if to_go > ROUNDING else min(free, left * seconds)
            shares[running] += taken
            age, spent, left = age + taken, spent + watts * taken, to_go
            if to_go > ROUNDING:
                continue
            done.append((age, spent, 1))
            free -= taken
        seconds, watts = pace(force, rate)
        whole = int(free / seconds + ROUNDING)
        if whole:
            done.append((seconds, watts * seconds, whole))
        shares[force] += free
        age = free
        if seconds < math.inf:
            age -= whole * seconds
            age = age if age > ROUNDING * seconds else 0.0
        running, left, spent = force, 1 - age / seconds, watts * age
    return _outcome(done, switches, age, shares)


def _outcome(done: list[tuple[float, float, int]], switches: int, age: float,
             shares: Counter) -> Outcome:
    total = sum(count for _, _, count in done)
    everywhere = sum(shares.values())
    parts = {plan: seconds / everywhere for plan, seconds in shares.items() if seconds}
    if not total:
        return Outcome(None, None, None, 0, switches, age, parts)
    passed, p95 = 0, 0.0
    for p95, _, count in sorted(done):
        passed += count
        if passed >= 0.95 * total:
            break
    return Outcome(sum(seconds * count for seconds, _, count in done) / total, p95,
                   sum(joules * count for _, joules, count in done) / total, total, switches, age,
                   parts)
