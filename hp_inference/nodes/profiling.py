# SPDX-License-Identifier: Apache-2.0
"""A node's service ~/profile: measure what this device takes for the node's model."""

from __future__ import annotations

from collections.abc import Callable
import time

from std_srvs.srv import Trigger

from hp_inference.nodes.managed import ManagedNode
from hp_inference.profile.this_device import profile_this_device
from hp_inference.text import why
from hp_msgs.msg import DeviceProfile

#: What is said of frames that come while the device is measured.
PROFILED = 'the device is being profiled'
# Time between two lines about the progress in the log.
LOG_S = 5.0


class Profiling:
    """
    Measures the device of a robot's or server's node on the node's worker.

    ``changed()`` is called on the node's thread when measuring begins and when it has ended;
    ``message`` then is what there is to publish. Frames would disturb: the node keeps them away
    while ``measuring``.
    """

    def __init__(self, node: ManagedNode, side: int, changed: Callable[[], None]):
        self._node, self._side, self._changed = node, side, changed
        self._logged_s = 0.0
        self.measuring = False
        self.message: DeviceProfile | None = None
        node.create_service(Trigger, '~/profile', self._asked)

    def forget(self) -> None:
        """Be as at first: the model that was measured, or is being measured, is gone."""
        self.measuring, self.message = False, None

    def _asked(self, _, response: Trigger.Response) -> Trigger.Response:
        refusal = ''
        if not self._node.active:
            refusal = 'the node is not active: configure and activate it first'
        elif self.measuring:
            refusal = 'the device is being profiled already'
        response.success = not refusal
        response.message = refusal or ('measuring has begun, frames wait until it is done; the '
                                       'profile is published then')
        if not refusal:
            self.measuring, self.message = True, None
            self._node.get_logger().info('profiling this device ...')
            self._changed()
            self._node.worker.submit(self._measure, self._measured)
        return response

    def _measure(self) -> str:
        return profile_this_device(self._node.layout, self._progress).dumps()

    def _progress(self, what: str, done: int, of: int) -> None:
        self._node.worker.check()
        now = time.monotonic()
        if now - self._logged_s > LOG_S:
            self._logged_s = now
            self._node.get_logger().info(f'profiling: {what} {done} of {of}')

    def _measured(self, made: str | Exception) -> None:
        graph = self._node.layout.graph
        self.message = DeviceProfile(side=self._side, model=graph.model,
                                     model_digest=graph.digest)
        if isinstance(made, Exception):
            self.message.text = why(made)
            self._node.get_logger().error(f'profiling failed: {self.message.text}')
        else:
            self.message.json = made
            self._node.get_logger().info('profiled')
        self.measuring = False
        self._changed()
