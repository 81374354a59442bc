# SPDX-License-Identifier: Apache-2.0
"""Time that passes only where somebody waits for it, so that a busy machine changes nothing."""

from __future__ import annotations

from collections.abc import Callable
import heapq
from itertools import count
import threading


class SimulatedTime:
    """
    Takes the place of ``time`` and ``threading`` in a module whose waits are to be tested.

        clock = SimulatedTime()
        monkeypatch.setattr(pacer, 'time', clock)
        monkeypatch.setattr(pacer, 'threading', clock)

    For one thread: while it sleeps or waits for a condition, time goes on to where the wait ends,
    and what others are to do meanwhile (``at``) is done when it is time.
    """

    TIMEOUT_MAX = threading.TIMEOUT_MAX

    def __init__(self, now: float = 1000.0):
        self.now = now
        self.slept: list[float] = []
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = count()

    def monotonic(self) -> float:
        """Return the simulated time [s]."""
        return self.now

    perf_counter = time = monotonic

    def at(self, when: float, do: Callable[[], object]) -> None:
        """Have something done at a time."""
        heapq.heappush(self._events, (when, next(self._order), do))

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        """Have something done some time from now."""
        self.at(self.now + seconds, do)

    def sleep(self, seconds: float) -> None:
        """Let time pass, and all be done that is due in it."""
        self.slept.append(seconds)
        self.pass_until(self.now + seconds, lambda: False)

    def pass_until(self, end: float, awake: Callable[[], bool]) -> bool:
        """Let time pass until something holds or a time has come; return whether it holds."""
        while not awake() and self._events and self._events[0][0] <= end:
            when, _, do = heapq.heappop(self._events)
            self.now = max(self.now, when)
            do()
        if not awake():
            assert end < self.now + 1e6, 'it waits for what nobody will do'
            self.now = max(self.now, end)
        return awake()

    def Condition(self, lock=None) -> _Condition:  # noqa: N802 - as threading has it
        """Return a condition whose waits are simulated."""
        return _Condition(self)

    Lock = RLock = threading.RLock


class _Condition:
    """A condition of which one thread holds the lock and waits, all at once."""

    def __init__(self, clock: SimulatedTime):
        self._clock = clock
        self._notified = 0

    def __enter__(self) -> _Condition:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be notified, or for so long."""
        before = self._notified
        end = float('inf') if timeout is None else self._clock.now + timeout
        return self._clock.pass_until(end, lambda: self._notified != before)

    def notify_all(self) -> None:
        """Have who waits go on."""
        self._notified += 1

    notify = notify_all
