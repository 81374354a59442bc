# SPDX-License-Identifier: Apache-2.0
"""Tests of the named quality-of-service profiles, between real nodes."""

import time

import pytest

pytest.importorskip('rclpy')
import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import (  # noqa: E402
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from std_msgs.msg import String  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.nodes import qos  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def ros():
    rclpy.init(args=['--ros-args', '-p', 'qos_overrides./r1/image.subscription.depth:=7',
                     '-p', 'qos_overrides./r1/image.subscription.reliability:=reliable'])
    nodes = []

    def make(name):
        node = rclpy.create_node(name, namespace='/r1')
        node.lines = []
        node.get_logger = lambda: type('Log', (), {'warning': node.lines.append})
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


def spin_until(nodes, done, timeout_s=WAIT_S):
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    end = time.monotonic() + timeout_s
    while not done() and time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()


@pytest.mark.parametrize(('profile', 'depth', 'reliable', 'latched'), [
    (qos.IMAGES, 1, False, False), (qos.CHUNKS, 1000, True, False), (qos.RESULTS, 5, True, False),
    (qos.REPORTS, 50, True, False), (qos.LATCHED, 1, True, True), (qos.METRICS, 10, True, False)])
def test_the_profiles_are_as_documented(profile, depth, reliable, latched):
    assert profile.history == HistoryPolicy.KEEP_LAST
    assert profile.depth == depth
    assert (profile.reliability == ReliabilityPolicy.RELIABLE) is reliable
    assert (profile.durability == DurabilityPolicy.TRANSIENT_LOCAL) is latched


def test_an_override_reaches_the_topic_and_not_the_profile_of_others(ros):
    node = ros('listener')
    changed = node.create_subscription(
        String, 'image', print, **qos.subscription(node, 'image', qos.IMAGES, overridable=True))
    assert changed.qos_profile.depth == 7
    assert changed.qos_profile.reliability == ReliabilityPolicy.RELIABLE
    assert qos.IMAGES.depth == 1
    assert qos.IMAGES.reliability == ReliabilityPolicy.BEST_EFFORT


def test_overrides_do_not_reach_a_topic_that_takes_none(ros):
    node = ros('listener')
    kept = node.create_subscription(
        String, 'image', print, **qos.subscription(node, 'image', qos.IMAGES))
    assert kept.qos_profile.depth == 1
    assert kept.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_both_ends_with_our_profiles_talk_to_each_other(ros):
    talker, listener = ros('talker'), ros('listener')
    heard = []
    publisher = talker.create_publisher(
        String, 'state', **qos.publisher(talker, 'state', qos.LATCHED))
    publisher.publish(String(data='before the listener came'))
    listener.create_subscription(
        String, 'state', heard.append, **qos.subscription(listener, 'state', qos.LATCHED))
    spin_until([talker, listener], lambda: heard)
    assert [message.data for message in heard] == ['before the listener came']
    assert talker.lines == listener.lines == []


def test_a_subscription_names_topic_policy_and_fix_when_nothing_will_come(ros):
    talker, listener = ros('talker'), ros('listener')
    talker.create_publisher(
        String, 'rows', QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    listener.create_subscription(
        String, 'rows', print, **qos.subscription(listener, 'rows', qos.CHUNKS, overridable=True))
    spin_until([talker, listener], lambda: listener.lines)
    assert listener.lines == [
        "topic '/r1/rows': nothing is received from a publisher whose reliability is "
        "'best_effort', this node's is 'reliable'. Fix: set theirs to 'reliable', or here the "
        "parameter 'qos_overrides./r1/rows.subscription.reliability' to 'best_effort'"]


def test_a_publisher_names_topic_policy_and_fix_when_nobody_will_hear(ros):
    talker, listener = ros('talker'), ros('listener')
    talker.create_publisher(String, 'result', **qos.publisher(talker, 'result', qos.RESULTS))
    listener.create_subscription(
        String, 'result', print,
        QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    spin_until([talker, listener], lambda: talker.lines)
    assert talker.lines == [
        "topic '/r1/result': nothing reaches a subscriber whose durability is 'transient_local', "
        "this node's is 'volatile'. Fix: set theirs to 'volatile'"]


@pytest.mark.parametrize(('kind', 'words'), [
    (QoSPolicyKind.DEADLINE, 'whose deadline does not match'),
    (12345, 'whose quality of service does not')])
def test_policies_that_we_do_not_set_are_named_too(kind, words):
    text = qos._explain('subscription', '/r1/rows', kind, overridable=True)
    assert "topic '/r1/rows'" in text and words in text and 'at the default' in text
