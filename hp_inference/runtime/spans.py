# SPDX-License-Identifier: Apache-2.0
"""What a time line is made of; needs no PyTorch, so that pictures need none."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A piece of a frame's time line: lane robot, uplink, server or downlink; seconds."""

    lane: str
    label: str
    start_s: float
    duration_s: float


def busy_s(spans: Iterable[Span], lanes: Collection[str]) -> float:
    """Return for how many seconds at least one of the lanes was at work."""
    total, reached = 0.0, float('-inf')
    for begin, end in sorted((span.start_s, span.start_s + span.duration_s)
                             for span in spans if span.lane in lanes):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
