# SPDX-License-Identifier: Apache-2.0
"""Told to stop at any moment, a node's process ends soon, with 0 and without complaint."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip('rclpy')
import rclpy  # noqa: E402
from ros_rig import Client, DEADLINE_S, NodeProcess  # noqa: E402
from waits import until, WAIT_S  # noqa: E402

from hp_inference.nodes.managed import ManagedNode, run  # noqa: E402
from hp_inference.nodes.params import SERVER  # noqa: E402

pytestmark = pytest.mark.ros
MODEL = """
from torch import nn

def net():
    middle = [layer for _ in range(6) for layer in (nn.Conv2d(96, 96, 3, padding=1), nn.ReLU())]
    return nn.Sequential(nn.Conv2d(3, 96, 3, padding=1), *middle, nn.Conv2d(96, 3, 1))
"""


def complaints(node) -> list[str]:
    return [line for line in node.log.splitlines()
            if any(word in line for word in ('Traceback', 'Exception', 'terminate', 'ERROR'))]


def stopped(signals) -> None:
    """Send each node its signals, one after the other; fail unless all end well."""
    for node, numbers in signals:
        for number in numbers:
            if node.process.poll() is None:
                node.process.send_signal(number)
            time.sleep(0.02)
    for node, _ in signals:
        assert node.wait() == 0, node.log
        assert complaints(node) == []


@pytest.fixture
def model(tmp_path):
    """Return the name of a net whose frames take a while on every machine."""
    file = tmp_path / 'slow.py'
    file.write_text(MODEL)
    return f'{file}:net'


def test_in_the_middle_of_frames(tmp_path, model):
    rclpy.init()
    nodes = [NodeProcess(name, tmp_path, model=model, **params) for name, params in (
        ('server_node', {}), ('robot_node', {'deadline_s': DEADLINE_S}))]
    client = Client()
    try:
        client.ready()
        client.answered_together()
        count, end = len(client.results), time.monotonic() + WAIT_S
        while len(client.results) < count + 3:
            assert time.monotonic() < end, client.heard()
            client.show(client.image())
            client.spin(0.005)
        stopped([(nodes[0], [signal.SIGTERM]),
                 (nodes[1], [signal.SIGINT, signal.SIGTERM, signal.SIGINT])])
    finally:
        for each in (client, *nodes):
            each.close()
        rclpy.try_shutdown()


def test_while_it_starts_and_while_it_waits(tmp_path, model):
    """At moments after the imports, which Python itself interrupts as it likes."""
    nodes = [NodeProcess(name, tmp_path, model=model)
             for name in ('server_node', 'robot_node', 'planner_node')]
    try:
        nodes[0].says('capturing')
        stopped([(nodes[0], [signal.SIGTERM])])
        for node in nodes[1:]:
            node.says('hp_inference ')  # the robot prepares its plans then
        stopped([(node, [signal.SIGTERM, signal.SIGTERM]) for node in nodes[1:]])
    finally:
        for node in nodes:
            node.close()


HANGING = """
import ctypes, sys
from hp_inference.nodes import managed
from hp_inference.nodes.bandwidth_monitor_node import BandwidthMonitorNode

class Hanging(BandwidthMonitorNode):
    def spin(self):
        print('at work', flush=True)
        super().spin()

    def destroy_node(self):
        ctypes.PyDLL(None).sleep(1000)  # as in the middleware: the interpreter is never given away

managed.LEAVE_S = 0.5
sys.exit(managed.run(Hanging))
"""


def test_a_middleware_that_never_lets_go_does_not_keep_the_process(tmp_path):
    log = tmp_path / 'log'
    with open(log, 'wb') as file:
        process = subprocess.Popen([sys.executable, '-c', HANGING, '--ros-args', '-p',
                                    'autostart:=true'], stdout=file, stderr=file)
    try:
        until(lambda: 'at work' in log.read_text(), what=log.read_text)
        process.terminate()
        assert process.wait(WAIT_S) == 1
        assert 'in destroy_node' in log.read_text()  # where it hung is said
    finally:
        process.kill()


# In this process, at moments that are hard to hit from outside

@pytest.fixture
def signals():
    """Give the test's process its own handling of signals back."""
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    rclpy.try_shutdown()
    for number, handler in held.items():
        signal.signal(number, handler)


def kind(steps, number):
    """Return a kind of node that gets a signal in some steps of its life, and keeps a diary."""
    class Node(ManagedNode):
        diary: list = []

        def __init__(self):
            self._do('begin')
            super().__init__('stopping', SERVER)
            self._do('make')

        def _do(self, step):
            if step in steps:
                os.kill(os.getpid(), number)
                time.sleep(0.05)  # which a KeyboardInterrupt would end
            self.diary.append(step)

        def configure(self):
            self._do('configure')

        def announce(self):
            self._do('activate')

        def cleanup(self):
            self._do('cleanup')

        def destroy_node(self):
            self._do('destroy')
            super().destroy_node()
    return Node


@pytest.mark.parametrize('steps, diary', [
    ('make', ['begin', 'make', 'cleanup', 'destroy']),
    ('configure', ['begin', 'make', 'cleanup', 'destroy']),
    ('activate', ['begin', 'make', 'configure', 'activate', 'cleanup', 'destroy']),
    (('activate', 'cleanup', 'destroy'),
     ['begin', 'make', 'configure', 'activate', 'cleanup', 'destroy'])])
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_configuring_and_nothing_else(signals, steps, diary, number):
    node = kind([steps] if isinstance(steps, str) else steps, number)
    assert run(node, []) == 0
    assert node.diary == diary
    assert not rclpy.ok()


def test_a_signal_before_there_is_a_node_has_none_configured(signals):
    node = kind(['begin'], signal.SIGTERM)
    assert run(node, []) == 0
    assert 'configure' not in node.diary  # rclpy may or may not refuse to make one by then


def test_an_interrupt_that_gets_lost_in_what_is_configured_comes_again(signals):
    class Node(kind([], signal.SIGTERM)):
        diary: list = []

        def configure(self):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10 * WAIT_S)
            except KeyboardInterrupt:  # as some imports do
                time.sleep(10 * WAIT_S)
            self._do('configure')
    begun = time.monotonic()
    assert run(Node, []) == 0 and time.monotonic() - begun < WAIT_S
    assert Node.diary == ['begin', 'make', 'cleanup', 'destroy']
