# SPDX-License-Identifier: Apache-2.0
"""The topics of a participant: sealed, guarded, with the QoS of the user, and left together."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher

from hp_inference.nodes import qos
from hp_inference.nodes.guard import Guarded
from hp_inference.nodes.sealing import Sealing

#: Profiles of topics whose reliability and the like are the user's to choose.
OVERRIDABLE = (qos.IMAGES, qos.CHUNKS, qos.RESULTS)


class Topics:
    """
    The topics of a node, or those between a server and one of its robots.

    ``key`` seals what is to be sealed (None: nothing is); ``role``, ``prefix`` and ``troubled`` as
    in Sealing. Names are those before remapping, without the prefix.
    """

    def __init__(self, node: LifecycleNode, key: bytes | None, role: str, prefix: str = '',
                 troubled: Callable[[str], None] = lambda text: None):
        self._node, self._prefix = node, prefix
        self.sealing = Sealing(node, key, role, prefix, troubled)
        self._publishers: list[Publisher] = []
        self._subscriptions: list[Guarded] = []

    def advertise(self, kind: type, name: str, profile: qos.QoSProfile):
        """Return what publishes on a topic while the node is active."""
        topic = self._prefix + name
        self._publishers.append(self._node.create_lifecycle_publisher(
            kind, topic, **qos.publisher(self._node, topic, profile,
                                         overridable=profile in OVERRIDABLE)))
        return self.sealing.publisher(name, self._publishers[-1])

    def listen(self, kind: type, name: str, callback: Callable, profile: qos.QoSProfile,
               **more) -> Guarded:
        """Return a subscription; ``more`` as for Guarded."""
        self._subscriptions.append(Guarded(
            self._node, kind, self._prefix + name, callback, profile,
            admit=self.sealing.admits(name), overridable=profile in OVERRIDABLE, **more))
        return self._subscriptions[-1]

    def deafen(self) -> None:
        """Take in nothing more; what is being done may still be said."""
        for subscription in self._subscriptions:
            subscription.close()
        self._subscriptions = []

    def close(self) -> None:
        """Leave all of them."""
        self.deafen()
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers = []
        self.sealing.close()
