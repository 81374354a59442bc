# SPDX-License-Identifier: Apache-2.0
"""
Robot and server as two processes, a core each, with a link of a set rate between them.

This process is the robot. What travels goes through the package's own outboxes and inboxes. The
link is full duplex: in each direction one chunk after the other takes the time that the rate gives
it, and while it is on its way the sender prepares the next.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
from dataclasses import dataclass
import json
import multiprocessing
from multiprocessing.connection import Connection
import os
import queue
from statistics import median
import struct
import threading
import time

import torch

from hp_inference.graph.layout import Layout
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.link.inbox import Inbox
from hp_inference.link.transport import ChunkTransport
from hp_inference.link.wire import Chunk, Head, SliceSpec
from hp_inference.profile.device import DeviceProfile
from hp_inference.profile.measure import profile
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.frames import inbox_for
from hp_inference.runtime.memory import keep_freed_memory
from hp_inference.split.plan import Plan
from hp_inference.split.program import compile_plan
from hp_inference.split.shares import ROBOT, SERVER

ECHO = 0  # a chunk of this frame comes straight back
TRIPS = 50
TIMEOUT_S = 120.0
DIGEST = bytes(32)
# What a chunk says of itself here, after the time at which it arrives.
FIELDS = ('session', 'frame', 'plan_index', 'value_id', 'row_begin', 'row_end', 'chunk_index',
          'chunk_count', 'dtype', 'codec', 'raw_bytes', 'crc')
PACKED = struct.Struct(f'<d{len(FIELDS)}q')


@dataclass(frozen=True)
class Run:
    """One frame: its answer, seconds until it was there, and where they went on either side."""

    outputs: dict[str, torch.Tensor]
    latency_s: float
    robot_compute_s: float
    server_compute_s: float


class _Side:
    """What both processes do: carry chunks to the other at a rate, and take its chunks in."""

    def __init__(self, side: int, core: int, chunks: Connection, spec: ModelSpec):
        os.sched_setaffinity(0, {core})  # threads begun from here on stay on it as well
        torch.set_num_threads(1)
        keep_freed_memory()
        self.layout = open_model(spec)[1]
        self.mbit_s = 0.0  # 0: no limit
        self._side, self._chunks = side, chunks
        self._inbox: Inbox | None = None
        self._executors: list[Executor] = []
        self._free_at = 0.0
        self._echoes: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._transport = ChunkTransport(self._carry)
        threading.Thread(target=self._read, daemon=True).start()

    def prepare(self, plans: Sequence[Plan]) -> None:
        """Make the executors of plans."""
        self._executors = [Executor(self.layout, compile_plan(self.layout, plan)[self._side])
                           for plan in plans]
        for executor in self._executors:
            executor.warm_up()

    def expect(self, plan: int, frame: int, mbit_s: float) -> Head:
        """Make ready for the chunks of a frame."""
        head = Head(1, frame, DIGEST, plan)
        self._inbox = inbox_for(self.layout, self._executors[plan].program, head)
        self.mbit_s = mbit_s
        return head

    def run(self, head: Head, image: torch.Tensor | None = None):
        """Return the outputs of a frame, the seconds until they were there and its trace."""
        trace, begin = Trace(), time.monotonic()
        io = self._transport.open_frame(head, self._inbox)
        io.give_up_s = begin + TIMEOUT_S
        outputs = self._executors[head.plan_index].run(io, image, trace)
        return outputs, time.monotonic() - begin, trace

    def echo(self) -> float:
        """Return the seconds that a chunk of one byte takes there and back, without a rate."""
        spec, self.mbit_s = SliceSpec(0, 0, 1, (1,), None, torch.uint8), 0.0
        begin = time.monotonic()
        self._transport.open_frame(Head(1, ECHO, DIGEST, 0), Inbox([])).send(
            spec, torch.zeros(1, dtype=torch.uint8))
        return self._echoes.get(timeout=TIMEOUT_S) - begin

    def _carry(self, chunk: Chunk, _tag: object = None) -> None:
        """Wait until the line is free and put a chunk on it, with the time at which it is over."""
        _come_first()
        now, payload = time.monotonic(), bytes(chunk.payload)
        begin = max(now, self._free_at)
        self._free_at = begin + (8e-6 * len(payload) / self.mbit_s if self.mbit_s else 0.0)
        time.sleep(max(0.0, begin - now))
        fields = (getattr(chunk, name) for name in FIELDS)
        self._chunks.send_bytes(PACKED.pack(self._free_at, *fields) + payload)

    def _read(self) -> None:
        _come_first()
        while True:
            try:
                packed = self._chunks.recv_bytes()
            except (EOFError, OSError):
                return
            due_s, *fields = PACKED.unpack_from(packed)
            chunk = Chunk(table_digest=DIGEST, payload=memoryview(packed)[PACKED.size:],
                          **dict(zip(FIELDS, fields)))
            time.sleep(max(0.0, due_s - time.monotonic()))
            if chunk.frame != ECHO:
                self._inbox.put(chunk)
            elif self._side == SERVER:
                self._carry(chunk)
            else:
                self._echoes.put(time.monotonic())


def _come_first() -> None:
    """
    Let the thread that calls come before computing on its core.

    It needs little time, but on the only core that it may use it would be kept waiting for some
    milliseconds by an operator, which does not happen where a core is to spare. Only root may.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


class TwoProcesses:
    """A robot, which is this process, and a server; use as a context. Needs two cores."""

    def __init__(self, spec: ModelSpec):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            raise SystemExit(f'this bench needs two cores, this process may use {len(cores)}')
        context = multiprocessing.get_context('spawn')
        chunks, far_chunks = context.Pipe()
        self._control, far_control = context.Pipe()
        self._server = context.Process(
            target=_serve, args=(cores[1], far_chunks, far_control, spec), daemon=True)
        self._server.start()
        far_chunks.close()
        far_control.close()
        self._cores = cores
        self._robot = _Side(ROBOT, cores[0], chunks, spec)
        self._frame = ECHO
        self._hear()

    @property
    def layout(self) -> Layout:
        """The model's, on the robot."""
        return self._robot.layout

    def profiles(self, image: torch.Tensor, seconds: float) -> tuple[DeviceProfile, DeviceProfile]:
        """Return robot's and server's profile, measured one after the other."""
        mine = profile(self.layout, image, seconds=seconds)
        self._tell(do='profile', seconds=seconds)
        return mine, DeviceProfile.from_json(self._hear())

    def prepare(self, plans: Sequence[Plan]) -> None:
        """Make the executors of plans on both sides."""
        self._tell(do='prepare', plans=[plan.to_json() for plan in plans])
        self._robot.prepare(plans)
        self._hear()

    def frame(self, plan: int, mbit_s: float, image: torch.Tensor) -> Run:
        """Run a frame under one of the prepared plans."""
        self._frame += 1
        head = self._robot.expect(plan, self._frame, mbit_s)
        self._tell(do='frame', plan=plan, frame=self._frame, mbit_s=mbit_s)
        self._hear()  # its inbox is there
        outputs, seconds, trace = self._robot.run(head, image)
        return Run(outputs, seconds, trace.compute_s, self._hear()['compute_s'])

    def round_trip_s(self) -> float:
        """Return the median time of a chunk of one byte there and back, without a rate."""
        self._tell(do='free')
        self._hear()
        return median(self._robot.echo() for _ in range(TRIPS))

    def __enter__(self) -> TwoProcesses:
        """Return itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """End the server and let this process use all of its cores again."""
        self._control.close()
        self._server.join(TIMEOUT_S)
        os.sched_setaffinity(0, self._cores)

    def _tell(self, **request) -> None:
        self._control.send_bytes(json.dumps(request).encode())

    def _hear(self) -> dict:
        try:
            return json.loads(self._control.recv_bytes())
        except EOFError:
            raise SystemExit('the server process has died') from None


def _serve(core: int, chunks: Connection, control: Connection, spec: ModelSpec) -> None:
    """Be the server: answer requests until the robot hangs up."""
    def answer(**said) -> None:
        control.send_bytes(json.dumps(said).encode())
    server = _Side(SERVER, core, chunks, spec)
    answer()
    while True:
        try:
            request = json.loads(control.recv_bytes())
        except EOFError:
            return
        if request['do'] == 'profile':
            answer(**profile(server.layout, seconds=request['seconds']).to_json())
        elif request['do'] == 'prepare':
            server.prepare([Plan.from_json(plan, server.layout) for plan in request['plans']])
            answer()
        elif request['do'] == 'free':
            server.mbit_s = 0.0
            answer()
        else:
            head = server.expect(request['plan'], request['frame'], request['mbit_s'])
            answer()
            _, _, trace = server.run(head)
            answer(compute_s=trace.compute_s)
