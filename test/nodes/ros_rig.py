# SPDX-License-Identifier: Apache-2.0
"""What the tests of the nodes need: nodes as processes, and a client that talks to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
import itertools
import json
from pathlib import Path
import re
import signal
import subprocess
import sys
import time
import traceback

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
import torch
from waits import WAIT_S

from hp_inference.graph.capture import as_image_model, Preprocessing
from hp_inference.graph.models import load_model
from hp_inference.nodes import qos
from hp_inference.nodes.convert import tensor_from_msg
from hp_inference.runtime.reference import reference, worst_error
from hp_msgs.msg import FrameMetrics, InferenceResult, ServerStatus

MODEL = f'{Path(__file__).with_name("tiny_model.py")}:net'
SIZE = 64
# For several processes that import PyTorch and capture a model each, all at once.
STARTED_S = 2 * WAIT_S
# Of nodes that must answer by themselves also when the machine is busy with something else.
DEADLINE_S = 5.0
# What may have got lost is said again after this long.
AGAIN_S = 2.0


def given(params: dict[str, object]) -> list[str]:
    """Return the command line that gives parameters to a node."""
    return ['--ros-args', *(part for key, value in params.items()
                            for part in ('-p', f'{key}:={json.dumps(value)}'))]


class Log:
    """
    Collects what a node of this process says, as 'level: text'.

    It raises for what rclpy's logger raises for.
    """

    def __init__(self):
        self.lines = []

    def __getattr__(self, level):
        def say(text, **_):
            text.encode()
            self.lines.append(f'{level}: {text}')
        return say

    def failed(self, text):
        self.error(f'{text}:\n{traceback.format_exc()}')

    def __contains__(self, text):
        return any(text in line for line in self.lines)


class NodeProcess:
    """A node as a process, with all that it says in a file."""

    def __init__(self, name: str, folder: Path, *, namespace: str = '', arguments=(),
                 cwd: Path | None = None, **params):
        log = folder / f'{name}{next(_numbers)}.log'
        params = {'model': MODEL, 'input': [1, 3, SIZE, SIZE], 'threads': 1, **params}
        named = ['-r', f'__ns:=/{namespace}'] if namespace else []
        self._log = log
        package = 'hp_planner' if name == 'planner_node' else 'hp_inference.nodes'
        with open(log, 'wb') as file:
            self.process = subprocess.Popen(
                [sys.executable, '-m', f'{package}.{name}', *given(params), *named,
                 *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                cwd=cwd)

    @property
    def log(self) -> str:
        return self._log.read_text('utf-8', 'replace')

    def says(self, pattern: str, seconds: float = WAIT_S) -> str:
        """Wait for a line in the log that holds a pattern and return it."""
        end = time.monotonic() + seconds
        while not (found := re.search(f'.*{pattern}.*', self.log)):
            assert self.process.poll() is None, f'ended without {pattern!r}:\n{self.log}'
            assert time.monotonic() < end, f'no {pattern!r} in:\n{self.log}'
            time.sleep(0.02)
        return found.group()

    def end(self, number: int = signal.SIGTERM, seconds: float = WAIT_S) -> int:
        """Send a signal and return the exit status, which must come in time."""
        self.process.send_signal(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'it did not end within {seconds} s:\n{self.log}') from None

    def wait(self) -> int:
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


_numbers = itertools.count()


class Client:
    """A camera, and whoever looks at the answers and turns the knobs, of one namespace."""

    def __init__(self, namespace: str = '', image_qos=qos.IMAGES, name: str = 'client'):
        self.node = rclpy.create_node(name, namespace=namespace)
        self.cameras = {Image: self.node.create_publisher(Image, 'image', image_qos),
                        CompressedImage: self.node.create_publisher(
                            CompressedImage, 'image/compressed', image_qos)}
        self.results: list[InferenceResult] = []
        self.metrics: list[FrameMetrics] = []
        self.statuses: list[ServerStatus] = []
        self.plans: list[str] = []
        self.diagnostics: dict[str, object] = {}
        listen = self.node.create_subscription
        listen(InferenceResult, 'result', self.results.append, qos.RESULTS)
        listen(FrameMetrics, 'metrics', self.metrics.append, qos.METRICS)
        listen(ServerStatus, 'server_status', self.statuses.append, qos.LATCHED)
        listen(String, 'robot_node/plan', lambda msg: self.plans.append(msg.data), qos.LATCHED)
        listen(DiagnosticArray, '/diagnostics', self._diagnosed, 10)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self._clients: dict[str, object] = {}
        self._stamps = itertools.count(1)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(left)

    def until(self, done: Callable[[], object], seconds: float = WAIT_S):
        """Take in what comes until something holds and return it; fail after a time."""
        held = self._soon(done, seconds)
        assert held, f'it did not come about in time; {self.heard()}'
        return held

    def again(self, say: Callable[[], object], done: Callable[[], object]):
        """
        Say something, every two seconds anew until something holds, and return what holds.

        For what may get lost: the middleware drops what a reader has no room for, and who has just
        opened a topic does not hear what was said before.
        """
        for _ in range(round(WAIT_S / AGAIN_S)):
            say()
            if held := self._soon(done, AGAIN_S):
                return held
        return self.until(done, 0.0)

    def heard(self) -> str:
        """Return what the nodes have said of themselves, for a failure's message."""
        return '; '.join([f'{len(self.results)} results', *(
            f'{name}: {status.message} ' + ', '.join(f'{v.key} {v.value}' for v in status.values)
            for name, status in self.diagnostics.items())])

    def ready(self, plan_table: bool = True) -> None:
        """
        Wait until the robot hears images and is heard and, unless told otherwise, served.

        That the client knows the robot does not tell that the robot knows the client. What it is
        told of the client comes in the order in which it was made, so a robot that answers on a
        service client made last has heard of the subscriptions too.
        """
        self.until(lambda: all(camera.get_subscription_count() for camera in self.cameras.values())
                   and self.node.count_publishers('result'), STARTED_S)
        asking = self.node.create_client(GetState, 'robot_node/get_state')
        self.until(asking.service_is_ready)
        end = time.monotonic() + WAIT_S
        while not self._soon(asking.call_async(GetState.Request()).done, 1.0):
            assert time.monotonic() < end, 'the robot hears the client and does not answer'
        self.node.destroy_client(asking)
        if plan_table:
            self.until(lambda: self.statuses and self.statuses[-1].ready)

    def _soon(self, done: Callable[[], object], seconds: float):
        """Take in what comes until something holds, for a time; return what it was in the end."""
        end = time.monotonic() + seconds
        while not (held := done()) and time.monotonic() < end:
            self.executor.spin_once(0.02)
        return held

    def header(self, stamp: Time | None = None, frame_id: str = 'camera') -> Header:
        """Return a header; a stamp in simulated time of its own unless one is given."""
        return Header(stamp=stamp or Time(sec=next(self._stamps), nanosec=7), frame_id=frame_id)

    def show(self, msg: Image | CompressedImage) -> None:
        self.cameras[type(msg)].publish(msg)

    def ask(self, msg: Image | CompressedImage, seconds: float = WAIT_S) -> InferenceResult:
        """Publish an image and return its answer."""
        self.show(msg)
        return self.answer_to(msg, seconds)

    def answer_to(self, msg, seconds: float = WAIT_S) -> InferenceResult:
        return self.until(lambda: self.result_of(msg), seconds)

    def result_of(self, msg) -> InferenceResult | None:
        """Return the answer to an image where it has come."""
        return next((result for result in self.results if result.header == msg.header), None)

    def answered_together(self, seconds: float = WAIT_S) -> InferenceResult:
        """
        Show images until one is answered by robot and server together; return that answer.

        As a camera does, the next image comes also where there is no answer; but the robot, which
        by now knows the client, may leave one image unanswered at most: it is best effort.
        """
        end, unanswered = time.monotonic() + seconds, 0
        while True:
            msg = self.image()
            self.show(msg)
            result = self._soon(lambda: self.result_of(msg), 2 * DEADLINE_S)
            if result and not result.fallback:
                return result
            unanswered += result is None
            assert unanswered <= 1, f'{unanswered} images without an answer; {self.heard()}'
            why = result.fallback_reason if result else 'no answer'
            assert time.monotonic() < end, f'still alone: {why}; {self.heard()}'
            self.spin(0.05)

    def image(self, seed: int = 0, stamp: Time | None = None) -> Image:
        """Return a colour image of the model's size."""
        return image_msg(pixels(seed), self.header(stamp))

    def set(self, **values) -> str:
        """Set parameters of the robot; return why it refused, '' if it did not."""
        request = SetParameters.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        results = self.call(SetParameters, 'robot_node/set_parameters', request).results
        return '; '.join(result.reason for result in results if not result.successful)

    def use(self, **values) -> InferenceResult:
        """Set parameters that need another plan table; return the first answer together by it."""
        before, end = bytes(self.answered_together().table_digest), time.monotonic() + WAIT_S
        assert self.set(**values) == ''
        while bytes((result := self.answered_together()).table_digest) == before:
            assert time.monotonic() < end, 'the plan table stays what it was'
        return result

    def change(self, node: str, transition: str | int, seconds: float = WAIT_S) -> bool:
        """Ask a node for a lifecycle transition by label or id; return whether it succeeded."""
        request = ChangeState.Request()
        if isinstance(transition, str):
            request.transition.label = transition
        else:
            request.transition.id = transition
        return self.call(ChangeState, f'{node}/change_state', request, seconds).success

    def state(self, node: str) -> str:
        return self.call(GetState, f'{node}/get_state', GetState.Request()).current_state.label

    def call(self, kind, name: str, request, seconds: float = WAIT_S):
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done, seconds)
        return future.result()

    def _diagnosed(self, msg: DiagnosticArray) -> None:
        self.diagnostics.update({status.name: status for status in msg.status})


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def image_msg(array: np.ndarray, header: Header, encoding: str = 'rgb8', step: int = 0) -> Image:
    """Return an array [H, W] or [H, W, C] as a message."""
    return Image(header=header, height=array.shape[0], width=array.shape[1], encoding=encoding,
                 step=step or array[0].nbytes, data=array.tobytes())


def error_of(result: InferenceResult, image: np.ndarray, seed: int = 0) -> float:
    """Return the relative error of an answer to RGB pixels of the model's size."""
    got = {output.name: tensor_from_msg(output) for output in result.outputs}
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1).unsqueeze(0)
    return worst_error(got, reference(eager(seed), tensor))


@cache
def eager(seed: int = 0):
    """Return the unsplit model of the nodes, with the default normalisation."""
    return as_image_model(load_model(MODEL, '', seed), (1, 3, SIZE, SIZE),
                          Preprocessing.default(3), torch.float32)
