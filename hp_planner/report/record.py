# SPDX-License-Identifier: Apache-2.0
"""
What planning knew of a table: every plan's figures over the bandwidths, and those of the baselines.

It lies in the table file, so that traces and pictures need no model, no profile and no PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import math

import numpy as np

from hp_inference.runtime.spans import Span
from hp_inference.split.table_json import ALONE
from hp_planner.profile.device import UNKNOWN
from hp_planner.report.record_json import Part, RecordError

#: A curve's figures, one number per rate of the grid, and its numbers that no rate changes.
FIGURES = ('latency_s', 'energy_j', 'robot_busy_s', 'server_busy_s', 'radio_busy_s')
SIZES = ('up_bytes', 'down_bytes', 'robot_peak_bytes', 'server_peak_bytes')
#: Baselines that keep their plan whatever the link does; the others look at the bandwidth.
FIXED = ('robot_only', 'full_offload', 'full_offload_jpeg')


@dataclass(frozen=True)
class Curve:
    """
    One plan's figures at the rates ``mbit_s`` (ascending), as hp_planner's timeline gave them.

    Seconds, joules of the robot, encoded bytes, bytes of values held at once.
    """

    mbit_s: np.ndarray
    latency_s: np.ndarray
    energy_j: np.ndarray
    robot_busy_s: np.ndarray
    server_busy_s: np.ndarray
    radio_busy_s: np.ndarray
    up_bytes: float
    down_bytes: float
    robot_peak_bytes: float
    server_peak_bytes: float
    _inverse: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        """Keep the axis on which a plan's figures are straight between neighbouring rates."""
        object.__setattr__(self, '_inverse', 1 / self.mbit_s[::-1])

    @property
    def travels(self) -> bool:
        """Whether the plan needs the link at all."""
        return self.up_bytes + self.down_bytes > 0

    def at(self, mbit_s, figure: str = 'latency_s'):
        """
        Return a figure, or the throughput, at a rate (or an array of rates): linear in 1 / rate.

        Beyond the grid the end segments go on; a slower link makes nothing smaller, and a faster
        one no frame shorter than its longer-working side. With one rate in the grid the figure
        holds everywhere. At 0, and for NaN, a plan that travels never ends: infinity.
        ``throughput``: frames per second with several in flight, of the slowest of robot, radio
        and server.
        """
        if figure == 'throughput':
            return 1 / np.maximum(self.at(mbit_s, 'radio_busy_s'), np.maximum(
                self.at(mbit_s, 'robot_busy_s'), self.at(mbit_s, 'server_busy_s')))
        values, x = getattr(self, figure)[::-1], self._inverse
        rate = np.asarray(mbit_s, float)
        linked = rate > 0
        wanted = 1 / np.where(linked, rate, 1.0)
        made = np.interp(wanted, x, values)
        if len(x) > 1:
            fast, slow = np.maximum(np.diff(values)[[0, -1]] / np.diff(x)[[0, -1]], 0)
            floor = 0.0
            if figure == 'latency_s':
                busy = max(self.robot_busy_s[-1], self.server_busy_s[-1])
                floor = busy if 0 < busy < values[0] else values[0]
            beyond = np.maximum(values[0] - fast * (x[0] - wanted), floor)
            made = np.where(wanted < x[0], beyond, made)
            made = np.where(wanted > x[-1], values[-1] + slow * (wanted - x[-1]), made)
        made = np.where(linked, made, math.inf if self.travels else values[-1])
        return float(made) if made.ndim == 0 else made


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
        grid, curves = top.rates('grid'), top.part('curves')
        known = curves.data
        if ALONE not in known:
            raise RecordError(f'{curves.where} has no {ALONE!r}, which every table needs')
        baselines = top.part('baselines')
        pareto = None if top.data.get('pareto') is None else top.part('pareto')
        return cls(
            top.get('objective', str), top.get('policy', str), grid,
            {name: _curve(curves.part(name), grid) for name in known},
            {name: baselines.names(name, len(grid), known) for name in baselines.data},
            _points(top, grid, known), top.places('depth'), top.part('power').number('waiting_w'),
            top.part('power').data.get('source') != UNKNOWN,
            () if pareto is None else tuple(map(_compromise, pareto.parts('points'))),
            None if pareto is None else pareto.number('mbit_s', above=True))

    def baseline_at(self, name: str, mbit_s: float) -> str:
        """
        Return the name of the plan that a baseline uses at a rate.

        It is that of the grid's rate at or next below; below the grid a baseline that looks at
        the bandwidth computes on the robot alone, like the table.
        """
        plans = self.baselines[name]
        if name in FIXED:
            return plans[0]
        return ([ALONE] + [plan for rate, plan in zip(self.grid, plans) if rate <= mbit_s])[-1]

    def latency_at(self, name: str, mbit_s):
        """Return a plan's latency in seconds at a rate (or an array), infinite without a link."""
        return self.curves[name].at(mbit_s, 'latency_s')

    def energy_at(self, name: str, mbit_s):
        """Return a plan's energy per inference in joules at a rate (or an array)."""
        return self.curves[name].at(mbit_s, 'energy_j')


def _curve(part: Part, grid: tuple[float, ...]) -> Curve:
    figures = {name: np.array(part.numbers(name, len(grid), above=name == 'latency_s'))
               for name in FIGURES}
    return Curve(np.array(grid), **figures, **{name: part.number(name) for name in SIZES})


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
