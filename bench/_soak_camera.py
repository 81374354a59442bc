# SPDX-License-Identifier: Apache-2.0
"""
The camera of bench/soak.py, which also judges the answers: a process on the robot's host.

    _soak_camera.py FRAMES PER_SECOND [--at-once]

Shows one image after the answer to the one before, now and then several at once, and writes one
line of JSON for each thing that it learns. A line {"set": {...}} sets parameters of the robot.
With --at-once it does not wait for the nodes to be ready, and shows images whether answers come or
not.
"""

from __future__ import annotations

from array import array
import json
import queue
import sys
import threading
import time

from _soak_model import IMAGES, MEAN, net, picture, SHAPE, STD
from builtin_interfaces.msg import Time
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header
import torch

from hp_inference.graph.capture import as_image_model, Preprocessing
from hp_inference.nodes import qos
from hp_inference.nodes.convert import tensor_from_msg
from hp_inference.runtime.reference import reference
from hp_msgs.msg import InferenceResult, ServerStatus

ANSWER_S = 5.0   # an image whose answer stays out for longer is not waited for
BURST_EVERY, BURST = 25, 3  # so many images at once: all but the newest may be dropped
READY_S = 60.0


class Camera:
    """Publishes images, compares answers, counts what became of each."""

    def __init__(self):
        rclpy.init()
        self.node = rclpy.create_node('camera')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.ready = False
        self.shown = self.answered = self.dropped = 0
        self._newest = 0  # of the images that were answered
        self._commands: queue.SimpleQueue = queue.SimpleQueue()
        listen = self.node.create_subscription
        self.images = self.node.create_publisher(Image, 'image', qos.RESULTS)
        listen(InferenceResult, 'result', self._on_result, qos.RESULTS)
        listen(ServerStatus, 'server_status', self._on_status, qos.LATCHED)
        self.parameters = self.node.create_client(SetParameters, 'robot_node/set_parameters')
        model = as_image_model(net(), SHAPE, Preprocessing(MEAN, STD))
        self._pictures = []
        for number in range(IMAGES):
            pixels = picture(number)
            rows = pixels[0].permute(1, 2, 0).contiguous().numpy()
            self._pictures.append((array('B', rows.tobytes()), reference(model, pixels)))
        threading.Thread(target=self._listen, daemon=True).start()

    def show(self, frames: int, per_second: float) -> None:
        """Show so many images, so many a second, whatever comes of them."""
        due_s = time.monotonic()
        while self.shown < frames:
            self._until(lambda: time.monotonic() >= due_s, 1.0)
            due_s = max(due_s + 1 / per_second, time.monotonic())
            self._show()

    def run(self, frames: int, per_second: float) -> None:
        """Show so many images, at most so many a second, when the nodes are ready."""
        end = time.monotonic() + READY_S
        while not (self.ready and self.images.get_subscription_count()
                   and self.parameters.service_is_ready()):
            if time.monotonic() > end:
                raise SystemExit(
                    f'the nodes were not ready within {READY_S:g} s: server ready: {self.ready}, '
                    f'subscriptions to images: {self.images.get_subscription_count()}, '
                    f'parameters of the robot: {self.parameters.service_is_ready()}')
            self.executor.spin_once(0.1)
        tell(started=True)
        due_s, turns = time.monotonic(), 0
        while self.shown < frames:
            self._until(lambda: time.monotonic() >= due_s, 1.0)
            due_s = max(due_s + 1 / per_second, time.monotonic())
            self._obey()
            turns += 1
            for _ in range(1 if turns % BURST_EVERY else BURST):
                self._show()
            if not self._until(lambda: self._newest >= self.shown, ANSWER_S):
                tell(silent=self.shown)
        # One more, whose answer says how many were dropped up to now.
        self._show()
        self._until(lambda: self._newest >= self.shown, ANSWER_S)
        self._until(lambda: False, 0.5)
        tell(done=True, shown=self.shown, answered=self.answered, dropped=self.dropped)

    def _show(self) -> None:
        self.shown += 1
        self.images.publish(Image(
            header=Header(stamp=Time(sec=self.shown), frame_id='soak'), height=SHAPE[2],
            width=SHAPE[3], encoding='rgb8', step=3 * SHAPE[3],
            data=self._pictures[self.shown % IMAGES][0]))

    def _on_result(self, msg: InferenceResult) -> None:
        number = msg.header.stamp.sec
        wanted = self._pictures[number % IMAGES][1]
        got = {tensor.name: tensor_from_msg(tensor) for tensor in msg.outputs}
        right = got.keys() == wanted.keys() and all(
            torch.equal(got[name], wanted[name]) for name in wanted)
        in_order = self._newest < number <= self.shown
        self._newest = max(self._newest, number)
        self.answered += 1
        self.dropped = msg.frames_dropped
        tell(result=number, right=right, in_order=in_order, on=msg.computed_on, plan=msg.plan,
             why=msg.fallback_reason, latency_s=msg.latency_s)

    def _on_status(self, msg: ServerStatus) -> None:
        self.ready = msg.ready

    def _until(self, done, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not done():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self.executor.spin_once(min(left, 0.02))
        return True

    def _listen(self) -> None:
        for line in sys.stdin:
            self._commands.put(json.loads(line))

    def _obey(self) -> None:
        while not self._commands.empty():
            request = SetParameters.Request(parameters=[
                Parameter(name, value=value).to_parameter_msg()
                for name, value in self._commands.get()['set'].items()])
            future = self.parameters.call_async(request)
            self._until(future.done, 10.0)
            results = future.result().results if future.done() else []
            refusals = [result.reason for result in results if not result.successful]
            if refusals or not results:
                tell(refused='; '.join(refusals) or 'no answer within 10 s')


def tell(**what) -> None:
    """Write a line for who started this."""
    print(json.dumps({'at_s': time.monotonic(), **what}), flush=True)


def main() -> None:
    """Show images until there were enough."""
    torch.set_num_threads(1)
    camera = Camera()
    begin = camera.show if '--at-once' in sys.argv else camera.run
    begin(int(sys.argv[1]), float(sys.argv[2]))
    rclpy.try_shutdown()


if __name__ == '__main__':
    main()
