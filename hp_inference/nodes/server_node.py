# SPDX-License-Identifier: Apache-2.0
"""The server's node: for each robot served, rows in, rows and a report out."""

from __future__ import annotations

from functools import partial
import sys

import rclpy

from hp_inference import __version__
from hp_inference.link.errors import BadChunk
from hp_inference.nodes import qos
from hp_inference.nodes.convert import (
    chunk_from_msg,
    chunk_to_msg,
    digest_to_msg,
    span_to_msg,
    table_from_msg,
)
from hp_inference.nodes.diagnostics import OK, Updater, WARN
from hp_inference.nodes.managed import ManagedNode, run
from hp_inference.nodes.params import SERVER
from hp_inference.nodes.profiling import PROFILED, Profiling
from hp_inference.nodes.worker import Worker
from hp_inference.runtime import frames
from hp_inference.runtime.server import ServerEngine
from hp_msgs.msg import DeviceProfile, FrameReport, ServerStatus, TensorChunk
from hp_msgs.msg import PlanTable as PlanTableMsg

NO_DIGEST = bytes(32)


def prefix_of(namespace: str) -> str:
    """Return what stands before the names of a robot's topics."""
    return f'{namespace.rstrip("/")}/' if namespace else ''


class RobotPort:
    """The topics and the engine of one robot."""

    def __init__(self, node: ServerNode, namespace: str):
        self.node = node
        self.name = namespace or 'the robot'
        prefix = prefix_of(namespace)
        self.text = 'no robot has sent its plan table yet'
        self.digest = NO_DIGEST
        self._newest: PlanTableMsg | None = None
        self.engine = ServerEngine(node.layout, self._publish, self._report,
                                   node.params.max_sessions, node.params.session_timeout_s)

        def publisher(kind, name, profile, **more):
            topic = prefix + name
            return node.create_lifecycle_publisher(
                kind, topic, **qos.publisher(node, topic, profile, **more))

        def subscription(kind, name, callback, profile, **more):
            topic = prefix + name
            return node.create_subscription(
                kind, topic, callback, **qos.subscription(node, topic, profile, **more))
        self._downlink = publisher(TensorChunk, 'downlink', qos.CHUNKS, overridable=True)
        self._reports = publisher(FrameReport, 'frame_report', qos.REPORTS)
        self._status = publisher(ServerStatus, 'server_status', qos.LATCHED)
        self._profile = publisher(DeviceProfile, 'server_profile', qos.LATCHED)
        self._subscriptions = [
            subscription(TensorChunk, 'uplink', self._on_chunk, qos.CHUNKS, overridable=True),
            subscription(PlanTableMsg, 'plan_table', self._on_table, qos.LATCHED)]

    def announce(self) -> None:
        """Say what is loaded and which table is in force."""
        graph, why_not = self.node.layout.graph, self.node.why_not
        self._status.publish(ServerStatus(
            version=__version__, model=graph.model, model_digest=graph.digest,
            table_digest=digest_to_msg(self.digest),
            ready=not why_not and self.digest != NO_DIGEST, text=why_not or self.text,
            device=self.node.params.device))

    def publish_profile(self, profile: DeviceProfile) -> None:
        """Say what was measured."""
        self._profile.publish(profile)

    def close(self) -> None:
        """Stop computing and leave the topics."""
        for subscription in self._subscriptions:
            self.node.destroy_subscription(subscription)
        self.engine.close()
        for publisher in (self._downlink, self._reports, self._status, self._profile):
            self.node.destroy_lifecycle_publisher(publisher)

    def _on_chunk(self, msg: TensorChunk) -> None:
        if not self.node.active:
            return
        if self.node.profiling.measuring:
            # So that a robot that has not heard of it yet goes alone at once.
            self._report(frames.FrameReport(msg.session, msg.frame, frames.REFUSED, PROFILED))
            return
        try:
            self.engine.on_chunk(chunk_from_msg(msg))
        except BadChunk as error:
            self.node.get_logger().warning(f'from {self.name}: {error}',
                                           throttle_duration_sec=1.0)

    def _on_table(self, msg: PlanTableMsg) -> None:
        # Compiling a table takes its time; chunks must not wait for it.
        self._newest = msg
        self.node.worker.submit(partial(self._take_table, msg))

    def _take_table(self, msg: PlanTableMsg) -> None:
        if msg is not self._newest:
            return
        try:
            table = table_from_msg(msg, self.node.layout)
            self.engine.use(table)
            self.text, self.digest = '', table.digest
            self.node.get_logger().info(
                f'plan table {table.digest.hex()[:12]} of {self.name} is in force: '
                f'{", ".join(plan.name for plan in table.plans[:6])}')
        except Exception as error:  # nobody else would hear of it
            self.text = str(error) or type(error).__name__  # the table before stays in force
            self.node.get_logger().error(f'plan table of {self.name} refused: {self.text}')
        if rclpy.ok():
            self.announce()

    def _publish(self, chunk) -> None:
        if rclpy.ok():
            self._downlink.publish(chunk_to_msg(chunk))

    def _report(self, report: frames.FrameReport) -> None:
        if rclpy.ok():
            if report.status != frames.OK:
                ended = 'refused' if report.status == frames.REFUSED else 'given up'
                self.node.get_logger().warning(
                    f'frame {report.frame} of {self.name} {ended}: {report.text}',
                    throttle_duration_sec=1.0)
            # float: an integer in a double field (a sum of nothing is 0) aborts the whole process.
            self._reports.publish(FrameReport(
                session=report.session, frame=report.frame, status=report.status,
                text=report.text, compute_s=float(report.compute_s), wait_s=float(report.wait_s),
                total_s=float(report.total_s), received_bytes=report.received_bytes,
                spans=[span_to_msg(s.lane, s.label, s.start_s, s.duration_s)
                       for s in report.spans]))


class ServerNode(ManagedNode):
    """Serves any number of robots, each in its namespace, with one model."""

    def __init__(self):
        super().__init__('server_node', SERVER)
        self.ports: list[RobotPort] = []
        self.worker = self.diagnostics = self.layout = None
        self.profiling = Profiling(self, DeviceProfile.SERVER, self.announce)
        self.params.on_change(self._on_change)

    @property
    def why_not(self) -> str:
        """Why no robot is served at present, '' when they are."""
        if not self.active:
            return 'the server is not active'
        return PROFILED if self.profiling.measuring else ''

    def configure(self) -> None:
        """Load the model and open a port for each robot."""
        self.layout = self.open_model()
        self.worker = Worker(self, 'server worker')
        for name in self._namespaces():
            self.ports.append(RobotPort(self, name))
        self.diagnostics = Updater(self, self.params.device)
        for port in self.ports:
            self.diagnostics.add(f'serving {port.name}',
                                 lambda port=port: self._diagnose(port))

    def _on_change(self, values: dict) -> None:
        for port in self.ports:
            port.engine.session_timeout_s = self.params.session_timeout_s

    def cleanup(self) -> None:
        """Close all ports."""
        if self.worker:  # it uses the ports
            self.worker.close()
            self.worker = None
        self.profiling.forget()
        for port in self.ports:
            port.close()
        self.ports = []
        if self.diagnostics:
            self.diagnostics.destroy()
            self.diagnostics = None
        self.layout = None

    def announce(self) -> None:
        """Tell the robots whether they are served, and what was measured of this device."""
        for port in self.ports:
            port.announce()
            if self.active and self.profiling.message:
                port.publish_profile(self.profiling.message)

    def on_deactivate(self, state):
        """Let no more frames in, and say so first, while it can still be said."""
        self.active = False
        self.announce()
        return super().on_deactivate(state)

    def _namespaces(self) -> tuple[str, ...]:
        """Return the namespaces of the robots; raises ValueError for one that is none or twice."""
        names = self.params.robots or ('',)
        topics = []
        for name in names:
            try:
                topics.append(self.resolve_topic_name(prefix_of(name) + 'uplink'))
            except RuntimeError as error:
                raise ValueError(f"parameter 'robots' has {name!r}, expected a namespace such as "
                                 f"'r1' or '/fleet/r1': {error}") from error
        twice = [name for name, topic in zip(names, topics) if topics.count(topic) > 1]
        if twice:
            raise ValueError(f"parameter 'robots' has {', '.join(map(repr, twice))} for the same "
                             f'topics, expected each namespace once')
        return names

    def _diagnose(self, port: RobotPort):
        done = port.engine.frames
        text = self.why_not or port.text
        return WARN if text else OK, text or 'serving', {
            'model': self.layout.graph.model, 'model_digest': self.layout.graph.digest,
            'plan_table': port.digest.hex(), 'frames_ok': done[frames.OK],
            'frames_refused': done[frames.REFUSED], 'frames_aborted': done[frames.ABORTED],
            'stray_chunks': port.engine.stray_chunks, 'version': __version__}


def main(args: list[str] | None = None) -> None:
    """Run server_node."""
    sys.exit(run(ServerNode, args))


if __name__ == '__main__':
    main()
