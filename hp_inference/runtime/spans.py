# SPDX-License-Identifier: Apache-2.0
"""What a time line is made of; needs no PyTorch, so that pictures need none."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """A piece of a frame's time line: lane robot, uplink, server or downlink; seconds."""

    lane: str
    label: str
    start_s: float
    duration_s: float
