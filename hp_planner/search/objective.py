# SPDX-License-Identifier: Apache-2.0
"""What "better" means: one cost from the timeline's figures, and limits that a plan must keep."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from hp_planner.timeline.setting import SettingError
from hp_planner.timeline.simulate import (
    DOWN_BYTES,
    ENERGY,
    LATENCY,
    RADIO_BUSY,
    ROBOT_BUSY,
    ROBOT_PEAK,
    SERVER_BUSY,
    SERVER_PEAK,
    UP_BYTES,
)

OBJECTIVES = ('latency', 'energy', 'energy_under_latency', 'weighted', 'throughput')
# A plan outside a limit costs more than any plan within, and more the further outside.
OUTSIDE = 1e6


@dataclass(frozen=True)
class Objective:
    """
    The cost to make small, and the limits to keep.

    ``name``: 'latency' [s], 'energy' [J], 'energy_under_latency' (energy, where the latency is
    within ``latency_bound_s``), 'weighted' (``latency_weight`` per second plus ``energy_weight``
    per joule), 'throughput' (seconds per frame of the slowest of robot, radio, server, with
    several frames in flight).

    Limits, each None for no limit: bytes of values held at once on the robot and on the server,
    bytes per second on the link, seconds of latency (with any objective).
    """

    name: str = 'latency'
    latency_bound_s: float | None = None
    latency_weight: float = 1.0
    energy_weight: float = 1.0
    robot_bytes: float | None = None
    server_bytes: float | None = None
    link_bytes_per_s: float | None = None

    def __post_init__(self):
        """Refuse what is not an objective; raises SettingError."""
        if self.name not in OBJECTIVES:
            raise SettingError(f'objective {self.name!r} is not known: expected one of '
                               f'{", ".join(OBJECTIVES)}')
        if self.name == 'energy_under_latency' and self.latency_bound_s is None:
            raise SettingError('objective energy_under_latency needs a latency bound '
                               '(--latency-bound-ms X)')
        for field in ('latency_bound_s', 'robot_bytes', 'server_bytes', 'link_bytes_per_s'):
            limit = getattr(self, field)
            if limit is not None and not 0 < limit < math.inf:
                raise SettingError(f'{field} is {limit!r}, expected more than 0')
        for field in ('latency_weight', 'energy_weight'):
            weight = getattr(self, field)
            if not 0 <= weight < math.inf:
                raise SettingError(f'{field} is {weight!r}, expected 0 or more')

        if self.name == 'weighted' and not self.latency_weight + self.energy_weight:
            raise SettingError('objective weighted needs a weight above 0 of latency or energy')

    @property
    def weighs_energy(self) -> bool:
        """Whether the robot's power matters."""
        return 'energy' in self.name or self.name == 'weighted' and self.energy_weight > 0

    def cost(self, figures: np.ndarray) -> np.ndarray:
        """Return the cost of each [..., figures] (infinite for what cannot run)."""
        cost = self.plain(figures)
        latency = np.where(np.isfinite(figures[..., LATENCY]), figures[..., LATENCY], 1.0)
        for figure, limit in (
                (figures[..., LATENCY], self.latency_bound_s),
                (figures[..., ROBOT_PEAK], self.robot_bytes),
                (figures[..., SERVER_PEAK], self.server_bytes),
                ((figures[..., UP_BYTES] + figures[..., DOWN_BYTES]) / latency
                 if self.link_bytes_per_s else None, self.link_bytes_per_s)):
            if limit is not None:
                # A little over a limit is no reason: rounding is.
                outside = figure > limit * (1 + 1e-9)
                cost = np.where(outside, OUTSIDE * (figure / limit) + cost, cost)
        return np.where(np.isfinite(figures[..., LATENCY]), cost, np.inf)

    def plain(self, figures: np.ndarray) -> np.ndarray:
        """Return the cost without the limits."""
        if self.name == 'latency':
            return figures[..., LATENCY]
        if self.name in ('energy', 'energy_under_latency'):
            return figures[..., ENERGY]
        if self.name == 'weighted':
            return (self.latency_weight * figures[..., LATENCY]
                    + self.energy_weight * figures[..., ENERGY])
        return figures[..., [ROBOT_BUSY, SERVER_BUSY, RADIO_BUSY]].max(-1)
