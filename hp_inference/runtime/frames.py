# SPDX-License-Identifier: Apache-2.0
"""What robot and server have in common for one frame: the link of a Program, reports, results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from hp_inference.graph.layout import Layout
from hp_inference.link.inbox import Inbox
from hp_inference.link.outbox import Outbox, SentSlice
from hp_inference.link.wire import Head, SliceSpec
from hp_inference.runtime.executor import Trace
from hp_inference.split.program import Program, Receive, Send

OK, REFUSED, ABORTED = 0, 1, 2
# Pieces of computing closer together than this are shown as one.
MERGE_S = 0.0002


def slice_spec(layout: Layout, step: Send | Receive) -> SliceSpec:
    """Return what a slice that travels looks like."""
    return SliceSpec(step.value, step.begin, step.end,
                     layout.slice_shape(step.value, step.begin, step.end),
                     layout.axes[step.value],
                     getattr(torch, layout.graph.values[step.value].dtype))


def inbox_for(layout: Layout, program: Program, head: Head | None = None) -> Inbox:
    """Return the inbox that takes just what a Program receives."""
    return Inbox([slice_spec(layout, step) for step in program.receives], head)


class LinkIO:
    """A Program's link for one frame: an outbox to send by, an inbox to receive from."""

    def __init__(self, layout: Layout, inbox: Inbox, outbox: Outbox, head: Head,
                 deadline: float | None = None,
                 on_sent: Callable[[SentSlice], None] | None = None):
        self._layout, self._inbox, self._outbox = layout, inbox, outbox
        self._head, self._deadline, self._on_sent = head, deadline, on_sent

    def send(self, step: Send, rows: torch.Tensor) -> None:
        """Queue rows for sending; raises Aborted when the frame has been given up."""
        self._inbox.check()
        self._outbox.send(rows, slice_spec(self._layout, step), step.codec, self._head,
                          self._on_sent)

    def receive(self, step: Receive) -> torch.Tensor:
        """Wait for rows; raises DeadlinePassed or Aborted."""
        return self._inbox.get(step.value, step.begin, step.end, self._deadline)


@dataclass(frozen=True)
class Span:
    """A piece of a frame's time line: lane robot, uplink, server or downlink; seconds."""

    lane: str
    label: str
    start_s: float
    duration_s: float


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


def compute_spans(lane: str, trace: Trace, origin: float) -> list[Span]:
    """Return the computing of one side as spans that count from ``origin``."""
    merged: list[list[float]] = []
    for begin, end in trace.computing:
        if merged and begin - merged[-1][1] < MERGE_S:
            merged[-1][1] = end
        else:
            merged.append([begin, end])
    return [Span(lane, 'compute', begin - origin, end - begin) for begin, end in merged]
