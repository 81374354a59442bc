# SPDX-License-Identifier: Apache-2.0
"""The server as its robot sees it: the topics between them, and whether it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import rclpy
from std_msgs.msg import Header

from hp_inference import __version__
from hp_inference.link.acknowledgements import Acknowledger, BadAck
from hp_inference.link.errors import BadChunk
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
    digest_from_msg,
    digests_from_msg,
    span_from_msg,
)
from hp_inference.nodes.neighbours import Neighbours
from hp_inference.runtime import frames
from hp_inference.text import line, NAME
from hp_msgs.msg import FrameReport, LinkReport, ServerLoad, ServerStatus, TensorChunk

if TYPE_CHECKING:
    from hp_inference.nodes.robot_node import RobotNode

# What is queued for the server has so long to go when the topics are left.
CLOSE_S = 0.1


class ServerPort:
    """
    The topics to and from the server; what comes goes to the node's engine.

    Made before the engine, which sends through it; ``listen`` opens the ways back.
    """

    def __init__(self, node: RobotNode):
        self._node = node
        self._log = node.get_logger()
        self.pacer = Pacer(node.params.limit_mbit_s)
        self.transport = ChunkTransport(self._send, 'uplink', self.pacer)
        self._acks = Acknowledger()
        self._uplink = node.topics.advertise(TensorChunk, 'uplink', qos.CHUNKS)
        self._report = node.topics.advertise(LinkReport, 'downlink_report', qos.ACKS)

    def listen(self) -> None:
        """Take in what the server sends."""
        listen = self._node.topics.listen
        listen(TensorChunk, 'downlink', self._on_chunk, qos.CHUNKS, informed=True)
        listen(FrameReport, 'frame_report', self._on_report, qos.REPORTS)
        listen(LinkReport, 'link_report', self._on_ack, qos.ACKS)
        listen(ServerLoad, 'server_load', self._on_load, qos.METRICS)
        status = listen(ServerStatus, 'server_status', self._on_status, qos.LATCHED)
        self._servers = Neighbours(
            self._node, status.topic_name, 'server', 'Each of them computes every frame. Stop all '
            'but one, or take this robot out of their parameter robots')

    def close(self) -> None:
        """Send nothing more; after the engine, which sends through it."""
        self.transport.close(CLOSE_S)

    def look(self) -> None:
        """Look whether the server is still there, and the only one."""
        # A server that ends says nothing, and each frame sent to it would wait for its deadline.
        before = self.servers
        self._servers.look()
        if before and not self.servers:
            self._node.engine.server.gone()
            self.pacer.reset()
            self._log.warning('server: it is gone')
        if self.servers:
            self._insist()

    @property
    def servers(self) -> int:
        """How many servers were there when last looked."""
        return self._servers.count

    @property
    def trouble(self) -> str:
        """What there is to say of them where there are several."""
        return self._servers.text

    def _send(self, chunk: Chunk, header: Header) -> None:
        if rclpy.ok():
            self._uplink.publish(chunk_to_msg(chunk, header))

    def _insist(self) -> None:
        """Have the server know the table in force: what was said of it once may not hold now."""
        if self._node.engine.server.holds(self._node.engine.table.digest):
            self._node.plans.heard()
        elif self._node.active:
            self._node.plans.insist()

    def _on_chunk(self, msg: TensorChunk, info: dict) -> None:
        self._node.aside(self._give_ack, msg, arrived_s(info))
        try:
            self._node.engine.on_chunk(chunk_from_msg(msg))
        except BadChunk as error:
            self._log.warning(f'from the server: {error}', throttle_duration_sec=1.0)

    def _give_ack(self, msg: TensorChunk, arrived_s: float) -> None:
        ack = self._acks.took(msg.session, msg.seq, len(msg.payload), msg.sent_s,
                                      arrived_s, msg.chunk_index + 1 == msg.chunk_count)
        if ack is not None and rclpy.ok():
            self._report.publish(ack_to_msg(ack))

    def _on_ack(self, msg: LinkReport) -> None:
        try:
            self.pacer.on_ack(ack_from_msg(msg))
        except BadAck as error:
            self._log.warning(f'from the server: {error}', throttle_duration_sec=1.0)

    def _on_report(self, msg: FrameReport) -> None:
        try:
            spans = [frames.Span(*span_from_msg(span)) for span in msg.spans]
        except ValueError as error:
            self._log.warning(f'from the server: frame report: {error}',
                              throttle_duration_sec=1.0)
            spans = []
        self._node.engine.on_report(frames.FrameReport(
            msg.session, msg.frame, msg.status, line(msg.text), msg.compute_s, msg.wait_s,
            msg.total_s, msg.received_bytes, spans))

    def _on_status(self, msg: ServerStatus) -> None:
        graph, text, ready = self._node.layout.graph, line(msg.text), msg.ready
        if msg.model_digest != graph.digest:
            ready = False
            text = (f"the server has '{line(msg.model)}' with digest "
                    f'{line(msg.model_digest[:12])}, this robot {graph.model!r} with '
                    f'{graph.digest[:12]}: give both the same model, weights and input size')
        elif msg.version != __version__:
            self._log.warning(f'the server runs hp_inference {line(msg.version, NAME)}, this '
                              f'robot {__version__}: run the same version on both')
        digest = digest_from_msg(msg.table_digest) if ready else b''
        self._node.engine.server.status(msg.server, digest, text)
        self._log.info(f'server: {text or "ready, table " + digest.hex()[:12]}')
        self._insist()

    def _on_load(self, msg: ServerLoad) -> None:
        self._node.engine.server.load(msg.server, digests_from_msg(msg.tables))
        self._insist()
