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
from hp_inference.link.errors import Aborted, BadChunk
from hp_inference.link.pacer import Pacer
from hp_inference.link.receipts import BadReceipt, Receipt, Receipts
from hp_inference.nodes import qos
from hp_inference.nodes.convert import (
    chunk_from_msg,
    chunk_to_msg,
    digest_to_msg,
    digests_to_msg,
    span_to_msg,
    table_from_msg,
)
from hp_inference.nodes.guard import Guarded
from hp_inference.nodes.neighbours import Neighbours
from hp_inference.nodes.profiling import PROFILED
from hp_inference.nodes.receipts import arrived_s, receipt_from_msg, receipt_to_msg
from hp_inference.nodes.sealing import Sealing
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
        self._prefix = prefix_of(namespace)
        self.text = 'no robot has sent its plan table yet'
        self.digest = NO_DIGEST
        self._coming: bytes | None = None  # the table that is made ready
        self._warned_s: dict[str, float] = {}
        # Chunks and probes have senders of their own, which count them apart.
        self._chunk_receipts = Receipts(node.receiver)
        self._probe_receipts = Receipts(node.receiver)
        self.pacer = Pacer(node.params.limit_mbit_s)
        self.engine = ServerEngine(node.layout, self._publish, self._report,
                                   node.params.max_sessions, node.params.session_timeout_s,
                                   self.pacer, node.prepared, node.turns)
        self.sealing = Sealing(node, key, 'server', self._prefix, self._on_trouble)
        self._publishers, self.subscriptions = [], []
        self._downlink = self._publisher(TensorChunk, 'downlink', qos.CHUNKS, overridable=True)
        self._reports = self._publisher(FrameReport, 'frame_report', qos.REPORTS)
        self._receipts = self._publisher(LinkReport, 'link_report', qos.RECEIPTS)
        self._load = self._publisher(ServerLoad, 'server_load', qos.METRICS)
        self._status = self._publisher(ServerStatus, 'server_status', qos.LATCHED)
        self._profile = self._publisher(DeviceProfile, 'server_profile', qos.LATCHED)
        self._uplink = self._subscribe(TensorChunk, 'uplink', self._on_chunk, qos.CHUNKS,
                                       overridable=True, informed=True)
        self._useless = 0  # of what came by it, so far
        self._tables = self._subscribe(PlanTable, 'plan_table', self._on_table, qos.LATCHED)
        self._others = (
            Neighbours(node, self._status.topic_name, 'server', f'Each serves {self.name}, which '
                       'needs one. Stop all others, or start them in a namespace of their own or '
                       "without this robot in their parameter 'robots'"),
            Neighbours(node, self._tables.topic_name, 'robot', 'Give each robot a '
                       'namespace of its own: on the same topics they answer the same images and '
                       'hear what is meant for each other'))
        self._subscribe(LinkReport, 'downlink_report', self._on_receipt, qos.RECEIPTS)
        self._subscribe(Probe, 'probe', self._on_probe, qos.RECEIPTS, informed=True)

    def _publisher(self, kind, name, profile, **more):
        topic = self._prefix + name
        self._publishers.append(self.node.create_lifecycle_publisher(
            kind, topic, **qos.publisher(self.node, topic, profile, **more)))
        return self.sealing.publisher(name, self._publishers[-1])

    def _subscribe(self, kind, name, callback, profile, **more) -> Guarded:
        self.subscriptions.append(
            Guarded(self.node, kind, self._prefix + name, callback, profile,
                    admit=self.sealing.admits(name), **more))
        return self.subscriptions[-1]

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
        for subscription in self.subscriptions:
            subscription.close()
        self.engine.close()
        for publisher in self._publishers:
            self.node.destroy_lifecycle_publisher(publisher)
        self.sealing.close()

    def _on_trouble(self, text: str) -> None:
        """Let the robot say why it is not served, where it may have another key or none."""
        if self.digest == NO_DIGEST:
            self.text = text
            self.announce()

    def _on_chunk(self, msg: TensorChunk, info: dict) -> None:
        if not self.node.active:
            return
        # Whatever becomes of it: it has arrived.
        self._give_receipt(self._chunk_receipts.took(
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
        self._give_receipt(self._probe_receipts.took(
            msg.session, msg.seq, len(msg.payload), msg.sent_s, arrived_s(info), msg.last))

    def _give_receipt(self, receipt: Receipt | None) -> None:
        if receipt is not None:
            self.node.aside(lambda: self._receipts.publish(receipt_to_msg(receipt)))

    def _on_receipt(self, msg: LinkReport) -> None:
        try:
            self.pacer.on_receipt(receipt_from_msg(msg))
        except BadReceipt as error:
            self._warn('receipt', f'from {self.name}: {error}')

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

    def _publish(self, chunk) -> None:
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
