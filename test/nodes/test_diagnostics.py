# SPDX-License-Identifier: Apache-2.0
"""Tests of the diagnostics updater, heard by another node."""

import time

import pytest

pytest.importorskip('rclpy')
from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.nodes.diagnostics import ERROR, OK, Updater, WARN  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def heard():
    """Return a node, what came on /diagnostics, and a function that spins for some messages."""
    rclpy.init(args=['--ros-args', '-p', 'use_sim_time:=true'])
    node = rclpy.create_node('robot_node', namespace='/fleet/r1')
    listener = rclpy.create_node('listener')
    messages = []
    listener.create_subscription(DiagnosticArray, '/diagnostics', messages.append, 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    executor.add_node(listener)

    def spin(count, timeout_s=WAIT_S):
        end = time.monotonic() + timeout_s
        while len(messages) < count and time.monotonic() < end:
            executor.spin_once(timeout_sec=0.05)
        return messages

    yield node, spin
    executor.shutdown()
    node.destroy_node()
    listener.destroy_node()
    rclpy.try_shutdown()


def test_tasks_are_published_with_level_message_and_values(heard):
    node, spin = heard
    updater = Updater(node, 'cpu', period_s=0.05)
    updater.add('link', lambda: (OK, 'rows flow', {'bandwidth_bytes_per_s': 6e6, 'drops': 0}))
    updater.add('plan', lambda: (WARN, 'fell back', {}))
    status = spin(1)[0].status
    # Named after the node with its namespace, or two robots could not be told apart.
    assert [entry.name for entry in status] == ['fleet/r1/robot_node: link',
                                                'fleet/r1/robot_node: plan']
    assert [entry.level for entry in status] == [OK, WARN]
    assert [entry.message for entry in status] == ['rows flow', 'fell back']
    assert [(pair.key, pair.value) for pair in status[0].values] == [
        ('bandwidth_bytes_per_s', '6000000.0'), ('drops', '0')]
    assert status[0].hardware_id == 'cpu'


def test_publishing_goes_on_while_the_simulation_clock_stands_still(heard):
    node, spin = heard
    assert node.get_clock().ros_time_is_active
    Updater(node, 'cpu', period_s=0.05)
    messages = spin(3)
    assert len(messages) == 3
    assert messages[0].header.stamp == messages[2].header.stamp


def test_a_task_that_raises_is_an_error_and_the_others_still_report(heard):
    node, spin = heard
    updater = Updater(node, 'cpu', period_s=0.05)
    updater.add('broken', lambda: {}['bandwidth'])
    updater.add('short', lambda: (OK, 'no values'))
    updater.add('plan', lambda: (OK, 'fine', {}))
    broken, short, fine = spin(1)[0].status
    assert broken.level == ERROR
    assert broken.message == "the diagnostic itself failed: KeyError: 'bandwidth'"
    assert short.level == ERROR and 'failed: ValueError: not enough values' in short.message
    assert fine.level == OK


def test_a_task_that_returns_what_no_status_holds_is_an_error(heard):
    node, spin = heard
    updater = Updater(node, 'cpu', period_s=0.05)
    updater.add('number', lambda: (1, 'a number for a level', {}))
    updater.add('text', lambda: (OK, None, {}))
    updater.add('plan', lambda: (OK, 'fine', {}))
    number, text, fine = spin(1)[0].status
    assert number.level == ERROR
    assert 'failed: ValueError: level 1, expected OK, WARN, ERROR or STALE' in number.message
    assert text.level == OK and text.message == 'None'
    assert fine.level == OK


def test_nothing_comes_after_destroy(heard):
    node, spin = heard
    updater = Updater(node, 'cpu', period_s=0.05)
    assert spin(1)
    updater.destroy()
    after = len(spin(100, timeout_s=0.3))
    assert len(spin(100, timeout_s=0.5)) == after
    assert node.count_publishers('/diagnostics') == 0
