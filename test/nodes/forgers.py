# SPDX-License-Identifier: Apache-2.0
"""Strangers on a robot's topics: one that answers in the server's place, one that plays back."""

from __future__ import annotations

from array import array
from zlib import crc32

from rclpy.qos import QoSProfile
from ros_rig import Client

from hp_inference.nodes import qos
from hp_msgs.msg import (
    Bandwidth,
    DeviceProfile,
    FrameReport,
    LinkReport,
    Meeting,
    PlanTable,
    Probe,
    ServerLoad,
    ServerStatus,
    TensorChunk,
)

#: All that robot, server, monitor and planner exchange.
EXCHANGED = {
    'uplink': (TensorChunk, qos.CHUNKS), 'downlink': (TensorChunk, qos.CHUNKS),
    'frame_report': (FrameReport, qos.REPORTS), 'link_report': (LinkReport, qos.ACKS),
    'downlink_report': (LinkReport, qos.ACKS), 'probe': (Probe, qos.ACKS),
    'server_load': (ServerLoad, qos.METRICS), 'server_status': (ServerStatus, qos.LATCHED),
    'plan_table': (PlanTable, qos.LATCHED), 'planned_table': (PlanTable, qos.LATCHED),
    'bandwidth': (Bandwidth, qos.METRICS), 'robot_profile': (DeviceProfile, qos.LATCHED),
    'server_profile': (DeviceProfile, qos.LATCHED),
}


class Forger:
    """
    Answers each frame of a robot with rows of its own, sooner than the server.

    It copies chunks of the frame before, so that all but their payload is right.
    """

    def __init__(self, client: Client):
        self.sent = 0
        self._model: list[TensorChunk] = []
        self._frame = -1
        self._node = client.node
        self._publisher = self._node.create_publisher(TensorChunk, 'downlink', qos.CHUNKS)
        self._listening = [
            self._node.create_subscription(TensorChunk, topic, callback, qos.CHUNKS)
            for topic, callback in (('uplink', self._on_up), ('downlink', self._on_down))]

    def close(self) -> None:
        for subscription in self._listening:
            self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(self._publisher)

    def _on_down(self, msg: TensorChunk) -> None:
        if not self.sent and msg.frame == self._frame:
            self._model.append(msg)

    def _on_up(self, msg: TensorChunk) -> None:
        if msg.frame == self._frame:
            return
        if not self.sent and not (self._model and self._model[-1].chunk_index + 1 ==
                                  self._model[-1].chunk_count):
            self._model = []  # a whole frame's answer has not been seen yet
        self._frame = msg.frame
        for chunk in self._model:
            chunk.frame, chunk.session, chunk.table_digest = msg.frame, msg.session, \
                msg.table_digest
            chunk.codec = TensorChunk.CODEC_NONE
            chunk.payload = array('B', bytes(chunk.raw_bytes))
            chunk.crc = crc32(chunk.payload)
            self._publisher.publish(chunk)
            self.sent += 1


class Recorder:
    """Keeps what is said on a robot's topics and says it again."""

    def __init__(self, client: Client):
        self._client = client
        self.kept: list[tuple[str, bytes]] = []
        self._publishers = {}
        self._topics = {**EXCHANGED, 'meeting': (Meeting, qos.LATCHED)}
        self._listening = [
            client.node.create_subscription(
                kind, topic, lambda data, topic=topic: self.kept.append((topic, data)),
                profile, raw=True)
            for topic, (kind, profile) in self._topics.items()]

    def stop(self) -> None:
        for subscription in self._listening:
            self._client.node.destroy_subscription(subscription)
        self._listening = []

    @property
    def heard(self) -> set[str]:
        return {topic for topic, _ in self.kept}

    def play(self) -> None:
        """Say everything again, in order."""
        for topic, data in self.kept:
            if topic not in self._publishers:
                kind, profile = self._topics[topic]
                self._publishers[topic] = self._client.node.create_publisher(
                    kind, topic, QoSProfile(depth=1000, durability=profile.durability,
                                            reliability=profile.reliability))
                self._client.until(self._publishers[topic].get_subscription_count)
            self._publishers[topic].publish(data)

    def close(self) -> None:
        self.stop()
        for publisher in self._publishers.values():
            self._client.node.destroy_publisher(publisher)
