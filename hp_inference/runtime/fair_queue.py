# SPDX-License-Identifier: Apache-2.0
"""
Who computes when: robots take turns at a few places, so that none waits for all of another's work.

More frames at once than the device has use for are not computed sooner, only all later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import threading
import time


@dataclass(eq=False, slots=True)
class _Waiter:
    changed: threading.Condition
    has_place: bool = False


class FairQueue:
    """
    Places to compute; a Line for each robot. Raises ValueError for less than one place.

    A place that becomes free goes to the oldest frame of the line whose last turn is longest ago.
    So a robot waits for one frame of each other at most, however many they have in line. A frame
    that has a place keeps it until it leaves: nothing is interrupted.
    """

    def __init__(self, places: int = 1):
        if places < 1:
            raise ValueError(f'there are {places} places to compute, expected at least 1')
        self.places = places
        self._lock = threading.Lock()
        self._taken = 0
        self._given = 0
        self._lines: list[Line] = []  # those with frames that wait
        self._busy_s, self._counted_s = 0.0, time.monotonic()

    @property
    def busy_s(self) -> float:
        """Seconds in which the places were taken, of all places together, since the start."""
        with self._lock:
            self._count()
            return self._busy_s

    def line(self) -> Line:
        """Return a line for one more robot."""
        return Line(self)

    def _count(self) -> None:
        """Bring the account up to now; the lock is held."""
        now = time.monotonic()
        self._busy_s += self._taken * (now - self._counted_s)
        self._counted_s = now

    def _give(self) -> None:
        """Hand out what is free; the lock is held."""
        while self._lines and self._taken < self.places:
            line = min(self._lines, key=lambda line: line.last_turn)
            waiter = line.waiting.popleft()
            if not line.waiting:
                self._lines.remove(line)
            self._count()
            self._taken += 1
            self._given += 1
            line.last_turn = self._given
            waiter.has_place = True
            waiter.changed.notify()


class Line:
    """The frames of one robot that want to compute, the oldest first."""

    def __init__(self, queue: FairQueue):
        self.queue = queue
        self.waiting: deque[_Waiter] = deque()
        self.last_turn = 0  # of all turns ever given

    def wake(self) -> None:
        """Have the frames that wait look whether they are still wanted; any thread."""
        with self.queue._lock:
            for waiter in self.waiting:
                waiter.changed.notify()

    def _enter(self, unwanted: Callable[[], bool], until_s: float) -> bool:
        queue = self.queue
        with queue._lock:
            waiter = _Waiter(threading.Condition(queue._lock))
            self.waiting.append(waiter)
            if len(self.waiting) == 1:
                queue._lines.append(self)
            queue._give()
            while not waiter.has_place:
                left = until_s - time.monotonic()
                if left <= 0 or unwanted():
                    self.waiting.remove(waiter)
                    if not self.waiting:
                        queue._lines.remove(self)
                    return False
                waiter.changed.wait(left)
        return True

    def _leave(self) -> None:
        queue = self.queue
        with queue._lock:
            queue._count()
            queue._taken -= 1
            queue._give()


class Turn:
    """
    One frame's way in and out of a place, on the thread that computes it.

    ``unwanted()`` tells whether the frame has been given up; it must be quick and take no lock.
    ``timeout_s``: it waits no longer at a time. ``waited_s``: seconds in line, all together.
    """

    def __init__(self, line: Line, unwanted: Callable[[], bool], timeout_s: float):
        self._line, self._unwanted, self._timeout_s = line, unwanted, timeout_s
        self._inside = False
        self.waited_s = 0.0

    def enter(self) -> bool:
        """Wait for a place unless it has one; return False when it is to wait no longer."""
        if not self._inside:
            begun = time.monotonic()
            self._inside = self._line._enter(self._unwanted, begun + self._timeout_s)
            self.waited_s += time.monotonic() - begun
        return self._inside

    def leave(self) -> None:
        """Give the place back if it has one."""
        if self._inside:
            self._inside = False
            self._line._leave()
