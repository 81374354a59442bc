# SPDX-License-Identifier: Apache-2.0
"""How many bytes a link is lent: as many as keep it busy, and no more."""

from __future__ import annotations

from collections import deque
import math

from hp_inference.link.acknowledgements import Ack
from hp_inference.link.bandwidth import Estimator, Least

LEAST_BYTES = 120_000
"""Two full chunks: the receiver may hold back the acknowledgement of one."""
START_BYTES, START_MOST_BYTES = 180_000, 480_000
"""While nothing is known of the link; grows by what is received."""
SPARE_S, MOST_SPARE_S = 0.02, 0.06
"""On top of the least round trip: they are gathered, and late on a busy computer ..."""
LATE_FROM_S, LATE_TO_S = 1.0, 4.0
"""... or a lossy link; as late as one was in this time. Just now, it may be the rate that fell."""
NUDGE_S = 0.06
"""After so long without an acknowledgement one chunk more may go; doubled each time ..."""
NUDGE_BYTES = 120_000
"""... up to so many bytes."""
STALLED_S, LONGEST_STALL_S = 1.0, 8.0
"""What has no acknowledgement for so long counts as lost; doubled each time, up to the second."""
STALE_S = 5.0
"""What a link carried so long ago is forgotten: it may be another one now."""
MOST_SEQ = 2 ** 32 - 1


class CongestionWindow:
    """
    What is in flight, and whether more may go; times are time.monotonic() [s], given by the caller.

    In flight may be what the link takes for its round trip and ``SPARE_S``, as the acknowledgements
    show it. When they stop, a chunk goes now and then to find out whether the link is back. Not
    thread-safe.
    """

    def __init__(self):
        self._seq = 0
        self.reset(0.0)

    def reset(self, now: float) -> None:
        """Nothing is in flight, and nothing known of the link."""
        self.in_flight_bytes = 0
        # By number: session, bytes that count, when it went, bytes in flight before it.
        self._sent: dict[int, tuple[int, int, float, int]] = {}
        self._estimator = Estimator()
        self._round_trip_s = 0.0
        self._fresh: deque[tuple[float, float]] = deque()  # when an acknowledgement came, how late
        self._early = Least(LATE_TO_S - LATE_FROM_S)  # the same when it counts; early: not late
        self._start_bytes = START_BYTES
        self._heard_s = self._nudged_s = now
        self._nudges = self._stalls = 0  # since the last acknowledgement

    def stalled(self, now: float) -> bool:
        """Return whether chunks were sent and no acknowledgement came for long."""
        return self._stalls > 0 or (self.in_flight_bytes > 0 and now >= self._lost_s(now))

    def wait_s(self, nbytes: int, now: float) -> float:
        """Return 0 where a chunk of so many bytes may go, else when to ask again at the latest."""
        if self.in_flight_bytes and now >= self._lost_s(now):
            self._lose()
        if not self.in_flight_bytes:
            return 0.0
        if not self._stalls:
            room = self._most_bytes(now) - self.in_flight_bytes
            if nbytes <= room:
                return 0.0
            if nbytes > room + NUDGE_BYTES:
                return self._lost_s(now) - now
            patience_s = max(NUDGE_S * 2 ** self._nudges, 2 * self._taken_s(now))
            nudge_s = max(self._heard_s, self._nudged_s) + patience_s
            if now >= nudge_s:
                self._nudged_s = now
                self._nudges += 1
                return 0.0
            return min(nudge_s, self._lost_s(now)) - now
        return self._lost_s(now) - now

    def sent(self, session: int, nbytes: int, now: float) -> int:
        """Note that a chunk goes; return its number."""
        if not self.in_flight_bytes:
            self._heard_s = self._nudged_s = now
            self._nudges = 0
            known = self._estimator.estimate(now)
            if known is not None and known.age_s > STALE_S:
                self._estimator.forget()
                self._start_bytes = START_BYTES
        self._seq = self._seq % MOST_SEQ + 1
        self._sent[self._seq] = session, max(nbytes, 1), now, self.in_flight_bytes
        self.in_flight_bytes += max(nbytes, 1)
        return self._seq

    def on_ack(self, ack: Ack, now: float) -> bool:
        """Take chunks that have arrived off the books; return False for a foreign or old one."""
        known = [seq for seq in ack.seq if self._sent.get(seq, (None,))[0] == ack.session]
        if not known:
            return False
        _, _, sent_s, ahead = self._sent[known[-1]]
        before = self._estimator.estimate(now)
        if before is not None:
            due_s = sent_s + self._round_trip_s + ahead / before.bytes_per_s
            self._fresh.append((now, now - due_s))
        received = 0
        for seq in list(self._sent):  # in the order of sending
            received += self._sent.pop(seq)[1]
            if seq in known:
                known.remove(seq)
                if not known:
                    break
        self.in_flight_bytes -= received
        self._start_bytes = min(self._start_bytes + received, START_MOST_BYTES)
        self._heard_s, self._nudges, self._stalls = now, 0, 0
        self._estimator.add(ack, now)
        estimate = self._estimator.estimate(now)
        if estimate is not None and estimate.round_trip_s:
            self._round_trip_s = estimate.round_trip_s
        return True

    def _lose(self) -> None:
        """Count what is in flight as lost; an acknowledgement of it may come all the same."""
        self._sent = {seq: (session, 0, *rest) for seq, (session, _, *rest) in self._sent.items()}
        self.in_flight_bytes = 0
        self._stalls += 1
        self._estimator.forget()
        self._start_bytes = START_BYTES

    def _lost_s(self, now: float) -> float:
        """Return when what is in flight will count as lost."""
        patience = min(STALLED_S * 2 ** self._stalls, LONGEST_STALL_S)
        return self._heard_s + max(patience, min(4 * self._taken_s(now), LONGEST_STALL_S))

    def _taken_s(self, now: float) -> float:
        """Return what the chunks in flight should take; 0 where nothing is known."""
        estimate = self._estimator.estimate(now)
        if estimate is None:
            return 0.0
        return self.in_flight_bytes / estimate.bytes_per_s + self._round_trip_s

    def _most_bytes(self, now: float) -> float:
        estimate = self._estimator.estimate(now)
        if estimate is None:
            return self._start_bytes
        while self._fresh and now - self._fresh[0][0] >= LATE_FROM_S:
            self._early.add(now, -self._fresh.popleft()[1])
        early_s = self._early.at(now)
        late_s = 0.0 if math.isnan(early_s) else max(0.0, -early_s)
        spare_s = min(SPARE_S + late_s, MOST_SPARE_S)
        return max(LEAST_BYTES, estimate.bytes_per_s * (self._round_trip_s + spare_s))
