# SPDX-License-Identifier: Apache-2.0
"""One robot as its server sees it: its topics, its engine, and what is known of it."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
import math
import time
from typing import TYPE_CHECKING

import rclpy

from hp_inference import __version__
from hp_inference.link.acknowledgements import Ack, Acknowledger, BadAck
from hp_inference.link.errors import Aborted, BadChunk
from hp_inference.link.pacer import Pacer
from hp_inference.link.transport import ChunkTransport
from hp_inference.link.wire import Chunk
from hp_inference.nodes import qos
from hp_inference.nodes.acknowledgements import (
    ack_from_msg,
    ack_to_msg,
    arrived_s,
)
from hp_inference.nodes.convert import (
    chunk_from_msg,
    chunk_to_msg,
    digest_to_msg,
    digests_to_msg,
    span_to_msg,
    table_from_msg,
)
from hp_inference.nodes.neighbours import Neighbours
from hp_inference.nodes.profiling import PROFILED
from hp_inference.nodes.topics import Topics
from hp_inference.runtime import frames
from hp_inference.runtime.load import Load
from hp_inference.runtime.server import ServerEngine
from hp_inference.text import line, why
from hp_msgs.msg import (
    DeviceProfile,
    FrameReport,
    LinkReport,
    PlanTable,
    Probe,
    ServerLoad,
    ServerStatus,
    TensorChunk,
)

if TYPE_CHECKING:
    from hp_inference.nodes.server_node import ServerNode

NO_DIGEST = bytes(32)
# What a table that is refused counts, of messages that were of no use (``Guarded``).
TABLE_WEIGHT = 50.0
# What is queued for the robot has so long to go when the topics are left.
CLOSE_S = 0.2
# From one warning to the next about the same.
WARN_S = 1.0


def prefix_of(namespace: str) -> str:
    """Return what stands before the names of a robot's topics."""
    return f'{namespace.rstrip("/")}/' if namespace else ''


class RobotPort:
    """The topics and the engine of one robot."""

    def __init__(self, node: ServerNode, namespace: str, key: bytes | None = None):
        self.node = node
        self.name = namespace or 'the robot'
        self.text = 'no robot has sent its plan table yet'
        self.digest = NO_DIGEST
        self._coming: bytes | None = None  # the table that is made ready
        self._warned_s: dict[str, float] = {}
        # Chunks and probes have senders of their own, which count them apart.
        self._chunk_acks = Acknowledger(node.receiver)
        self._probe_acks = Acknowledger(node.receiver)
        self.pacer = Pacer(node.params.limit_mbit_s)
        self.transport = ChunkTransport(self._publish, 'downlink', self.pacer)
        self.engine = ServerEngine(node.layout, self.transport, self._report,
                                   node.params.max_sessions, node.params.session_timeout_s,
                                   node.cache, node.queue)
        self.topics = topics = Topics(node, key, 'server', prefix_of(namespace), self._on_trouble)
        self._downlink = topics.advertise(TensorChunk, 'downlink', qos.CHUNKS)
        self._reports = topics.advertise(FrameReport, 'frame_report', qos.REPORTS)
        self._acks = topics.advertise(LinkReport, 'link_report', qos.ACKS)
        self._load = topics.advertise(ServerLoad, 'server_load', qos.METRICS)
        self._status = topics.advertise(ServerStatus, 'server_status', qos.LATCHED)
        self._profile = topics.advertise(DeviceProfile, 'server_profile', qos.LATCHED)
        self._uplink = topics.listen(TensorChunk, 'uplink', self._on_chunk, qos.CHUNKS,
                                     informed=True)
        self._useless = 0  # of what came by it, so far
        self._tables = topics.listen(PlanTable, 'plan_table', self._on_table, qos.LATCHED)
        self._others = (
            Neighbours(node, self._status.topic_name, 'server', f'Each serves {self.name}, which '
                       'needs one. Stop all others, or start them in a namespace of their own or '
                       "without this robot in their parameter 'robots'"),
            Neighbours(node, self._tables.topic_name, 'robot', 'Give each robot a '
                       'namespace of its own: on the same topics they answer the same images and '
                       'hear what is meant for each other'))
        topics.listen(LinkReport, 'downlink_report', self._on_ack, qos.ACKS)
        topics.listen(Probe, 'probe', self._on_probe, qos.ACKS, informed=True)

    def announce(self) -> None:
        """Say what is loaded and which table is in force."""
        graph, why_not = self.node.layout.graph, self.node.why_not
        self._status.publish(ServerStatus(
            server=self.node.receiver, version=__version__,
            model=graph.model, model_digest=graph.digest,
            table_digest=digest_to_msg(self.digest),
            ready=not why_not and self.digest != NO_DIGEST, text=why_not or self.text,
            device=self.node.params.device))

    def publish_profile(self, profile: DeviceProfile) -> None:
        """Say what was measured."""
        self._profile.publish(profile)

    def publish_load(self, load: Load) -> None:
        """Say how busy the server is, and with it that it is there and what it holds."""
        tables = [] if self.node.why_not else self.engine.tables
        self._load.publish(ServerLoad(server=self.node.receiver, tables=digests_to_msg(tables),
                                      device=self.node.params.device, **asdict(load)))

    def look_for_others(self) -> None:
        """Warn when another server, or another robot, is on the same topics."""
        for others in self._others:
            others.look()

    @property
    def trouble(self) -> str:
        """What there is to say of other servers and robots, '' when there are none."""
        return '; '.join(filter(None, (others.text for others in self._others)))

    def close(self) -> None:
        """Stop computing and leave the topics."""
        self.topics.deafen()
        self.engine.close()
        self.transport.close(CLOSE_S)
        self.topics.close()

    def _on_trouble(self, text: str) -> None:
        """Let the robot say why it is not served, where it may have another key or none."""
        if self.digest == NO_DIGEST:
            self.text = text
            self.announce()

    def _on_chunk(self, msg: TensorChunk, info: dict) -> None:
        if not self.node.active:
            return
        # Whatever becomes of it: it has arrived.
        self._give_ack(self._chunk_acks.took(
            msg.session, msg.seq, len(msg.payload), msg.sent_s, arrived_s(info),
            msg.chunk_index + 1 == msg.chunk_count))
        if self.node.profiling.measuring:
            # So that a robot that has not heard of it yet goes alone at once.
            self._report(frames.FrameReport(msg.session, msg.frame, frames.REFUSED, PROFILED))
            return
        try:
            self.engine.on_chunk(chunk_from_msg(msg))
        except BadChunk as error:
            self._warn('chunk', f'from {self.name}: {error}')
            self._uplink.useless()
        before, self._useless = self._useless, self.engine.useless
        if self._useless != before:
            self._uplink.useless(self._useless - before)

    def _on_probe(self, msg: Probe, info: dict) -> None:
        if not self.node.active:
            return
        if len(msg.payload) > Probe.MAX_BYTES:
            self._warn('probe', f'a probe from {self.name} has {len(msg.payload)} bytes, expected '
                       f'at most {Probe.MAX_BYTES}; it is not answered')
            return
        self._give_ack(self._probe_acks.took(
            msg.session, msg.seq, len(msg.payload), msg.sent_s, arrived_s(info), msg.last))

    def _give_ack(self, ack: Ack | None) -> None:
        if ack is not None:
            self.node.aside(lambda: self._acks.publish(ack_to_msg(ack)))

    def _on_ack(self, msg: LinkReport) -> None:
        try:
            self.pacer.on_ack(ack_from_msg(msg))
        except BadAck as error:
            self._warn('acknowledgement', f'from {self.name}: {error}')

    def _on_table(self, msg: PlanTable) -> None:
        digest = bytes(msg.digest)
        if digest == self._coming and digest != NO_DIGEST:
            return  # said again while it is made ready
        if self.engine.again(digest):
            self._coming = None
            self.node.worker.submit(lambda: None, line=self, newest=True)
            self._in_force(digest)
            return
        self._coming = digest
        self.node.worker.submit(partial(self._take_table, msg), partial(self._taken, digest),
                                self, newest=True)

    def _take_table(self, msg: PlanTable):
        """Make a table ready in steps, one for each plan, and return what to say of it."""
        try:
            read = self.node.intake.read(*table_from_msg(msg))
            executors, names = [], []
            for each in read.plans:
                yield
                plan, programs = self.node.intake.compile(each)
                executors.append(self.engine.executor(plan, programs))
                names.append(plan.name)
        except Aborted:  # the node is stopping
            return None
        except Exception as error:  # nobody else would hear of it
            return why(error)
        self.engine.accept(read.digest, executors)
        return names

    def _taken(self, digest: bytes, made: list[str] | str | Exception | None) -> None:
        self._coming = None
        if isinstance(made, list):
            self._in_force(digest, ': ' + ', '.join(made[:6]))
        elif made is not None:
            self.text = str(made)  # the table before stays in force
            self.node.get_logger().error(f'plan table of {self.name} refused: {self.text}')
            self._say()
            self._tables.useless(TABLE_WEIGHT)

    def _in_force(self, digest: bytes, plans: str = ' again') -> None:
        self.text, self.digest = '', digest
        self.node.get_logger().info(
            f'plan table {digest.hex()[:12]} of {self.name} is in force{plans}')
        self._say()

    def _say(self) -> None:
        if rclpy.ok():
            self.announce()

    def _publish(self, chunk: Chunk, _tag: object) -> None:
        if rclpy.ok():
            self._downlink.publish(chunk_to_msg(chunk))

    def _report(self, report: frames.FrameReport) -> None:
        if rclpy.ok():
            # float: an integer in a double field (a sum of nothing is 0) aborts the whole process.
            self._reports.publish(FrameReport(
                session=report.session, frame=report.frame, status=report.status,
                text=line(report.text), compute_s=float(report.compute_s),
                wait_s=float(report.wait_s), total_s=float(report.total_s),
                received_bytes=report.received_bytes,
                spans=[span_to_msg(s.lane, s.label, s.start_s, s.duration_s)
                       for s in report.spans]))
        if report.status != frames.OK and rclpy.ok():
            ended = 'refused' if report.status == frames.REFUSED else 'given up'
            self._warn(ended, f'frame {report.frame} of {self.name} {ended}: {report.text}')

    def _warn(self, about: str, text: str) -> None:
        """Warn once a second of each thing; rclpy's own throttle would be one for all robots."""
        now_s = time.monotonic()
        if now_s - self._warned_s.get(about, -math.inf) >= WARN_S:
            self._warned_s[about] = now_s
            self.node.get_logger().warning(text)
