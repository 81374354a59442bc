# SPDX-License-Identifier: Apache-2.0
"""When chunks may go: when the link has room for them, not when a socket has."""

from __future__ import annotations

from collections.abc import Callable
import math
import threading
import time
from typing import TYPE_CHECKING

from hp_inference.link.acknowledgements import Ack
from hp_inference.link.congestion_window import CongestionWindow

if TYPE_CHECKING:  # it comes with torch, which who measures links does without
    from hp_inference.link.wire import Chunk

LATE_S = 0.005
"""A sender that comes so late for its next chunk counts as one that never paused."""


class Pacer:
    """
    Holds a sender back so that a slow link never hides more than moments of queued bytes.

    Bytes in flight are those that were admitted and are not acknowledged. There are as many as keep
    the link busy (see CongestionWindow). ``limit_mbit_s`` makes the link no faster than that, 0
    leaves it as it is: each chunk is held back for the time that such a link would take for it. It
    may be set at any time, by any thread.
    """

    def __init__(self, limit_mbit_s: float = 0.0):
        self._changed = threading.Condition()
        self._window = CongestionWindow()
        self._limit = EmulatedLink(limit_mbit_s)

    @property
    def limit_mbit_s(self) -> float:
        """Rate of payload that is never exceeded [Mbit/s]; 0: none. Raises ValueError when set."""
        return self._limit.mbit_s

    @limit_mbit_s.setter
    def limit_mbit_s(self, mbit_s: float) -> None:
        with self._changed:
            self._limit.mbit_s = mbit_s
            self._changed.notify_all()

    @property
    def in_flight_bytes(self) -> int:
        """Payload that was admitted and is not acknowledged; none of what is lost."""
        return self._window.in_flight_bytes

    @property
    def stalled(self) -> bool:
        """Chunks are in flight and for long, a second at least, no acknowledgement has come."""
        with self._changed:
            return self._window.stalled(time.monotonic())

    def admit(self, chunk: Chunk, unwanted: Callable[[], bool]) -> bool:
        """
        Block until a chunk may go, and give it its number and time.

        Returns False, without either, as soon as ``unwanted()`` is true; it is asked at first and
        after each ``wake``, and must be quick. For one thread at a time.
        """
        nbytes = len(chunk.payload)
        with self._changed:
            while not unwanted():
                wait_s = self._window.wait_s(nbytes, time.monotonic())
                if wait_s <= 0:
                    break
                self._changed.wait(wait_s)
            else:
                return False
            self._limit.begin(nbytes, time.monotonic())
            while (wait_s := self._limit.wait_s(time.monotonic())) > 0:
                self._changed.wait(min(wait_s, threading.TIMEOUT_MAX))
                if unwanted():
                    return False
            now = time.monotonic()
            chunk.seq = self._window.sent(chunk.session, nbytes, now)
            chunk.sent_s = self._limit.queued_s if self._limit.mbit_s else now
        return True

    def wake(self) -> None:
        """Have a chunk that waits ask again whether it is wanted."""
        with self._changed:
            self._changed.notify_all()

    def on_ack(self, ack: Ack) -> None:
        """Take an acknowledgement of chunks that this sent; those of others are ignored."""
        with self._changed:
            if self._window.on_ack(ack, time.monotonic()):
                self._changed.notify_all()

    def reset(self) -> None:
        """Nothing is in flight any more, and nothing known of the link: it is another receiver."""
        with self._changed:
            self._window.reset(time.monotonic())
            self._changed.notify_all()


class EmulatedLink:
    """
    A link of a given rate, in time only: one piece after the other, each takes what it takes.

    The times are those of one clock [s], given by the caller. ``mbit_s`` may change at any time; a
    piece on its way goes on at the new rate. 0 is a link that takes no time.
    """

    def __init__(self, mbit_s: float = 0.0):
        self.mbit_s = mbit_s
        self._done_s = self._begun_s = -math.inf
        self.queued_s = -math.inf
        self._left_bytes = 0.0
        self._seen_s, self._seen_rate = 0.0, 0.0

    @property
    def mbit_s(self) -> float:
        """Rate [Mbit/s]."""
        return self._mbit_s

    @mbit_s.setter
    def mbit_s(self, mbit_s: float) -> None:
        if not 0 <= mbit_s < math.inf:
            raise ValueError(f'a link limited to {mbit_s} Mbit/s, expected a finite number, at '
                             'least 0 (0: no limit)')
        self._mbit_s = mbit_s

    def begin(self, nbytes: int, now: float) -> None:
        """
        Put a piece on the link, which must be free.

        ``queued_s`` then is when it came to the link's queue: with the piece before it where that
        has only just gone, as senders wait for a link and not the other way round.
        """
        follows = now - self._done_s < LATE_S
        self.queued_s, self._begun_s = ((self._begun_s, self._done_s) if follows else (now, now))
        self._left_bytes = nbytes
        self._seen_s, self._seen_rate = self._begun_s, self._mbit_s * 1e6 / 8

    def wait_s(self, now: float) -> float:
        """Return how long the piece on the link still takes at the present rate."""
        self._left_bytes -= max(0.0, now - self._seen_s) * self._seen_rate
        rate, self._seen_s = self._seen_rate, now
        self._seen_rate = self._mbit_s * 1e6 / 8
        if self._left_bytes < 1 or not self._mbit_s:
            self._done_s = now + (self._left_bytes / rate if self._left_bytes < 0 and rate else 0)
            return 0.0
        return self._left_bytes / self._seen_rate
