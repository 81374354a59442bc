# SPDX-License-Identifier: Apache-2.0
"""When a frame's answer is due, and how long the robot may wait for the server before that."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

#: Where nothing is known of a plan, its answer is due after this. [s]
UNKNOWN_S = 1.0
#: What a frame may take longer than expected before the robot goes on alone: this part of it, but
#: not less than this many seconds.
PATIENCE, PATIENCE_S = 1.0, 0.05
#: Of what planning predicts no more than this is believed. [s]
MOST_S = 60.0
#: Computing alone may take this part longer than last time, and this many seconds.
MARGIN, MARGIN_S = 0.1, 0.005
#: Weight of the newest duration in the running mean.
NEWEST = 0.25


@dataclass(frozen=True)
class Due:
    """Times of time.monotonic(): the answer is due, and the robot stops waiting for the server."""

    due_s: float
    give_up_s: float


class Deadlines:
    """
    Sets each frame's deadline, and the time at which the robot must begin alone to keep it.

    Learns how long the robot takes alone, and how long each plan takes, from the frames.
    """

    def __init__(self) -> None:
        self._alone_s = 0.0
        self._together_s: dict[Hashable, float] = {}
        self._least_s: dict[Hashable, float] = {}

    def took_alone(self, seconds: float) -> None:
        """Note how long a frame took to compute on the robot alone."""
        self._alone_s = _mean(self._alone_s or None, seconds)

    def took_together(self, plan: Hashable, seconds: float) -> None:
        """Note how long a frame took together with the server under a plan."""
        self._together_s[plan] = _mean(self._together_s.get(plan), seconds)
        self._least_s[plan] = min(seconds, self._least_s.get(plan, seconds))

    def waited_in_vain(self, plan: Hashable, seconds: float) -> None:
        """
        Note for how long the server was waited for in vain under a plan.

        Where too little was expected patience grows up to what computing alone takes, or the plan
        at its best where that is more; where a link became slow, it shrinks to that.
        """
        most_s = max(self._alone_s, self._least_s.get(plan, 0.0))
        self._together_s[plan] = _mean(self._together_s.get(plan), min(seconds, most_s))

    def forget_plans(self) -> None:
        """Forget what the plans took: there are others now."""
        self._together_s.clear()
        self._least_s.clear()

    def of(self, received_s: float, begun_s: float, deadline_s: float, plan: Hashable,
           predicted_s: float | None) -> Due:
        """
        Return when a frame is due; times of time.monotonic().

        ``deadline_s`` counts from the receipt of the image. 0: the frame may take twice as long as
        expected, and the robot then has the time to compute alone. Expected is what planning
        predicts for the bandwidth or, where that is more, what the plan took lately, but not more
        than computing alone takes. Where the robot would have to begin alone before the server's
        answer can be expected, it waits until the answer is due: going alone at once, every time,
        would be another plan.
        """
        lately_s = self._together_s.get(plan)
        if predicted_s is None:
            expected_s = lately_s
        else:
            expected_s = max(min(predicted_s, MOST_S), min(lately_s or 0.0, self._alone_s))
        alone_s = self._alone_s * (1 + MARGIN) + MARGIN_S
        if deadline_s > 0:
            due_s = received_s + deadline_s
        elif expected_s is None:
            due_s = begun_s + UNKNOWN_S + alone_s
        else:
            due_s = begun_s + expected_s + max(PATIENCE * expected_s, PATIENCE_S) + alone_s
        give_up_s = due_s - alone_s
        in_time = give_up_s > begun_s + (expected_s or 0.0)
        return Due(due_s, give_up_s if in_time else max(due_s, begun_s))


def _mean(before: float | None, seconds: float) -> float:
    return seconds if before is None else before + NEWEST * (seconds - before)
