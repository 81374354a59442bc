# SPDX-License-Identifier: Apache-2.0
"""Robots of bench/fleet.py: one process plays all of them, since none computes anything."""

from __future__ import annotations

import json
from statistics import quantiles
import subprocess
import threading
import time

import rclpy
from rclpy.executors import ExternalShutdownException
import torch

from hp_inference.graph.capture import ImageModel
from hp_inference.graph.layout import Layout
from hp_inference.link.acknowledgements import Acknowledger
from hp_inference.link.errors import Aborted, BadChunk, LinkError
from hp_inference.link.inbox import Inbox
from hp_inference.link.pacer import Pacer
from hp_inference.link.transport import ChunkTransport, FrameIO
from hp_inference.link.wire import Head
from hp_inference.nodes import qos
from hp_inference.nodes.acknowledgements import ack_from_msg, ack_to_msg
from hp_inference.nodes.convert import chunk_from_msg, chunk_to_msg, digest_to_msg
from hp_inference.runtime.deadline import Deadlines
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.frames import inbox_for
from hp_inference.runtime.reference import reference, worst_error
from hp_inference.split.shares import ROBOT
from hp_inference.split.table import PlanTable
from hp_msgs.msg import FrameReport, LinkReport, ServerLoad, ServerStatus, TensorChunk
from hp_msgs.msg import PlanTable as PlanTableMsg

DEADLINE_S = 10.0
FLOOD_PER_S = 50.0  # frames that a flooding robot sends, whatever comes back
READY_S = 60.0
TOLERANCE = 1e-5
ALONE_S = 0.5  # that a robot would take for a frame alone, where it would go alone
CALM_S = 2.0  # after the hostile robot has been told to end


class Robot:
    """
    One robot, by the same topics, chunks, acknowledgements and pacing as robot_node.

    Its image and the answer of the unsplit model are given; the plan has the server compute all.
    """

    def __init__(self, node, name: str, table: PlanTable, image: torch.Tensor,
                 expected: dict[str, torch.Tensor], session: int):
        self.layout: Layout = table.layout
        self.name, self._table, self._image, self._expected = name, table, image, expected
        self._executor = Executor(self.layout, table.programs[0][ROBOT])
        self._session, self._frame = session, 0
        self._current: tuple[int, Inbox] | None = None
        self._acks, self._pacer = Acknowledger(), Pacer()
        self._deadlines: Deadlines | None = None
        self.ready = threading.Event()
        self.loads: list[ServerLoad] = []
        self.latencies: list[float] = []
        self.lost, self.wrong = 0, 0

        def publisher(kind, topic, profile):
            return node.create_publisher(kind, f'{name}/{topic}', profile)

        def listen(kind, topic, callback, profile):
            node.create_subscription(kind, f'{name}/{topic}', callback, profile)
        self._tables = publisher(PlanTableMsg, 'plan_table', qos.LATCHED)
        self._uplink = publisher(TensorChunk, 'uplink', qos.CHUNKS)
        self._report = publisher(LinkReport, 'downlink_report', qos.ACKS)
        self._transport = ChunkTransport(
            lambda chunk, tag: self._uplink.publish(chunk_to_msg(chunk)), pacer=self._pacer)
        listen(TensorChunk, 'downlink', self._on_chunk, qos.CHUNKS)
        listen(FrameReport, 'frame_report', self._on_report, qos.REPORTS)
        listen(LinkReport, 'link_report',
               lambda msg: self._pacer.on_ack(ack_from_msg(msg)), qos.ACKS)
        listen(ServerStatus, 'server_status', self._on_status, qos.LATCHED)
        listen(ServerLoad, 'server_load', self.loads.append, qos.METRICS)
        graph = self.layout.graph
        self._tables.publish(PlanTableMsg(
            model=graph.model, model_digest=graph.digest, digest=digest_to_msg(table.digest),
            json=table.dumps()))

    def give_up_as_robots_do(self) -> None:
        """Wait for an answer no longer than robot_node does before it computes alone."""
        self._deadlines = Deadlines()
        self._deadlines.took_alone(ALONE_S)

    def ask(self, until_s: float) -> None:
        """Have frames computed, one after the other, until a time."""
        while time.monotonic() < until_s:
            head, inbox = self._begin()
            begun = time.monotonic()
            give_up_s = begun + DEADLINE_S
            if self._deadlines:
                give_up_s = self._deadlines.of(begun, begun, 0.0, 0, None).give_up_s
            io = self._transport.open_frame(head, inbox)
            io.give_up_s = give_up_s
            try:
                answer = self._executor.run(io, self._image)
            except LinkError:
                self.lost += 1
                io.cancel()
                if self._deadlines:
                    self._deadlines.waited_in_vain(0, time.monotonic() - begun)
                continue
            self.latencies.append(time.monotonic() - begun)
            if self._deadlines:
                self._deadlines.took_together(0, self.latencies[-1])
            self.wrong += worst_error(answer, self._expected) > TOLERANCE

    def flood(self, until_s: float) -> None:
        """Begin frames at a steady rate and look at no answer."""
        due_s = time.monotonic()
        while due_s < until_s:
            head, _ = self._begin()
            try:
                self._executor.run(_SendOnly(self._transport.open_frame(head, Inbox([]))),
                                   self._image)
            except Aborted:
                pass
            due_s = max(due_s + 1 / FLOOD_PER_S, time.monotonic() - 0.1)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def figures(self, seconds: float) -> dict:
        """Return what it got."""
        cuts = quantiles(self.latencies, n=20) if len(self.latencies) > 1 else [0.0] * 19
        return {'frames_per_s': len(self.latencies) / seconds, 'p50_ms': cuts[9] * 1e3,
                'p95_ms': cuts[18] * 1e3, 'lost': self.lost, 'wrong': int(self.wrong),
                'together': len(self.latencies) / max(1, len(self.latencies) + self.lost)}

    def _begin(self) -> tuple[Head, Inbox]:
        head = Head(self._session, self._frame, self._table.digest, 0)
        inbox = inbox_for(self.layout, self._executor.program, head)
        self._current = self._frame, inbox
        self._frame += 1
        return head, inbox

    def _on_chunk(self, msg: TensorChunk) -> None:
        ack = self._acks.took(msg.session, msg.seq, len(msg.payload), msg.sent_s,
                                      time.monotonic(), msg.chunk_index + 1 == msg.chunk_count)
        if ack is not None:
            self._report.publish(ack_to_msg(ack))
        frame, inbox = self._current or (-1, None)
        if msg.frame == frame:
            try:
                inbox.put(chunk_from_msg(msg))
            except BadChunk as error:
                inbox.abort(str(error))

    def _on_report(self, msg: FrameReport) -> None:
        frame, inbox = self._current or (-1, None)
        if msg.frame == frame and msg.status != FrameReport.STATUS_OK:
            inbox.abort(msg.text)

    def _on_status(self, msg: ServerStatus) -> None:
        if msg.ready and bytes(msg.table_digest) == self._table.digest:
            self.ready.set()


class _SendOnly:
    """A frame that brings nothing."""

    def __init__(self, io: FrameIO):
        self.send = io.send

    def receive(self, spec):
        """Give up."""
        raise Aborted('enough')


def _robots(model: ImageModel, table: PlanTable, names: list[str]) -> list[Robot]:
    """Return robots whose server is ready for them."""
    rclpy.init()
    node = rclpy.create_node('fleet')
    robots = []
    for seed, name in enumerate(names):
        generator = torch.Generator().manual_seed(seed)
        image = torch.randint(0, 256, table.layout.graph.input.shape, dtype=torch.uint8,
                              generator=generator).contiguous(memory_format=torch.channels_last)
        robots.append(Robot(node, name, table, image, reference(model, image), seed + 1))
    threading.Thread(target=_spin, args=(node,), daemon=True).start()
    for robot in robots:
        if not robot.ready.wait(READY_S):
            raise SystemExit(f'the server did not serve {robot.name} within {READY_S:g} s')
    return robots


def play(model: ImageModel, table: PlanTable, names: list[str], seconds: float,
         flooding: int) -> dict:
    """Be all robots for a while, the first ``flooding`` of them badly behaved; return figures."""
    robots = _robots(model, table, names)
    _work(robots, min(1.0, seconds / 3), flooding)  # warms up
    for robot in robots:
        robot.latencies.clear()
        robot.lost = 0
    _work(robots, seconds, flooding)
    time.sleep(0.6)  # for one more load
    loads = robots[-1].loads
    return {'robots': [robot.figures(seconds) for robot in robots[flooding:]],
            'memory_mb': loads[-1].memory_bytes / 1e6,
            'busy': max(load.busy for load in loads),
            'turn_wait_ms': max(load.turn_wait_s for load in loads) * 1e3}


def play_beside(model: ImageModel, table: PlanTable, names: list[str], seconds: float,
                rounds: int, hostile: subprocess.Popen) -> dict:
    """
    Be all robots, in turns alone, beside a busy core and beside a hostile robot; return figures.

    ``hostile`` is that of _fleet_hostile.py, which has started.
    """
    robots = _robots(model, table, names)
    for robot in robots:
        robot.give_up_as_robots_do()
    _work(robots, min(2.0, seconds), 0)  # warms up
    settings, sent = {'alone': [], 'idle': [], 'attack': []}, {}
    for _ in range(rounds):
        for name, figures in settings.items():
            for robot in robots:
                robot.latencies.clear()
                robot.lost = robot.wrong = 0
            if name != 'alone':
                _tell(hostile, name)
            _work(robots, seconds, 0)
            sent = _tell(hostile, 'end')
            latencies = sorted(taken for robot in robots for taken in robot.latencies)
            figures.append({
                'robots': [robot.figures(seconds) for robot in robots],
                'together': len(latencies) / max(1, len(latencies) + sum(
                    robot.lost for robot in robots)),
                'p95_ms': 1e3 * latencies[int(0.95 * len(latencies))] if latencies else 1e6,
                'memory_mb': robots[0].loads[-1].memory_bytes / 1e6 if robots[0].loads else 0.0})
            time.sleep(CALM_S)
    return {**settings, 'sent': sent}


def _tell(process: subprocess.Popen, line: str) -> dict:
    """Tell a process something and return what it answers."""
    process.stdin.write(line + '\n')
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def _work(robots: list[Robot], seconds: float, flooding: int) -> None:
    until_s = time.monotonic() + seconds
    threads = [threading.Thread(target=robot.flood if place < flooding else robot.ask,
                                args=(until_s,)) for place, robot in enumerate(robots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _spin(node) -> None:
    try:
        rclpy.spin(node)
    except ExternalShutdownException:
        pass
