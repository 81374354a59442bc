# SPDX-License-Identifier: Apache-2.0
"""How busy a server is, worked out from what its engines and places to compute have counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import time

from hp_inference.runtime.fair_queue import FairQueue
from hp_inference.runtime.memory import resident_bytes
from hp_inference.runtime.server import ServerEngine


@dataclass(frozen=True)
class Load:
    """
    A server's last period; times in seconds.

    ``busy``: part of the period in which the places to compute were taken, 0 to 1. The mean times
    are of the frames that ended in it; while none ends and some are in flight, those before count.
    """

    busy: float = 0.0
    turn_wait_s: float = 0.0
    compute_s: float = 0.0
    frames_per_s: float = 0.0
    frames_in_flight: int = 0
    robots: int = 0
    memory_bytes: int = 0


class LoadMeter:
    """Tells the load of a server from one call to the next; ``engines`` has one for each robot."""

    def __init__(self, queue: FairQueue, engines: Sequence[ServerEngine]):
        self._queue, self._engines = queue, engines
        self._before = self._counted()
        self._load = Load()

    def read(self) -> Load:
        """Return the load of the time since the last call."""
        before, self._before = self._before, self._counted()
        time_s, busy_s, ended, turn_wait_s, compute_s = (
            now - then for now, then in zip(self._before[:-1], before[:-1]))
        in_flight = sum(engine.in_flight for engine in self._engines)
        if ended:
            means = turn_wait_s / ended, compute_s / ended
        elif in_flight:
            means = self._load.turn_wait_s, self._load.compute_s
        else:
            means = 0.0, 0.0
        self._load = Load(
            min(1.0, busy_s / (self._queue.places * time_s)) if time_s > 0 else 0.0, *means,
            ended / time_s if time_s > 0 else 0.0, in_flight,
            sum(now > then for now, then in zip(self._before[-1], before[-1])), resident_bytes())
        return self._load

    def _counted(self) -> tuple[float, float, int, float, float, list[int]]:
        """Return the time, then all that has been counted since the start."""
        engines = self._engines
        return (time.monotonic(), self._queue.busy_s,
                sum(engine.computed.frames for engine in engines),
                sum(engine.computed.turn_wait_s for engine in engines),
                sum(engine.computed.compute_s for engine in engines),
                [engine.chunks for engine in engines])
