# SPDX-License-Identifier: Apache-2.0
"""What somebody on the same ROS domain can reach of some nodes, read from the ROS graph."""

from __future__ import annotations

from collections import deque
import random
import time

import hostile_values as hostile
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from hp_msgs.msg import PlanTable

OFFERS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL)
KEPT = 40  # messages of each topic that came by
ANSWERED_S = 5.0


def _split(name: str) -> tuple[str, str]:
    namespace, _, node = name.rpartition('/')
    return node, namespace or '/'


class Reach:
    """The topics and services of some nodes, and what came by on them."""

    def __init__(self, targets: list[str], spare: str, paths: list[str]):
        rclpy.init()
        self.node = rclpy.create_node('attacker')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self._targets, self._spare, self._paths = targets, spare, paths
        self._draw = random.Random(0)
        self._publishers: dict[str, object] = {}
        self._clients: dict[str, object] = {}
        self._heard: dict[str, deque] = {}
        self._watched: list = []
        self.tried = 0

    # What there is

    def topics(self) -> dict[str, type]:
        """Return the topics that the nodes listen to, with their types."""
        found = {}
        for target in self._known():
            for topic, kinds in self.node.get_subscriber_names_and_types_by_node(*_split(target)):
                if not topic.startswith(self._spare) and topic.count('/') > 1:
                    found[topic] = hostile.kind_of(kinds[0])
        return found

    def services(self) -> dict[str, type]:
        """Return the services that the nodes offer, with their types."""
        found = {}
        for target in self._known():
            for name, kinds in self.node.get_service_names_and_types_by_node(*_split(target)):
                found[name] = hostile.kind_of(kinds[0], 'srv')
        return found

    def _known(self) -> list[str]:
        """Return the nodes to attack that are there, all of them unless one stays away."""
        def there():
            names = {f'{namespace.rstrip("/")}/{name}'
                     for name, namespace in self.node.get_node_names_and_namespaces()}
            return [target for target in self._targets if target in names]
        self._wait(lambda: len(there()) == len(self._targets))
        return there()

    def watch(self) -> None:
        """Keep what the nodes say to each other, until the next attack."""
        self.rest()
        for topic, kind in self.topics().items():
            kept = self._heard.setdefault(topic, deque(maxlen=KEPT))
            latched = kind is PlanTable or topic.endswith(('status', 'profile'))
            self._watched.append(self.node.create_subscription(
                kind, topic, lambda msg, kept=kept: kept.append(msg), QoSProfile(
                    depth=10, reliability=ReliabilityPolicy.RELIABLE if latched
                    else ReliabilityPolicy.BEST_EFFORT,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL if latched
                    else DurabilityPolicy.VOLATILE)))

    def tables(self) -> int:
        """Return how many different plan tables have come by."""
        return len({bytes(msg.digest) for kept in self._heard.values() for msg in kept
                    if isinstance(msg, PlanTable)})

    def rest(self) -> None:
        """Leave all topics, as one who is gone."""
        for publisher in self._publishers.values():
            self.node.destroy_publisher(publisher)
        for subscription in self._watched:
            self.node.destroy_subscription(subscription)
        for client in self._clients.values():
            self.node.destroy_client(client)
        self._publishers, self._clients, self._watched = {}, {}, []

    def _publisher(self, topic: str, kind: type):
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, OFFERS)
        return self._publishers[topic]

    def _send(self, topic: str, kind: type, msg) -> None:
        try:
            self._publisher(topic, kind).publish(msg)
        except RuntimeError:  # the middleware sends nothing beyond the bound of a field
            return
        self.tried += 1

    def _any(self, topics: dict[str, type]) -> tuple[str, type]:
        return self._draw.choice(sorted(topics.items(), key=lambda item: item[0]))

    def _client(self, name: str, kind: type):
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
            self._wait(self._clients[name].service_is_ready)
        return self._clients[name]

    def _ask(self, client, request):
        future = client.call_async(request)
        self._wait(future.done)
        if not future.done():
            client.remove_pending_request(future)
            return None
        return future.result()

    def _wait(self, done) -> None:
        end = time.monotonic() + ANSWERED_S
        while not done() and time.monotonic() < end:
            self.executor.spin_once(0.02)
