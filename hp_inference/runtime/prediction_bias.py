# SPDX-License-Identifier: Apache-2.0
"""What frames took over what planning predicts: devices get hot, servers busy, models are wrong."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
import math
from statistics import median_low
import threading
import time

#: So many frames of a plan are remembered. Of fewer than LEAST one may have been an exception.
KEPT, LEAST = 5, 2
#: A frame says something about its plan where the link still carries the same after so long, within
#: this part: what is known of a link that has just changed is late. [s]
SETTLED_S, SAME = 1.5, 0.25
#: What is known of a plan that does not run counts for REST_S and REST_FRAMES before it is tried
#: again; twice as long after each trial in which it was still slow, up to MOST_REST_S.
REST_S, REST_FRAMES, MOST_REST_S = 2.0, 10, 60.0
#: What is known of a plan holds for an octave of rates. To leave one, the rate must be so many
#: octaves off its middle: one that swings around a border is in one of them. Above MOST_MBIT_S it
#: is not the link that counts.
LEAVES, MOST_MBIT_S = 0.75, 1000.0
#: Slow is what takes more than this multiple of its prediction.
SLOW = 1.03


@dataclass(frozen=True)
class _Taken:
    key: tuple[str, int | None]
    mbit_s: float
    ratio: float
    at_s: float


@dataclass
class _Known:
    """What settled of one plan at one rate, when it last grew, and how trials of it ended."""

    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    at_s: float = 0.0
    at_frame: int = 0
    slow_trials: int = 0
    on_trial: bool = False

    def rests(self, now: float, frame: int) -> bool:
        """Whether what is known still counts."""
        twice, passed_s, frames = 2 ** self.slow_trials, now - self.at_s, frame - self.at_frame
        return frames < REST_FRAMES or passed_s < min(REST_S * twice, MOST_REST_S) or (
            frames < REST_FRAMES * twice and passed_s < MOST_REST_S)

    def add(self, ratio: float, now: float, frame: int) -> None:
        if self.ratios and not self.rests(now, frame):
            self.ratios.clear()
            self.on_trial = True
        self.ratios.append(ratio)
        self.at_s, self.at_frame = now, frame
        if self.on_trial and len(self.ratios) >= LEAST:
            slow = median_low(self.ratios) > SLOW
            self.slow_trials, self.on_trial = self.slow_trials + 1 if slow else 0, False


class PredictionBias:
    """
    Ratios of measured to predicted latency, by plan and by what the link carries (in octaves).

    What is wrong in a prediction shows in one plan more than in another, and the more the faster
    the link is, as computing then takes most of a frame. May be used from any thread; ``carries``
    comes first.
    """

    def __init__(self) -> None:
        self._taken: deque[_Taken] = deque(maxlen=1000)
        self._known: dict[tuple[str, int | None], _Known] = {}
        self._octave: int | None = None
        self._frames = 0
        self._lock = threading.Lock()

    def note(self, plan: str, mbit_s: float, ratio: float) -> None:
        """Note what a frame took, as a multiple of what was predicted for ``mbit_s``."""
        with self._lock:
            self._frames += 1
            self._taken.append(_Taken((plan, self._octave), min(mbit_s, MOST_MBIT_S), ratio,
                                      time.monotonic()))

    def carries(self, mbit_s: float) -> None:
        """Keep of what was noted what the link does not contradict, now that it carries this."""
        now, mbit_s = time.monotonic(), min(mbit_s, MOST_MBIT_S)
        octaves = math.log2(mbit_s) if mbit_s > 0 else None
        with self._lock:
            if None in (octaves, self._octave) or abs(octaves - self._octave) > LEAVES:
                self._octave = None if octaves is None else round(octaves)
            self._taken = deque((taken for taken in self._taken
                                 if abs(mbit_s - taken.mbit_s) <= SAME * taken.mbit_s), maxlen=1000)
            while self._taken and self._taken[0].at_s <= now - SETTLED_S:
                taken = self._taken.popleft()
                self._known.setdefault(taken.key, _Known()).add(
                    taken.ratio, now, self._frames)

    def factor(self, plan: str) -> float | None:
        """Return the multiple of its prediction that a plan takes; None: that is not known."""
        with self._lock:
            key = plan, self._octave
            known = self._known.get(key)
            if known is None:
                return None
            rests = known.rests(time.monotonic(), self._frames)
            ratios = list(known.ratios) if rests else []
            if known.on_trial or not rests:
                # What has not settled yet counts too: it was slow before.
                ratios += [taken.ratio for taken in self._taken if taken.key == key]
        return median_low(ratios) if len(ratios) >= LEAST else None

    def tries(self, plan: str) -> bool:
        """Whether a plan is on trial that was slow before."""
        with self._lock:
            known = self._known.get((plan, self._octave))
            return (known is not None and not known.rests(time.monotonic(), self._frames)
                    and len(known.ratios) >= LEAST and median_low(known.ratios) > SLOW)
