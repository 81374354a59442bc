# SPDX-License-Identifier: Apache-2.0
"""What frames took over what planning predicts: devices get hot, servers busy, models are wrong."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
import math
from statistics import median_low
import threading
import time

#: So many frames of a plan are remembered, for so long; then the plan is given another chance. [s]
KEPT, KEPT_S = 5, 60.0
#: Of fewer frames one may have been an exception.
LEAST = 2
#: A frame says something about its plan where the link still carries the same after so long, within
#: this part: what is known of a link that has just changed is late. [s]
SETTLED_S, SAME = 1.5, 0.25


@dataclass(frozen=True)
class _Taken:
    plan: str
    mbit_s: float
    ratio: float
    at_s: float


class Experience:
    """
    Ratios of measured to predicted latency, by plan and by what the link carried (in octaves).

    What is wrong in a prediction shows in one plan more than in another, and the more the faster
    the link is, as computing then takes most of a frame. May be used from any thread.
    """

    def __init__(self) -> None:
        self._taken: deque[_Taken] = deque(maxlen=100)
        self._kept: dict[tuple[str, int | None], deque[_Taken]] = {}
        self._lock = threading.Lock()

    def note(self, plan: str, mbit_s: float, ratio: float) -> None:
        """Note what a frame took, as a multiple of what was predicted for ``mbit_s``."""
        with self._lock:
            self._taken.append(_Taken(plan, mbit_s, ratio, time.monotonic()))

    def carries(self, mbit_s: float) -> None:
        """Keep of what was noted what the link does not contradict, now that it carries this."""
        settled_s = time.monotonic() - SETTLED_S
        with self._lock:
            self._taken = deque((taken for taken in self._taken
                                 if abs(mbit_s - taken.mbit_s) <= SAME * taken.mbit_s), maxlen=100)
            while self._taken and self._taken[0].at_s <= settled_s:
                taken = self._taken.popleft()
                self._kept.setdefault(_key(taken.plan, taken.mbit_s),
                                      deque(maxlen=KEPT)).append(taken)

    def factor(self, plan: str, mbit_s: float) -> float | None:
        """Return the multiple of its prediction that a plan takes; None: that is not known."""
        oldest_s = time.monotonic() - KEPT_S
        with self._lock:
            ratios = [taken.ratio for taken in self._kept.get(_key(plan, mbit_s), ())
                      if taken.at_s > oldest_s]
        return median_low(ratios) if len(ratios) >= LEAST else None


def _key(plan: str, mbit_s: float) -> tuple[str, int | None]:
    return plan, round(math.log2(mbit_s)) if mbit_s > 0 else None
