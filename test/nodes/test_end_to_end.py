# SPDX-License-Identifier: Apache-2.0
"""Robot and server as two processes: the unsplit model's answers come out, whatever happens."""

from array import array
import io
import itertools
import math
import os
from pathlib import Path
import re
import signal
import time
from zlib import crc32

import numpy as np
from PIL import Image as Pillow
import pytest

pytest.importorskip('rclpy')
from builtin_interfaces.msg import Time  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
import rclpy  # noqa: E402
from ros_rig import (  # noqa: E402
    Client,
    DEADLINE_S,
    error_of,
    image_msg,
    NodeProcess,
    pixels,
    SIZE,
)
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.nodes import qos  # noqa: E402
from hp_msgs.msg import (  # noqa: E402
    FrameReport,
    FrameTimeline,
    InferenceResult,
    PlanTable,
    Span,
    TensorChunk,
)

pytestmark = pytest.mark.ros
TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    """Return a robot and a server as processes, and a client; later tests may replace either."""
    class Rig:
        folder = tmp_path_factory.mktemp('nodes')

        def start(self):
            self.server = NodeProcess('server_node', self.folder, plann='uniform:0.5')
            self.robot = NodeProcess('robot_node', self.folder, deadline_s=DEADLINE_S)
    rig = Rig()
    rig.start()
    rclpy.init()
    rig.client = Client()
    try:
        rig.client.ready()
        rig.client.answered_together()
        yield rig
    finally:
        rig.client.close()
        rclpy.try_shutdown()
        rig.server.close()
        rig.robot.close()


@pytest.fixture
def client(rig):
    return rig.client


# Answers

def test_proof_of_life(client):
    image = client.image(seed=3)
    begun = time.monotonic()
    result = client.ask(image)
    passed = time.monotonic() - begun
    assert result.header == image.header
    output, = result.outputs
    assert output.name == 'output'
    assert output.dtype == TensorChunk.DTYPE_FLOAT32
    assert list(output.shape) == [1, 8, 16, 16] and len(output.data) == 4 * 8 * 16 * 16
    assert error_of(result, pixels(3)) <= TOLERANCE
    assert (result.plan, result.plan_index) == ('uniform:0.5', 0)
    assert bytes(result.table_digest) == bytes(client.statuses[-1].table_digest) != bytes(32)
    assert result.computed_on == InferenceResult.COMPUTED_BOTH
    assert not result.fallback and result.fallback_reason == ''
    assert 0 < result.latency_s < passed
    for part in ('queue_s', 'preprocess_s', 'robot_compute_s', 'robot_wait_s', 'server_compute_s',
                 'server_wait_s'):
        assert 0 <= getattr(result, part) < result.latency_s, part
    assert min(result.robot_compute_s, result.server_compute_s, result.preprocess_s) > 0
    assert result.sent_bytes > 1000 and result.received_bytes > 1000
    metrics = client.until(lambda: next(
        (each for each in client.metrics if each.header == image.header), None))
    for name in metrics.get_fields_and_field_types():
        if name != 'energy_total_j':  # of all frames
            assert getattr(metrics, name) == getattr(result, name), name


def test_what_reads_strangers_tables_is_forked_from_the_node_as_it_was_at_its_start(rig, client):
    client.answered_together()
    node = rig.server.process.pid
    zygote, = _children(node)
    reader, = _children(zygote)
    assert len({Path(f'/proc/{pid}/cmdline').read_bytes() for pid in (node, zygote, reader)}) == 1
    assert len(list(Path(f'/proc/{reader}/task').iterdir())) == 1  # nothing of ROS


def _children(pid: int) -> list[int]:
    return [int(child) for task in Path(f'/proc/{pid}/task').iterdir()
            for child in (task / 'children').read_text().split()]


@pytest.mark.parametrize('stamp', [Time(), Time(sec=12, nanosec=999_999_999),
                                   Time(sec=2 ** 31 - 1), Time(sec=-5)])
def test_any_stamp_and_frame_id_pass_through_unchanged(client, stamp):
    image = client.image(stamp=stamp)
    image.header.frame_id = 'camera/\N{GREEK SMALL LETTER ALPHA} optical'
    assert client.ask(image).header == image.header


def test_every_encoding_gets_the_answer_for_its_pixels(client):
    rgb = pixels(5)
    gray, alpha = rgb[:, :, 0], pixels(6)[:, :, :1]
    wide = (gray.astype(np.uint16) << 8) + pixels(7)[:, :, 0]
    repeated = np.repeat(gray[:, :, None], 3, 2)
    padded = np.zeros((SIZE, SIZE * 3 + 5), np.uint8)
    padded[:, :SIZE * 3] = rgb.reshape(SIZE, -1)
    cases = {
        'rgb8': (rgb, rgb), 'bgr8': (rgb[:, :, ::-1], rgb), 'mono8': (gray, repeated),
        'rgba8': (np.concatenate([rgb, alpha], 2), rgb),
        'bgra8': (np.concatenate([rgb[:, :, ::-1], alpha], 2), rgb),
        'mono16': (wide, repeated)}
    asked = [(image_msg(np.ascontiguousarray(data), client.header(), encoding), expected)
             for encoding, (data, expected) in cases.items()]
    big_endian = image_msg(wide.byteswap(), client.header(), 'mono16')
    big_endian.is_bigendian = 1
    in_padding = Image(header=client.header(), height=SIZE, width=SIZE, encoding='rgb8',
                       step=SIZE * 3 + 5, data=padded.tobytes())
    asked += [(big_endian, repeated), (in_padding, rgb)]
    for kind in ('JPEG', 'PNG'):
        file = io.BytesIO()
        Pillow.fromarray(rgb).save(file, kind)
        asked.append((CompressedImage(header=client.header(), format=kind.lower(),
                                      data=file.getvalue()), np.asarray(Pillow.open(file))))
    for message, expected in asked:
        result = client.ask(message)
        kind = getattr(message, 'encoding', None) or message.format
        assert error_of(result, expected) <= TOLERANCE, kind
        assert not result.fallback, kind


def bad_images():
    good = pixels()
    file = io.BytesIO()
    Pillow.fromarray(good).save(file, 'PNG')
    png = file.getvalue()
    nan = np.full((SIZE, SIZE), math.nan, np.float32)
    depth = np.full((SIZE, SIZE), 1000, np.uint16)
    return {
        'it has no pixels': Image(encoding='rgb8'),
        'the image data is 100 bytes, expected 12288': Image(
            encoding='rgb8', height=SIZE, width=SIZE, step=3 * SIZE, data=bytes(100)),
        'the image step is 10 bytes, expected at least 192': Image(
            encoding='rgb8', height=SIZE, width=SIZE, step=10, data=bytes(10 * SIZE)),
        'at most 20000000 are allowed': Image(
            encoding='rgb8', height=2 ** 32 - 1, width=2 ** 32 - 1, step=2 ** 32 - 1),
        "the image encoding '32FC1' cannot be used: the model takes 3 channels": image_msg(
            nan, Image().header, '32FC1'),
        "the image encoding '16UC1' cannot be used": image_msg(
            depth, Image().header, '16UC1'),
        "the image encoding 'yuv422' is unknown, accepted are rgb8": image_msg(
            good, Image().header, 'yuv422'),
        "the image encoding '' is unknown": image_msg(good, Image().header, ''),
        'the compressed image is empty': CompressedImage(format='jpeg'),
        'is truncated or corrupt': CompressedImage(format='png', data=png[:len(png) // 2]),
        'is neither JPEG nor PNG': CompressedImage(format='jpeg', data=b'GIF89a' + bytes(99)),
    }


def test_bad_images_are_named_in_the_log_counted_and_the_next_good_one_is_answered(rig, client):
    before = client.ask(client.image()).frames_dropped
    for count, (message, image) in enumerate(bad_images().items(), 1):
        client.show(image)
        assert '[WARN]' in rig.robot.says('image dropped: .*' + re.escape(message))
        result = client.ask(client.image(seed=count))
        assert error_of(result, pixels(count)) <= TOLERANCE
        assert result.frames_dropped == before + count


# Plans

def test_plans_are_switched_live_and_no_frame_is_lost(client):
    """In the table: at once. Others: alone until the server has the new table."""
    try:
        for plan, computed_on in (
                ('full_offload', InferenceResult.COMPUTED_SERVER),
                ('robot_only', InferenceResult.COMPUTED_ROBOT),
                ('uniform:0.25', InferenceResult.COMPUTED_BOTH),
                ('layer:4', InferenceResult.COMPUTED_BOTH),
                ('uniform:0.5', InferenceResult.COMPUTED_BOTH)):
            assert client.set(plan=plan) == ''
            client.until(lambda plan=plan: client.plans[-1] == plan)
            assert client.ask(client.image()).plan == plan
            result = client.answered_together()
            assert (result.plan, result.computed_on) == (plan, computed_on)
            assert error_of(result, pixels()) <= TOLERANCE
        for codec in ('none', 'shuffle_zstd', 'jpeg'):
            result = client.use(codec=codec)
            assert result.plan == 'uniform:0.5'
            assert (error_of(result, pixels()) <= TOLERANCE) is (codec != 'jpeg')
    finally:
        client.use(codec='zstd')
        client.set(plan='uniform:0.5')
        client.answered_together()


def test_while_images_stream_a_switch_drops_none(client):
    """One image is on its way at any time, also while the parameter is set."""
    answers = [client.answered_together()]
    before = answers[0].frames_dropped
    image = client.image()
    client.show(image)
    for plan in ('full_offload', 'robot_only', 'uniform:0.5'):
        assert client.set(plan=plan) == ''
        end = time.monotonic() + WAIT_S
        while answers[-1].plan != plan:
            assert time.monotonic() < end, f'{plan} does not run'
            answers.append(client.answer_to(image))
            image = client.image()
            client.show(image)
    answers.append(client.answer_to(image))
    frames = [answer.frame for answer in answers]
    assert frames == list(range(frames[0], frames[0] + len(frames)))
    assert answers[-1].frames_dropped == before
    assert not any(answer.fallback for answer in answers)


@pytest.mark.parametrize('plan, reason', [
    ('uniform:1.5', "uniform:1.5: the robot's share is a number from 0 to 1"),
    ('nonsense', "plan 'nonsense' is not known: expected robot_only, full_offload"),
    ('missing.json', 'plan file missing.json: there is no such file'),
    (7, "parameter 'plan' is 7, expected a string")])
def test_a_bad_plan_is_refused_with_the_reason_and_the_old_one_stays(client, plan, reason):
    assert reason in client.set(plan=plan)
    result = client.ask(client.image())
    assert (result.plan, result.fallback) == ('uniform:0.5', False)


def test_structural_parameters_can_not_be_set(client):
    assert 'read-only' in client.set(model='torchvision:resnet18')


# What is published beside

def test_diagnostics_tell_model_plan_and_counts_of_both_nodes(client):
    client.diagnostics.clear()
    client.ask(client.image())
    client.until(lambda: {'robot_node: inference', 'server_node: serving the robot'}
                 <= set(client.diagnostics))
    robot = {pair.key: pair.value for pair in client.diagnostics['robot_node: inference'].values}
    server = {pair.key: pair.value
              for pair in client.diagnostics['server_node: serving the robot'].values}
    assert robot['model'] == server['model'] and robot['model'].endswith('tiny_model.py:net')
    assert robot['model_digest'] == server['model_digest'] == client.statuses[-1].model_digest
    assert robot['plan'] == 'uniform:0.5'
    assert robot['plan_table'] == server['plan_table']
    assert int(robot['results']) > 10 and int(server['frames_ok']) > 10


def test_the_time_line_has_all_lanes_while_somebody_listens(client):
    lines = []
    listener = client.node.create_subscription(FrameTimeline, 'timeline', lines.append, qos.METRICS)
    client.until(lambda: client.node.count_publishers('timeline'))
    image = client.image()
    client.show(image)
    client.until(lambda: lines or not client.spin(0.1) and client.show(client.image()))
    client.node.destroy_subscription(listener)
    line = lines[-1]
    assert line.plan == 'uniform:0.5'
    assert {span.lane for span in line.spans} == {
        Span.LANE_ROBOT, Span.LANE_UPLINK, Span.LANE_SERVER, Span.LANE_DOWNLINK}
    assert all(math.isfinite(span.start_s) and span.duration_s >= 0 for span in line.spans)


def test_the_logs_warn_about_parameters_that_do_not_exist(rig):
    assert "did you mean 'plan'?" not in rig.robot.log
    assert "parameter 'plann' is unknown and has no effect" in rig.server.says('plann')


# Third parties

def test_junk_on_the_links_is_refused_and_frames_go_on(rig, client):
    heard = {'uplink': [], 'downlink': []}
    listeners = [client.node.create_subscription(TensorChunk, topic, heard[topic].append,
                                                 qos.CHUNKS) for topic in heard]
    speakers = {topic: client.node.create_publisher(kind, topic, profile)
                for topic, kind, profile in (('uplink', TensorChunk, qos.CHUNKS),
                                             ('downlink', TensorChunk, qos.CHUNKS),
                                             ('frame_report', FrameReport, qos.REPORTS),
                                             ('plan_table', PlanTable, qos.LATCHED))}
    client.until(lambda: all(speaker.get_subscription_count() for speaker in speakers.values()))
    assert client.set(deadline_s=1.0) == ''  # what a frame costs whose number was used before it
    client.answered_together()
    client.until(lambda: all(heard.values()))
    for topic, chunks in heard.items():
        real = chunks[-1]
        for junk in (TensorChunk(), _like(real, frame=real.frame + 1, value_id=999),
                     _like(real, session=5, payload=array('B', os.urandom(500))),
                     _like(real, session=6, plan_index=60000),
                     _like(real, session=8, raw_bytes=2 ** 32 - 1, codec=1),
                     _like(real, session=9, scale=math.nan), _like(real, session=2 ** 64 - 1)):
            speakers[topic].publish(junk)
    speakers['frame_report'].publish(FrameReport(
        session=heard['uplink'][-1].session, frame=heard['uplink'][-1].frame + 1,
        compute_s=math.nan, spans=[Span(lane=77)]))
    for text in ('', '{', '{"format": 1, "plans": [7]}'):
        speakers['plan_table'].publish(PlanTable(model='other', json=text))
    rig.server.says('frame .* of the robot refused: ')
    rig.robot.says('from the server: .*scale is nan')
    rig.server.says('plan table of the robot refused: ')
    result = client.answered_together()
    assert error_of(result, pixels()) <= TOLERANCE
    assert client.set(deadline_s=DEADLINE_S) == ''
    for listener in listeners:
        client.node.destroy_subscription(listener)
    for speaker in speakers.values():
        client.node.destroy_publisher(speaker)
    for node in (rig.robot, rig.server):
        assert node.process.poll() is None
        assert 'Traceback' not in node.log


def test_after_a_flood_of_junk_the_robot_is_listened_to_again(rig, client):
    speaker = client.node.create_publisher(TensorChunk, 'uplink', qos.CHUNKS)
    client.until(speaker.get_subscription_count)
    for frame in itertools.count():
        if 'most of what comes is of no use' in rig.server.log:
            break
        assert frame < 100_000
        speaker.publish(TensorChunk(version=TensorChunk.VERSION, session=11, frame=frame))
        if frame % 100 == 0:
            client.spin(0.02)
    client.node.destroy_publisher(speaker)
    client.answered_together()


def _like(chunk: TensorChunk, **changes) -> TensorChunk:
    values = {name: getattr(chunk, name) for name in chunk.get_fields_and_field_types()}
    return TensorChunk(**{**values, **changes})


# Lifecycle

def test_a_robot_that_is_not_active_answers_nothing_and_then_again(client):
    assert client.change('robot_node', 'deactivate')
    count = len(client.results)
    client.show(client.image())
    client.spin(0.3)
    assert len(client.results) == count
    assert client.change('robot_node', 'activate')
    client.answered_together()


def test_a_transition_that_the_state_does_not_allow_changes_nothing(rig, client):
    assert not client.change('robot_node', 'activate')
    with pytest.raises(AssertionError, match='in time'):  # rclpy raises and leaves it unanswered
        client.change('robot_node', Transition.TRANSITION_ACTIVATE, 0.5)
    rig.robot.says('that rclpy can not take: RCLError')
    assert 'Traceback' not in rig.robot.log
    assert client.state('robot_node') == 'active'
    client.answered_together()
    assert rig.robot.process.poll() is None


def test_a_robot_is_cleaned_up_and_configured_anew(client):
    for transition in ('deactivate', 'cleanup', 'configure', 'activate'):
        assert client.change('robot_node', transition), transition
    client.ready()
    assert client.answered_together().frame < 1000


def test_a_server_that_is_not_active_says_so_and_the_robot_goes_alone_at_once(client):
    assert client.change('server_node', 'deactivate')
    client.until(lambda: not client.statuses[-1].ready)
    result = client.ask(client.image())
    assert result.fallback_reason == 'the server is not active' and result.robot_wait_s == 0
    assert result.computed_on == InferenceResult.COMPUTED_ROBOT
    assert error_of(result, pixels()) <= TOLERANCE
    for transition in ('cleanup', 'configure', 'activate'):
        assert client.change('server_node', transition), transition
    client.answered_together()


# Ends

def test_results_go_on_when_the_server_dies_and_splitting_resumes_when_it_is_back(rig, client):
    before = client.answered_together().frames_dropped
    assert client.set(deadline_s=0.3) == ''
    rig.server.process.send_signal(signal.SIGSTOP)  # it goes in the middle of a frame
    images = [client.image(0)]
    first = client.ask(images[0])
    assert re.search('deadline passed: value|can not be reached', first.fallback_reason)
    rig.server.end(signal.SIGKILL)
    for number in range(1, 20):
        images.append(client.image(number))
        client.show(images[-1])
        client.spin(0.05)
    last = client.answer_to(images[-1])
    answers = [client.result_of(image) for image in images]
    assert answers.count(None) == last.frames_dropped - before
    assert all(result.fallback for result in answers if result)
    for number, result in enumerate(answers):
        assert result is None or error_of(result, pixels(number)) <= TOLERANCE
    told = len(client.statuses)
    rig.server = NodeProcess('server_node', rig.folder)
    client.until(lambda: len(client.statuses) > told and client.statuses[-1].ready)
    assert client.set(deadline_s=DEADLINE_S) == ''
    assert error_of(client.answered_together(), pixels()) <= TOLERANCE


def test_a_robot_in_the_middle_of_a_frame_ends_at_once(rig, client):
    said = len(rig.robot.log)
    rig.server.process.send_signal(signal.SIGSTOP)
    try:
        client.show(client.image())
        client.spin(0.3)  # it waits for the server by now
        assert rig.robot.end() == 0
    finally:
        rig.server.process.send_signal(signal.SIGCONT)
    assert 'Traceback' not in rig.robot.log[said:]


def test_a_server_in_the_middle_of_a_frame_ends_at_once(rig, client):
    """The robot of the test before is gone: its table is in force, the frame is begun by hand."""
    speaker = client.node.create_publisher(TensorChunk, 'uplink', qos.CHUNKS)
    client.until(speaker.get_subscription_count)
    reports = []
    client.node.create_subscription(FrameReport, 'frame_report', reports.append, qos.REPORTS)
    client.until(lambda: client.node.count_publishers('frame_report'))
    speaker.publish(TensorChunk(
        version=TensorChunk.VERSION, session=1, frame=1,
        table_digest=client.statuses[-1].table_digest, value_id=0, row_begin=32, row_end=64,
        chunk_count=1, dtype=2, scale=1.0,
        raw_bytes=32 * SIZE * 3, crc=crc32(bytes(32 * SIZE * 3)),
        payload=array('B', bytes(32 * SIZE * 3))))
    client.spin(0.3)
    assert not reports  # it waits for more
    assert rig.server.end() == 0
    assert 'Traceback' not in rig.server.log
