# SPDX-License-Identifier: Apache-2.0
"""The service ~/profile of robot and server: its answers, and what it keeps away meanwhile."""

from array import array
import threading
from zlib import crc32

import pytest

pytest.importorskip('rclpy')
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from ros_rig import MODEL, SIZE  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes import profiling as module  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes.convert import digest_to_msg, table_to_msg  # noqa: E402
from hp_inference.nodes.robot_node import RobotNode  # noqa: E402
from hp_inference.nodes.server_node import ServerNode  # noqa: E402
from hp_inference.split.source import assemble  # noqa: E402
from hp_msgs.msg import (  # noqa: E402
    DeviceProfile,
    FrameReport,
    PlanTable,
    TensorChunk,
)

pytestmark = pytest.mark.ros
SUCCESS = TransitionCallbackReturn.SUCCESS
PROFILED = 'the device is being profiled'


@pytest.fixture(scope='module')
def layout():
    return open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1]


class Measuring:
    """Stands for the planner's measuring, and ends when it is let, or told to stop."""

    def __init__(self):
        self.begun, self.hold, self.error = threading.Event(), threading.Event(), None
        self.layouts, self.threads = [], []

    def __call__(self, layout, progress):
        self.layouts.append(layout)
        self.threads.append(threading.current_thread())
        self.begun.set()
        for done in range(2000):
            progress('operators', done, 2000)
            if self.hold.wait(0.01):
                break
        if self.error:
            raise self.error
        return self

    def dumps(self):
        return '{"kind": "device_profile"}'


@pytest.fixture
def measuring(monkeypatch):
    made = Measuring()
    monkeypatch.setattr(module, 'profile_this_device', made)
    return made


@pytest.fixture
def make(node_here, layout):
    """Return a function that makes a node, and a client with ``profiles`` and ``profile()``."""
    def make(kind, start=True, **params):
        node, client = node_here(kind, {MODEL: layout}, start, model=MODEL,
                                 input=[1, 3, SIZE, SIZE], **params)
        name = node.get_name()
        client.profiles = []
        client.node.create_subscription(DeviceProfile, f'{name.split("_")[0]}_profile',
                                        client.profiles.append, qos.LATCHED)
        client.profile = lambda: client.call(Trigger, f'{name}/profile', Trigger.Request())
        return node, client
    return make


KINDS = pytest.mark.parametrize('kind, side', [(RobotNode, DeviceProfile.ROBOT),
                                               (ServerNode, DeviceProfile.SERVER)],
                                ids=['robot', 'server'])


@KINDS
def test_it_is_measured_elsewhere_and_published_when_done(make, measuring, layout, kind, side):
    node, client = make(kind)
    answer = client.profile()
    assert answer.success and 'measuring has begun' in answer.message
    assert measuring.begun.wait(WAIT_S) and not client.profiles
    again = client.profile()  # the callbacks go on
    assert (again.success, again.message) == (False, 'the device is being profiled already')
    measuring.hold.set()
    profile, = client.until(lambda: client.profiles)
    assert (profile.side, profile.json, profile.text) == (side, measuring.dumps(), '')
    assert (profile.model, profile.model_digest) == (layout.graph.model, layout.graph.digest)
    assert measuring.layouts == [layout]
    assert measuring.threads[0] is not threading.main_thread()
    assert 'info: profiling this device' in node.log and 'info: profiled' in node.log
    assert client.profile().success
    client.until(lambda: len(client.profiles) == 2)


@KINDS
@pytest.mark.parametrize('error, text', [(ValueError('as people say'), 'as people say'),
                                         (MemoryError(), 'MemoryError')])
def test_a_failure_is_published_too_and_the_next_try_may_succeed(make, measuring, kind, side, error,
                                                                text):
    node, client = make(kind)
    measuring.error = error
    measuring.hold.set()
    assert client.profile().success
    profile, = client.until(lambda: client.profiles)
    assert (profile.side, profile.json, profile.text) == (side, '', text)
    assert f'error: profiling failed: {text}' in node.log
    measuring.error = None
    assert client.profile().success
    client.until(lambda: client.profiles[-1].json)


@KINDS
def test_a_node_that_is_not_active_refuses(make, measuring, kind, side):
    node, client = make(kind, start=False)
    refusal = 'the node is not active: configure and activate it first'
    for transition in (lambda: SUCCESS, node.trigger_configure):
        assert transition() == SUCCESS
        answer = client.profile()
        assert (answer.success, answer.message) == (False, refusal)
    assert not measuring.begun.is_set()


@KINDS
def test_a_cleanup_ends_it_and_nothing_is_published(make, measuring, kind, side):
    node, client = make(kind)
    assert client.profile().success and measuring.begun.wait(WAIT_S)
    assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
    assert not node.profiling.measuring
    client.spin(0.1)
    assert not client.profiles
    assert not [line for line in node.log.lines if line.startswith('error')]
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    measuring.hold.set()
    assert client.profile().success
    client.until(lambda: client.profiles)


@KINDS
def test_done_while_the_node_is_not_active_it_is_published_when_it_is(make, measuring, kind, side):
    node, client = make(kind)
    assert client.profile().success and measuring.begun.wait(WAIT_S)
    assert node.trigger_deactivate() == SUCCESS
    measuring.hold.set()
    client.until(lambda: not node.profiling.measuring)
    client.spin(0.1)
    assert not client.profiles
    assert node.trigger_activate() == SUCCESS
    client.until(lambda: client.profiles)


# What is kept away

def test_the_robot_drops_images_meanwhile_and_answers_again(make, measuring):
    node, client = make(RobotNode)
    client.ready(plan_table=False)
    assert not client.ask(client.image()).frames_dropped
    assert client.profile().success and measuring.begun.wait(WAIT_S)
    for dropped in (1, 2):
        client.show(client.image())
        client.until(lambda dropped=dropped: node.engine.counters.dropped == dropped)
    assert f'warning: image dropped: {PROFILED}' in node.log
    client.diagnostics.clear()
    status = client.until(lambda: client.diagnostics.get('robot_node: inference'))
    assert status.message == PROFILED
    measuring.hold.set()
    client.until(lambda: client.profiles)
    result = client.ask(client.image())
    assert result.frames_dropped == 2 and len(client.results) == 2
    assert node.engine.counters.refused == 0


def test_the_server_says_it_is_not_ready_meanwhile_and_serves_again(make, measuring, layout):
    node, client = make(ServerNode)
    table = assemble(layout, 'full_offload')
    tables = client.node.create_publisher(PlanTable, 'plan_table', qos.LATCHED)
    uplink = client.node.create_publisher(TensorChunk, 'uplink', qos.CHUNKS)
    reports = []
    client.node.create_subscription(FrameReport, 'frame_report', reports.append, qos.REPORTS)
    client.until(lambda: uplink.get_subscription_count()
                 and client.node.count_publishers('frame_report'))
    tables.publish(table_to_msg(table))
    client.until(lambda: client.statuses and client.statuses[-1].ready)

    def send(frame):
        uplink.publish(TensorChunk(
            version=TensorChunk.VERSION, session=1, frame=frame,
            table_digest=digest_to_msg(table.digest), row_end=SIZE, chunk_count=1, dtype=2,
            scale=1.0, raw_bytes=SIZE * SIZE * 3,
            crc=crc32(bytes(SIZE * SIZE * 3)), payload=array('B', bytes(SIZE * SIZE * 3))))
        return client.until(lambda: [report for report in reports if report.frame == frame])[0]
    assert send(0).status == FrameReport.STATUS_OK
    assert client.profile().success and measuring.begun.wait(WAIT_S)
    client.until(lambda: not client.statuses[-1].ready)
    assert client.statuses[-1].text == PROFILED
    report = send(1)  # of a robot that has not heard of it yet
    assert (report.status, report.text) == (FrameReport.STATUS_REFUSED, PROFILED)
    other = assemble(layout, 'full_offload', ('robot_only',))
    tables.publish(table_to_msg(other))  # its compiling would disturb, too
    client.spin(0.2)
    assert bytes(client.statuses[-1].table_digest) == table.digest
    client.diagnostics.clear()
    status = client.until(lambda: client.diagnostics.get('server_node: serving the robot'))
    assert status.message == PROFILED
    measuring.hold.set()
    client.until(lambda: client.statuses[-1].ready and client.profiles)
    client.until(lambda: bytes(client.statuses[-1].table_digest) == other.digest)
    assert send(2).status == FrameReport.STATUS_OK
    client.until(lambda: node.ports[0].engine.frames[FrameReport.STATUS_OK] == 2)


def test_each_robot_of_a_server_hears_what_was_measured(make, measuring):
    node, client = make(ServerNode, robots=['r1', '/fleet/r2'])
    heard = {name: [] for name in ('r1', 'fleet/r2')}
    for name, profiles in heard.items():
        client.node.create_subscription(DeviceProfile, f'{name}/server_profile', profiles.append,
                                        qos.LATCHED)
    measuring.hold.set()
    assert client.profile().success
    client.until(lambda: all(heard.values()))
    assert {profiles[0].json for profiles in heard.values()} == {measuring.dumps()}
