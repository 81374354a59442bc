# SPDX-License-Identifier: Apache-2.0
"""
What a link carries, worked out from acknowledgements.

Chunks that queue one behind the other arrive as fast as the link lets them, so the time between
two arrivals, on the receiver's clock alone, is what the link takes for the second. The difficulty
is to know that they did queue: a chunk that was sent late arrives late on any link.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math
from statistics import median

from hp_inference.link.acknowledgements import Ack

RECENT_S = 0.4
"""Samples that the estimate rests on; a step is believed when half of their bytes are new."""
BLOCKS = 3
"""The median is taken of as many; where frames are rare, from as many samples, even if older ..."""
OLDEST_S = 2.0
"""... but not older than this, and forecasts look back as far."""
FLOOR_S = 30.0
"""For the least delay of a chunk; a link that is busy all the time shows it only now and then."""
ROUND_TRIP_S = 5.0
"""For the least round trip."""
CLOCK_JUMP_S = 0.25
"""A way back that changes so much from one acknowledgement to the next is a clock that was set."""
MARGIN_S = 0.0002
"""Delays differ by this on an idle link, whatever is sent."""
ENOUGH_S, ENOUGH_BYTES = 0.005, 60_000
"""Arrivals are jittered, so chunks are put together to one of these for a sample ..."""
LEAST_BYTES, LEAST_CHUNK_BYTES = 10_000, 1000
"""... and to this in any case; the link's own work outweighs chunks under the second."""
DISPUTED = 1.5
"""Where the newest sample is off by this factor, it is an outlier or the first after a step."""
CAUTION = 0.3
"""Weight of the worst of the last seconds in the forecast, against the present."""
PATHS = 4
"""Senders and receivers whose delays are remembered; older ones are forgotten."""
LONGEST_ROUND_TRIP_S = 60.0
"""More is the clock of another host."""
MOST_BYTES_PER_S = 1.25e11
"""No link carries more, whatever the times in an acknowledgement say."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """
    What is known of a link; payload bytes per second, seconds.

    ``low_bytes_per_s`` is for choosing by: what the next half second carries, rather less than
    more. ``round_trip_s`` is that of a small message on the idle link, 0 where it is not known.
    ``age_s`` passed since the newest measurement, which was ``source``: 'traffic', 'probe' or
    'silence'.
    """

    bytes_per_s: float
    low_bytes_per_s: float
    round_trip_s: float
    age_s: float
    source: str


class Least:
    """The least of the values of the last ``span_s`` seconds; NaN where there are none."""

    def __init__(self, span_s: float):
        self._span_s = span_s
        self._kept: deque[tuple[float, float]] = deque()  # ascending, in time and in value

    def add(self, now: float, value: float) -> None:
        """Take a value in; none of the older ones above it can be the least any more."""
        while self._kept and self._kept[-1][1] >= value:
            self._kept.pop()
        self._kept.append((now, value))

    def at(self, now: float) -> float:
        """Return the least value that is not too old."""
        while self._kept and now - self._kept[0][0] > self._span_s:
            self._kept.popleft()
        return self._kept[0][1] if self._kept else math.nan


class _Path:
    """What is remembered between the acknowledgements of one session at one receiver."""

    def __init__(self):
        # Way of a chunk of no bytes through the idle link, and what the clocks differ by, worked
        # out from what the link was thought to carry then, at least so much.
        self.floor, self.floor_rate = Least(FLOOR_S), math.inf
        self.way_back_s = math.nan
        self.seq = 0
        self.nbytes, self.sent_s, self.arrived_s = 0, math.nan, math.nan
        # Of chunks that queued: their bytes, the time from the arrival before each to its own,
        # and when the newest was taken in.
        self.run_bytes, self.run_s, self.run_at_s = 0, 0.0, -math.inf


class Estimator:
    """
    Capacity and round trip of a link, from the acknowledgements of one or more sessions.

    Two neighbours of a session queued if the later one was sent before the earlier one can have
    left the link, or if they came further apart than they were sent. Several such chunks give a
    sample, bytes and time. The recent ones make three blocks of equal bytes, and the estimate is
    the median of the blocks: a step is followed within half a second of traffic, a single outlier
    is ignored, and chunks that come in bunches, as over TCP after a loss, are averaged. Chunks
    that did not queue show what the link carries at least, which counts if it is more. Times of the
    receiver are only compared with each other, those of the sender with ``now``, so ``now`` has
    to be time.monotonic(). ``disputed`` while the newest sample is far off. Not thread-safe.
    """

    def __init__(self):
        self._paths: dict[tuple[int, int], _Path] = {}
        self.forget()

    def forget(self) -> None:
        """Forget what the link carried, but not the delays: it stood still, or is another now."""
        for path in self._paths.values():
            path.arrived_s = path.run_at_s = math.nan  # the time it stood still is no sample
        self._samples: deque[tuple[float, int, float]] = deque()  # when, bytes, seconds they took
        self._history: deque[tuple[float, float]] = deque()  # time, estimate then
        self._bytes_per_s = 0.0
        self.disputed = False
        self._sampled_s, self._source = -math.inf, ''
        self._round_trip = Least(ROUND_TRIP_S)

    def add(self, ack: Ack, now: float, source: str = 'traffic') -> None:
        """Take in an acknowledgement; ``now`` [s] is when it came, ``source`` what was received."""
        path = self._path(ack)
        round_trip = now - ack.sent_s[-1] - ack.held_s
        if 0 <= round_trip < LONGEST_ROUND_TRIP_S:
            self._round_trip.add(now, round_trip)
        way_back = now - ack.held_s - ack.arrived_s[-1]
        if abs(way_back - path.way_back_s) > CLOCK_JUMP_S:
            path.floor, path.floor_rate = Least(FLOOR_S), math.inf
            path.arrived_s = path.run_at_s = math.nan
        path.way_back_s = way_back
        for arrival in zip(ack.seq, ack.payload_bytes, ack.sent_s,
                           ack.arrived_s):
            self._arrived(path, *arrival, now, source)
        self._put_together(path, now, source)

    def estimate(self, now: float) -> Estimate | None:
        """Return what is known at ``now``; None: nothing yet."""
        if not self._bytes_per_s:
            return None
        round_trip = self._round_trip.at(now)
        worst = min((rate for when, rate in self._history if now - when <= OLDEST_S),
                    default=self._bytes_per_s)
        low = (1 - CAUTION) * self._bytes_per_s + CAUTION * min(worst, self._bytes_per_s)
        return Estimate(self._bytes_per_s, low, 0.0 if math.isnan(round_trip) else round_trip,
                        max(0.0, now - self._sampled_s), self._source)

    def _path(self, ack: Ack) -> _Path:
        key = ack.session, ack.receiver
        path = self._paths.pop(key, None) or _Path()
        self._paths[key] = path  # the newest last
        if len(self._paths) > PATHS:
            del self._paths[next(iter(self._paths))]
        return path

    def _arrived(self, path: _Path, seq: int, nbytes: int, sent_s: float, arrived_s: float,
                 now: float, source: str) -> None:
        """Compare an arrival with the one before it."""
        if seq <= path.seq < seq + 2 ** 31:  # an acknowledgement that came twice, or too late
            return
        sent_apart, apart = sent_s - path.sent_s, arrived_s - path.arrived_s
        # Not so for the first one (NaN), and when an acknowledgement is lost or a clock was set.
        follows = seq == path.seq + 1 and sent_apart >= 0 and apart >= 0
        if follows and nbytes >= LEAST_CHUNK_BYTES and self._queued(
                path, nbytes, sent_s, sent_apart, apart, now):
            if not now - path.run_at_s <= RECENT_S:  # NaN: a clock was set
                path.run_bytes, path.run_s = 0, 0.0
            path.run_bytes += nbytes
            path.run_s += apart
            path.run_at_s = now
        else:
            took_s = max(apart, sent_apart, ENOUGH_S)
            if follows and nbytes / took_s > self._bytes_per_s > 0:
                self._sample(nbytes, took_s, now)  # which makes the estimate no younger
        rate = self._bytes_per_s or math.inf
        if DISPUTED * path.floor_rate < rate < math.inf:  # chunks took less than was thought
            path.floor, path.floor_rate = Least(FLOOR_S), rate
        path.floor_rate = min(path.floor_rate, rate)
        path.floor.add(now, arrived_s - sent_s - nbytes / rate)
        path.seq, path.nbytes, path.sent_s, path.arrived_s = seq, nbytes, sent_s, arrived_s

    def _queued(self, path: _Path, nbytes: int, sent_s: float, sent_apart: float, apart: float,
                now: float) -> bool:
        """Return whether a chunk had to wait for the one before it."""
        left_s = path.arrived_s - path.floor.at(now)  # on the sender's clock
        if left_s - sent_s > MARGIN_S + apart / 8:
            return True
        if self._bytes_per_s:
            return False
        # The floor still has what the chunks took in it. A larger one takes longer on any link.
        stretched = apart * min(1.0, path.nbytes / max(nbytes, 1))
        return stretched > 2 * sent_apart + MARGIN_S

    def _put_together(self, path: _Path, now: float, source: str) -> None:
        """Make a sample of chunks that are enough for one; fewer wait for more."""
        if path.run_s > 0 and path.run_bytes >= LEAST_BYTES and (
                path.run_s >= ENOUGH_S or path.run_bytes >= ENOUGH_BYTES):
            self._sample(path.run_bytes, path.run_s, now)
            self._sampled_s, self._source = now, source
            path.run_bytes, path.run_s = 0, 0.0

    def _sample(self, nbytes: int, took_s: float, now: float) -> None:
        self._samples.append((now, nbytes, max(took_s, nbytes / MOST_BYTES_PER_S)))
        while now - self._samples[0][0] > (RECENT_S if len(self._samples) > BLOCKS else OLDEST_S):
            self._samples.popleft()
        rates = self._block_rates()
        self._bytes_per_s = median(rates)
        low, high = sorted((rates[-1], self._bytes_per_s))
        self.disputed = high > DISPUTED * low
        self._history.append((now, self._bytes_per_s))
        while now - self._history[0][0] > OLDEST_S:
            self._history.popleft()

    def _block_rates(self) -> list[float]:
        """Return the rates of up to three blocks of samples, in their order, of equal bytes."""
        total, before = sum(nbytes for _, nbytes, _ in self._samples), 0
        blocks = [[0, 0.0] for _ in range(BLOCKS if len(self._samples) >= BLOCKS else 1)]
        for _, nbytes, took_s in self._samples:
            block = blocks[int(len(blocks) * (before + nbytes / 2) / total)]
            block[0] += nbytes
            block[1] += took_s
            before += nbytes
        return [nbytes / took_s for nbytes, took_s in blocks if took_s > 0]
