# SPDX-License-Identifier: Apache-2.0
"""What both nodes share: how they start, what stops them, and with which exit status."""

import signal
import time

import pytest

pytest.importorskip('rclpy')
from rcl_interfaces.msg import Parameter as ParameterMsg  # noqa: E402
from rcl_interfaces.msg import ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
import rclpy  # noqa: E402
from rclpy.clock import Clock, ClockType  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from ros_rig import given, Log, MODEL, NodeProcess, SIZE  # noqa: E402
import torch  # noqa: E402

from hp_inference.nodes.managed import run  # noqa: E402
from hp_inference.nodes.model import ModelNode  # noqa: E402
from hp_inference.nodes.params import SERVER  # noqa: E402

pytestmark = pytest.mark.ros
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture(autouse=True)
def signals():
    """Give the test's process its own handling of signals back."""
    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    rclpy.try_shutdown()
    for number, handler in held.items():
        signal.signal(number, handler)


def node_kind(**does):
    """Return a kind of node that keeps a diary and in a step does what it is told to."""
    class Node(ModelNode):
        made: list = []

        def __init__(self):
            super().__init__('managed', SERVER)
            self.diary, self.log = [], Log()
            self.get_logger = lambda: self.log
            self.made.append(self)

        def timer(self, callback):
            """Call back soon, once the node spins."""
            self.timers_made = [self.create_timer(
                0.01, lambda: callback(self), clock=Clock(clock_type=ClockType.STEADY_TIME))]

        def _do(self, step):
            self.diary.append(step)
            does.get(step, lambda node: None)(self)

        def configure(self):
            self._do('configure')

        def cleanup(self):
            self._do('cleanup')

        def announce(self):
            self._do('activate')
    return Node


def fail(error):
    def step(node):
        raise error
    return step


def stop(node):
    rclpy.shutdown()


# Starting and stopping

def test_a_node_starts_itself_works_until_it_is_stopped_and_cleans_up():
    kind = node_kind(configure=lambda node: node.timer(stop))
    assert run(kind, []) == 0
    node, = kind.made
    assert node.diary == ['configure', 'activate', 'cleanup']
    assert not rclpy.ok()


def test_told_not_to_start_itself_it_waits_to_be_told():
    kind = node_kind()
    made = kind.__init__

    def init(node):
        made(node)
        node.timer(stop)
    kind.__init__ = init
    assert run(kind, given({'autostart': False})) == 0
    assert kind.made[0].diary == ['cleanup'] and not kind.made[0].active


@pytest.mark.parametrize('error, line', [
    (ValueError('the model is odd'), 'error: cannot start: the model is odd'),
    (RuntimeError('odd'), 'RuntimeError: odd')])
def test_a_node_that_can_not_be_configured_says_why_and_ends_with_1(error, line):
    kind = node_kind(configure=fail(error))
    assert run(kind, []) == 1
    node, = kind.made
    assert line in node.log and node.diary == ['configure', 'cleanup', 'cleanup']
    assert ('Traceback' in node.log) == isinstance(error, RuntimeError)


def test_a_node_that_can_not_be_activated_ends_with_1_and_cleans_up():
    kind = node_kind(activate=fail(RuntimeError('odd')))
    assert run(kind, []) == 1
    node, = kind.made
    assert node.diary[:3] == ['configure', 'activate', 'cleanup'] and not node.active
    assert 'RuntimeError: odd' in node.log


@pytest.mark.parametrize('args, said', [
    (['--ros-args', '-p', 'seed'], "Couldn't parse parameter override rule: '-p seed'"),
    (['--ros-args', '--params-file', '/nowhere.yaml'], 'Error opening YAML file'),
    (['--ros-args', '--log-level', 'loud'], "Couldn't parse log level"),
    (['--ros-args', '--nonsense'], '--nonsense'),
    (given({'seed': 'many'}), "parameter 'seed' is 'many', expected an integer, at least 0"),
    (given({'max_sessions': 0, 'device': 3}),
     "parameter 'device' is 3, expected a string; parameter 'max_sessions' is 0, expected")])
def test_wrong_arguments_end_it_with_2_and_one_line(capfd, args, said):
    assert run(node_kind(), args) == 2
    own = [line for line in capfd.readouterr().err.splitlines() if '[rcl]' not in line]
    assert len(own) == 1 and own[0].startswith('Node: ') and said in own[0]
    assert not rclpy.ok()


@pytest.mark.parametrize('step', ['configure', 'activate'])
def test_told_to_stop_while_it_starts_it_stops_without_complaint(step):
    def shut_down(node):
        rclpy.shutdown()
        node.create_timer(1.0, print)  # which fails by now
        node.create_publisher(print, 'x', 1)
    kind = node_kind(**{step: shut_down})
    assert run(kind, []) == 0
    assert not kind.made[0].log.lines and kind.made[0].diary[-1] == 'cleanup'


def test_an_interrupt_in_the_middle_of_configuring_ends_it_with_0():
    kind = node_kind(configure=fail(KeyboardInterrupt()))
    assert run(kind, []) == 0
    assert kind.made[0].diary == ['configure', 'cleanup']


def test_a_callback_that_fails_is_said_so_and_does_not_end_the_node():
    calls = []

    def callback(node):
        calls.append(1)
        if len(calls) == 3:
            stop(node)
        raise RuntimeError(f'odd {len(calls)}')
    kind = node_kind(configure=lambda node: node.timer(callback))
    assert run(kind, []) == 0
    node, = kind.made
    assert len(calls) == 3 and len(node.log.lines) == 2
    assert 'error: a callback failed:' in node.log and 'RuntimeError: odd 2' in node.log


def test_a_request_that_rclpy_can_not_take_is_one_line_and_does_not_end_the_node():
    calls = []

    def ask(node):
        calls.append(1)
        bad = ParameterMsg(name='model', value=ParameterValue(type=127))
        node.asking = getattr(node, 'asking', None) or node.create_client(
            SetParameters, '~/set_parameters')
        if node.asking.service_is_ready():
            node.asking.call_async(SetParameters.Request(parameters=[bad]))
        if 'rclpy' in node.log or len(calls) > 3000:
            stop(node)
    kind = node_kind(configure=lambda node: node.timer(ask))
    assert run(kind, []) == 0
    node, = kind.made
    assert 'warning: a request or message that rclpy can not take: ValueError: 127' in node.log
    assert 'Traceback' not in node.log and 'callback failed' not in node.log


# Transitions

@pytest.fixture
def node():
    rclpy.init(args=[])
    made = node_kind()()
    yield made
    made.destroy_node()


def test_the_states_go_round(node):
    for _ in range(2):
        assert node.trigger_configure() == SUCCESS and not node.active
        assert node.trigger_activate() == SUCCESS and node.active
        assert node.trigger_deactivate() == SUCCESS and not node.active
        assert node.trigger_activate() == SUCCESS and node.active
        assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS
    assert node.diary == ['configure', 'activate', 'activate', 'cleanup'] * 2


def test_shutdown_from_the_active_state_cleans_up(node):
    node.trigger_configure()
    node.trigger_activate()
    assert node.trigger_shutdown() == SUCCESS
    assert not node.active and node.diary[-1] == 'cleanup'


def test_a_failed_configuration_can_be_tried_again(node):
    works, node.configure = node.configure, fail(ValueError('no such file')).__get__(node)
    assert node.trigger_configure() == FAILURE
    node.configure = works
    assert node.trigger_configure() == SUCCESS


@pytest.mark.parametrize('params, said', [
    ({'device': 'banana'}, "parameter 'device' is 'banana': "),
    ({'device': 'cuda'}, "parameter 'device' is 'cuda', but this torch"),
    ({'model': 'nonsense'}, "model 'nonsense' is not of a known form"),
    ({'model': '/nowhere.py:net'}, 'there is no file /nowhere.py'),
    ({'model': MODEL, 'weights': '/nowhere.pt'}, 'weights: can not read /nowhere.pt'),
    ({'model': MODEL, 'input': [1, 3, SIZE, SIZE], 'mean': [0.5]}, 'mean')])
def test_a_model_that_can_not_be_opened_is_refused_by_name(params, said):
    if params.get('device') == 'cuda' and torch.cuda.is_available():
        pytest.skip('this machine has a CUDA device')
    kind = node_kind(configure=lambda node: node.open_model())
    assert run(kind, given(params)) == 1
    assert any(line.startswith('error: cannot start: ') and said in line
               for line in kind.made[0].log.lines), kind.made[0].log.lines


# Processes

def test_a_process_is_told_to_stop_while_it_loads_its_model(tmp_path):
    """Both signals at once: the processes take their time to start."""
    nodes = {number: NodeProcess(name, tmp_path, model=MODEL.replace(':net', ':endless'))
             for number, name in ((signal.SIGTERM, 'robot_node'), (signal.SIGINT, 'server_node'))}
    try:
        for node in nodes.values():
            node.says('capturing')
        time.sleep(0.2)
        for number, node in nodes.items():
            assert node.end(number) == 0
            assert 'Traceback' not in node.log
    finally:
        for node in nodes.values():
            node.close()


def test_a_process_with_a_bad_parameter_ends_with_a_line_and_not_with_0(tmp_path):
    nodes = [NodeProcess('robot_node', tmp_path, deadline_s=-1.0),
             NodeProcess('server_node', tmp_path, model='/nowhere.py:net')]
    try:
        assert [node.wait() for node in nodes] == [2, 1]
        assert nodes[0].log.splitlines() == [
            "RobotNode: parameter 'deadline_s' is -1.0, expected a number from 0 to 60 [s]"]
        assert 'cannot start: there is no file /nowhere.py' in nodes[1].log
        assert 'Traceback' not in nodes[1].log
    finally:
        for node in nodes:
            node.close()
