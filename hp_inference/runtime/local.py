# SPDX-License-Identifier: Apache-2.0
"""Both Programs of a plan in one process, over an in-memory link: for checks, benches and tests."""

from __future__ import annotations

from dataclasses import dataclass
import threading
import time

import torch

from hp_inference.graph.layout import Layout
from hp_inference.link.memory_link import MemoryLink
from hp_inference.link.wire import Head
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.frames import inbox_for, LinkIO
from hp_inference.split.program import Program
from hp_inference.split.shares import ROBOT, SERVER


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
        except BaseException as error:  # also Ctrl-C: the server must not go on waiting
            inboxes[SERVER].abort(f'the robot failed: {error!r}')
            if failures:
                raise failures[0] from error
            raise
        finally:
            server.join()
        latency = time.monotonic() - begin
    return LocalRun(outputs, link.sent_bytes, latency, *traces)
