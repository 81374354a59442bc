# SPDX-License-Identifier: Apache-2.0
"""What robot and server say of one frame: its link, its time line, its report, its result."""

from __future__ import annotations

from dataclasses import dataclass, field
import math
import time

import torch

from hp_inference.graph.layout import Layout
from hp_inference.link.inbox import Inbox
from hp_inference.link.outbox import SentSlice
from hp_inference.link.wire import Head
from hp_inference.runtime.executor import Trace
from hp_inference.runtime.slices import slice_spec
from hp_inference.runtime.spans import Span
from hp_inference.split.program import Program

OK, REFUSED, ABORTED = 0, 1, 2
# Where an answer was computed.
ROBOT, SERVER, BOTH = 1, 2, 3
# Pieces of computing closer together than this are shown as one.
MERGE_S = 0.0002


def inbox_for(layout: Layout, program: Program, head: Head | None = None) -> Inbox:
    """Return the inbox that takes just what a Program receives."""
    return Inbox([slice_spec(layout, step) for step in program.receives], head)


@dataclass
class FrameReport:
    """How a frame ended on the server; times in seconds, ``spans`` from its first chunk on."""

    session: int
    frame: int
    status: int
    text: str = ''
    compute_s: float = 0.0
    wait_s: float = 0.0
    total_s: float = 0.0
    received_bytes: int = 0
    spans: list[Span] = field(default_factory=list)

    @property
    def sane(self) -> bool:
        """Whether all figures are durations."""
        figures = self.compute_s, self.wait_s, self.total_s
        return all(0 <= seconds < math.inf for seconds in figures)


@dataclass
class FrameResult:
    """
    The answer to one image.

    ``tag`` is what came with the image. Durations in seconds; ``latency_s`` and ``deadline_s``
    (when it was due) count from its receipt. ``predicted_s`` and ``bandwidth_bytes_per_s``: what
    the plan was picked by, 0 where there is none. ``spans`` count from the start of the frame's
    computing.
    """

    tag: object
    frame: int
    outputs: dict[str, torch.Tensor]
    plan: str
    plan_index: int
    table_digest: bytes
    computed_on: int
    fallback_reason: str
    latency_s: float = 0.0
    queue_s: float = 0.0
    preprocess_s: float = 0.0
    robot_compute_s: float = 0.0
    robot_wait_s: float = 0.0
    server_compute_s: float = 0.0
    server_wait_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    predicted_s: float = 0.0
    deadline_s: float = 0.0
    bandwidth_bytes_per_s: float = 0.0
    dropped: int = 0
    late: int = 0
    spans: list[Span] = field(default_factory=list)

    @property
    def fallback(self) -> bool:
        """Whether the robot computed alone although the plan said otherwise."""
        return bool(self.fallback_reason)


def compute_spans(lane: str, trace: Trace, origin: float) -> list[Span]:
    """Return the computing of one side as spans that count from ``origin``."""
    merged: list[list[float]] = []
    for begin, end in trace.computing:
        if merged and begin - merged[-1][1] < MERGE_S:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return [Span(lane, 'compute', begin - origin, end - begin) for begin, end in merged]


def link_spans(sent: list[SentSlice], inbox: Inbox, origin: float) -> list[Span]:
    """Return what travelled as spans that count from ``origin``."""
    return [Span('uplink', str(slice_.spec), slice_.start_s - origin,
                 slice_.end_s - slice_.start_s) for slice_ in sent] + [
        Span('downlink', str(spec), begun - origin, done - begun)
        for spec, begun, done in inbox.arrivals]


def server_spans(report: FrameReport, sent: list[SentSlice], inbox: Inbox,
                 origin: float) -> list[Span]:
    """
    Return a report's spans as spans that count from ``origin`` on this side's clock.

    The two clocks are not compared: the server's frame lies somewhere between the first chunk to
    it and its last rows here, and is placed in the middle of what that leaves open.
    """
    earliest = sent[0].start_s if sent else origin
    arrived = max((done for _, _, done in inbox.arrivals), default=time.monotonic())
    shift = max(earliest, (earliest + arrived - report.total_s) / 2) - origin
    return [Span(span.lane, span.label, span.start_s + shift, span.duration_s)
            for span in report.spans]
