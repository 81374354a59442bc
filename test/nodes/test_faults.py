# SPDX-License-Identifier: Apache-2.0
"""Robot and server as processes while one of them, or the machine, fails: all answers are right."""

import re
import signal
import time

import pytest

pytest.importorskip('rclpy')
from fault_nodes import with_full_disk, with_jumping_clock  # noqa: E402
import numpy as np  # noqa: E402
import rclpy  # noqa: E402
from ros_rig import Client, error_of, MODEL, NodeProcess, pixels, SIZE  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes.convert import table_to_msg  # noqa: E402
from hp_inference.split.plan import make_plan  # noqa: E402
from hp_inference.split.table import PlanTable  # noqa: E402
from hp_inference.split.table_json import Choice  # noqa: E402
from hp_msgs.msg import Bandwidth, InferenceResult, ServerStatus  # noqa: E402
from hp_msgs.msg import PlanTable as PlanTableMsg  # noqa: E402

pytestmark = pytest.mark.ros
TOLERANCE = 1e-5
# No answer waits for what does not come; how soon robot and server are back together is measured by
# bench/soak.py, on a machine that has nothing else to do.
LATE_S = 20.0
# Whose frames a busy machine does not make late; without one they may take twice what they took.
ROBOT = {'deadline_s': 2.0}
BYTES_PER_S = 1.25e7
UP = ' operators, on '  # what a node says when it has its model
GARBAGE = [{'bytes_per_s': value} for value in (float('nan'), -1.0, float('inf'), 1e30)]
GARBAGE += [{'bytes_per_s': 1e6, 'age_s': age_s} for age_s in (1e9, float('nan'), -1.0)]


class Rig:
    """A robot, its server and a client, which keeps what it has asked and what came of it."""

    def __init__(self, folder):
        self.folder, self.of_robot = folder, {'plans_dir': str(folder), **ROBOT}
        self.server = self.start('server_node')
        self.robot = self.start('robot_node', **self.of_robot)
        self.client = Client()

    def start(self, name: str, **params) -> NodeProcess:
        return NodeProcess(name, self.folder, **params)

    def restart(self, name: str, **params) -> None:
        """Start a node anew and return when it has its model."""
        params = {**(self.of_robot if name == 'robot' else {}), **params}
        node = self.start(f'{name}_node', **params)
        setattr(self, name, node)
        node.says(UP)

    def stream(self, done, seconds: float = WAIT_S) -> list[InferenceResult]:
        """Have images answered, each right and soon, until something holds; return the answers."""
        answers, end = [], time.monotonic() + seconds
        while not answers or not done(answers[-1]):
            assert time.monotonic() < end, answers[-1].fallback_reason
            seed = len(answers)
            answers.append(self.client.ask(self.client.image(seed)))
            assert error_of(answers[-1], pixels(seed)) <= TOLERANCE
            assert answers[-1].latency_s < LATE_S, answers[-1].fallback_reason
            self.client.spin(0.02)
        return answers

    def stream_for(self, seconds: float) -> list[InferenceResult]:
        end = time.monotonic() + seconds
        return self.stream(lambda _: time.monotonic() > end, seconds + WAIT_S)

    def back(self) -> list[InferenceResult]:
        """Have images answered until one is computed together."""
        return self.stream(together)

    def close(self) -> None:
        for each in (self.client, self.robot, self.server):
            each.close()


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    rclpy.init()
    rig = Rig(tmp_path_factory.mktemp('faults'))
    try:
        begin(rig.client)
        yield rig
    finally:
        rig.close()
        rclpy.try_shutdown()


def show_until_answered(client) -> None:
    """Show images until one is answered: those of a robot that has not found them yet are lost."""
    count = len(client.results)
    client.until(lambda: len(client.results) > count
                 or client.show(client.image()) or client.spin(0.05))


def begin(client) -> None:
    client.ready()
    show_until_answered(client)
    client.answered_together()


def together(result: InferenceResult) -> bool:
    return result.computed_on == InferenceResult.COMPUTED_BOTH


def test_a_server_that_is_killed_and_comes_with_another_model_and_then_as_it_was(rig):
    rig.stream(together)
    late = rig.client.results[-1].frames_late
    rig.server.process.send_signal(signal.SIGKILL)
    time.sleep(0.05)
    alone = rig.stream(lambda result: re.search('can not be reached|gone', result.fallback_reason))
    # One frame begun with it and let down, perhaps one more when it is asked again; then its
    # signs of life are missed.
    assert all(result.fallback for result in alone)
    assert alone[-1].frames_late - late <= 2
    asked = alone[-1].frames_late

    rig.restart('server', seed=1)
    other = rig.stream(lambda result: 'the server has' in result.fallback_reason)
    other += rig.stream_for(0.5)
    assert all(result.fallback for result in other)
    assert other[-1].frames_late == asked  # it is not even asked
    assert 'give both the same model, weights and input size' in other[-1].fallback_reason

    assert rig.server.end() == 0
    rig.restart('server')
    rig.back()


def test_a_server_that_stands_still_is_left_alone_and_used_again_when_it_goes_on(rig):
    rig.stream(together)
    rig.server.process.send_signal(signal.SIGSTOP)
    try:
        late = rig.client.results[-1].frames_late
        alone = rig.stream_for(2.0)
    finally:
        rig.server.process.send_signal(signal.SIGCONT)
    again = rig.back()
    assert alone[-1].fallback and alone[-1].frames_late - late <= 3
    # What it answers late to frames of before is nobody's answer.
    frames = [result.frame for result in alone + again]
    assert frames == list(range(frames[0], frames[0] + len(frames)))
    assert again[-1].frames_dropped == alone[0].frames_dropped


def test_a_robot_that_is_killed_and_started_anew_is_served_at_once(rig):
    rig.stream(together)
    rig.client.show(rig.client.image())
    rig.robot.end(signal.SIGKILL)
    rig.restart('robot')
    count = len(rig.client.results)
    show_until_answered(rig.client)
    again = rig.back()
    assert again[-1].frame < rig.client.results[count - 1].frame
    assert 'Traceback' not in rig.server.log


def test_with_two_servers_every_answer_is_right_and_both_sides_say_so(rig):
    second = rig.start('server_node')
    try:
        second.says(UP)
        rig.robot.says('2 servers on /server_status: /server_node, /server_node')
        rig.server.says('2 servers on /server_status: /server_node, /server_node')
        rig.stream(together)
        rig.stream_for(0.5)
        assert second.end() == 0
    finally:
        second.close()
    rig.back()
    rig.stream_for(0.3)


def test_a_second_server_with_another_model_leaves_nothing_behind_when_it_ends(rig):
    second = rig.start('server_node', seed=3)
    try:
        rig.robot.says('give both the same model, weights and input size')
        assert second.end() == 0
    finally:
        second.close()
    rig.back()


def test_a_second_robot_that_comes_and_goes_leaves_nobody_alone(rig):
    rig.stream(together)
    second = rig.start('robot_node', plan='uniform:0.25')
    try:
        second.says('server: ready')
        for node in (rig.server, rig.robot, second):
            assert 'Give each robot a namespace of its own' in node.says('2 robots on /plan_table')
        rig.stream_for(1.0)
        assert second.end() == 0
    finally:
        second.close()
    rig.back()


def test_messages_that_no_server_and_no_robot_sent_leave_nobody_alone(rig):
    rig.stream(together)
    node = rig.client.node
    status = node.create_publisher(ServerStatus, 'server_status', qos.LATCHED)
    tables = node.create_publisher(PlanTableMsg, 'plan_table', qos.LATCHED)
    rig.client.until(lambda: status.get_subscription_count() >= 2
                     and tables.get_subscription_count())
    layout = open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1]
    for number in range(5):  # as many as the server keeps, and one more
        forged = table_to_msg(PlanTable(layout, [make_plan(f'layer:{number + 1}', layout)]))
        before = len(rig.client.statuses)
        # The robot says its own again: of two on their way at once, the server takes the newest.
        rig.client.again(
            lambda forged=forged: tables.publish(forged),
            lambda forged=forged, before=before: any(
                bytes(said.table_digest) == bytes(forged.digest)
                for said in rig.client.statuses[before:]))
    status.publish(ServerStatus(ready=True, table_digest=np.full(32, 7, np.uint8)))
    status.publish(ServerStatus(model='another', text='a lie'))
    rig.back()
    for publisher in (status, tables):
        node.destroy_publisher(publisher)


def test_bandwidths_that_can_not_be_change_nothing(rig):
    layout = open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1]
    plans = [make_plan(name, layout) for name in ('robot_only', 'uniform:0.5')]
    file = rig.folder / 'table.json'
    file.write_text(PlanTable(layout, plans, [Choice(50.0, 1)]).dumps())
    speaker = rig.client.node.create_publisher(Bandwidth, 'bandwidth', qos.METRICS)
    rig.client.until(speaker.get_subscription_count)
    assert rig.client.set(plan=str(file)) == ''
    for values in GARBAGE:
        speaker.publish(Bandwidth(bytes_per_s=BYTES_PER_S))
        rig.stream(lambda result: together(result) and
                   result.bandwidth_bytes_per_s == BYTES_PER_S)
        speaker.publish(Bandwidth(**values))
        for result in rig.stream_for(0.1) + rig.stream(together):
            assert result.bandwidth_bytes_per_s == BYTES_PER_S, values
    assert 'it is ignored' in rig.robot.says('topic bandwidth: a bandwidth')
    rig.client.node.destroy_publisher(speaker)
    assert rig.client.set(plan='uniform:0.5') == ''


@pytest.fixture
def odd(rig, tmp_path):
    """Return a function that starts robot, server and monitor in one way, and their client."""
    made = []

    def start(namespace, make, *args):
        nodes = [make(f'{name}_node', namespace, *args, **(ROBOT if name == 'robot' else {}))
                 for name in ('server', 'robot', 'bandwidth_monitor')]
        client = Client(namespace)
        made.extend((client, *nodes))
        begin(client)
        return nodes, client
    yield start
    for each in made:
        each.close()


@pytest.mark.long
def test_nodes_whose_clocks_jump_answer_together_and_measure_the_link(odd):
    nodes, client = odd('jumping', with_jumping_clock)
    bandwidths = []
    client.node.create_subscription(Bandwidth, 'bandwidth', bandwidths.append, qos.METRICS)
    alone, end = 0, time.monotonic() + 1.5
    while time.monotonic() < end:
        begun = time.monotonic()
        result = client.ask(client.image(1))
        assert error_of(result, pixels(1)) <= TOLERANCE
        assert 0 < result.latency_s <= time.monotonic() - begun
        alone += result.fallback
        client.spin(0.02)
    assert alone <= len(client.results) / 2
    client.until(lambda: bandwidths)
    assert all(0 <= msg.age_s < 5 and 0 <= msg.round_trip_s < 5 for msg in bandwidths)
    assert all(1e4 < msg.bytes_per_s < 1e11 for msg in bandwidths if msg.source != 'silence')
    for node in nodes:
        assert node.end() == 0


@pytest.mark.long
def test_nodes_that_can_write_their_log_nowhere_answer_and_end_well(odd, tmp_path):
    nodes, client = odd('full', with_full_disk, tmp_path)
    assert client.set(plan='full_offload') == ''  # which is logged, or rather is not
    for seed in range(10):
        assert error_of(client.ask(client.image(seed)), pixels(seed)) <= TOLERANCE
    assert 'is not known' in client.set(plan='nonsense')
    client.answered_together()
    for node in nodes:
        assert node.process.poll() is None
        assert node.end() == 0


def test_nothing_that_went_wrong_was_a_surprise_to_the_nodes(rig):
    for node in (rig.robot, rig.server):
        assert not re.search('Traceback|terminate called', node.log)
