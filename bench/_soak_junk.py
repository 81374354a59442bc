# SPDX-License-Identifier: Apache-2.0
"""
Publishes what nobody should, while it is told to: a process on the robot's host.

Obeys lines of its input: 'chunks' copies chunks of both directions, as they come by, damaged or
again; 'bandwidth' makes up bandwidths that can't be; 'nothing' ends either.
"""

from __future__ import annotations

from array import array
import json
import math
import random
import sys
import threading
import time

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from hp_inference.nodes import qos
from hp_msgs.msg import Bandwidth, TensorChunk

PART = 0.3  # of the chunks that come by
PERIOD_S = 0.02  # between two made-up bandwidths
BANDWIDTHS = [
    {'bytes_per_s': math.nan}, {'bytes_per_s': -1.0}, {'bytes_per_s': math.inf},
    {'bytes_per_s': 1e30}, {'bytes_per_s': 1e7, 'age_s': 1e6},
    {'bytes_per_s': 1e7, 'age_s': math.nan}, {'bytes_per_s': 1e7, 'age_s': -5.0},
    {'bytes_per_s': math.nan, 'low_bytes_per_s': math.nan}]


def fields(chunk: TensorChunk) -> dict:
    """Return all that a chunk says."""
    return {name: getattr(chunk, name) for name in chunk.get_fields_and_field_types()}


def damaged(chunk: TensorChunk, draw: random.Random) -> TensorChunk:
    """Return a chunk that differs from one that came by in one thing, or in none."""
    said = fields(chunk)
    wrong = [{}, {'row_end': chunk.row_end + 1}, {'row_begin': 2 ** 32 - 1}, {'value_id': 9999},
             {'raw_bytes': 2 ** 32 - 1}, {'chunk_count': 2 ** 32 - 1}, {'chunk_index': 2 ** 31},
             {'dtype': 77}, {'codec': 200}, {'version': 1}, {'plan_index': 65535},
             {'scale': math.nan}, {'payload': array('B')}, {'crc': chunk.crc ^ 1},
             {'payload': chunk.payload[:len(chunk.payload) // 2]},
             {'payload': array('B', bytes(300_000))}, {'frame': 2 ** 64 - 1},
             {'frame': chunk.frame + 1, 'value_id': 9999}, {'session': chunk.session ^ 1}]
    if len(chunk.payload):
        payload = array('B', chunk.payload)
        payload[draw.randrange(len(payload))] ^= 1 << draw.randrange(8)
        wrong += 4 * [{'payload': payload}, {'payload': payload, 'frame': chunk.frame + 1}]
    return TensorChunk(**{**said, **draw.choice(wrong)})


class Junk:
    """What is published just now, and with what."""

    def __init__(self, seed: int):
        rclpy.init()
        self.node = rclpy.create_node('junk')
        self._draw = random.Random(seed)
        self._made: list = []  # publishers
        self._heard: list = []  # subscriptions
        self._timer = None
        self.published = 0

    def do(self, what: str) -> None:
        """Begin something, or nothing."""
        if self._timer:
            self.node.destroy_timer(self._timer)
        for subscription in self._heard:
            self.node.destroy_subscription(subscription)
        for publisher in self._made:
            self.node.destroy_publisher(publisher)
        self._made, self._heard, self._timer = [], [], None
        if what == 'chunks':
            for topic in ('uplink', 'downlink'):
                self._follow(topic)
        elif what == 'bandwidth':
            publisher = self.node.create_publisher(Bandwidth, 'bandwidth', qos.METRICS)
            self._made.append(publisher)
            self._timer = self.node.create_timer(PERIOD_S, lambda: self._publish(
                publisher, Bandwidth(**self._draw.choice(BANDWIDTHS), source='junk')))

    def _follow(self, topic: str) -> None:
        publisher = self.node.create_publisher(TensorChunk, topic, qos.CHUNKS)
        own: list[tuple] = []

        def heard(chunk: TensorChunk) -> None:
            key = (chunk.session, chunk.frame, chunk.value_id, chunk.row_begin, chunk.row_end,
                   chunk.chunk_index, chunk.seq)
            if key in own:  # that is what came from here
                return
            if self._draw.random() < PART:
                bad = damaged(chunk, self._draw)
                own.append((bad.session, bad.frame, bad.value_id, bad.row_begin, bad.row_end,
                            bad.chunk_index, bad.seq))
                del own[:-200]
                self._publish(publisher, bad)
        self._made.append(publisher)
        self._heard.append(self.node.create_subscription(TensorChunk, topic, heard, qos.CHUNKS))

    def _publish(self, publisher, message) -> None:
        publisher.publish(message)
        self.published += 1


def main() -> None:
    """Obey until the input ends."""
    junk = Junk(int(sys.argv[1]))
    orders: list[str] = []

    def read():
        for line in sys.stdin:
            orders.append(line.strip())
        rclpy.try_shutdown()
    threading.Thread(target=read, daemon=True).start()
    executor = SingleThreadedExecutor()
    executor.add_node(junk.node)
    try:
        while rclpy.ok():
            if orders:
                junk.do(orders.pop(0))
                print(json.dumps({'at_s': time.monotonic(), 'published': junk.published}),
                      flush=True)
            executor.spin_once(0.05)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == '__main__':
    main()
