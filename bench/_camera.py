# SPDX-License-Identifier: Apache-2.0
"""
The camera of a bench, and whoever looks at the answers: a process on the robot's host.

Takes commands as JSON lines, answers each with one: see TwoHosts, which speaks to it.
"""

from __future__ import annotations

from array import array
import json
import sys
import time

from builtin_interfaces.msg import Time
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header
import torch

from hp_inference.graph.capture import as_image_model, Preprocessing
from hp_inference.graph.models import load_model
from hp_inference.nodes import qos
from hp_inference.nodes.convert import tensor_from_msg
from hp_inference.profile.sample import sample_image
from hp_inference.runtime.reference import reference, worst_error
from hp_msgs.msg import Bandwidth, InferenceResult, ServerStatus

IMAGES = 3
ANSWER_S = 60.0
LOST_S = 5.0  # an image whose answer stays out so much longer than the others' was dropped
FIGURES = ('plan', 'latency_s', 'queue_s', 'preprocess_s', 'robot_compute_s', 'robot_wait_s',
           'server_compute_s', 'server_wait_s', 'sent_bytes', 'received_bytes', 'predicted_s',
           'deadline_s', 'bandwidth_bytes_per_s', 'energy_j', 'computed_on', 'fallback',
           'fallback_reason', 'frames_dropped', 'frames_late')


class Camera:
    """Publishes images one after the other and keeps what comes back."""

    def __init__(self, model: str, shape: tuple[int, ...]):
        rclpy.init()
        torch.set_num_threads(1)
        self.node = rclpy.create_node('camera')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.results: list[InferenceResult] = []
        self.ready = False
        self.bandwidth: Bandwidth | None = None
        listen = self.node.create_subscription
        self.images = self.node.create_publisher(Image, 'image', qos.RESULTS)
        listen(InferenceResult, 'result', self.results.append, qos.RESULTS)
        listen(ServerStatus, 'server_status', self._on_status, qos.LATCHED)
        listen(Bandwidth, 'bandwidth', self._on_bandwidth, qos.METRICS)
        self.parameters = self.node.create_client(SetParameters, 'robot_node/set_parameters')
        unsplit = as_image_model(load_model(model), shape, Preprocessing.default(shape[1]))
        self.shown = []
        for seed in range(IMAGES):
            image = sample_image(shape, seed)
            pixels = image[0].permute(1, 2, 0).contiguous().numpy()
            message = Image(height=shape[2], width=shape[3], encoding='rgb8', step=3 * shape[3],
                            data=array('B', pixels.tobytes()))
            self.shown.append((message, reference(unsplit, image)))
        self.count = 0

    def _on_status(self, msg: ServerStatus) -> None:
        self.ready = msg.ready

    def _on_bandwidth(self, msg: Bandwidth) -> None:
        self.bandwidth = msg

    def until(self, done, seconds: float) -> bool:
        """Take in what comes until something holds; return whether it came about in time."""
        end = time.monotonic() + seconds
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.executor.spin_once(min(left, 0.2))
        return True

    def wait_ready(self, seconds: float) -> dict:
        """Wait until the server holds the robot's table."""
        there = self.until(lambda: self.ready and self.images.get_subscription_count()
                           and self.parameters.service_is_ready(), seconds)
        return {'ready': there}

    def set(self, values: dict) -> dict:
        """Set parameters of the robot."""
        request = SetParameters.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        future = self.parameters.call_async(request)
        self.until(future.done, 30.0)
        results = future.result().results if future.done() else []
        refusals = [result.reason for result in results if not result.successful]
        return {'refusal': '; '.join(refusals) if results else 'no answer within 30 s'}

    def ask(self, count: int, seconds: float = ANSWER_S) -> dict:
        """Show images, each after the answer to the one before."""
        return {'frames': [self._frame(seconds) for _ in range(count)]}

    def ask_for(self, begin_s: float, duration_s: float, samples: list | None,
                ahead_s: float) -> dict:
        """
        Show images like this for a time from ``begin_s`` (time.monotonic) on.

        ``at_s`` of a frame counts from there. ``samples`` (s, Mbit/s): the robot is told before
        each frame what they carry on average in the ``ahead_s`` to come.
        """
        frames, told = [], None
        self.until(lambda: time.monotonic() >= begin_s, begin_s - time.monotonic() + 1)
        while (at_s := time.monotonic() - begin_s) < duration_s:
            if samples:
                comes = average(samples, at_s, at_s + ahead_s)
                if comes != told:
                    self.set({'bandwidth_mbit_s': comes})
                    told, at_s = comes, time.monotonic() - begin_s
            frames.append({**self._frame(LOST_S), 'at_s': at_s})
        return {'frames': frames}

    def _frame(self, seconds: float) -> dict:
        image, wanted = self.shown[self.count % len(self.shown)]
        self.count += 1
        image.header = Header(stamp=Time(sec=self.count), frame_id='camera')
        self.results.clear()
        begin = time.monotonic()
        self.images.publish(image)
        if not self.until(lambda: any(r.header == image.header for r in self.results), seconds):
            return {'lost': True, 'plan': '', 'latency_s': time.monotonic() - begin}
        passed = time.monotonic() - begin
        result = next(r for r in self.results if r.header == image.header)
        got = {tensor.name: tensor_from_msg(tensor) for tensor in result.outputs}
        heard = self.bandwidth
        return {**{name: getattr(result, name) for name in FIGURES}, 'lost': False,
                'table': bytes(result.table_digest).hex(), 'passed_s': passed,
                'error': worst_error(got, wanted),
                'heard_bytes_per_s': heard.bytes_per_s if heard else None}


def average(samples: list, begin_s: float, end_s: float) -> float:
    """Return what a link in steps carries on average in a time; at least a little [Mbit/s]."""
    carried = 0.0
    for (at_s, mbit_s), (until_s, _) in zip(samples, [*samples[1:], (end_s, 0.0)]):
        carried += mbit_s * max(0.0, min(until_s, end_s) - max(at_s, begin_s))
    return max(0.001, carried / (end_s - begin_s))


def main() -> None:
    """Obey until the input ends."""
    model, *shape = sys.argv[1:]
    camera = Camera(model, tuple(map(int, shape)))
    print(json.dumps({'up': True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(camera, command.pop('do'))(**command)), flush=True)
    camera.executor.shutdown()


if __name__ == '__main__':
    main()
