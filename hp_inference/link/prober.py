# SPDX-License-Identifier: Apache-2.0
"""When to probe a link and with how much, and when it has fallen silent."""

from __future__ import annotations

from collections import deque
import math

from hp_inference.link.acknowledgements import Ack
from hp_inference.link.bandwidth import Estimate, Estimator
from hp_inference.link.pacer import EmulatedLink

HEARTBEAT_S, HEARTBEAT_BYTES = 0.15, 200
"""A tiny probe so often tells a silent link from an idle one."""
TRAIN_S = 0.008
"""A train takes this much of the link, ..."""
LEAST_TRAIN_BYTES, PIECES, PIECE_BYTES = 20_000, 4, 15_000
"""... but is not smaller, and comes in so many pieces, or more that are no larger."""
UNANSWERED = 2
"""Acknowledgements may get lost; so many probes must have gone before it means anything."""
QUEUED_BYTES = 120_000
"""Of others, may go before a probe."""


class Prober:
    """
    Watches one link: takes acknowledgements, asks for probes, knows the estimate; has no clock.

    Times are time.monotonic() [s], given by the caller. ``session`` is that of the probes. Not
    thread-safe.
    """

    def __init__(self, session: int, now: float, period_s: float, most_bytes: int,
                 silence_s: float, limit_mbit_s: float = 0.0):
        self.period_s, self.most_bytes, self.silence_s = period_s, most_bytes, silence_s
        self.silent = False
        self.probes = 0
        self._session = session
        self._estimator = Estimator()
        self._link = EmulatedLink(limit_mbit_s)
        self._queue: deque[tuple[int, bool]] = deque()  # bytes, whether it is the last of its train
        self._sending: tuple[int, bool] | None = None
        self._train_bytes = LEAST_TRAIN_BYTES // 2
        self._heard_s, self._unanswered = now, 0
        self._heartbeat_s, self._train_s = -math.inf, -math.inf

    @property
    def limit_mbit_s(self) -> float:
        """Probes go through a link no faster than this [Mbit/s]; 0: they go at once."""
        return self._link.mbit_s

    @limit_mbit_s.setter
    def limit_mbit_s(self, mbit_s: float) -> None:
        self._link.mbit_s = mbit_s

    def estimate(self, now: float) -> Estimate | None:
        """Return what is known of the link; None: nothing."""
        if self.silent:
            return Estimate(0.0, 0.0, 0.0, 0.0, 'silence')  # it is noticed anew all the time
        return self._estimator.estimate(now)

    def on_ack(self, ack: Ack, now: float) -> None:
        """Take in an acknowledgement, of a probe or of anything else that was sent."""
        self._heard_s, self._unanswered = now, 0
        if self.silent:
            self.silent = False
            self._heartbeat_s = -math.inf  # so that it is measured at once
        own = ack.session == self._session
        self._estimator.add(ack, now, 'probe' if own else 'traffic')

    def look(self, now: float) -> None:
        """Notice silence, and queue the probes that are due."""
        if not self.period_s:
            self.silent = False  # nothing would end it
            return
        if self._unanswered >= UNANSWERED and now - self._heard_s > self._patience_s(now):
            self.silent = True
            self._estimator.forget()
        if self._queue or self._sending:  # it does not get away as it is
            self._unanswered += now - self._heartbeat_s >= HEARTBEAT_S
            return
        if now - self._heartbeat_s < HEARTBEAT_S:
            return
        known = self._estimator.estimate(now)
        if not self.silent and (known is None or self._is_due(known, now)):
            self._queue_train(now, known)
        else:
            self._queue.append((HEARTBEAT_BYTES, True))
            self._heartbeat_s = now

    def _is_due(self, known: Estimate, now: float) -> bool:
        """Return whether probes are to measure; traffic that shows the link is left alone."""
        since_s = now - self._train_s
        if known.source == 'probe' and (self._estimator.disputed or known.age_s > since_s):
            return True
        return since_s >= self.period_s <= known.age_s

    def next_probe(self, now: float) -> tuple[int, bool, int, float] | float:
        """
        Return the probe to send now: its bytes, whether it is the last, its number and its time.

        Where none is due yet, return after how many seconds to ask again; infinity: not before
        ``look`` has queued some.
        """
        if self._sending is None:
            if not self._queue:
                return math.inf
            self._sending = self._queue.popleft()
            self._link.begin(self._sending[0], now)
        wait_s = self._link.wait_s(now)
        if wait_s > self.silence_s:  # a link that stands still loses what is on it
            self._sending = None
            self._queue.clear()
            self._unanswered += 1
            return math.inf
        if wait_s > 0:
            return wait_s
        nbytes, last = self._sending
        self._sending = None
        self.probes += 1
        self._unanswered += last
        return nbytes, last, self.probes, self._link.queued_s if self._link.mbit_s else now

    def _queue_train(self, now: float, known: Estimate | None) -> None:
        """Queue as much as shows what the link carries; more where the train before did not."""
        if known is None or known.age_s > now - self._train_s:
            self._train_bytes *= 2
        elif not self._estimator.disputed:
            self._train_bytes = int(known.bytes_per_s * TRAIN_S)
        self._train_bytes = min(max(self._train_bytes, LEAST_TRAIN_BYTES), self.most_bytes)
        count = max(PIECES, -(-self._train_bytes // PIECE_BYTES))
        self._queue.append((HEARTBEAT_BYTES, False))  # wakes the radio, and is not measured
        self._queue.extend((self._train_bytes // count, index == count - 1)
                           for index in range(count))
        self._train_s = self._heartbeat_s = now

    def _patience_s(self, now: float) -> float:
        """Return for how long a link that carries so much may keep silent."""
        known = self._estimator.estimate(now)
        return self.silence_s + (QUEUED_BYTES / known.bytes_per_s if known else 0.0)
