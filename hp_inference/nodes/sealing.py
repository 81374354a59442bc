# SPDX-License-Identifier: Apache-2.0
"""
Where messages are sealed as they go and judged as they come: between the nodes and their topics.

    sealing = Sealing(node, key, 'robot')  # without a key (None) all goes as if this were not here
    uplink = sealing.publisher('uplink', node.create_publisher(...))
    Guarded(node, kind, 'downlink', callback, profile, admit=sealing.admits('downlink'))

A seal covers a message as it travels: all its bytes before the seal itself, the last field. (To
make them once more where they arrive would not do: between the fields there may be anything.)
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable
import math
import secrets
import threading
import time

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message

from hp_inference.link.seal import (
    DROPPED,
    MEETING,
    Meeting,
    SEAL_BYTES,
    Seals,
    START_BYTES,
    Verdict,
)
from hp_inference.nodes import qos
from hp_inference.nodes.diagnostics import OK, Report, WARN
from hp_inference.nodes.guard import Guarded
from hp_inference.text import line, NAME
from hp_msgs.msg import Meeting as MeetingMsg

#: Topics whose messages are sealed where there is a key, by their names here, before remapping.
SEALED = frozenset((
    'uplink', 'downlink', 'frame_report', 'link_report', 'downlink_report', 'probe', 'server_load',
    'server_status', 'plan_table', 'planned_table', 'bandwidth', 'robot_profile',
    'server_profile'))
#: From one line in the log to the next about the same, and how long it is a state to warn of. [s]
WARN_S = 10.0
#: Messages of a start that has not met this one are usual while both start, and no longer. [s]
MEET_S = 5.0
#: What is said on the topic of meetings is said again so often, lest it be lost. [s]
AGAIN_S = 1.0
# A serialised message begins with two bytes that say how it is written, and two that say nothing.
_ORDER_BYTES, _HEAD_BYTES = 2, 4
_LENGTH_BYTES = 4  # of a field, before it
# Stands where the seal will; random, so that nothing else can look like it.
_PLACE, _EMPTY = array('B', secrets.token_bytes(SEAL_BYTES)), array('B')

_WARNINGS = {
    Verdict.UNSEALED: 'messages without a seal arrive on {topic} and are not heeded: give their '
                      'sender the same key_file as this node, or this node none',
    Verdict.FORGED: "the seal of a message on {topic} does not fit this node's key: it is forged, "
                    'or its sender has another key_file',
    Verdict.UNMET: 'messages on {topic} come from a start that this node has not met: they are '
                   'recorded ones of an earlier run, or their sender does not hear {meeting}',
    Verdict.REPLAYED: 'a message on {topic} came again, or after a later one: it is not heeded',
    Verdict.ELSEWHERE: 'a message on {topic} was made for another topic: each robot needs a '
                       'namespace that both sides call alike',
}
_NO_KEY = ('messages with a seal arrive on {topic}: their sender has a key_file and heeds nothing '
           'of this node, which has none; give both the same')


class Sealing:
    """
    What one participant, a node or a server's port for one robot, does about seals.

    ``role`` is what it is in the eyes of the others. ``prefix`` stands before the names of its
    topics, slash included. ``troubled(text)`` is called with each warning.
    """

    def __init__(self, node: Node, key: bytes | None, role: str, prefix: str = '',
                 troubled: Callable[[str], None] = lambda text: None):
        self._node, self._prefix, self._troubled = node, prefix, troubled
        self._seals = self._meeting = self._heard = self._timer = None
        self.counts: Counter[Verdict] = Counter()
        self._trouble, self._trouble_s = '', -math.inf
        self._warned_s: dict[object, float] = {}
        self._news_s = time.monotonic()  # when a start was heard of for the first time
        self._lasting: list[_SealedPublisher] = []
        if key is not None:
            self._open(key, role)

    def _open(self, key: bytes, role: str) -> None:
        topic = self._prefix + MEETING
        # Without callbacks for events: rclpy looks at each of them whenever a message comes.
        self._meeting = self._node.create_publisher(
            MeetingMsg, topic, qos.LATCHED, event_callbacks=qos.PublisherEventCallbacks(
                use_default_callbacks=False))
        self._seals = Seals(key, role, self._meeting.topic_name)
        self._heard = Guarded(self._node, MeetingMsg, topic, self._on_meeting, qos.MEETINGS,
                              raw=True)
        self._timer = self._node.create_timer(AGAIN_S, self._tell,
                                              clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._tell()

    def close(self) -> None:
        """Leave the topics that are only for this."""
        if self._seals:
            self._node.destroy_timer(self._timer)
            self._heard.close()
            self._node.destroy_publisher(self._meeting)
        self._seals = self._meeting = self._heard = self._timer = None
        self._lasting = []

    def publisher(self, name: str, made: Publisher) -> Publisher | _SealedPublisher:
        """Return what publishes on the topic of this name, which is ``made`` for it."""
        if self._seals is None or name not in SEALED:
            return made
        sealed = _SealedPublisher(made, name, self._seals)
        if made.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL:
            self._lasting.append(sealed)
        return sealed

    def admits(self, name: str) -> Callable[[bytes], bool]:
        """Return what tells of a message's bytes, on the topic of this name, if it is heeded."""
        if name not in SEALED:
            return lambda data: True
        topic = self._node.resolve_topic_name(self._prefix + name)
        if self._seals is not None:
            return lambda data: self._admit(name, topic, data)

        def without_key(data: bytes) -> bool:
            # Without one it ends in a length of 0, whatever stands where a seal's length would.
            if data[-SEAL_BYTES - _LENGTH_BYTES:-SEAL_BYTES] in _SEALED_LENGTHS and any(
                    data[-_LENGTH_BYTES:]):
                self._warn('no key', topic, _NO_KEY)
            return True
        return without_key

    def knows(self, role: str) -> bool:
        """Tell whether somebody of this role has been met."""
        return self._seals is not None and role in self._seals.roles

    def diagnose(self) -> Report:
        """Return what is known, for /diagnostics."""
        fresh = time.monotonic() - self._trouble_s < WARN_S
        if self._seals is None:
            return (WARN, self._trouble, {'security': 'none'}) if fresh else (
                OK, 'no key: messages are taken as they come', {'security': 'none'})
        roles = self._seals.roles
        text = self._trouble if fresh else (
            f'messages are sealed; met: {", ".join(roles) or "nobody yet"}')
        return WARN if fresh else OK, text, {
            'security': 'key', 'met': len(roles),
            **{f'dropped_{verdict.value}': self.counts[verdict] for verdict in DROPPED}}

    def _admit(self, name: str, topic: str, data: bytes) -> bool:
        """Judge a message as it came."""
        parts, seal = _taken_apart(data)
        verdict = self._seals.check(name, parts, seal) if self._seals else Verdict.UNMET
        self._count(verdict, topic)
        return verdict is Verdict.TAKEN

    def _on_meeting(self, data: bytes) -> None:
        if self._seals is None:
            return
        parts, seal = _taken_apart(data)
        # What is not genuine is not even read.
        verdict, news, met = self._seals.meet(parts, seal, lambda: _meeting(data))
        self._count(verdict, self._heard.topic_name)
        if news:
            self._news_s = time.monotonic()
            self._tell()
        for publisher in self._lasting if met else ():
            publisher.again()

    def _tell(self) -> None:
        told = self._seals.told()
        body = _body(MeetingMsg(role=told.role, place=told.place, heard=b''.join(told.heard),
                                met=b''.join(told.met)))
        self._meeting.publish(_sealed(self._seals, MEETING, body, self._seals.count()))

    def _count(self, verdict: Verdict, topic: str) -> None:
        if verdict in DROPPED:
            self.counts[verdict] += 1
            if verdict is not Verdict.UNMET or time.monotonic() - self._news_s > MEET_S:
                self._warn(verdict, topic, _WARNINGS[verdict])

    def _warn(self, about: object, topic: str, text: str) -> None:
        now_s = time.monotonic()
        self._trouble_s = now_s
        if now_s - self._warned_s.get(about, -math.inf) < WARN_S:
            return
        self._warned_s[about] = now_s
        meeting = self._node.resolve_topic_name(self._prefix + MEETING)
        self._trouble = text.format(topic=topic, meeting=meeting)
        self._node.get_logger().warning(self._trouble)
        self._troubled(self._trouble)


class _SealedPublisher:
    """A publisher whose messages go sealed; any thread may publish."""

    def __init__(self, made: Publisher, name: str, seals: Seals):
        self._made, self._name, self._seals = made, name, seals
        self._lasting = made.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
        self._last: tuple[bytes, int] | None = None
        # Counters go up on each topic, so nothing may come between taking one and publishing.
        self._lock = threading.Lock()

    @property
    def topic_name(self) -> str:
        """Return the full name of the topic."""
        return self._made.topic_name

    def get_subscription_count(self) -> int:
        """Return how many subscribers there are."""
        return self._made.get_subscription_count()

    def publish(self, message) -> None:
        """Seal a message and publish it."""
        body = _body(message)
        with self._lock:
            counter = self._seals.count()
            if self._lasting:
                self._last = body, counter
            self._made.publish(_sealed(self._seals, self._name, body, counter))

    def again(self) -> None:
        """Publish again what holds on, for somebody who could not tell before that it is new."""
        with self._lock:
            if self._last is not None:
                body, first = self._last
                self._made.publish(
                    _sealed(self._seals, self._name, body, self._seals.count(), first))


def _body(message: object) -> bytes:
    """Return the bytes of a message up to where its seal is to stand."""
    message.seal = _PLACE
    try:
        data = serialize_message(message)
    finally:
        message.seal = _EMPTY
    # Some messages come out longer than they are.
    return data[:data.rindex(_PLACE)]


def _sealed(seals: Seals, name: str, body: bytes, counter: int, first: int = 0) -> bytes:
    """Return a message as it is to travel."""
    return body + seals.make(name, _parts(body), counter, first)


def _taken_apart(data: bytes) -> tuple[tuple[bytes, memoryview], bytes]:
    """Return the sealed parts of a message as it came, and its seal, empty where there is none."""
    body = memoryview(data)[:-SEAL_BYTES]
    if bytes(body[-_LENGTH_BYTES:]) not in _SEALED_LENGTHS:
        return _parts(memoryview(data)), b''
    return _parts(body), data[-SEAL_BYTES:]


def _parts(body: bytes | memoryview) -> tuple[memoryview, memoryview]:
    """Return what is sealed of the bytes of a message."""
    body = memoryview(body)
    return body[:_ORDER_BYTES], body[_HEAD_BYTES:]


_SEALED_LENGTHS = tuple(SEAL_BYTES.to_bytes(_LENGTH_BYTES, order) for order in ('little', 'big'))


def _meeting(data: bytes) -> Meeting:
    """Return what a meeting message says."""
    msg = deserialize_message(data, MeetingMsg)
    heard, met = (tuple(bytes(field[i:i + START_BYTES])
                        for i in range(0, len(field), START_BYTES))
                  for field in (bytes(msg.heard), bytes(msg.met)))
    return Meeting(line(msg.role, NAME), msg.place, heard, met)
