# SPDX-License-Identifier: Apache-2.0
"""Participants with seals on the topics of a robot, without the nodes around them."""

from array import array
import secrets
import time

import pytest

pytest.importorskip('rclpy')
from forgers import EXCHANGED  # noqa: E402
import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from ros_rig import Log  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from hp_inference.link.seal import SEAL_BYTES, Verdict  # noqa: E402
from hp_inference.nodes import qos, sealing  # noqa: E402
from hp_inference.nodes.bandwidth_monitor_node import BandwidthMonitorNode  # noqa: E402
from hp_inference.nodes.diagnostics import OK, WARN  # noqa: E402
from hp_inference.nodes.guard import Guarded  # noqa: E402
from hp_inference.nodes.robot_node import RobotNode  # noqa: E402
from hp_inference.nodes.sealing import SEALED, Sealing  # noqa: E402
from hp_inference.nodes.server_node import ServerNode  # noqa: E402
from hp_msgs.msg import FrameReport, PlanTable, Probe, ServerStatus, Span, TensorChunk  # noqa: E402
from hp_planner.planner_node import PlannerNode  # noqa: E402

pytestmark = pytest.mark.ros
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
WAIT_S = 60.0


def key_file(path, mode=0o600):
    path.write_text(secrets.token_hex(32) + '\n')
    path.chmod(mode)
    return str(path)


class Side:
    """One participant on a node of its own: all topics are published and heard."""

    def __init__(self, world, role, key=KEY, unheard=''):
        self.node = rclpy.create_node(f'{role}{len(world.sides)}', namespace='r1')
        self.log = Log()
        self.node.get_logger = lambda: self.log
        self.node.guarded = []
        world.executor.add_node(self.node)
        self.troubles = []
        self.sealing = Sealing(self.node, key, role, troubled=self.troubles.append)
        self.taken = {topic: [] for topic in EXCHANGED}
        self.publishers = {
            topic: self.sealing.publisher(topic, self.node.create_publisher(
                kind, topic, profile)) for topic, (kind, profile) in EXCHANGED.items()}
        for topic, (kind, profile) in EXCHANGED.items():
            if topic == unheard:
                continue
            Guarded(self.node, kind, topic, self.taken[topic].append, profile,
                    admit=self.sealing.admits(topic))

    def close(self):
        self.sealing.close()
        self.node.destroy_node()


class World:
    """Participants that come and go, and a stranger who may publish bytes."""

    def __init__(self):
        rclpy.init()
        self.executor, self.sides = SingleThreadedExecutor(), []
        self.stranger = rclpy.create_node('stranger', namespace='r1')
        self.executor.add_node(self.stranger)
        self.heard = {topic: [] for topic in EXCHANGED}
        self.publishers = {}
        for topic, (kind, profile) in EXCHANGED.items():
            self.stranger.create_subscription(kind, topic, self.heard[topic].append, profile,
                                              raw=True)
            self.publishers[topic] = self.stranger.create_publisher(kind, topic, profile)

    def add(self, *args, **more):
        self.sides.append(Side(self, *args, **more))
        return self.sides[-1]

    def remove(self, side):
        self.sides.remove(side)
        self.executor.remove_node(side.node)
        side.close()

    def until(self, done):
        end = time.monotonic() + WAIT_S
        while not (held := done()):
            assert time.monotonic() < end, [
                (side.sealing.diagnose(), side.log.lines) for side in self.sides]
            self.executor.spin_once(0.05)
        return held

    def met(self, *sides):
        """Wait until these have met each other and hear each other on every topic."""
        for side in sides:
            self.until(lambda side=side: all(
                publisher.get_subscription_count() > len(self.sides)
                for publisher in side.publishers.values()))
            others = [other.sealing._seals.role for other in sides if other is not side]
            self.until(lambda side=side, others=others: all(map(side.sealing.knows, others)))
        for topic, publisher in self.publishers.items():
            self.until(lambda publisher=publisher: publisher.get_subscription_count()
                       > len(self.sides))

    def close(self):
        for side in self.sides[:]:
            self.remove(side)
        self.stranger.destroy_node()
        self.executor.shutdown()
        rclpy.try_shutdown()


@pytest.fixture
def world():
    world = World()
    yield world
    world.close()


def chunk(**more):
    return TensorChunk(header=Header(frame_id='a camera'), payload=array('B', range(256)), **more)


def test_every_message_that_is_exchanged_passes_sealed_and_whole(world):
    assert set(EXCHANGED) == SEALED
    robot, server = world.add('robot'), world.add('server')
    world.met(robot, server)
    messages = {topic: kind() for topic, (kind, _) in EXCHANGED.items()}
    messages['uplink'] = chunk(frame=7)
    messages['plan_table'] = PlanTable(model='né', json='{"a": 1}')  # of any length
    messages['frame_report'] = FrameReport(text='x', spans=[Span(label='abc'), Span()])
    for topic, message in messages.items():
        robot.publishers[topic].publish(message)
        taken = world.until(lambda topic=topic: server.taken[topic])[-1]
        assert len(taken.seal) == 48
        taken.seal = []
        assert serialize_message(taken) == serialize_message(message), topic
    assert server.sealing.diagnose()[2]['security'] == 'key'
    assert not server.sealing.counts


def test_what_strangers_send_is_dropped_counted_and_said(world):
    robot, server = world.add('robot'), world.add('server')
    world.met(robot, server)
    assert server.sealing.diagnose()[0] == OK
    robot.publishers['uplink'].publish(chunk())
    genuine = deserialize_message(world.until(lambda: world.heard['uplink'])[-1], TensorChunk)
    world.until(lambda: server.taken['uplink'])

    unsealed = chunk(frame=1)
    forged = chunk(frame=2, seal=genuine.seal)
    made_up = chunk(frame=3, seal=bytes(48))
    short = chunk(frame=4, seal=bytes(20))
    for message in (unsealed, forged, made_up, short, world.heard['uplink'][0]):
        world.publishers['uplink'].publish(message)
    world.until(lambda: server.sealing.counts.total() >= 5)
    swapped = world.heard['uplink'][0]
    world.publishers['downlink'].publish(swapped)
    world.until(lambda: server.sealing.counts.total() >= 6)
    assert server.sealing.counts == {
        Verdict.UNSEALED: 2, Verdict.FORGED: 3, Verdict.REPLAYED: 1}
    assert len(server.taken['uplink']) == 1 and not server.taken['downlink']

    level, text, values = server.sealing.diagnose()
    assert level == WARN and values['dropped_forged'] == 3 and values['dropped_unsealed'] == 2
    for about in ('messages without a seal arrive on /r1/uplink and are not heeded: give their',
                  "the seal of a message on /r1/uplink does not fit this node's key",
                  'a message on /r1/uplink came again'):
        assert any(about in line for line in server.log.lines) and about in str(server.troubles)
    assert len(server.log.lines) == 3  # one of each kind, however many come
    robot.publishers['uplink'].publish(chunk(frame=5))
    world.until(lambda: len(server.taken['uplink']) == 2)


def test_what_holds_on_reaches_who_comes_later_and_nobody_twice(world):
    robot = world.add('robot')
    robot.publishers['plan_table'].publish(PlanTable(model='m'))
    server = world.add('server')
    server.publishers['server_status'].publish(ServerStatus(text='t'))
    world.until(lambda: server.taken['plan_table'] and robot.taken['server_status'])
    second = world.add('server')
    world.until(lambda: second.taken['plan_table'] and second.taken['server_status'])
    world.met(robot, second)
    robot.publishers['probe'].publish(Probe())
    world.until(lambda: server.taken['probe'] and second.taken['probe'])
    assert len(server.taken['plan_table']) == len(robot.taken['server_status']) == 1
    robot.publishers['plan_table'].publish(PlanTable(model='m'))  # said again on purpose
    world.until(lambda: len(server.taken['plan_table']) == 2 == len(second.taken['plan_table']))


def test_recordings_of_a_run_are_nothing_in_the_next(world):
    robot, server = world.add('robot'), world.add('server')
    world.met(robot, server)
    robot.publishers['plan_table'].publish(PlanTable(model='old'))
    for frame in range(3):
        robot.publishers['uplink'].publish(chunk(frame=frame))
    world.until(lambda: len(server.taken['uplink']) == 3 and server.taken['plan_table']
                and len(world.heard['uplink']) == 3)
    recorded = {topic: list(kept) for topic, kept in world.heard.items()}
    world.remove(robot)
    world.remove(server)
    server = world.add('server')
    world.until(lambda: world.publishers['uplink'].get_subscription_count() == 2)
    for topic in ('plan_table', 'uplink'):
        for data in recorded[topic]:
            world.publishers[topic].publish(data)
    world.until(lambda: server.sealing.counts[Verdict.UNMET] >= 4)
    robot = world.add('robot')
    world.met(robot, server)
    robot.publishers['uplink'].publish(chunk(frame=9))
    world.until(lambda: server.taken['uplink'])
    assert [taken.frame for taken in server.taken['uplink']] == [9]
    assert not server.taken['plan_table']


def test_with_another_key_nobody_is_heeded_and_both_say_why(world):
    robot, server = world.add('robot'), world.add('server', OTHER_KEY)
    world.until(lambda: robot.troubles and server.troubles)
    for side in (robot, server):
        assert 'on /r1/meeting does not fit' in side.troubles[0]
        assert 'another key_file' in side.sealing.diagnose()[1]
    assert not robot.sealing.knows('server')


def test_where_only_one_side_has_a_key_both_say_so_and_the_other_works_as_before(world):
    robot, server = world.add('robot', None), world.add('server')
    world.until(lambda: all(publisher.get_subscription_count() > 2 for side in (robot, server)
                            for publisher in side.publishers.values()))
    server.publishers['downlink'].publish(chunk())
    robot.publishers['uplink'].publish(chunk())
    world.until(lambda: robot.taken['downlink'] and server.troubles)
    assert not server.taken['uplink']
    assert 'messages with a seal arrive on /r1/downlink' in robot.troubles[0]
    assert 'messages without a seal arrive on /r1/uplink' in server.troubles[0]
    level, text, values = robot.sealing.diagnose()
    assert level == WARN and 'give both the same' in text and values == {'security': 'none'}


def test_without_keys_nothing_is_sealed_and_there_is_no_meeting(world):
    robot, server = world.add('robot', None), world.add('server', None)
    world.until(lambda: all(publisher.get_subscription_count() > 2
                            for publisher in robot.publishers.values()))
    robot.publishers['uplink'].publish(chunk())
    taken = world.until(lambda: server.taken['uplink'])[0]
    assert not taken.seal and not server.sealing.counts and not server.log.lines
    assert world.stranger.count_publishers('meeting') == 0
    assert server.sealing.diagnose()[:1] == (OK,)


def test_bytes_that_look_like_the_length_of_a_seal_are_none(world):
    server = world.add('server', None)
    admit = server.sealing.admits('frame_report')
    length = SEAL_BYTES.to_bytes(4, 'little')
    assert admit(bytes(20) + length + bytes(SEAL_BYTES)) and not server.log.lines
    assert admit(bytes(20) + length + bytes([1] * SEAL_BYTES)) and len(server.log.lines) == 1


@pytest.mark.parametrize('key', [KEY, None], ids=['key', 'none'])
@pytest.mark.parametrize('raw', [False, True])
@pytest.mark.parametrize('info', [False, True])
def test_a_callback_gets_what_it_asks_for(world, key, raw, info):
    robot, server = world.add('robot', key), world.add('server', key, unheard='probe')
    got = []
    Guarded(server.node, Probe, 'probe', lambda *given: got.append(given), qos.ACKS,
            informed=info, admit=server.sealing.admits('probe'), raw=raw)
    if key:
        world.met(robot, server)
    world.until(lambda: robot.publishers['probe'].get_subscription_count() == 3)
    robot.publishers['probe'].publish(Probe(seq=5))
    message, *told = world.until(lambda: got)[0]
    assert type(message) is (bytes if raw else Probe)
    assert (deserialize_message(message, Probe) if raw else message).seq == 5
    assert bool(told) == info


def test_a_meeting_message_that_is_too_long_is_not_read(world, monkeypatch):
    side = world.add('robot')
    monkeypatch.setattr(sealing, '_meeting', pytest.fail)
    side.sealing._heard._take(bytes(10_000), {})
    assert side.sealing._heard.refused == 1 and not side.sealing.counts


@pytest.mark.parametrize('data', [b'', b'\0', bytes(8), bytes(60), b'\0\1\0\0' + b'\xff' * 300])
def test_bytes_that_are_no_message_are_dropped(world, data):
    side = world.add('robot')
    side.sealing._on_meeting(data)
    assert side.sealing._admit('uplink', '/r1/uplink', data) is False
    assert side.sealing.counts.total() == 2


@pytest.mark.parametrize('kind', [RobotNode, ServerNode, BandwidthMonitorNode, PlannerNode])
def test_a_node_whose_key_file_others_can_read_does_not_start(node_here, tmp_path, kind):
    node, _ = node_here(kind, {}, start=False, key_file=key_file(tmp_path / 'k', 0o640))
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert 'others than its owner have access (mode 640): chmod 600 it' in node.log
    assert node.get_parameter('key_file').value == str(tmp_path / 'k')
    results = node.set_parameters([Parameter('key_file', value='')])
    assert not results[0].successful  # only at start


def test_a_server_without_a_key_for_one_of_its_robots_does_not_start(node_here, tmp_path):
    key_file(tmp_path / 'fleet.r1.key')
    node, _ = node_here(ServerNode, {}, start=False, robots=['fleet/r1', 'r2'],
                        keys_dir=str(tmp_path))
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert f'robot /r2 has no key: {tmp_path}/r2.key is missing' in node.log
