# SPDX-License-Identifier: Apache-2.0
"""
What planning predicts of each plan of a table at every bandwidth, as the table's record has it.

Needs no PyTorch. The timeline that makes these figures is hp_planner's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
import math

import numpy as np

from hp_inference.split.record_json import Part, RecordError
from hp_inference.split.table_json import ALONE

#: A curve's figures, one number per rate of the grid, and its numbers that no rate changes.
FIGURES = ('latency_s', 'energy_j', 'robot_busy_s', 'server_busy_s', 'radio_busy_s')
SIZES = ('up_bytes', 'down_bytes', 'robot_peak_bytes', 'server_peak_bytes')

# Mbit/s: on a slower link no frame ever ends, and one over it is no number to count with.
_NO_LINK = 1e-12


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

    @property
    def computes(self) -> tuple[bool, bool]:
        """Whether the robot and whether the server computes under the plan."""
        return bool(self.robot_busy_s[-1] > 0), bool(self.server_busy_s[-1] > 0)

    def at(self, mbit_s, figure: str = 'latency_s'):
        """
        Return a figure, or the throughput, at a rate (or an array of rates): linear in 1 / rate.

        Beyond the grid the end segments go on; a slower link makes nothing smaller, and a faster
        one no frame shorter than its longer-working side. With one rate in the grid the figure
        holds everywhere. At 0 (or next to it), and for NaN, a plan that travels never ends:
        infinity. ``throughput``: frames per second with several in flight, of the slowest of
        robot, radio and server.
        """
        if figure == 'throughput':
            return 1 / np.maximum(self.at(mbit_s, 'radio_busy_s'), np.maximum(
                self.at(mbit_s, 'robot_busy_s'), self.at(mbit_s, 'server_busy_s')))
        values, x = getattr(self, figure)[::-1], self._inverse
        rate = np.asarray(mbit_s, float)
        linked = rate > _NO_LINK
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


def read_curves(record: Part) -> dict[str, Curve]:
    """Return the curves of a table's record by plan name; raises RecordError."""
    grid, curves = record.rates('grid'), record.part('curves')
    if ALONE not in curves.data:
        raise RecordError(f'{curves.where} has no {ALONE!r}, which every table needs')
    return {name: _curve(curves.part(name), grid) for name in curves.data}


def _curve(part: Part, grid: tuple[float, ...]) -> Curve:
    figures = {name: np.array(part.numbers(name, len(grid), above=name == 'latency_s'))
               for name in FIGURES}
    return Curve(np.array(grid), **figures, **{name: part.number(name) for name in SIZES})
