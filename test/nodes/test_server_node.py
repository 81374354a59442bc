# SPDX-License-Identifier: Apache-2.0
"""The server's node in this process: tables, what it says of itself, and its lifecycle."""

from array import array
import itertools
import json
import threading
import time
from zlib import crc32

import pytest

pytest.importorskip('rclpy')
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_rig import MODEL, SIZE  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes import guard, qos  # noqa: E402
from hp_inference.nodes.acknowledgements import arrived_s  # noqa: E402
from hp_inference.nodes.convert import digest_to_msg, digests_from_msg, table_to_msg  # noqa: E402
from hp_inference.nodes.robot_port import TABLE_WEIGHT  # noqa: E402
from hp_inference.nodes.server_node import ServerNode  # noqa: E402
from hp_inference.runtime.executor import Executor  # noqa: E402
from hp_inference.runtime.intake import Intake  # noqa: E402
from hp_inference.split.source import assemble  # noqa: E402
from hp_inference.split.table_json import MAX_JSON_BYTES  # noqa: E402
from hp_msgs.msg import (  # noqa: E402
    FrameReport,
    LinkReport,
    PlanTable,
    Probe,
    ServerLoad,
    ServerStatus,
    TensorChunk,
)

pytestmark = pytest.mark.ros
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class Robot:
    """Speaks to the server as a robot would."""

    def __init__(self, node, client, namespace=''):
        self.node, self.client = node, client
        prefix = f'{namespace}/' if namespace else ''
        create, listen = client.node.create_publisher, client.node.create_subscription
        self.tables = create(PlanTable, f'{prefix}plan_table', qos.LATCHED)
        self.uplink = create(TensorChunk, f'{prefix}uplink', qos.CHUNKS)
        self.chunks, self.reports = [], []
        listen(TensorChunk, f'{prefix}downlink', self.chunks.append, qos.CHUNKS)
        listen(FrameReport, f'{prefix}frame_report', self.reports.append, qos.REPORTS)
        self.probes = create(Probe, f'{prefix}probe', qos.ACKS)
        self.acks, self.loads = [], []
        listen(LinkReport, f'{prefix}link_report', self.acks.append, qos.ACKS)
        listen(ServerLoad, f'{prefix}server_load', self.loads.append, qos.METRICS)
        client.until(lambda: self.tables.get_subscription_count()
                     and self.uplink.get_subscription_count()
                     and self.probes.get_subscription_count()
                     and client.node.count_publishers(f'{prefix}frame_report')
                     and client.node.count_publishers(f'{prefix}link_report'))

    def give(self, table, **changes):
        """Publish a table, again while nothing is said to it, and return what the server says."""
        graph, count = table.layout.graph, len(self.client.statuses)
        msg = PlanTable(**{
            'model': graph.model, 'model_digest': graph.digest,
            'digest': digest_to_msg(table.digest), 'json': table.dumps(), **changes})
        self.client.again(lambda: self.tables.publish(msg),
                          lambda: len(self.client.statuses) > count)
        return self.client.statuses[-1]

    def send(self, table, **changes):
        """Send the image of a frame under full_offload."""
        self.uplink.publish(TensorChunk(**{
            'version': TensorChunk.VERSION, 'session': 1, 'frame': 0,
            'table_digest': digest_to_msg(table.digest),
            'row_end': SIZE, 'chunk_count': 1, 'dtype': 2, 'scale': 1.0,
            'raw_bytes': SIZE * SIZE * 3, 'payload': array('B', bytes(SIZE * SIZE * 3)),
            'crc': crc32(bytes(SIZE * SIZE * 3)),
            **changes}))


@pytest.fixture(scope='module')
def layout():
    return open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1]


@pytest.fixture(scope='module')
def table(layout):
    return assemble(layout, 'full_offload', ('uniform:0.5',))


@pytest.fixture
def make(node_here, layout):
    """Return a function that makes a server's node and a client that spins both."""
    def make(start=True, **params):
        node, client = node_here(ServerNode, {MODEL: layout}, start, model=MODEL, **params)
        if start:
            client.until(lambda: client.statuses)
        return node, client
    return make


def test_it_says_what_it_has_and_serves_once_it_has_a_table(make, layout, table):
    node, client = make()
    status = client.statuses[-1]
    assert (status.model, status.model_digest) == (layout.graph.model, layout.graph.digest)
    assert (status.ready, bytes(status.table_digest)) == (False, bytes(32))
    assert status.text == 'no robot has sent its plan table yet'
    assert status.device == 'cpu' and status.version
    robot = Robot(node, client)
    status = robot.give(table)
    assert (status.ready, status.text) == (True, '')
    assert bytes(status.table_digest) == table.digest
    robot.send(table)
    report = client.until(lambda: robot.reports)[0]
    assert (report.session, report.frame, report.status) == (1, 0, FrameReport.STATUS_OK)
    client.until(lambda: robot.chunks)
    client.until(lambda: node.ports[0].engine.frames == {0: 1, 1: 0, 2: 0})


@pytest.mark.parametrize('changes, text', [
    ({'json': ''}, 'the plan table is not JSON'),
    ({'json': '[' * 100_000}, 'the plan table is not JSON'),
    ({'json': '[]'}, 'a plan table is a JSON object, got list'),
    ({'json': '{"format": 2, "plans": []}'}, 'has format 2, this version reads 1'),
    ({'json': '{"format": 1, "plans": [], "model": "m", "model_digest": "abc"}'},
     "the plan table is for model 'm' with digest abc, this side has "),
    ({'digest': digest_to_msg(b'\7' * 32)}, 'the plan table is not the one that its digest names')])
def test_a_table_that_can_not_be_used_is_refused_and_the_one_before_stays(make, table, changes,
                                                                         text):
    node, client = make()
    robot = Robot(node, client)
    status = robot.give(table, **changes)
    assert not status.ready and text in status.text
    assert 'error: plan table of the robot refused: ' in node.log
    assert robot.give(table).ready
    status = robot.give(table, **{'digest': digest_to_msg(b'\6' * 32), **changes})
    assert status.ready and bytes(status.table_digest) == table.digest and text in status.text
    robot.send(table)
    assert client.until(lambda: robot.reports)[0].status == FrameReport.STATUS_OK


def test_a_table_that_is_held_is_agreed_to_again_without_being_read(make, layout, table):
    node, client = make()
    robot = Robot(node, client)
    newer = assemble(layout, 'uniform:0.25')
    assert robot.give(table).ready and robot.give(newer).ready
    status = robot.give(table, json='')
    assert (status.ready, status.text) == (True, '')
    assert bytes(status.table_digest) == table.digest


def test_signs_of_life_say_under_which_tables_frames_are_taken(make, layout, table):
    node, client = make()
    robot = Robot(node, client)
    newer = assemble(layout, 'uniform:0.25')

    def held():
        return digests_from_msg(robot.loads[-1].tables) if robot.loads else None
    client.until(lambda: held() == [])
    for each in (table, newer):
        assert robot.give(each).server == node.receiver
    client.until(lambda: held() == [table.digest, newer.digest])
    assert robot.loads[-1].server == node.receiver
    robot.give(table, json='')
    client.until(lambda: held() == [newer.digest, table.digest])


def test_whatever_goes_wrong_with_a_table_is_said(make, table, monkeypatch):
    node, client = make()

    def fail(*_):
        raise MemoryError
    monkeypatch.setattr(Intake, 'read', fail)
    assert Robot(node, client).give(table).text == 'MemoryError'


@pytest.fixture
def hold_reading(monkeypatch):
    """Hold each table until the second event is set; the list says which were read."""
    begun, go, asked, read = threading.Event(), threading.Event(), [], Intake.read

    def slow(self, data, digest):
        asked.append(digest)
        begun.set()
        assert go.wait(WAIT_S)
        return read(self, data, digest)
    monkeypatch.setattr(Intake, 'read', slow)
    return begun, go, asked


def test_of_tables_that_come_faster_than_they_compile_only_the_newest_counts(make, layout, table,
                                                                            hold_reading):
    node, client = make()
    robot, (begun, go, asked) = Robot(node, client), hold_reading
    others = [assemble(layout, f'uniform:{share}') for share in (0.1, 0.2, 0.3)]
    port = node.ports[0]
    for each in (table, *others):
        port._on_table(table_to_msg(each))
        assert begun.wait(WAIT_S)
    go.set()
    client.until(lambda: bytes(client.statuses[-1].table_digest) == others[-1].digest)
    assert asked == [table.digest, others[-1].digest]
    assert robot.tables


def test_a_table_that_is_held_is_not_read_again(make, layout, table):
    node, client = make()
    robot, other = Robot(node, client), assemble(layout, 'uniform:0.25')
    for each in (table, other):
        assert robot.give(each).ready
    node.intake = None  # nothing is read from here on
    status = robot.give(table)
    assert status.ready and bytes(status.table_digest) == table.digest
    status = robot.give(other, json='not even JSON')
    assert status.ready and bytes(status.table_digest) == other.digest


def test_a_large_table_of_one_robot_delays_anothers_by_one_plan(make, layout, table, monkeypatch):
    node, client = make(robots=['', 'r2'])
    one, two = Robot(node, client), Robot(node, client, 'r2')
    order, go, compile_ = [], threading.Event(), Intake.compile

    def noted(self, plan):
        assert go.wait(WAIT_S)
        order.append(json.loads(plan)['name'])
        return compile_(self, plan)
    monkeypatch.setattr(Intake, 'compile', noted)
    names = [f'uniform:{share / 100}' for share in range(1, 41)]
    one.tables.publish(table_to_msg(assemble(layout, names[0], names[1:])))
    client.until(lambda: node.ports[0]._coming)
    two.tables.publish(table_to_msg(table))
    client.until(lambda: node.ports[1]._coming)
    go.set()
    client.until(lambda: node.ports[1].digest == table.digest)
    own = {plan.name for plan in table.plans}
    last = max(place for place, name in enumerate(order) if name in own)
    assert last <= 2 * len(own) + 2  # in turns from when it came
    client.until(lambda: node.ports[0].digest != bytes(32))
    assert len(order) == len(names) + len(own)


@pytest.mark.parametrize('text, said', [
    ('[' * 3_000_000, 'is not JSON'),
    ('[' + '1,' * 1_000_000 + '1]', 'a plan table is a JSON object'),
    ('{"format": 1, "plans": [' + '{},' * 1_100 + '{}]}', 'is for model None'),
    ('x' * 15_000_000, 'no such table'), ('[' * 66_000_000, 'no such table')])
def test_a_hostile_table_costs_the_node_no_time_and_the_next_one_works(make, table, text, said):
    node, client = make(robots=['', 'r2'])
    robot, two = Robot(node, client), Robot(node, client, 'r2')
    taken, take = [], node.ports[0]._on_table

    def timed(msg):
        begun = time.thread_time()
        take(msg)
        taken.append(time.thread_time() - begun)
    node.ports[0]._tables._callback = timed
    robot.tables.publish(PlanTable(json=text, digest=digest_to_msg(b'\5' * 32)))
    if len(text) > MAX_JSON_BYTES:  # not even unpacked
        client.until(lambda: f'at most {MAX_JSON_BYTES + 4096} are taken' in node.log)
        assert not taken
    else:
        client.until(lambda: said in node.ports[0].text)
        assert max(taken) < 0.02
    client.again(lambda: two.tables.publish(table_to_msg(table)),
                 lambda: node.ports[1].digest == table.digest)
    assert robot.give(table).ready


def test_a_bad_chunk_is_refused_by_a_report_and_named_in_the_log(make, table):
    node, client = make()
    robot = Robot(node, client)
    robot.give(table)
    robot.send(table, plan_index=7)
    report = client.until(lambda: robot.reports)[0]
    assert report.status == FrameReport.STATUS_REFUSED
    assert report.text == 'the frame runs under plan 7, its table has plans 0 to 1'
    assert f'warning: frame 0 of the robot refused: {report.text}' in node.log
    robot.send(table, scale=float('nan'))
    client.until(lambda: 'warning: from the robot: chunk 0 of value 0 in frame 0: scale is nan'
                 in node.log)
    robot.send(table, frame=1)
    client.until(lambda: len(robot.reports) == 2)
    assert robot.reports[1].status == FrameReport.STATUS_OK


def test_a_frame_whose_rows_stay_out_is_given_up(make, table):
    node, client = make(session_timeout_s=0.1)
    robot = Robot(node, client)
    robot.give(table)
    robot.send(table, plan_index=1, row_begin=32, raw_bytes=32 * SIZE * 3,
               payload=array('B', bytes(32 * SIZE * 3)), crc=crc32(bytes(32 * SIZE * 3)))
    report = client.until(lambda: robot.reports)[0]
    assert report.status == FrameReport.STATUS_ABORTED
    assert report.text.startswith('deadline passed: value ')
    assert 'warning: frame 0 of the robot given up: deadline passed' in node.log


def test_the_timeout_may_change_while_running(make):
    node, _ = make()
    result, = node.set_parameters([Parameter('session_timeout_s', value=0.5)])
    assert result.successful and node.ports[0].engine.session_timeout_s == 0.5
    result, = node.set_parameters([Parameter('max_sessions', value=9)])
    assert not result.successful and 'read-only' in result.reason


@pytest.mark.parametrize('robots, message', [
    (['r1', 'r1'], "parameter 'robots' has 'r1', 'r1' for the same topics"),
    (['r1', '/r1/', 'r2'], "parameter 'robots' has 'r1', '/r1/' for the same topics"),
    (['', '/'], "parameter 'robots' has '', '/' for the same topics"),
    (['a b'], "parameter 'robots' has 'a b', expected a namespace such as 'r1'"),
    (['r1', '1r'], "parameter 'robots' has '1r', expected a namespace such as 'r1'")])
def test_namespaces_that_can_not_be_are_refused(make, robots, message):
    node, client = make(start=False, robots=robots)
    assert node.trigger_configure() == FAILURE
    assert f'error: cannot start: {message}' in node.log
    assert not node.ports and node.worker is None
    assert client.state('server_node') == 'unconfigured'


@pytest.mark.parametrize('robots, topics', [
    ([], ['/uplink']), ([''], ['/uplink']), (['r1', '/a/r2/'], ['/r1/uplink', '/a/r2/uplink'])])
def test_each_robot_has_topics_of_its_own(make, robots, topics):
    node, client = make(start=False, robots=robots)
    assert node.trigger_configure() == SUCCESS
    assert [port._uplink.topic_name for port in node.ports] == topics


def test_one_robots_bad_table_is_not_anothers(make, table):
    node, client = make(start=False, robots=['r1', 'r2'])
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    robots = [Robot(node, client, name) for name in ('r1', 'r2')]
    robots[0].tables.publish(PlanTable(json='{'))
    robots[1].tables.publish(PlanTable(digest=digest_to_msg(table.digest), json=table.dumps()))
    client.until(lambda: node.ports[1].digest == table.digest)
    assert node.ports[0].digest == bytes(32) and 'is not JSON' in node.ports[0].text
    assert 'error: plan table of r1 refused: ' in node.log


# What the link and the server carry

def seqs(acks) -> list[int]:
    return [seq for ack in acks for seq in ack.seq]


@pytest.fixture
def none_forgotten(monkeypatch):
    """Have all that was of no use count, however slowly it comes on a busy machine."""
    monkeypatch.setattr(guard, 'USELESS_PER_S', 0.0)


def test_a_robot_that_sends_hardly_anything_of_use_is_not_listened_to_and_others_are(
        make, table, none_forgotten):
    node, client = make(robots=['', 'r2'])
    bad, good = Robot(node, client), Robot(node, client, 'r2')
    for place, robot in enumerate((bad, good)):
        client.again(lambda robot=robot: robot.tables.publish(table_to_msg(table)),
                     lambda place=place: node.ports[place].digest == table.digest)
    frames, ports = itertools.count(), node.ports

    def flood():
        for _ in range(50):
            bad.send(table, frame=next(frames), value_id=9999)
    client.until(lambda: flood() or ports[0]._uplink.refused)
    assert "topic '/uplink': most of what comes is of no use" in node.log
    good.send(table)
    assert client.until(lambda: good.reports)[0].status == FrameReport.STATUS_OK
    assert not ports[1]._uplink.refused


def test_tables_that_are_refused_one_after_the_other_are_not_listened_to(make, table,
                                                                         none_forgotten):
    node, client = make()
    robot, tables = Robot(node, client), node.ports[0]._tables
    for _ in range(int(guard.USELESS_AT_ONCE / TABLE_WEIGHT) + 1):
        assert not robot.give(table, json='no table', digest=digest_to_msg(bytes(32))).ready
    client.until(lambda: tables.refused)
    assert "topic '/plan_table': most of what comes is of no use" in node.log
    assert robot.give(table).ready


def test_every_chunk_that_arrives_is_acked_whether_it_was_of_use_or_not(make, table):
    node, client = make()
    robot = Robot(node, client)
    robot.send(table, seq=1, sent_s=10.0)  # of a table that the server does not have
    client.until(lambda: seqs(robot.acks) == [1])
    robot.give(table)
    robot.send(table, seq=2, sent_s=11.0, frame=1)
    robot.send(table, seq=3, sent_s=12.0, frame=1)  # again
    robot.send(table, seq=4, sent_s=13.0, frame=2, scale=float('nan'))
    client.until(lambda: seqs(robot.acks) == [1, 2, 3, 4])
    last = robot.acks[-1]
    assert (last.session, list(last.payload_bytes)) == (1, [SIZE * SIZE * 3])
    assert list(last.sent_s) == [13.0] and 0 <= last.held_s < 1.0
    assert len({ack.receiver for ack in robot.acks}) == 1
    arrivals = [at for ack in robot.acks for at in ack.arrived_s]
    assert arrivals == sorted(arrivals) and 0 < arrivals[-1] - arrivals[0] < 20.0
    assert client.until(lambda: len(robot.reports) >= 2)


def test_chunks_in_the_middle_of_a_slice_are_acked_together(make, table):
    node, client = make()
    robot = Robot(node, client)
    for seq in range(1, 10):
        robot.send(table, seq=seq, chunk_index=seq - 1, chunk_count=9)
    client.until(lambda: seqs(robot.acks) == list(range(1, 10)))
    assert len(robot.acks) < 9


def test_probes_are_answered_beside_chunks_and_none_that_is_too_large(make, table):
    node, client = make()
    robot = Robot(node, client)
    for seq in range(1, 4):
        robot.probes.publish(Probe(session=5, seq=seq, sent_s=float(seq), last=seq == 3,
                                   payload=array('B', bytes(1000 * seq))))
        robot.send(table, seq=seq)
    robot.probes.publish(Probe(session=5, seq=4, last=True,
                               payload=array('B', bytes(Probe.MAX_BYTES + 1))))
    robot.probes.publish(Probe(session=6, seq=1, last=True))
    client.until(lambda: 6 in [ack.session for ack in robot.acks])
    probes = [ack for ack in robot.acks if ack.session == 5]
    assert seqs(probes) == [1, 2, 3]
    assert [size for ack in probes for size in ack.payload_bytes] == [1000, 2000, 3000]
    assert [at for ack in probes for at in ack.sent_s] == [1.0, 2.0, 3.0]
    assert 'warning: a probe from the robot has 200001 bytes, expected at most 200000' in node.log


def test_acks_of_rows_sent_back_reach_the_pacer_and_false_ones_do_no_harm(make, table):
    node, client = make()
    robot, port = Robot(node, client), node.ports[0]
    downlink = client.node.create_publisher(LinkReport, 'downlink_report', qos.ACKS)
    client.until(downlink.get_subscription_count)
    robot.give(table)
    robot.send(table)
    chunk = client.until(lambda: robot.chunks)[0]
    assert (chunk.seq, chunk.sent_s > 0) == (1, True)
    assert port.pacer.in_flight_bytes == len(chunk.payload)
    fields = {'session': chunk.session, 'receiver': 4, 'seq': [1],
              'payload_bytes': [len(chunk.payload)], 'sent_s': [chunk.sent_s]}
    downlink.publish(LinkReport(**fields))
    client.until(lambda: 'warning: from the robot: an acknowledgement with ' in node.log)
    downlink.publish(LinkReport(**fields, arrived_s=[7.0]))
    client.until(lambda: port.pacer.in_flight_bytes == 0)


def test_when_a_message_arrived_is_told_on_one_clock():
    now, stamp = time.monotonic(), time.time() - 0.5
    told = arrived_s({'received_timestamp': int(stamp * 1e9)})
    # The same moment on the other clock, whenever between these two that was read.
    assert -0.01 < told - (now - 0.5) < 0.01 + time.monotonic() - now
    for unknown in ({}, {'received_timestamp': 0}, {'received_timestamp': None},
                    {'received_timestamp': int((time.time() + 3600) * 1e9)},
                    {'received_timestamp': int((time.time() - 3600) * 1e9)}):
        assert now <= arrived_s(unknown) <= time.monotonic()


def test_the_limit_of_the_downlinks_may_change_while_running(make):
    node, _ = make(robots=['', 'r2'], limit_mbit_s=5)
    assert [port.pacer.limit_mbit_s for port in node.ports] == [5.0, 5.0]
    result, = node.set_parameters([Parameter('limit_mbit_s', value=0.5)])
    assert result.successful
    assert [port.pacer.limit_mbit_s for port in node.ports] == [0.5, 0.5]
    result, = node.set_parameters([Parameter('limit_mbit_s', value=-1.0)])
    assert not result.successful


def test_its_load_comes_twice_a_second_to_each_robot_also_while_it_computes(make, table,
                                                                           monkeypatch):
    node, client = make(robots=['', 'r2'])
    one, two = Robot(node, client), Robot(node, client, 'r2')
    one.give(table)
    hold, run = threading.Event(), Executor.run

    def slow(self, *args, **kwargs):
        assert hold.wait(WAIT_S)
        return run(self, *args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(Executor, 'run', slow)
        one.send(table)
        client.until(lambda: one.loads and one.loads[-1].frames_in_flight == 1)
        count = len(one.loads)
        client.until(lambda: len(one.loads) >= count + 3)
        assert node._timer.timer_period_ns == 500_000_000
        hold.set()
        client.until(lambda: one.reports)
    load = client.until(lambda: next((each for each in one.loads if each.frames_per_s), None))
    assert load.device == 'cpu' and 20e6 < load.memory_bytes < 1e12
    assert 0 < load.busy <= 1 and load.compute_s > 0 and load.turn_wait_s >= 0
    client.until(lambda: two.loads and not two.loads[-1].frames_in_flight)
    assert node.trigger_deactivate() == SUCCESS
    client.spin(0.2)
    count = len(one.loads)
    client.spin(1.2)
    assert len(one.loads) == count


def test_another_server_of_the_same_robot_is_warned_about_once_with_the_fix(make):
    node, client = make(robots=['', 'r2'])
    client.spin(1.2)
    assert not [line for line in node.log.lines if 'Stop all others' in line]
    other = client.node.create_publisher(ServerStatus, 'r2/server_status', qos.LATCHED)
    client.until(lambda: 'Stop all others' in node.log)
    client.spin(1.2)
    warned = [line for line in node.log.lines if 'Stop all others' in line]
    assert len(warned) == 1
    assert warned[0].startswith('warning: 2 servers on /r2/server_status: /client, /server_node. ')
    assert '2 servers on /r2/server_status' in node._diagnose(node.ports[1])[1]
    client.node.destroy_publisher(other)
    client.until(lambda: not node.ports[1].trouble)


def test_robots_with_one_table_share_what_it_takes(make, table):
    node, client = make(robots=['', 'r2'])
    one, two = Robot(node, client), Robot(node, client, 'r2')
    one.give(table)
    two.tables.publish(PlanTable(digest=digest_to_msg(table.digest), json=table.dumps()))
    client.until(lambda: node.ports[1].digest == table.digest)
    held = [port.engine._tables[table.digest] for port in node.ports]
    assert [id(executor) for executor in held[0]] == [id(executor) for executor in held[1]]
    assert node.queue.places == 1


# States of the lifecycle

def test_while_it_is_not_active_it_says_so_and_serves_nothing(make, table):
    node, client = make()
    robot = Robot(node, client)
    robot.give(table)
    assert node.trigger_deactivate() == SUCCESS
    client.until(lambda: client.statuses[-1].text == 'the server is not active')
    assert not client.statuses[-1].ready
    robot.send(table)
    client.spin(0.1)
    assert not robot.reports
    assert node.trigger_activate() == SUCCESS
    client.until(lambda: client.statuses[-1].ready)
    robot.send(table, frame=1)
    assert client.until(lambda: robot.reports)[0].frame == 1


def test_cleanup_while_a_table_is_read_leaves_nothing_behind(make, table, hold_reading):
    node, client = make()
    robot, (begun, go, _) = Robot(node, client), hold_reading
    robot.tables.publish(table_to_msg(table))
    client.until(begun.is_set)
    go.set()
    assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
    assert not node.ports and node.layout is None
    robot.send(table)
    robot.tables.publish(PlanTable())
    client.spin(0.2)
    assert not [line for line in node.log.lines if line.startswith('error')]


def test_cleanup_in_the_middle_of_a_frame_ends_it(make, table):
    node, client = make(session_timeout_s=60.0)
    robot = Robot(node, client)
    robot.give(table)
    robot.send(table, plan_index=1, row_begin=32, raw_bytes=32 * SIZE * 3,
               payload=array('B', bytes(32 * SIZE * 3)), crc=crc32(bytes(32 * SIZE * 3)))
    engine = node.ports[0].engine
    client.until(lambda: engine._sessions)
    assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
    assert engine.frames[2] == 1 and not engine._sessions


def test_configured_again_and_again_it_leaks_nothing(make, table):
    node, client = make(start=False, robots=['r1', 'r2'])
    counts = []
    for _ in range(4):
        assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
        counts.append((len(list(node.publishers)), len(list(node.subscriptions)),
                       len(list(node.timers)), len(list(node.waitables)),
                       len(node._managed_entities), threading.active_count()))
        assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
    assert len(set(counts)) == 1
