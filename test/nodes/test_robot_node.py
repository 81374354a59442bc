# SPDX-License-Identifier: Apache-2.0
"""The robot's node in this process: what it does alone, and in every state of its lifecycle."""

import math
import threading

import numpy as np
import pytest

pytest.importorskip('rclpy')
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from ros_rig import error_of, image_msg, MODEL, pixels, SIZE  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes import robot_node as module  # noqa: E402
from hp_inference.nodes.convert import digests_to_msg  # noqa: E402
from hp_inference.nodes.diagnostics import WARN  # noqa: E402
from hp_inference.nodes.robot_node import RobotNode  # noqa: E402
from hp_inference.runtime.liveness import Backoff, FIRST_S  # noqa: E402
from hp_msgs.msg import (  # noqa: E402
    FrameReport,
    FrameTimeline,
    InferenceResult,
    PlanTable,
    ServerLoad,
    ServerStatus,
    Span,
    TensorChunk,
)

pytestmark = pytest.mark.ros
SUCCESS = TransitionCallbackReturn.SUCCESS


@pytest.fixture(scope='module')
def layouts():
    return {MODEL: open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1],
            'gray': open_model(ModelSpec(MODEL.replace(':net', ':gray'), (1, 1, SIZE, SIZE)))[1]}


@pytest.fixture
def make(node_here, monkeypatch, layouts):
    """Return a function that makes a robot's node and a client that spins both."""
    monkeypatch.setattr(module, 'LOOK_S', 0.05)

    def make(start=True, **params):
        node, client = node_here(RobotNode, layouts, start, **{
            'model': MODEL, 'input': [1, 3, SIZE, SIZE], **params})
        if start:
            client.ready(plan_table=False)
        return node, client
    return make


@pytest.fixture
def robot(make):
    return make()


class Server:
    """Speaks to the robot as a server would."""

    def __init__(self, node, client):
        self.node, self.client = node, client
        create = client.node.create_publisher
        self.status = create(ServerStatus, 'server_status', qos.LATCHED)
        self.reports = create(FrameReport, 'frame_report', qos.REPORTS)
        self.downlink = create(TensorChunk, 'downlink', qos.CHUNKS)
        self.chunks = []
        client.node.create_subscription(TensorChunk, 'uplink', self.chunks.append, qos.CHUNKS)
        client.until(lambda: self.status.get_subscription_count()
                     and client.node.count_publishers('uplink'))

    def say(self, **values):
        """Publish a status and wait until the robot has it."""
        graph, table = self.node.layout.graph, self.node.engine.table
        values = {'version': module.__version__, 'model': graph.model,
                  'model_digest': graph.digest, 'ready': True, **values}
        values.setdefault('table_digest', np.frombuffer(table.digest, np.uint8))
        lines = len(self.node.log.lines)
        self.status.publish(ServerStatus(**values))
        self.client.until(lambda: any(
            line.startswith('info: server: ') for line in self.node.log.lines[lines:]))


def test_without_a_server_every_image_is_answered_and_the_reason_given(robot):
    node, client = robot
    for seed in range(3):
        result = client.ask(client.image(seed))
        assert (result.frame, result.fallback) == (seed, True)
        assert result.fallback_reason == 'no server has been heard of'
        assert result.computed_on == InferenceResult.COMPUTED_ROBOT
        assert error_of(result, pixels(seed)) <= 1e-5
    told = [line for line in node.log.lines if 'computed on the robot alone' in line]
    assert told == ['warning: frame 0 computed on the robot alone: no server has been heard of']


def test_a_server_that_says_nothing_more_costs_a_frame_its_deadline_and_no_more(make):
    node, client = make(deadline_s=0.4)
    server = Server(node, client)
    server.say()
    result = client.ask(client.image())
    assert result.fallback_reason.startswith('deadline passed: value ')
    assert result.deadline_s == pytest.approx(0.4)
    assert 0.2 <= result.latency_s <= 0.45 and result.sent_bytes > 0 and result.frames_late == 1
    assert server.chunks and server.chunks[0].header == result.header
    assert client.ask(client.image()).fallback_reason == 'the server left the last frame alone'


def test_the_deadline_may_change_while_running(robot):
    node, client = robot
    Server(node, client).say()
    assert client.set(deadline_s=0.25) == ''
    assert 0.1 <= client.ask(client.image()).latency_s < 0.9
    refusal = client.set(deadline_s=-0.1)
    assert 'deadline_s' in refusal and 'Max: 60' in refusal
    assert node.engine.deadline_s == 0.25


@pytest.mark.parametrize('values, reason', [
    ({'model_digest': 'f' * 64, 'model': 'other'},
     "the server has 'other' with digest ffffffffffff, this robot '"),
    ({'ready': False, 'text': 'no robot has sent its plan table yet'}, 'no robot has sent its'),
    ({'ready': False, 'text': 'x' * 5000}, f'{"x" * 997}...'),
    ({'table_digest': np.full(32, 7, np.uint8)}, 'the server holds another plan table')])
def test_a_server_that_can_not_serve_is_not_asked(robot, values, reason):
    node, client = robot
    server = Server(node, client)
    server.say(**values)
    result = client.ask(client.image())
    assert result.fallback_reason.startswith(reason) and len(result.fallback_reason) <= 1000
    assert not server.chunks and result.frames_late == 0


def test_another_version_is_warned_about(robot):
    node, client = robot
    Server(node, client).say(version='0.0.1')
    assert 'warning: the server runs hp_inference 0.0.1, this robot ' in node.log


def test_a_server_that_goes_without_a_word_is_not_asked_any_more(robot):
    node, client = robot
    server = Server(node, client)
    server.say()
    client.until(lambda: node.server.servers)
    client.node.destroy_publisher(server.status)
    client.until(lambda: 'warning: server: it is gone' in node.log)
    assert client.ask(client.image()).fallback_reason == 'the server is gone'
    again = Server(node, client)
    again.say()
    assert node.engine.server.why_not(node.engine.table.digest) == ''


def test_a_server_whose_signs_of_life_stop_is_not_asked_until_they_come_again(make):
    node, client = make(deadline_s=0.3)
    node.engine.server.silent_s = 0.3
    server = Server(node, client)
    load = client.node.create_publisher(ServerLoad, 'server_load', qos.METRICS)
    client.until(load.get_subscription_count)
    server.say()
    sign = ServerLoad(tables=digests_to_msg([node.engine.table.digest]))
    load.publish(sign)
    client.spin(0.4)  # at least
    result = client.ask(client.image())
    assert result.fallback_reason == 'the server can not be reached: no sign of it for 0.3 s'
    assert not server.chunks and result.frames_late == 0
    load.publish(sign)
    client.until(lambda: client.ask(client.image()).frames_late == 1)
    assert server.chunks


def test_what_a_server_never_said_is_forgotten_with_its_next_sign_of_life(robot):
    node, client = robot
    server = Server(node, client)
    load = client.node.create_publisher(ServerLoad, 'server_load', qos.METRICS)
    client.until(load.get_subscription_count)
    server.say()
    server.say(ready=False, text='a lie')
    assert client.ask(client.image()).fallback_reason == 'a lie'
    digest = node.engine.table.digest
    load.publish(ServerLoad(tables=digests_to_msg([b'\7' * 32, digest])))
    client.until(lambda: node.engine.server.why_not(digest) == '')


def test_a_server_that_lacks_the_table_is_told_it_again_and_ever_more_rarely(robot):
    node, client = robot
    tables = []
    client.node.create_subscription(PlanTable, 'plan_table', tables.append, qos.LATCHED)
    client.until(lambda: tables)
    node.plans._again = again = Backoff()  # nothing was said yet
    server = Server(node, client)
    server.say(table_digest=np.full(32, 7, np.uint8))
    client.until(lambda: len(tables) == 2)
    assert bytes(tables[-1].digest) == node.engine.table.digest
    assert client.ask(client.image()).fallback_reason == 'the server holds another plan table'
    client.until(lambda: len(tables) == 4)
    assert again._wait_s > FIRST_S
    server.say()
    client.until(lambda: again._wait_s == FIRST_S)


def test_a_second_robot_in_the_namespace_is_warned_about_by_name(robot):
    node, client = robot
    assert 'robots on' not in node._diagnose()[1]
    other = client.node.create_publisher(PlanTable, 'plan_table', qos.LATCHED)
    client.until(lambda: 'warning: 2 robots on /plan_table: /client, /robot_node. Give each '
                 in node.log)
    assert '2 robots on /plan_table: /client, /robot_node' in node._diagnose()[1]
    client.node.destroy_publisher(other)
    client.until(lambda: 'robots on' not in node._diagnose()[1])


def test_two_servers_are_warned_about_once_and_in_the_diagnostics(robot):
    node, client = robot
    server, other = Server(node, client), Server(node, client)
    client.until(lambda: node.server.servers == 2)
    warned = [line for line in node.log.lines if '2 servers on /server_status: /client' in line]
    assert len(warned) == 1 and 'Stop all but one' in warned[0]
    assert node._diagnose()[0] == WARN and '2 servers on /server_status' in node._diagnose()[1]
    for each in (server, other):
        client.node.destroy_publisher(each.status)


def test_reports_and_chunks_of_nonsense_are_said_so_and_frames_go_on(make):
    node, client = make(deadline_s=0.3)
    server = Server(node, client)
    server.say()
    client.show(client.image())
    client.until(lambda: server.chunks)
    chunk = server.chunks[0]
    head = {'session': chunk.session, 'frame': chunk.frame}
    server.reports.publish(FrameReport(**head, compute_s=math.nan))
    server.reports.publish(FrameReport(**head, spans=[Span(lane=9)]))
    server.reports.publish(FrameReport(**head, spans=[Span(duration_s=-1.0)]))
    server.downlink.publish(TensorChunk(**head, scale=math.inf))
    server.downlink.publish(TensorChunk(session=9))
    client.until(lambda: 'warning: from the server: frame report: ' in node.log)
    client.until(lambda: 'warning: from the server: chunk 0 of value 0' in node.log)
    assert client.until(lambda: client.results)[0].fallback
    assert math.isfinite(client.results[0].server_compute_s)
    assert client.ask(client.image()).fallback
    server.downlink.publish(TensorChunk(session=chunk.session, frame=chunk.frame + 1))
    client.until(lambda: node.engine.counters.stray_chunks >= 2)


def test_the_time_line_is_published_only_while_somebody_listens(robot, monkeypatch):
    node, client = robot
    published = []
    monkeypatch.setattr(node._timeline, 'publish', published.append)
    client.ask(client.image())
    client.spin(0.05)
    assert not published
    client.node.create_subscription(FrameTimeline, 'timeline', lambda msg: None, qos.METRICS)
    client.until(lambda: node._timeline.get_subscription_count())
    image = client.image()
    client.ask(image)
    line = client.until(lambda: published)[0]
    assert line.header == image.header and {span.lane for span in line.spans} == {Span.LANE_ROBOT}


def test_each_new_reason_for_a_drop_is_logged_and_repeats_are_not(robot, monkeypatch):
    node, client = robot
    for image in [Image(encoding='rgb8')] * 3 + [Image(encoding='odd')] * 2:
        refused = node.engine.counters.refused
        client.show(image)
        client.until(lambda refused=refused: node.engine.counters.refused > refused)
    warned = [line for line in node.log.lines if 'image dropped' in line]
    assert [line.split(',')[0] for line in warned] == [
        'warning: image dropped: the image is 0x0 (width x height): it has no pixels',
        "warning: image dropped: the image encoding 'odd' is unknown"]
    monkeypatch.setattr(module, 'REPEAT_S', 0.0)
    client.show(Image(encoding='odd'))
    client.until(lambda: node.engine.counters.refused == 6)
    assert len([line for line in node.log.lines if 'image dropped' in line]) == 3


def test_a_gray_model_takes_measurements_but_no_nan(make):
    node, client = make(model='gray', input=[1, 1, SIZE, SIZE], mean=[0.5], std=[0.5])
    values = pixels()[:, :, 0].astype(np.float32) / 255
    result = client.ask(image_msg(values, client.header(), '32FC1'))
    assert list(result.outputs[0].shape) == [1, 2, SIZE, SIZE]
    values[3, 4] = math.nan
    client.show(image_msg(values, client.header(), '32FC1'))
    client.until(lambda: '1 of 4096 values of the 32FC1 image are NaN or infinite' in node.log)
    assert client.ask(image_msg(pixels()[:, :, 0].copy(), client.header(), 'mono8')).outputs


def test_images_of_another_size_are_resized_or_refused(make):
    node, client = make(resize='none')
    client.show(image_msg(np.zeros((10, 20, 3), np.uint8), client.header()))
    client.until(lambda: "the image is 20x10 (width x height), expected 64x64: resize is 'none'"
                 in node.log)
    assert client.ask(client.image()).outputs


# States of the lifecycle

def test_before_it_is_configured_it_takes_parameters_and_hears_nothing(make):
    node, client = make(start=False)
    assert client.set(plan='full_offload', deadline_s=0.5) == ''
    client.show(client.image())
    client.spin(0.05)
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    client.ready(plan_table=False)
    assert client.ask(client.image()).plan == 'full_offload'
    assert node.engine.deadline_s == 0.5


def test_a_plan_that_is_bad_only_for_this_model_is_refused_when_it_is_configured(make):
    node, client = make(start=False)
    assert client.set(plan='layer:999') == ''  # nobody can tell yet
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert 'error: cannot start: layer:999: expected a value number from 0 to ' in node.log
    assert node.engine is None and node.layout is None
    assert client.set(plan='robot_only') == ''
    assert node.trigger_configure() == SUCCESS


def test_while_it_is_not_active_parameters_change_and_hold_when_it_is(robot):
    node, client = robot
    tables = []
    client.node.create_subscription(PlanTable, 'plan_table', tables.append, qos.LATCHED)
    client.until(lambda: tables)
    assert node.trigger_deactivate() == SUCCESS
    assert client.set(plan='uniform:0.25') == ''
    client.until(lambda: node.plans.name == 'uniform:0.25')
    assert 'is not known' in client.set(plan='nonsense')
    client.show(client.image())
    client.spin(0.1)
    assert not client.results and len(tables) == 1
    assert node.trigger_activate() == SUCCESS
    client.until(lambda: len(tables) == 2)
    assert client.ask(client.image()).plan == 'uniform:0.25'
    client.until(lambda: client.plans[-1] == 'uniform:0.25')


def test_an_answer_that_comes_when_it_is_not_active_any_more_is_a_counted_drop(robot, monkeypatch):
    node, client = robot
    hold, busy = threading.Event(), threading.Event()
    fit = module.fit

    def slow(*args):
        busy.set()
        assert hold.wait(WAIT_S)
        return fit(*args)
    monkeypatch.setattr(module, 'fit', slow)
    client.show(client.image())
    client.until(busy.is_set)
    assert node.trigger_deactivate() == SUCCESS
    hold.set()
    client.until(lambda: node.engine.counters.dropped == 1)
    assert node.engine.counters.results == 0 and not client.results
    assert 'warning: image dropped: the node is not active' in node.log


def test_cleanup_in_the_middle_of_a_frame_leaves_nothing_behind(make):
    node, client = make(deadline_s=60.0)
    server = Server(node, client)
    server.say()
    engine = node.engine
    client.show(client.image())
    client.until(lambda: server.chunks)  # now it waits for the server
    assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
    assert node.engine is None and engine.counters.dropped == 1 and engine.counters.late == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('robot ')]
    # What may still come in from elsewhere finds nothing to break.
    assert client.set(plan='robot_only', deadline_s=1.0, codec='none') == ''
    server.status.publish(ServerStatus())
    client.show(client.image())
    client.spin(0.2)
    assert not [line for line in node.log.lines if line.startswith('error')]


def test_configured_again_and_again_it_leaks_nothing(make):
    node, client = make(start=False)
    counts = []
    for _ in range(4):
        assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
        client.ready(plan_table=False)
        assert client.ask(client.image()).outputs
        counts.append((len(list(node.publishers)), len(list(node.subscriptions)),
                       len(list(node.timers)), len(list(node.waitables)),
                       len(node._managed_entities), threading.active_count()))
        assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
        client.until(lambda: not client.node.count_publishers('result'))
    assert len(set(counts)) == 1


def test_a_bad_change_leaves_plan_codec_and_table_as_they_were(robot):
    node, client = robot
    table = node.engine.table
    for values in ({'plan': 'uniform:2'}, {'codec': 'gzip'}, {'plan': ''}, {'plan': 'layer:999'}):
        assert client.set(**values) != ''
    assert node.engine.table is table and node.params.plan == 'uniform:0.5'
    assert client.ask(client.image()).plan == 'uniform:0.5'


def test_a_plan_of_the_table_needs_no_new_table(robot):
    node, client = robot
    table = node.engine.table
    assert client.set(plan='full_offload') == ''
    assert node.engine.table is table and node.engine.index == 2
    assert 'info: plan uniform:0.5 -> full_offload: parameter plan set' in node.log
    assert client.set(codec='none') == ''
    client.until(lambda: node.engine.table is not table)
    assert node.engine.table.plans[node.engine.index].name == 'full_offload'


# What it says of itself

def test_it_says_when_no_image_comes_and_how_it_goes_when_they_do(make):
    node, client = make(log_every_s=0.1)
    client.until(lambda: 'warning: no image yet on /image or /image/compressed: remap image:='
                 in node.log)
    client.ask(client.image())
    client.until(lambda: 'results/s, latency median' in node.log)
    client.until(lambda: 'warning: no result in 0.1 s, 0 images dropped' in node.log)
    assert client.set(log_every_s=0.2) == ''
    client.until(lambda: 'warning: no result in 0.2 s, 0 images dropped' in node.log)
    lines = len(node.log.lines)
    client.spin(0.7)
    assert 3 <= len(node.log.lines) - lines <= 4


def test_diagnostics_follow_the_state(robot):
    node, client = robot
    name = 'robot_node: inference'
    assert client.until(lambda: client.diagnostics.get(name)).message == (
        'no result yet; waiting for /image')
    client.ask(client.image())
    client.diagnostics.clear()
    status = client.until(lambda: client.diagnostics.get(name))
    assert status.message == 'computing alone: no server has been heard of'
    assert {pair.key: pair.value for pair in status.values}['results'] == '1'
