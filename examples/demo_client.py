# SPDX-License-Identifier: Apache-2.0
"""The demo's own ROS node: the camera, and the one who looks at the answers."""

from __future__ import annotations

from collections.abc import Callable
import time

from demo_nodes import DemoError
from demo_photos import Photo
from rcl_interfaces.srv import GetParameters, SetParameters
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from hp_inference.nodes import qos
from hp_msgs.msg import FrameTimeline, InferenceResult, ServerStatus

# Reliable, which a camera mostly is not: no image must be lost here (see config/demo.yaml).
IMAGES = QoSProfile(depth=5)
SERVICE_S = 10.0


class Client(Node):
    """
    Shows photographs to the robot and gathers what comes back.

    ``waiting`` holds the photographs on their way by stamp. on_result(photo, result) and
    on_timeline(timeline) are called while it spins.
    """

    def __init__(self, on_result: Callable[[Photo, InferenceResult], None],
                 on_timeline: Callable[[FrameTimeline], None]):
        super().__init__('demo')
        self.waiting: dict[tuple[int, int], Photo] = {}
        self.status: ServerStatus | None = None
        self.plan = ''
        self._on_result = on_result
        self._cameras = {Image: self.create_publisher(Image, 'image', IMAGES),
                         CompressedImage: self.create_publisher(
                             CompressedImage, 'image/compressed', IMAGES)}
        self.create_subscription(InferenceResult, 'result', self._take_result, qos.RESULTS)
        self.create_subscription(FrameTimeline, 'timeline', on_timeline, qos.METRICS)
        self.create_subscription(ServerStatus, 'server_status', self._take_status, qos.LATCHED)
        self.create_subscription(String, 'robot_node/plan', self._take_plan, qos.LATCHED)
        self._set = self.create_client(SetParameters, 'robot_node/set_parameters')
        self._get = self.create_client(GetParameters, 'robot_node/get_parameters')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    @property
    def ready(self) -> bool:
        """Whether robot and server are loaded, agree on the plans and can see the camera."""
        return bool(self.plan and self.status and self.status.ready
                    and self._set.service_is_ready() and self._get.service_is_ready()
                    and all(camera.get_subscription_count() for camera in self._cameras.values()))

    def show(self, photo: Photo) -> None:
        """Publish a photograph under a stamp of its own."""
        stamp = self.get_clock().now().to_msg()
        photo.message.header.stamp, photo.message.header.frame_id = stamp, 'camera'
        self.waiting[stamp.sec, stamp.nanosec] = photo
        self._cameras[type(photo.message)].publish(photo.message)

    def spin(self, seconds: float) -> None:
        """Take in what comes within a time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(left)

    def spin_until(self, done: Callable[[], bool], seconds: float) -> bool:
        """Take in what comes until ``done`` holds; return whether it does."""
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            self._executor.spin_once(0.05)
        return done()

    def use_plan(self, plan: str) -> str:
        """Let the robot switch to a plan; return its name. Raises DemoError when it refuses."""
        self.plan = ''
        request = SetParameters.Request(
            parameters=[Parameter('plan', value=plan).to_parameter_msg()])
        result = self._call(self._set, request).results[0]
        if not result.successful:
            raise DemoError(f'robot_node refused the plan {plan}: {result.reason}')
        if not self.spin_until(lambda: bool(self.plan), SERVICE_S):
            raise DemoError(f'robot_node took the plan {plan}, but has not said within '
                            f'{SERVICE_S:g} s that it is in force')
        return self.plan

    def robot_parameters(self, *names: str) -> dict[str, object]:
        """Return parameters of the robot by name."""
        values = self._call(self._get, GetParameters.Request(names=names)).values
        return dict(zip(names, map(parameter_value_to_python, values)))

    def close(self) -> None:
        """Leave ROS."""
        self._executor.shutdown()
        self.destroy_node()
        rclpy.try_shutdown()

    def _call(self, client, request):
        future = client.call_async(request)
        if not self.spin_until(future.done, SERVICE_S):
            raise DemoError(f'{client.srv_name} did not answer within {SERVICE_S:g} s')
        return future.result()

    def _take_result(self, msg: InferenceResult) -> None:
        photo = self.waiting.pop((msg.header.stamp.sec, msg.header.stamp.nanosec), None)
        if photo is not None:
            self._on_result(photo, msg)

    def _take_status(self, msg: ServerStatus) -> None:
        self.status = msg

    def _take_plan(self, msg: String) -> None:
        self.plan = msg.data
