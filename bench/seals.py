# SPDX-License-Identifier: Apache-2.0
"""
What keys cost: the processor's time to seal and check a message, and what of a frame that is.

First messages of several sizes go through real topics, sealed and not, in turn: what publishing
and taking them cost of the thread that does it. Then two pairs of robot_node and server_node, one
with a key, answer the same images in turn at 100 Mbit/s; the messages of some frames before are
counted. The share of a frame takes sealing and checking as if nothing else went on meanwhile, which
is the worst case: in truth a chunk is sealed while the one before is on the air.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
import secrets
from statistics import median
import subprocess
import sys
import tempfile
import time

from _common import finish, parser, ratio, ros_domain, table
from _goals import at_most, Goal
import numpy as np

SIZES = (0, 1_000, 15_000, 60_000)  # bytes of payload
GOAL = 0.03  # of a frame
MBIT_S = 100.0
IMAGE = (224, 224, 3)
WAIT_S = 120.0
COUNTED_FRAMES = 20  # whose messages are counted
COUNTED = ('uplink', 'downlink', 'link_report', 'downlink_report', 'frame_report')


class Pair:
    """A sender and a receiver of chunks in this process, with or without a key."""

    def __init__(self, namespace: str, key: bytes | None):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from hp_inference.nodes import qos
        from hp_inference.nodes.guard import Guarded
        from hp_inference.nodes.sealing import Sealing
        from hp_msgs.msg import TensorChunk
        self.nodes = [rclpy.create_node(role, namespace=namespace) for role in ('robot', 'server')]
        self.executor = SingleThreadedExecutor()
        self.sealings = []
        for node in self.nodes:
            node.guarded = []
            self.executor.add_node(node)
            self.sealings.append(Sealing(node, key, node.get_name()))
        self.publisher = self.sealings[0].publisher('uplink', self.nodes[0].create_publisher(
            TensorChunk, 'uplink', qos.CHUNKS))
        self.taken = 0
        Guarded(self.nodes[1], TensorChunk, 'uplink', self._take, qos.CHUNKS,
                admit=self.sealings[1].admits('uplink'))
        end = time.monotonic() + WAIT_S
        while not (self.publisher.get_subscription_count()
                   and (key is None or self.sealings[1].knows('robot'))):
            if time.monotonic() > end:
                raise SystemExit('sender and receiver have not met')
            self.executor.spin_once(0.05)

    def _take(self, msg) -> None:
        self.taken += 1

    def run(self, message, count: int) -> tuple[float, float]:
        """Send a message so often; return the CPU seconds that each costs to publish and take."""
        begin, taken = time.thread_time(), self.taken
        for _ in range(count):
            self.publisher.publish(message)
        sent, end = time.thread_time(), time.monotonic() + WAIT_S
        while self.taken < taken + count:
            if time.monotonic() > end:
                raise SystemExit('messages were lost')
            self.executor.spin_once(0.1)
        return (sent - begin) / count, (time.thread_time() - sent) / count


def messages(rounds: int, count: int) -> dict:
    """Return what a message costs by its size, with and without a key."""
    from array import array

    from hp_msgs.msg import TensorChunk
    pairs = {'open': Pair('open', None), 'key': Pair('key', secrets.token_bytes(32))}
    costs = {(size, name): [] for size in SIZES for name in pairs}
    for _ in range(rounds):
        for size in SIZES:  # in turn: what disturbs the machine disturbs all alike
            message = TensorChunk(payload=array('B', os.urandom(size)))
            for name, pair in pairs.items():
                costs[size, name].append(pair.run(message, count))
    lines = []
    for size in SIZES:
        (up, take), (sealed, checked) = (
            [median(one[i] for one in costs[size, name]) for i in (0, 1)] for name in pairs)
        lines.append({'bytes': size, 'publish_us': up * 1e6, 'sealed_us': sealed * 1e6,
                      'take_us': take * 1e6, 'checked_us': checked * 1e6,
                      'more_us': (sealed + checked - up - take) * 1e6})
    byte_us, message_us = np.polyfit([line['bytes'] for line in lines],
                                     [line['more_us'] for line in lines], 1)
    return {'lines': lines, 'message_us': float(message_us), 'byte_us': float(byte_us)}


class Nodes:
    """robot_node and server_node as processes, and a camera that waits for their answers."""

    def __init__(self, model: str, plan: str, key_file: str):
        import rclpy
        from rclpy.executors import SingleThreadedExecutor
        from sensor_msgs.msg import Image

        from hp_inference.nodes import qos
        from hp_msgs.msg import InferenceResult
        namespace = 'key' if key_file else 'open'
        params = {'model': model, 'threads': 1, 'limit_mbit_s': MBIT_S, 'key_file': key_file}
        given = {'robot_node': {**params, 'plan': plan, 'plans': ['robot_only']},
                 'server_node': params}
        self.processes = [subprocess.Popen(
            [sys.executable, '-m', f'hp_inference.nodes.{name}', '--ros-args', '-r',
             f'__ns:=/{namespace}', *(part for item in values.items() for part in (
                 '-p', f'{item[0]}:={json.dumps(item[1])}'))], stderr=subprocess.DEVNULL)
            for name, values in given.items()]
        self.node = rclpy.create_node('camera', namespace=namespace)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self._images = self.node.create_publisher(Image, 'image', qos.RESULTS)
        self._results = []
        self.node.create_subscription(InferenceResult, 'result', self._results.append, qos.RESULTS)
        self._message = Image(height=IMAGE[0], width=IMAGE[1], encoding='rgb8', step=IMAGE[1] * 3,
                              data=np.random.default_rng(0).integers(
                                  0, 256, IMAGE, np.uint8).tobytes())

    def ask(self, seconds: float = WAIT_S):
        """Show an image and return its answer, None where there is none in time."""
        self._results.clear()
        self._images.publish(self._message)
        end = time.monotonic() + seconds
        while not self._results and time.monotonic() < end:
            self.executor.spin_once(0.1)
        return self._results[0] if self._results else None

    def warm(self, count: int) -> None:
        """Ask until so many answers in a row were computed together."""
        end, together = time.monotonic() + WAIT_S, 0
        while together < count:
            if time.monotonic() > end:
                raise SystemExit('robot and server never computed together')
            result = self.ask(1.0)
            together = together + 1 if result is not None and not result.fallback else 0

    def sizes(self, count: int) -> list[int]:
        """
        Return the bytes of all that robot and server send each other for so many frames.

        Who listens costs them time, so that it is not done while frames are timed.
        """
        from hp_inference.nodes import qos
        from hp_msgs.msg import FrameReport, LinkReport, TensorChunk
        kinds = {'uplink': TensorChunk, 'downlink': TensorChunk, 'frame_report': FrameReport}
        sizes = []
        listening = [self.node.create_subscription(
            kinds.get(topic, LinkReport), topic, lambda data: sizes.append(len(data)),
            qos.CHUNKS if topic in ('uplink', 'downlink') else qos.ACKS, raw=True)
            for topic in COUNTED]
        self.warm(5)
        sizes.clear()
        for _ in range(count):
            self.ask()
        for each in listening:
            self.node.destroy_subscription(each)
        return sizes

    def close(self) -> None:
        """End the nodes."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(WAIT_S)
        self.node.destroy_node()


def frames(model: str, plan: str, rounds: int, cost: dict) -> dict:
    """Return what frames take with and without a key, and which share of them the seals are."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder, 'robot.key')
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32))
        pairs = [Nodes(model, plan, ''), Nodes(model, plan, str(key))]
        try:
            for pair in pairs:
                pair.warm(5)
            sizes = pairs[1].sizes(COUNTED_FRAMES)
            took: list[list[float]] = [[], []]
            for _ in range(rounds):
                each = [pair.ask() for pair in pairs]
                if all(result is not None and not result.fallback for result in each):
                    for times, result in zip(took, each):
                        times.append(result.latency_s)
        finally:
            for pair in pairs:
                pair.close()
    if len(took[0]) < rounds / 2:
        raise SystemExit(f'only {len(took[0])} of {rounds} frames were computed together')
    count, kilobytes = len(sizes) / COUNTED_FRAMES, sum(sizes) / COUNTED_FRAMES / 1e3
    sealed_s = (count * cost['message_us'] + 1e3 * kilobytes * cost['byte_us']) * 1e-6
    return {'model': model, 'plan': plan, 'frames': len(took[0]),
            'open_ms': median(took[0]) * 1e3, 'key_ms': median(took[1]) * 1e3,
            'ratio': ratio(took[1], took[0]), 'messages': count,
            'kB': kilobytes, 'seals_ms': sealed_s * 1e3,
            'share': sealed_s / median(took[0])}


def judge(lines: list[dict]) -> list[Goal]:
    """Return what part of each plan's frames the seals were to take at most."""
    return [at_most(f'{line["model"]} {line["plan"]}: part of a frame that seals take',
                    line['share'], GOAL) for line in lines]


def main() -> int:
    """Measure, print, write; return the exit status."""
    options = parser(__doc__)
    options.add_argument('--frames', type=int, default=100, help='frames of each plan')
    options = options.parse_args()
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ['ROS_DOMAIN_ID'] = ros_domain()
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    import rclpy
    rclpy.init()
    cost = messages(5 if options.quick else 40, 50)
    table('CPU time of a message of TensorChunk, in us', [
        'bytes', 'publish', 'sealed', 'take', 'checked', 'more for both'],
        [list(line.values()) for line in cost['lines']])
    print(f'fitted: {cost["message_us"]:.0f} us a message and {cost["byte_us"] * 1e3:.2f} ns a '
          f'byte; a chunk of 60 kB takes {60_000 * 8 / MBIT_S:.0f} us at {MBIT_S:g} Mbit/s')
    runs = [('torchvision:resnet18', 'uniform:0.5')] if options.quick else [
        (f'torchvision:{model}', plan) for model in ('resnet50', 'vgg16')
        for plan in ('full_offload', 'uniform:0.5')]
    lines = [frames(model, plan, 10 if options.quick else options.frames, cost)
             for model, plan in runs]
    table(f'a frame at {MBIT_S:g} Mbit/s', [
        'model', 'plan', 'frames', 'ms', 'with key', 'ratio', 'messages', 'kB', 'seals ms',
        'share'], [[*list(line.values())[:5], '{:.3f} [{:.3f}, {:.3f}]'.format(*line['ratio']),
                    line['messages'], line['kB'], line['seals_ms'],
                    f'{line["share"] * 100:.2f} %'] for line in lines])
    return finish(options, {'messages': cost, 'frames': lines}, judge(lines))


if __name__ == '__main__':
    sys.exit(main())
