# SPDX-License-Identifier: Apache-2.0
"""Both Programs of a plan in one process, over an in-memory link: for checks, benches and tests."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import torch

from hp_inference.graph.layout import Layout
from hp_inference.link.inbox import Inbox
from hp_inference.link.memory_link import MemoryLink
from hp_inference.link.outbox import Outbox
from hp_inference.link.wire import Head, SliceSpec
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.split.program import Program, Receive, Send
from hp_inference.split.shares import ROBOT, SERVER


def slice_spec(layout: Layout, step: Send | Receive) -> SliceSpec:
    """Return what a slice that travels looks like."""
    return SliceSpec(step.value, step.begin, step.end,
                     layout.slice_shape(step.value, step.begin, step.end),
                     layout.axes[step.value],
                     getattr(torch, layout.graph.values[step.value].dtype))


class LinkIO:
    """A Program's link for one frame: an outbox to send by, an inbox to receive from."""

    def __init__(self, layout: Layout, inbox: Inbox, outbox: Outbox, head: Head,
                 deadline: float | None = None, on_sent=None):
        self._layout, self._inbox, self._outbox = layout, inbox, outbox
        self._head, self._deadline, self._on_sent = head, deadline, on_sent

    def send(self, step: Send, rows: torch.Tensor) -> None:
        """Queue rows for sending."""
        self._outbox.send(rows, slice_spec(self._layout, step), step.codec, self._head,
                          self._on_sent)

    def receive(self, step: Receive) -> torch.Tensor:
        """Wait for rows; raises DeadlinePassed or Aborted."""
        return self._inbox.get(step.value, step.begin, step.end, self._deadline)


def inbox_for(layout: Layout, program: Program, head: Head | None = None) -> Inbox:
    """Return the inbox that takes just what a Program receives."""
    return Inbox([slice_spec(layout, step) for step in program.receives], head)


@dataclass
class LocalRun:
    """One frame's outputs, by name, and what it took."""

    outputs: dict[str, torch.Tensor]
    sent_bytes: int
    latency_s: float
    robot: Trace
    server: Trace


def run_both(layout: Layout, programs: tuple[Program, Program], image: torch.Tensor, *,
             executors: tuple[Executor, Executor] | None = None, mbit_s: float | None = None,
             tap=None, timeout_s: float = 600.0) -> LocalRun:
    """
    Run one frame: the robot's Program on this thread, the server's on another.

    image: uint8 [1, C, H, W]. ``mbit_s`` limits each direction of the link. Raises what the link
    raises (DeadlinePassed after ``timeout_s``).
    """
    executors = executors or tuple(Executor(layout, program) for program in programs)
    head = Head(session=1, frame=1, table_digest=bytes(32), plan_index=0)
    inboxes = [inbox_for(layout, program, head) for program in programs]
    traces, failures = (Trace(), Trace()), []
    deadline = time.monotonic() + timeout_s
    with MemoryLink(inboxes[SERVER].put, inboxes[ROBOT].put, mbit_s=mbit_s, tap=tap) as link:
        ios = [LinkIO(layout, inbox, outbox, head, deadline)
               for inbox, outbox in zip(inboxes, (link.robot, link.server))]

        def serve():
            try:
                executors[SERVER].run(ios[SERVER], trace=traces[SERVER])
            except Exception as error:
                failures.append(error)
                inboxes[ROBOT].abort(f'the server failed: {error}')
        server = threading.Thread(target=serve, name='server program')
        server.start()
        begin = time.monotonic()
        try:
            outputs = executors[ROBOT].run(ios[ROBOT], image, traces[ROBOT])
        except Exception as error:
            inboxes[SERVER].abort(f'the robot failed: {error}')
            if failures:
                raise failures[0] from error
            raise
        finally:
            server.join()
        latency = time.monotonic() - begin
    return LocalRun(outputs, link.sent_bytes, latency, *traces)
