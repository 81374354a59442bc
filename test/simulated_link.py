# SPDX-License-Identifier: Apache-2.0
"""A link in simulated time: its rate changes; acknowledgements come late or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import heapq
from itertools import count
from random import Random

from hp_inference.link.acknowledgements import Ack, Acknowledger
from hp_inference.link.congestion_window import CongestionWindow

SESSION, RECEIVER = 7, 9
CHUNK = 60_000
MBIT = 1e6 / 8
CLOCKS_DIFFER_S = 1e5


class Link:
    """
    Events in order of time: a queue at ``rate(t)`` [Mbit/s], ``delay_s``, then acknowledgements.

    Threads come late by ``late_s`` on average; of the acknowledgements a part ``lost`` gets lost.
    """

    def __init__(self, rate: Callable[[float], float], delay_s=0.002, late_s=0.002, lost=0.0,
                 seed=0):
        self.rate, self.delay_s, self.late_s, self.lost = rate, delay_s, late_s, lost
        self.now = 0.0
        self.arrived: list[tuple[float, int]] = []
        self._random = Random(seed)
        self._events: list = []
        self._order = count()
        self._free_s = self._called_s = 0.0
        self._acks = Acknowledger(RECEIVER)

    def at(self, when: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), do))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()
        self.now = until

    def send(self, seq: int, nbytes: int, last: bool, take: Callable[[Ack], None],
             session: int = SESSION, sent_s: float | None = None) -> None:
        """Put a chunk into the queue; its acknowledgement is taken when it is back."""
        sent_s = self.now if sent_s is None else sent_s
        when, left = max(self._free_s, self.now), float(nbytes)
        while left > 0 and when < self.now + 100:
            per_s = self.rate(when) * MBIT
            step = min(0.002, left / max(per_s, 1.0))
            left, when = left - step * per_s, when + step
        self._free_s = when
        self.at(when + self.delay_s, lambda: self._arrive(
            (session, seq, nbytes, sent_s, when + self.delay_s + CLOCKS_DIFFER_S, last), take))

    def goodput(self, begin: float, end: float) -> float:
        """Return what arrived between two times [Mbit/s]."""
        return sum(n for when, n in self.arrived if begin < when <= end) / MBIT / (end - begin)

    def _lateness(self) -> float:
        return self._random.expovariate(1 / self.late_s) if self.late_s else 0.0

    def _arrive(self, entry: tuple, take: Callable[[Ack], None]) -> None:
        arrived_s = self.now
        self.arrived.append((arrived_s, entry[2]))
        self._called_s = max(self._called_s, arrived_s + self._lateness())

        def called() -> None:
            ack = self._acks.took(*entry)
            if ack is not None and self._random.random() >= self.lost:
                ack = replace(ack, held_s=self.now - arrived_s)
                self.at(self.now + self.delay_s + self._lateness(), lambda: take(ack))
        self.at(self._called_s, called)


class Sender:
    """Sends as many chunks as its window lets go, all the time or a value per ``period_s``."""

    def __init__(self, link: Link, value_bytes=10 ** 9, period_s=0.0, chunk=CHUNK):
        self.link, self.window = link, CongestionWindow()
        self.in_flight: list[tuple[float, int]] = []
        self._value, self._period_s, self._chunk = value_bytes, period_s, chunk
        self._left, self._asked = value_bytes, 0
        link.at(0.0, self.go)

    def go(self) -> None:
        now = self.link.now
        self._asked += 1
        if self._left <= 0:
            self._left = self._value
            if self._period_s:
                return self.link.at((now // self._period_s + 1) * self._period_s, self.go)
        nbytes = min(self._chunk, self._left)
        wait_s = self.window.wait_s(nbytes, now)
        if wait_s > 0:
            return self._again(now + wait_s)
        self._left -= nbytes
        seq = self.window.sent(SESSION, nbytes, now)
        self.in_flight.append((now, self.window.in_flight_bytes))
        self.link.send(seq, nbytes, self._left <= 0, self._take)
        self._again(now + 0.0005)  # what publishing takes

    def most_in_flight(self, begin: float, end: float) -> int:
        return max(nbytes for when, nbytes in self.in_flight if begin <= when <= end)

    def _again(self, when: float) -> None:
        """Go then, unless something came in between."""
        asked = self._asked
        self.link.at(when, lambda: asked == self._asked and self.go())

    def _take(self, ack: Ack) -> None:
        self.window.on_ack(ack, self.link.now)
        if self._left > 0:
            self.go()
