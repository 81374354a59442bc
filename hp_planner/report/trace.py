# SPDX-License-Identifier: Apache-2.0
"""Inferences back to back along a recorded bandwidth, under the plans that somebody chooses."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
import io
from itertools import islice
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hp_inference import files
from hp_inference.split.errors import shown
from hp_inference.text import line as one_line

COLUMNS = ('time_s', 'mbit_s')
MAX_BYTES = 64 << 20
#: The largest rate, and the largest time either side of 0: beyond any clock, far from overflow.
MOST_MBIT_S, MOST_S = 1e6, 1e15
#: A step longer than this many usual steps is a gap: nobody knows what the link did meanwhile.
GAP_STEPS = 10
# An inference of which this part is left has ended: the rest is rounding.
ROUNDING = 1e-9
# Lines read and samples run through at a time.
_BLOCK = 1 << 14


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
    return list(map(Sample._make, load_trace(path).tolist()))


def load_trace(path: str | Path) -> np.ndarray:
    """Return what ``read_trace`` does as float64 [samples, 2]; a million of them takes seconds."""
    where = f'trace {one_line(path)}'
    try:
        text = files.read_text(path, MAX_BYTES)
    except files.FileError as error:
        raise TraceError(f'trace: {error}') from error
    lines = _lines(text)
    head = _cells(next(lines, (0, ''))[1])
    if any(name not in head for name in COLUMNS):
        raise TraceError(f'{where}: its first line names the columns {shown(head)}, expected '
                         f'{" and ".join(COLUMNS)}')
    places = [head.index(name) for name in COLUMNS]
    blocks = []
    while block := list(islice(lines, _BLOCK)):
        blocks.append(_numbers(block, places, where))
    made = np.concatenate(blocks) if blocks else np.empty((0, 2))
    _check_times(made[:, 0], text, where)
    return made


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that say something, with their numbers."""
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if line.strip() and not line.startswith('#'):
            yield number, line


def _numbers(block: list[tuple[int, str]], places: list[int], where: str) -> np.ndarray:
    """Return the samples of some lines; raises TraceError."""
    try:
        made = np.loadtxt([line for _, line in block], delimiter=',', usecols=places, ndmin=2,
                          comments=None, quotechar='"')
        # Blanks are lines too, for which numpy has no row.
        if len(made) == len(block) and (np.abs(made[:, 0]) <= MOST_S).all() and (
                (made[:, 1] >= 0) & (made[:, 1] <= MOST_MBIT_S)).all():
            return made
    except ValueError:
        pass
    # One by one, for what Python alone takes for a number, and for who is to blame.
    return np.array([_sample(line, places, f'{where}, line {number}') for number, line in block])


def _cells(line: str) -> list[str]:
    return [cell.strip(' "') for cell in line.strip('\n').split(',')] if line else []


def _sample(line: str, places: list[int], where: str) -> Sample:
    cells = _cells(line)
    numbers = []
    for name, place in zip(COLUMNS, places):
        text = cells[place] if place < len(cells) else ''
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        least, most = (0.0, MOST_MBIT_S) if name == 'mbit_s' else (-MOST_S, MOST_S)
        if not least <= number <= most:
            raise TraceError(f'{where}: {name} is {text[:40]!r}, expected a finite number from '
                             f'{least:g} to {most:g}')
        numbers.append(number)
    return Sample(*numbers)


def _check_times(times: np.ndarray, text: str, where: str) -> None:
    if len(times) < 2:
        raise TraceError(f'{where}: it has {len(times)} samples, expected two at least')
    steps = np.diff(times)
    usual = float(np.median(steps))
    for wrong, why in ((steps <= 0, 'expected ascending times'), (steps > GAP_STEPS * usual, '')):
        if not wrong.any():
            continue
        place = int(wrong.argmax())
        before, after = times[place:place + 2].tolist()
        number, _ = next(islice(_lines(text), place + 2, None))
        raise TraceError(f'{where}, line {number}: ' + (
            f'time_s goes from {before:g} to {after:g}, {why}' if why else
            f'a gap from {before:g} s to {after:g} s, the usual step is {usual:g} s: fill it, or '
            'cut the trace in two there'))


def held(times: np.ndarray) -> np.ndarray:
    """Return for how many seconds each sample holds; the last one for as long as most do."""
    steps = np.diff(times)
    return np.append(steps, np.median(steps))


def durations(samples: Sequence[Sample]) -> list[float]:
    """Return what ``held`` does for samples."""
    return held(np.array([sample[0] for sample in samples], float)).tolist()


def run_trace(samples: Sequence[Sample], choose: Callable[[float], Hashable],
              cost: Callable[[Hashable, float], tuple[float, float]],
              waiting_w: float) -> Outcome:
    """
    Run inferences back to back along a trace of two samples or more.

    As ``follow``, with a ``choose`` and a ``cost`` that take one rate each.
    """
    def costs(plan: Hashable, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        known = {rate: cost(plan, rate) for rate in set(rates.tolist())}
        return tuple(np.array([known[rate] for rate in rates.tolist()], float).T)
    return follow(np.array([tuple(sample) for sample in samples], float),
                  lambda rates: list(map(choose, rates.tolist())), costs, waiting_w)


def follow(trace: np.ndarray, choose: Callable[[np.ndarray], Sequence[Hashable]],
           cost: Callable[[Hashable, np.ndarray], tuple[np.ndarray, np.ndarray]],
           waiting_w: float, progress: Callable[[int, int], None] = lambda done, of: None
           ) -> Outcome:
    """
    Run inferences back to back along a trace, [samples, 2]: seconds, Mbit/s; two at least.

    ``choose(rates)`` names the plan for each rate; in force is that for the sample before the
    present one (the first sample's own at first, as nothing else is known). An inference keeps the
    plan that was in force when it began. ``cost(plan, rates)`` gives latencies in seconds, above 0,
    and energies in joules of inferences that see one rate only. One that outlasts a sample
    goes on at the pace of each sample that it lives through: in dt seconds it gets dt / latency of
    its way done and takes dt / latency of that energy. Where the latency is infinite (no link) it
    stands still and takes ``waiting_w`` watts. What is under way at the end counts for nothing but
    ``unfinished_s``.
    """
    rates, free_s = trace[:, 1], held(trace[:, 0])
    # Of the finished ones: latency, energy, how many of them.
    latencies, energies, counts = array('d'), array('d'), array('d')
    shares: Counter = Counter()
    force, switches = choose(rates[:1])[0], 0
    running, left, age, spent = None, 0.0, 0.0, 0.0  # of the inference under way
    for begin in range(0, len(rates), _BLOCK):
        here = rates[begin:begin + _BLOCK]
        plans = choose(np.append(rates[max(0, begin - 1):max(0, begin - 1) + 1], here[:-1]))
        paces = {plan: _pace(plan, here, cost, waiting_w)
                 for plan in dict.fromkeys([*plans, *([running] if begin else [])])}
        for place, (plan, free) in enumerate(zip(plans, free_s[begin:begin + _BLOCK].tolist())):
            switches += plan != force
            force = plan
            if age:
                every_seconds, every_watts = paces[running]
                seconds = every_seconds[place]
                to_go = left - free / seconds
                # Nothing is left to do on a link that is gone: after very long samples rounding is
                # more than a whole inference.
                rest = left * seconds if left > 0 and seconds < math.inf else 0.0
                taken = free if to_go > ROUNDING else min(free, rest)
                shares[running] += taken
                age, left = age + taken, to_go
                spent += every_watts[place] * taken
                if to_go > ROUNDING:
                    continue
                latencies.append(age)
                energies.append(spent)
                counts.append(1.0)
                free -= taken
            every_seconds, every_watts = paces[force]
            seconds, watts = every_seconds[place], every_watts[place]
            whole = int(free / seconds + ROUNDING)
            if whole:
                latencies.append(seconds)
                energies.append(watts * seconds)
                counts.append(whole)
            shares[force] += free
            age = free
            if seconds < math.inf:
                age -= whole * seconds
                age = age if age > ROUNDING * seconds else 0.0
            running, left, spent = force, 1 - age / seconds, watts * age
        progress(begin + len(here), len(rates))
    return _outcome(*map(np.array, (latencies, energies, counts)), switches, age, shares)


def _pace(plan: Hashable, rates: np.ndarray, cost, waiting_w: float
          ) -> tuple[list[float], list[float]]:
    """Return the seconds of a whole inference at each rate, and its watts meanwhile."""
    seconds, joules = cost(plan, rates)
    wrong = ~(seconds > 0)
    if wrong.any():
        raise ValueError(f'the latency of {plan} at {rates[wrong][0]:g} Mbit/s is '
                         f'{seconds[wrong][0]} s')
    ends = seconds < math.inf
    watts = np.where(ends, joules, waiting_w) / np.where(ends, seconds, 1.0)
    return seconds.tolist(), watts.tolist()


def _outcome(seconds: np.ndarray, joules: np.ndarray, counts: np.ndarray, switches: int,
             age: float, shares: Counter) -> Outcome:
    total = float(counts.sum())
    everywhere = sum(shares.values())
    parts = {plan: spent_s / everywhere for plan, spent_s in shares.items() if spent_s}
    if not total:
        return Outcome(None, None, None, 0, switches, age, parts)
    order = seconds.argsort()
    p95 = seconds[order][counts[order].cumsum().searchsorted(0.95 * total)]
    return Outcome(float((seconds * counts).sum()) / total, float(p95),
                   float((joules * counts).sum()) / total, int(total), switches, age, parts)
