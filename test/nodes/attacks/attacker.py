# SPDX-License-Identifier: Apache-2.0
"""
Somebody on the same ROS domain who knows all names and types, but no keys: a process of its own.

Told on its command line which nodes to attack and which topics to leave alone. Obeys lines of
JSON: {"do": KIND, "most": ..., "seconds": ..., "seed": ...}, and {"do": "watch"}, which keeps what
honest nodes say, for later. What there is to attack is read from the ROS graph, so that a topic, a
service or a parameter that a node gets is attacked by itself. Prints a line of JSON when it has
done.
"""

from __future__ import annotations

from array import array
from collections import deque
import json
from pathlib import Path
import random
import selectors
import sys
import time
from zlib import crc32

import hostile_images
import hostile_values as hostile
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import ListParameters, SetParameters, SetParametersAtomically
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from hp_inference.split.codecs import EXACT_CODECS
from hp_msgs.msg import DeviceProfile, FrameReport, LinkReport, PlanTable, TensorChunk

OFFERS = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL)
KEPT = 40  # messages of each topic that came by
PER_S = 150  # of small ones
#: Of one large message, and of all of them in a second.
LARGE_BYTES, LARGE_PER_S = 8 << 20, 64 << 20
ANSWERED_S = 5.0
#: Fields of a chunk that make it one of another frame: its rows then are forged ones.
TELL_FRAMES = ('frame', 'session', 'crc', 'payload', 'seq')
ENDS = (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, Transition.TRANSITION_INACTIVE_SHUTDOWN,
        Transition.TRANSITION_ACTIVE_SHUTDOWN)


def _split(name: str) -> tuple[str, str]:
    namespace, _, node = name.rpartition('/')
    return node, namespace or '/'


class Attacker:
    """What can be reached of some nodes, and the ways to abuse it."""

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
        for topic, kind in self.topics().items():
            kept = self._heard.setdefault(topic, deque(maxlen=KEPT))
            latched = kind is PlanTable or topic.endswith(('status', 'profile'))
            self._watched.append(self.node.create_subscription(
                kind, topic, lambda msg, kept=kept: kept.append(msg), QoSProfile(
                    depth=10, reliability=ReliabilityPolicy.RELIABLE if latched
                    else ReliabilityPolicy.BEST_EFFORT,
                    durability=DurabilityPolicy.TRANSIENT_LOCAL if latched
                    else DurabilityPolicy.VOLATILE)))

    def rest(self) -> None:
        """Leave all topics, as one who is gone."""
        for publisher in self._publishers.values():
            self.node.destroy_publisher(publisher)
        for subscription in self._watched:
            self.node.destroy_subscription(subscription)
        for client in self._clients.values():
            self.node.destroy_client(client)
        self._publishers, self._clients, self._watched = {}, {}, []

    # Ways to do it

    def attack(self, kind: str, most: int, seconds: float, seed: int) -> None:
        """Go on in one way for so many messages, or so long."""
        self._draw, self.tried = random.Random(seed), 0
        for subscription in self._watched:
            self.node.destroy_subscription(subscription)
        self._watched = []
        do, per_s = getattr(self, f'_{kind}'), {'large': 1e9, 'images': 30}.get(kind, PER_S)
        topics, services = self.topics(), self.services()
        for topic, of in topics.items():
            self._publisher(topic, of)
        self._wait(lambda: all(p.get_subscription_count() for p in self._publishers.values()))
        begun, count = time.monotonic(), 0
        while (passed := time.monotonic() - begun) < seconds and self.tried < most:
            do(topics, services)
            count += 1
            self.executor.spin_once(max(0.0, count / per_s - passed))
        self.rest()

    def _publisher(self, topic: str, kind: type):
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, OFFERS)
        return self._publishers[topic]

    def _send(self, topic: str, kind: type, msg) -> None:
        self._publisher(topic, kind).publish(msg)
        self.tried += 1

    def _any(self, topics: dict[str, type]) -> tuple[str, type]:
        return self._draw.choice(sorted(topics.items(), key=lambda item: item[0]))

    def _random(self, topics, services) -> None:
        """Nothing but random values in a message of some type."""
        topic, kind = self._any(topics)
        self._send(topic, kind, hostile.message(self._draw, kind))

    def _mutated(self, topics, services) -> None:
        """Real messages with one field changed."""
        topic, kind = self._any({t: k for t, k in topics.items() if self._heard.get(t)} or topics)
        heard = self._heard.get(topic)
        msg = self._draw.choice(heard) if heard else hostile.message(self._draw, kind)
        self._send(topic, kind, hostile.mutated(
            self._draw, msg, TELL_FRAMES if kind is TensorChunk else ()))

    def _raw(self, topics, services) -> None:
        """Bytes that are no message, or one cut short, or with lengths that lie."""
        topic, kind = self._any(topics)
        heard = self._heard.get(topic)
        msg = self._draw.choice(heard) if heard and self._draw.random() < 0.5 else \
            hostile.message(self._draw, kind, 50)
        self._send(topic, kind, hostile.raw(self._draw, msg))

    def _replayed(self, topics, services) -> None:
        """Say what honest nodes have said, earlier, again and in another order."""
        topic, kind = self._any({t: k for t, k in topics.items() if self._heard.get(t)})
        self._send(topic, kind, self._draw.choice(self._heard[topic]))

    def _forged(self, topics, services) -> None:
        """Rows, receipts and reports of the frames to come, with nothing that gives them away."""
        topic, kind = self._any({t: k for t, k in topics.items()
                                 if k in (TensorChunk, FrameReport, LinkReport)
                                 and self._heard.get(t)})
        msg = hostile.mutated(self._draw, self._heard[topic][-1])
        if kind is TensorChunk:
            msg = self._heard[topic][-1]
            payload = array('B', msg.payload)
            if payload and self._draw.random() < 0.5:
                payload[self._draw.randrange(len(payload))] ^= 1
            msg = TensorChunk(**{name: getattr(msg, name)
                                 for name in msg.get_fields_and_field_types()})
            msg.frame += self._draw.randrange(30)
            msg.payload, msg.crc = payload, crc32(payload)
        elif kind is FrameReport:
            msg.frame = (self._heard[topic][-1].frame + self._draw.randrange(30)) % 2 ** 64
        self._send(topic, kind, msg)

    def _tables(self, topics, services) -> None:
        """Plan tables and profiles that cost much to read, to check or to make ready."""
        topic, kind = self._any({t: k for t, k in topics.items() if k in (PlanTable,
                                                                         DeviceProfile)})
        heard = self._heard.get(topic)
        honest = heard[-1].json if heard else '{}'
        how = self._draw.randrange(6)
        if how == 0:
            text = hostile.deep_json(self._draw.choice([1000, 200_000, 3_000_000]))
        elif how == 1:
            text = '{"plans": [' + '{},' * 200_000 + '{}]}'
        elif how == 2:
            text = honest[:-2] + ', "more": "' + 'x' * 3_000_000 + '"}'
        elif how == 3:
            text = json.dumps({str(n): [n] * 10 for n in range(60_000)})
        elif how == 4 and '"plans"' in honest:
            table = json.loads(honest)
            table['plans'] = [{**plan, 'name': f'{plan.get("name")}{n}'} for n in range(300)
                              for plan in table['plans'][-1:]]
            text = json.dumps(table)
        else:
            text = '[' + '1e9,' * 1_500_000 + '0]'
        fields = {'json': text, 'model_digest': heard[-1].model_digest if heard else '0' * 64}
        if kind is PlanTable:
            fields['digest'] = hostile._digest(text) if how == 4 else np.zeros(32, np.uint8)
        self._send(topic, kind, kind(**fields))

    def _large(self, topics, services) -> None:
        """Every field that may be long is very long, in a message of every type."""
        topic, kind = self._any(topics)
        if kind in (Image, CompressedImage) and self._draw.random() < 0.8:
            return
        types = kind.get_fields_and_field_types()
        long = [name for name, of in types.items() if of.startswith(('sequence', 'string'))]
        if not long:
            self._random(topics, services)
            return
        heard = self._heard.get(topic)
        msg = kind(**{name: getattr(heard[-1], name) for name in types}) if heard else kind()
        name = self._draw.choice(long)
        of = types[name]
        if of.startswith('string'):
            made, nbytes = 'x' * LARGE_BYTES, LARGE_BYTES
        else:
            each = of.removeprefix('sequence<').rstrip('>').split(',')[0]
            if each in hostile._CODES:
                made = array(hostile._CODES[each], bytes(LARGE_BYTES))
                nbytes = LARGE_BYTES
            else:
                made, nbytes = [hostile.kind_of(each)()] * 100_000, 3_000_000
        try:
            setattr(msg, name, made)
        except (AssertionError, ValueError):  # the message has a bound of its own
            return
        self._send(topic, kind, msg)
        self.executor.spin_once(nbytes / LARGE_PER_S)

    def _images(self, topics, services) -> None:
        """Images of every bad kind."""
        topic, kind = self._any({t: k for t, k in topics.items() if k in (Image,
                                                                         CompressedImage)})
        make = hostile_images.image if kind is Image else hostile_images.compressed
        self._send(topic, kind, make(self._draw))

    def _services(self, topics, services) -> None:
        """Bursts of requests with random values to every service but those of the lifecycle."""
        name, kind = self._any({name: kind for name, kind in services.items()
                                if kind is not ChangeState})
        client = self._client(name, kind)
        for _ in range(self._draw.choice([1, 1, 20])):
            client.remove_pending_request(client.call_async(
                hostile.message(self._draw, kind.Request, 100)))
            self.tried += 1

    def _lifecycle(self, topics, services) -> None:
        """Transitions in any order, without waiting for what comes of them."""
        name, kind = self._any({name: kind for name, kind in services.items()
                                if kind is ChangeState})
        draw, request = self._draw, ChangeState.Request()
        if draw.random() < 0.7:
            request.transition.id = draw.choice([1, 2, 3, 4])
        elif draw.random() < 0.5:
            request.transition.id = draw.choice([n for n in range(256) if n not in ENDS])
        else:
            request.transition.label = draw.choice([text for text in hostile.TEXTS if len(text)])
        client = self._client(name, kind)
        client.remove_pending_request(client.call_async(request))
        self.tried += 1
        self.executor.spin_once(0.03)

    def _parameters(self, topics, services) -> None:
        """Every parameter of every node, set to values of every type, paths among them."""
        name, kind = self._any({name: kind for name, kind in services.items()
                                if kind in (SetParameters, SetParametersAtomically)})
        node = name.rpartition('/')[0]
        request = kind.Request(parameters=[self._parameter(node)
                                           for _ in range(self._draw.choice([1, 1, 1, 3]))])
        self._ask(self._client(name, kind), request)
        self.tried += len(request.parameters)
        asked = [name for name, of in services.items() if of is Trigger and name.endswith('/plan')]
        if asked and self._draw.random() < 0.2:  # what is planned is written where save_to says
            self._ask(self._client(f'{asked[0].removesuffix("/plan")}/set_parameters',
                                   SetParameters),
                      SetParameters.Request(parameters=[ParameterMsg(
                          name='save_to', value=ParameterValue(
                              type=ParameterType.PARAMETER_STRING,
                              string_value=self._draw.choice(self._paths)))]))
            self._ask(self._client(asked[0], Trigger), Trigger.Request())

    def _parameter(self, node: str) -> ParameterMsg:
        draw = self._draw
        name = draw.choice(self._names(node))
        if name == 'codec' and draw.random() < 0.5:  # the others change answers, as they are to
            return ParameterMsg(name=name, value=ParameterValue(
                type=ParameterType.PARAMETER_STRING, string_value=draw.choice(EXACT_CODECS)))
        kind = draw.choice([draw.randrange(10), ParameterType.PARAMETER_STRING,
                            ParameterType.PARAMETER_STRING, ParameterType.PARAMETER_DOUBLE, 99])
        value = hostile.message(draw, ParameterValue, 20)
        value.type = kind
        if draw.random() < 0.6:
            value.string_value = draw.choice(self._paths)
        if draw.random() < 0.1:
            value.string_array_value = self._paths
        if name == 'codec':
            value.string_value = 'none of them'
        return ParameterMsg(name=name, value=value)

    def _names(self, node: str) -> list[str]:
        client = self._client(f'{node}/list_parameters', ListParameters)
        if not hasattr(client, 'names'):
            answer = self._ask(client, ListParameters.Request())
            client.names = sorted(answer.result.names) if answer else ['plan']
        return client.names

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

    def _peers(self, topics, services) -> None:
        """Nodes that come and go by strange names, with topics of their own on the same names."""
        draw = self._draw
        namespace = draw.choice(sorted({topic.rpartition('/')[0] for topic in topics}))
        stranger = rclpy.create_node(
            draw.choice(['robot_node', 'server_node', 'bandwidth_monitor_node', 'x' * 200]),
            namespace=namespace)
        for topic, kind in draw.sample(sorted(topics.items(), key=lambda item: item[0]), 3):
            if draw.random() < 0.5:
                stranger.create_publisher(kind, topic, OFFERS).publish(
                    hostile.message(draw, kind, 50))
            else:
                stranger.create_subscription(kind, topic, lambda msg: None, 1)
        self.executor.spin_once(0.1)
        stranger.destroy_node()
        self.tried += 1


def main() -> None:
    """Obey until the input ends."""
    given = json.loads(sys.argv[1])
    attacker = Attacker(given['targets'], given['spare'], given['paths'])
    print(json.dumps({'up': True}), flush=True)
    with open(sys.stdin.fileno(), closefd=False) as orders:
        while True:
            line = _next_line(orders, attacker)
            if not line:
                return
            order = json.loads(line)
            if order['do'] == 'watch':
                attacker.watch()
                told = {'watching': sorted(attacker.topics())}
            elif order['do'] == 'heard':
                told = {topic: len(kept) for topic, kept in attacker._heard.items()}
            else:
                attacker.attack(order['do'], order['most'], order['seconds'], order['seed'])
                told = {'tried': attacker.tried}
            print(json.dumps(told), flush=True)


def _next_line(orders, attacker: Attacker) -> str:
    """Return the next order; meanwhile what comes by is heard."""
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        while not selector.select(0):
            attacker.executor.spin_once(0.02)
        return orders.readline()


if __name__ == '__main__':
    assert Path(sys.argv[0]).name == 'attacker.py'
    main()
