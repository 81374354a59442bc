# SPDX-License-Identifier: Apache-2.0
"""Both Programs of a plan in one process, over an in-memory link: for checks, benches and tests."""

from __future__ import annotations

from dataclasses import dataclass
import threading
import time

import torch

from hp_inference.graph.layout import Layout
from hp_inference.link.errors import Aborted, DeadlinePassed
from hp_inference.link.memory_link import MemoryLink
from hp_inference.link.wire import Head
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.frames import inbox_for
from hp_inference.split.program import Program
from hp_inference.split.shares import ROBOT, SERVER, SIDES


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

    image: uint8 [1, C, H, W]. ``mbit_s`` limits each direction of the link. Raises what either
    side or the link raises (DeadlinePassed after ``timeout_s``).
    """
    executors = executors or tuple(Executor(layout, program) for program in programs)
    head = Head(session=1, frame=1, table_digest=bytes(32), plan_index=0)
    inboxes = [inbox_for(layout, program, head) for program in programs]
    traces, failures = (Trace(), Trace()), []
    deadline = time.monotonic() + timeout_s
    with MemoryLink(inboxes[SERVER].put, inboxes[ROBOT].put, mbit_s=mbit_s, tap=tap) as link:
        ios = [transport.open_frame(head, inbox)
               for inbox, transport in zip(inboxes, (link.robot, link.server))]
        for io in ios:
            io.give_up_s = deadline

        def failed(error: BaseException, other: int):
            failures.append(error)
            # At the deadline the other side ends by itself, and may miss rows that came first.
            if not isinstance(error, DeadlinePassed):
                inboxes[other].abort(f'the {SIDES[1 - other]} failed: {error!r}')

        def serve():
            try:
                executors[SERVER].run(ios[SERVER], trace=traces[SERVER])
            except Exception as error:
                failed(error, ROBOT)
        server = threading.Thread(target=serve, name='server program', daemon=True)
        server.start()
        begin = time.monotonic()
        try:
            outputs = executors[ROBOT].run(ios[ROBOT], image, traces[ROBOT])
        except BaseException as error:  # also Ctrl-C: the server must not go on waiting
            failed(error, SERVER)
        latency = time.monotonic() - begin
        server.join()
    causes = [error for error in failures if not isinstance(error, Aborted)]
    if causes:
        raise min(causes, key=lambda error: getattr(error, 'value_id', -1))
    return LocalRun(outputs, link.sent_bytes, latency, *traces)
