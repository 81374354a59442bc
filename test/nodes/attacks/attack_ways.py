# SPDX-License-Identifier: Apache-2.0
"""The ways in which attacker.py abuses what it can reach."""

from __future__ import annotations

from array import array
import json
import random
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
from reach import OFFERS, Reach
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from hp_inference.split.codecs import EXACT_CODECS
from hp_msgs.msg import (
    DeviceProfile,
    FrameReport,
    LinkReport,
    PlanTable,
    Probe,
    ServerStatus,
    TensorChunk,
)

#: Messages in a second where not so many as below.
PER_S = 150
PACES = {'large': 1e9, 'chunks': 1e9, 'images': 30}
#: Of one large message, and of all of them in a second.
LARGE_BYTES, LARGE_PER_S = 8 << 20, 64 << 20
CHUNK_BYTES = 16 << 20
#: Fields of a chunk that make it one of another frame: its rows then are forged ones.
TELL_FRAMES = ('frame', 'session', 'crc', 'payload', 'seq')
#: Kinds that come on some topics alone, and those after which the attacker stays.
ONLY = {'chunks': (TensorChunk, Probe), 'earlier': (PlanTable,), 'status': (ServerStatus,),
        'texts': (PlanTable, DeviceProfile)}
STAY = ('status',)
ENDS = (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, Transition.TRANSITION_INACTIVE_SHUTDOWN,
        Transition.TRANSITION_ACTIVE_SHUTDOWN)


class Attacker(Reach):
    """Goes on in one way, named after one of its methods, for so many messages or so long."""

    def attack(self, kind: str, most: int, seconds: float, seed: int) -> None:
        """Go on in one way for so many messages, or so long."""
        self._draw, self.tried = random.Random(seed), 0
        do, per_s = getattr(self, f'_{kind}'), PACES.get(kind, PER_S)
        self.rest()
        topics, services = self.topics(), self.services()
        if kind in ONLY:  # nothing else of it is seen: what it leaves behind is not looked for
            topics = {topic: of for topic, of in topics.items() if of in ONLY[kind]}
        for topic, of in topics.items():
            self._publisher(topic, of)
        self._wait(lambda: all(p.get_subscription_count() for p in self._publishers.values()))
        begun, count = time.monotonic(), 0
        while (passed := time.monotonic() - begun) < seconds and self.tried < most:
            do(topics, services)
            count += 1
            self.executor.spin_once(max(0.0, count / per_s - passed))
        if kind not in STAY:
            self.rest()

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
        """Rows, acks and reports of frames to come, with nothing that gives them away."""
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
        how, digest = self._draw.randrange(6), np.zeros(32, np.uint8)
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
            text, digest = json.dumps(table), hostile.digest(json.dumps(table))
        else:
            text = '[' + '1e9,' * 1_500_000 + '0]'
        fields = {'json': text, 'model_digest': heard[-1].model_digest if heard else '0' * 64}
        if kind is PlanTable:
            fields['digest'] = digest
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
            if each in hostile.CODES:
                made = array(hostile.CODES[each], bytes(LARGE_BYTES))
                nbytes = LARGE_BYTES
            else:
                made, nbytes = [hostile.kind_of(each)()] * 100_000, 3_000_000
        try:
            setattr(msg, name, made)
        except (AssertionError, ValueError):  # the message has a bound of its own
            return
        self._send(topic, kind, msg)
        self.executor.spin_once(nbytes / LARGE_PER_S)

    def _chunks(self, topics, services) -> None:
        """Chunks and probes of 16 MB, as fast as they go."""
        topic, kind = self._any(topics)
        heard = self._heard.get(topic)
        msg = hostile.mutated(self._draw, heard[-1]) if heard else kind()
        msg.payload = array('B', bytes(CHUNK_BYTES))
        self._send(topic, kind, msg)

    def _earlier(self, topics, services) -> None:
        """Announce a table that the robot has had earlier, as a second robot would."""
        for topic, kind in topics.items():
            heard = self._heard.get(topic) or ()
            for msg in [msg for msg in heard if bytes(msg.digest) != bytes(heard[-1].digest)][:1]:
                self._send(topic, kind, msg)

    def _status(self, topics, services) -> None:
        """Say what a server that is not ready, or holds another table, would say."""
        topic, kind = self._any(topics)
        said = [msg for msg in self._heard.get(topic, ()) if msg.ready] or [kind()]
        self._send(topic, kind, kind(
            version=said[-1].version, model=said[-1].model, model_digest=said[-1].model_digest,
            ready=self._draw.random() < 0.5, text=hostile.text(self._draw),
            table_digest=np.full(32, self._draw.randrange(256), np.uint8)))

    def _texts(self, topics, services) -> None:
        """Tables and profiles that hold, but for names and words in them that nobody would use."""
        draw, names = self._draw, ('\ud800', 'a\udfff', *hostile.TEXTS)
        topic, kind = self._any(topics)
        heard = [msg for kept in self._heard.values() for msg in kept if isinstance(msg, kind)]
        if not heard:
            return
        msg, root = heard[-1], json.loads(heard[-1].json)
        if kind is PlanTable:
            for place, plan in enumerate(root['plans']):
                plan['name'] = draw.choice(names) + str(place)
            text = json.dumps(root)
            self._send(topic, kind, kind(model=hostile.text(draw), digest=hostile.digest(text),
                                         model_digest=msg.model_digest, json=text))
        else:
            for name in ('host', 'device', 'date'):
                root[name] = draw.choice(names)
            self._send(topic, kind, kind(model=msg.model, model_digest=msg.model_digest,
                                         side=msg.side, json=json.dumps(root)))

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

    def _peers(self, topics, services) -> None:
        """Nodes that come and go by strange names, with topics of their own on the same names."""
        draw = self._draw
        namespace = draw.choice(sorted({topic.rpartition('/')[0] for topic in topics}))
        stranger = rclpy.create_node(
            draw.choice(['robot_node', 'server_node', 'bandwidth_monitor_node', 'x' * 150]),
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
