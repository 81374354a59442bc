# SPDX-License-Identifier: Apache-2.0
"""
What planning knew of a table: every plan's figures over the bandwidths, and those of the baselines.

It lies in the table file, so that traces and pictures need no model, no profile and no PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hp_inference.runtime.meters import UNKNOWN
from hp_inference.runtime.spans import Span
from hp_inference.split.curves import Curve, read_curves
from hp_inference.split.record_json import Part, RecordError
from hp_inference.split.table_json import ALONE

#: Baselines that keep their plan whatever the link does; the others look at the bandwidth.
FIXED = ('robot_only', 'full_offload', 'full_offload_jpeg')
#: Each is drawn along every rate; planning knows of six.
MOST_BASELINES = 32


@dataclass(frozen=True)
class Point:
    """What the table has at one rate of the grid; ``bound_s``: no plan's latency is less."""

    mbit_s: float
    plan: str
    latency_s: float
    energy_j: float
    bound_s: float
    lanes: tuple[Span, ...]


@dataclass(frozen=True)
class Compromise:
    """A plan that no other beats in latency, energy, throughput and robot memory at once."""

    plan: str
    latency_s: float
    energy_j: float
    throughput: float
    robot_peak_bytes: float


@dataclass(frozen=True)
class Record:
    """
    What planning knew, checked.

    ``policy``: which codecs plans might use (exact, lossy). ``grid``: Mbit/s, ascending.
    ``curves``: by plan name. ``baselines``: per baseline the name of its plan at each rate of the
    grid. ``points``: the table's own, one per rate of the grid. ``depth``: the values along which
    a plan's shares are shown. ``waiting_w``: the robot's power while it waits;
    ``power_known``: whether anybody measured or gave it, without which energies say nothing.
    """

    objective: str
    policy: str
    grid: tuple[float, ...]
    curves: Mapping[str, Curve]
    baselines: Mapping[str, tuple[str, ...]]
    points: tuple[Point, ...]
    depth: tuple[int, ...]
    waiting_w: float
    power_known: bool
    pareto: tuple[Compromise, ...]
    pareto_mbit_s: float | None

    @classmethod
    def from_json(cls, data: object) -> Record:
        """Return the record that JSON data holds; raises RecordError."""
        top = Part(data, 'the record')
        grid, curves = top.rates('grid'), read_curves(top)
        baselines, depth = top.part('baselines'), top.places('depth')
        if len(baselines.data) > MOST_BASELINES:
            raise RecordError(f'"baselines" of the record holds {len(baselines.data)} of them, '
                              f'expected at most {MOST_BASELINES}')
        if any(value <= before for before, value in pairwise(depth)):
            raise RecordError('"depth" of the record is not a list of values in the order of the '
                              'network, each once')
        pareto = None if top.data.get('pareto') is None else top.part('pareto')
        return cls(
            top.get('objective', str), top.get('policy', str), grid,
            curves,
            {name: baselines.names(name, len(grid), curves) for name in baselines.data},
            _points(top, grid, curves), depth, top.part('power').number('waiting_w'),
            top.part('power').data.get('source') != UNKNOWN,
            () if pareto is None else tuple(map(_compromise, pareto.parts('points'))),
            None if pareto is None else pareto.number('mbit_s', above=True))

    def baselines_at(self, name: str, mbit_s: np.ndarray) -> list[str]:
        """
        Return the names of the plans that a baseline uses at some rates.

        Each is that of the grid's rate at or next below; below the grid a baseline that looks at
        the bandwidth computes on the robot alone, like the table.
        """
        plans = self.baselines[name]
        if name in FIXED:
            return [plans[0]] * len(mbit_s)
        return at_or_below(self.grid, plans, mbit_s)

    def latency_at(self, name: str, mbit_s):
        """Return a plan's latency in seconds at a rate (or an array), infinite without a link."""
        return self.curves[name].at(mbit_s, 'latency_s')

    def energy_at(self, name: str, mbit_s):
        """Return a plan's energy per inference in joules at a rate (or an array)."""
        return self.curves[name].at(mbit_s, 'energy_j')


def at_or_below(rates: Sequence[float], names: Sequence[str], mbit_s: np.ndarray) -> list[str]:
    """Return the names that ascending ``rates`` have from each on, robot_only before the first."""
    named = [ALONE, *names]
    places = np.searchsorted(rates, np.where(mbit_s > 0, mbit_s, 0.0), 'right')
    return [named[place] for place in places.tolist()]


def _points(top: Part, grid: tuple[float, ...], known: Mapping) -> tuple[Point, ...]:
    parts = top.parts('choices')
    if [part.number('mbit_s') for part in parts] != list(grid):
        raise RecordError(f'"choices" of {top.where}: expected one at each of the '
                          f'{len(grid)} rates of "grid", in order')
    return tuple(Point(rate, part.name('plan', known), part.number('latency_s', above=True),
                       part.number('energy_j'), part.number('bound_s'),
                       tuple(map(_span, part.parts('lanes'))))
                 for part, rate in zip(parts, grid))


def _span(part: Part) -> Span:
    return Span(part.get('lane', str), part.get('label', str), part.number('start_s'),
                part.number('duration_s'))


def _compromise(part: Part) -> Compromise:
    return Compromise(part.part('plan').get('name', str), part.number('latency_s', above=True),
                      part.number('energy_j'), part.number('throughput'),
                      part.number('robot_peak_bytes'))
