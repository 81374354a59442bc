# SPDX-License-Identifier: Apache-2.0
"""The server as its robot sees it: the topics between them, and whether it is there."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import rclpy

from hp_inference import __version__
from hp_inference.link.errors import BadChunk
from hp_inference.link.pacer import Pacer
from hp_inference.link.receipts import BadReceipt, Receipts
from hp_inference.nodes import qos
from hp_inference.nodes.convert import (
    chunk_from_msg,
    chunk_to_msg,
    digest_from_msg,
    span_from_msg,
)
from hp_inference.nodes.receipts import arrived_s, receipt_from_msg, receipt_to_msg
from hp_inference.runtime import frames
from hp_msgs.msg import FrameReport, LinkReport, ServerLoad, ServerStatus, TensorChunk

if TYPE_CHECKING:
    from hp_inference.nodes.robot_node import RobotNode

# Characters of a text from the server that are passed on.
TEXT = 1000
# After a server with another model has spoken it is asked who else is there, once.
ASK_S = 1.5


class ServerPort:
    """
    The topics to and from the server; what comes goes to the node's engine.

    Made before the engine, which sends through it; ``listen`` opens the ways back.
    """

    def __init__(self, node: RobotNode):
        self._node = node
        self._log = node.get_logger()
        self.pacer = Pacer(node.params.limit_mbit_s)
        self._receipts = Receipts()
        self._seen = 0  # servers
        self._refusal, self._ask_s = '', math.inf  # when to ask anew who is there
        self._uplink = node.advertise(TensorChunk, 'uplink', qos.CHUNKS, overridable=True)
        self._report = node.advertise(LinkReport, 'downlink_report', qos.RECEIPTS)

    def listen(self) -> None:
        """Take in what the server sends."""
        listen = self._node.listen
        listen(TensorChunk, 'downlink', self._on_chunk, qos.CHUNKS, informed=True)
        listen(FrameReport, 'frame_report', self._on_report, qos.REPORTS)
        listen(LinkReport, 'link_report', self._on_receipt, qos.RECEIPTS)
        listen(ServerLoad, 'server_load', lambda msg: self._node.engine.server.alive(),
               qos.METRICS)
        self._status = listen(ServerStatus, 'server_status', self._on_status, qos.LATCHED)

    def send(self, chunk, header) -> None:
        """Publish a chunk; on the engine's sending thread."""
        if rclpy.ok():
            self._uplink.publish(chunk_to_msg(chunk, header))

    def look(self) -> None:
        """Look whether the server is still there, and the only one."""
        # A server that ends says nothing, and each frame sent to it would wait for its deadline.
        there = self._node.count_publishers(self._status.topic_name)
        if self._seen and not there:
            self._node.engine.server.gone()
            self.pacer.reset()
            self._log.warning('server: it is gone')
        if there and not self._seen:
            self._node.engine.server.found()
        if there > 1 >= self._seen:
            self._log.warning(
                f'{there} servers answer on {self._status.topic_name}: every one of them computes '
                'every frame. Stop all but one, or take this robot out of their parameter robots')
        # What was heard last may be from one that is gone by now, and those that stay say nothing.
        if (0 < there < self._seen or time.monotonic() > self._ask_s) and self._node.active:
            self._ask_s = math.inf
            self._node.plans.announce()  # every server answers a table
        self._seen = there

    @property
    def servers(self) -> int:
        """How many servers were there when last looked."""
        return self._seen

    def _on_chunk(self, msg: TensorChunk, info: dict) -> None:
        receipt = self._receipts.took(msg.session, msg.seq, len(msg.payload), msg.sent_s,
                                      arrived_s(info), msg.chunk_index + 1 == msg.chunk_count)
        if receipt is not None and rclpy.ok():
            self._report.publish(receipt_to_msg(receipt))
        try:
            self._node.engine.on_chunk(chunk_from_msg(msg))
        except BadChunk as error:
            self._log.warning(f'from the server: {error}', throttle_duration_sec=1.0)

    def _on_receipt(self, msg: LinkReport) -> None:
        try:
            self.pacer.on_receipt(receipt_from_msg(msg))
        except BadReceipt as error:
            self._log.warning(f'from the server: {error}', throttle_duration_sec=1.0)

    def _on_report(self, msg: FrameReport) -> None:
        try:
            spans = [frames.Span(*span_from_msg(span)) for span in msg.spans]
        except ValueError as error:
            self._log.warning(f'from the server: frame report: {error}',
                              throttle_duration_sec=1.0)
            spans = []
        self._node.engine.on_report(frames.FrameReport(
            msg.session, msg.frame, msg.status, msg.text[:TEXT], msg.compute_s, msg.wait_s,
            msg.total_s, msg.received_bytes, spans))

    def _on_status(self, msg: ServerStatus) -> None:
        graph, text, ready = self._node.layout.graph, msg.text[:TEXT], msg.ready
        if msg.model_digest != graph.digest:
            ready = False
            text = (f'the server has {msg.model[:TEXT]!r} with digest {msg.model_digest[:12]}, '
                    f'this robot {graph.model!r} with {graph.digest[:12]}: give both the same '
                    'model, weights and input size')
            if text != self._refusal:
                self._ask_s = time.monotonic() + ASK_S
        elif msg.version != __version__:
            self._log.warning(f'the server runs hp_inference {msg.version}, this '
                                            f'robot {__version__}: run the same version on both')
        self._refusal = '' if ready else text
        digest = digest_from_msg(msg.table_digest) if ready else b''
        self._node.engine.server.holds(digest, text)
        self._log.info(f'server: {text or "ready, table " + digest.hex()[:12]}')
