# SPDX-License-Identifier: Apache-2.0
"""The demo's own ROS node: the camera, and the one who looks at the answers."""

from __future__ import annotations

from collections.abc import Callable
import time

from demo_nodes import DemoError
from demo_photos import Photo
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from hp_inference.nodes import qos
from hp_msgs.msg import Bandwidth, FrameTimeline, InferenceResult, ServerStatus

# Reliable, which a camera mostly is not: no image must be lost here (see config/demo.yaml).
IMAGES = QoSProfile(depth=5)
NODES = 'robot_node', 'server_node', 'bandwidth_monitor_node'
SERVICE_S = 10.0


class Client(Node):
    """
    Shows photographs to the robot and gathers what comes back.

    ``waiting`` holds what was shown and is not answered yet, by stamp. on_result(shown, result),
    on_timeline(timeline) and on_bandwidth(bandwidth) are called while it spins.
    """

    def __init__(self, on_result: Callable[[object, InferenceResult], None],
                 on_timeline: Callable[[FrameTimeline], None],
                 on_bandwidth: Callable[[Bandwidth], None]):
        super().__init__('demo')
        self.waiting: dict[tuple[int, int], object] = {}
        self.status: ServerStatus | None = None
        self.plan = ''
        self._on_result = on_result
        self._cameras = {Image: self.create_publisher(Image, 'image', IMAGES),
                         CompressedImage: self.create_publisher(
                             CompressedImage, 'image/compressed', IMAGES)}
        self.create_subscription(InferenceResult, 'result', self._take_result, qos.RESULTS)
        self.create_subscription(FrameTimeline, 'timeline', on_timeline, qos.METRICS)
        self.create_subscription(Bandwidth, 'bandwidth', on_bandwidth, qos.METRICS)
        self.create_subscription(ServerStatus, 'server_status', self._take_status, qos.LATCHED)
        self.create_subscription(String, 'robot_node/plan', self._take_plan, qos.LATCHED)
        self._set = {node: self.create_client(SetParameters, f'{node}/set_parameters')
                     for node in NODES}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    @property
    def ready(self) -> bool:
        """Whether robot and server are loaded, agree on the plans and can see the camera."""
        return bool(self.plan and self.status and self.status.ready
                    and all(client.service_is_ready() for client in self._set.values())
                    and all(camera.get_subscription_count() for camera in self._cameras.values()))

    def show(self, photo: Photo, shown: object) -> None:
        """Publish a photograph under a stamp of its own; ``shown`` comes back with its result."""
        stamp = self.get_clock().now().to_msg()
        photo.message.header.stamp, photo.message.header.frame_id = stamp, 'camera'
        self.waiting[stamp.sec, stamp.nanosec] = shown
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

    def set(self, node: str, **values: object) -> None:
        """Set parameters of a node; raises DemoError when it refuses."""
        request = SetParameters.Request(parameters=[
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()])
        for result in self._call(self._set[node], request).results:
            if not result.successful:
                raise DemoError(f'{node} refused {values}: {result.reason}')

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
        stamp = msg.header.stamp.sec, msg.header.stamp.nanosec
        shown = self.waiting.pop(stamp, None)
        if shown is not None:
            # Results come in the order of the images: an older one was dropped for a newer one.
            for older in [other for other in self.waiting if other < stamp]:
                del self.waiting[older]
            self._on_result(shown, msg)

    def _take_status(self, msg: ServerStatus) -> None:
        self.status = msg

    def _take_plan(self, msg: String) -> None:
        self.plan = msg.data
