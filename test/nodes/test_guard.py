# SPDX-License-Identifier: Apache-2.0
"""What no topic is for is neither taken in nor held: sizes, bytes of another kind, hoards."""

from array import array
from pathlib import Path
import threading
import time

import pytest

pytest.importorskip('rclpy')
import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from ros_rig import Log, NodeProcess, WAIT_S  # noqa: E402

from hp_inference.nodes import guard as module  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes.guard import Guarded, MOST, Watchman  # noqa: E402
from hp_msgs.msg import FrameReport, LinkReport, PlanTable, ServerStatus, TensorChunk  # noqa: E402

pytestmark = pytest.mark.ros
MB = 1 << 20


@pytest.fixture
def node(monkeypatch):
    rclpy.init(args=[])
    node = rclpy.create_node('guarding')
    node.log, node.guarded = Log(), []
    node.get_logger = lambda: node.log
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def until(done, seconds=WAIT_S):
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end
            executor.spin_once(0.02)
            for each in node.guarded:
                each.look()
    node.until = until
    yield node
    for each in list(node.guarded):
        each.close()
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


def talk(node, kind, topic, profile):
    """Return a subscription, what it took, and a publisher that it has heard of."""
    taken = []
    guard = Guarded(node, kind, topic, taken.append, profile)
    speaker = node.create_publisher(kind, topic, profile)
    node.until(speaker.get_subscription_count)
    return guard, taken, speaker


def test_what_is_too_large_is_refused_and_what_comes_after_is_taken(node):
    guard, taken, speaker = talk(node, TensorChunk, 'uplink', qos.CHUNKS)
    speaker.publish(TensorChunk(seq=1, payload=array('B', bytes(60_000))))
    node.until(lambda: taken)
    before = guard._subscription
    speaker.publish(TensorChunk(seq=2, payload=array('B', bytes(MOST[TensorChunk]))))
    node.until(lambda: guard.refused)
    assert "warning: topic '/uplink': a message of 1001" in node.log
    node.until(lambda: guard._subscription is not None)
    assert guard._subscription is not before  # with it went what it held
    node.until(lambda: speaker.publish(TensorChunk(seq=3)) or len(taken) > 1)
    assert {msg.seq for msg in taken} == {1, 3}


def test_one_that_goes_on_is_listened_to_ever_more_rarely_and_in_the_end_forgiven(node,
                                                                                 monkeypatch):
    guard, taken, speaker = talk(node, ServerStatus, 'server_status', qos.METRICS)
    now = [1000.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    waited = []
    for _ in range(8):
        guard._take(bytes(MOST[ServerStatus] + 1), {})
        waited.append(guard._open_s - now[0])
        now[0] = guard._open_s
        guard.look()
        assert guard._subscription is not None
    assert waited == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    now[0] += module.FORGIVEN_S + 1
    guard._take(bytes(MOST[ServerStatus] + 1), {})
    assert guard._open_s == now[0]


def test_who_sends_hardly_anything_of_use_is_not_listened_to_for_a_while(node, monkeypatch):
    guard, taken, speaker = talk(node, TensorChunk, 'uplink', qos.CHUNKS)
    now = [1000.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    for _ in range(int(10 * module.USELESS_PER_S)):  # as much as is borne for good
        guard.useless()
        now[0] += 1 / module.USELESS_PER_S
    assert guard._subscription is not None and not guard.refused
    waited = []
    for _ in range(4):
        for _ in range(int(module.USELESS_AT_ONCE) + 1):
            guard.useless()
        waited.append(guard._open_s - now[0])
        now[0] = guard._open_s
        guard.look()
        assert guard._subscription is not None
    assert waited == [0.0, 0.25, 0.5, 1.0]
    assert 'most of what comes is of no use' in node.log
    guard.useless(module.USELESS_AT_ONCE + 1)  # what weighs much is soon too much
    assert guard._open_s == now[0] + 2.0
    guard.useless(1e6)  # of what was still in hand
    assert guard._open_s == now[0] + 2.0


def test_what_is_no_message_is_of_no_use_but_a_stranger_to_the_key_can_silence_nobody(node):
    guard, taken, speaker = talk(node, LinkReport, 'link_report', qos.METRICS)
    often = 10 * int(module.USELESS_AT_ONCE)
    guard._admit = lambda data: False
    for _ in range(often):
        guard._take(b'\0\1\0\0' + b'\xff' * 40, {})
    assert guard._subscription is not None
    guard._admit = lambda data: True
    for _ in range(often):
        guard._take(b'\0\1\0\0' + b'\xff' * 40, {})
    assert guard._subscription is None and not taken


def test_a_latched_one_that_is_too_large_does_not_come_again_and_again(node):
    guard, taken, speaker = talk(node, PlanTable, 'plan_table', qos.LATCHED)
    speaker.publish(PlanTable(json=' ' * MOST[PlanTable]))
    node.until(lambda: guard.refused)
    node.until(lambda: guard._subscription is not None)
    other = node.create_publisher(PlanTable, 'plan_table', qos.LATCHED)
    node.until(other.get_subscription_count)
    other.publish(PlanTable(model='m'))
    node.until(lambda: taken)
    assert guard.refused == 1 and taken[0].model == 'm'


def test_bytes_that_are_no_such_message_are_refused_by_name(node):
    guard, taken, speaker = talk(node, LinkReport, 'link_report', qos.METRICS)
    speaker.publish(b'\0\1\0\0' + b'\xff' * 40)
    speaker.publish(LinkReport(session=7))
    node.until(lambda: taken)
    assert 'a message that is no LinkReport is refused' in node.log
    assert [msg.session for msg in taken] == [7]


def test_room_for_large_messages_is_given_up_when_none_comes_any_more(node, monkeypatch):
    monkeypatch.setattr(module, 'LARGE_BYTES', 1000)
    monkeypatch.setattr(module, 'QUIET_S', 0.1)
    guard, taken, speaker = talk(node, TensorChunk, 'uplink', qos.CHUNKS)
    before = guard._subscription
    speaker.publish(TensorChunk(payload=array('B', bytes(5000))))
    node.until(lambda: taken)
    node.until(lambda: guard._subscription is not before)
    node.until(lambda: speaker.publish(TensorChunk(seq=3)) or taken[-1].seq == 3)


class Hoard:
    """Stands for a subscription for which some memory is held."""

    def __init__(self, heap, nbytes=0, refused=0, latched=False):
        self.heap, self.nbytes, self.refused, self.latched = heap, nbytes, refused, latched
        self.room, self.asked, self.found = 10 * MB, 0, []
        heap[0] += nbytes

    def let_go(self, allocated):
        before = allocated()
        self.heap[0] -= self.nbytes
        self.nbytes, self.asked = 0, self.asked + 1
        return before - allocated()

    def hoards(self, nbytes):
        self.found.append(nbytes)


def test_the_one_that_holds_too_much_is_found_and_the_others_are_left_alone_after():
    heap = [100 * MB]
    watchman = Watchman(lambda: heap[0])
    guards = [Hoard(heap) for _ in range(10)]
    watchman.look(guards)
    assert not any(guard.asked for guard in guards)
    guards.append(Hoard(heap, 500 * MB))
    for _ in range(8):
        watchman.look(guards)
    assert guards[-1].found == [500 * MB] and not any(guard.found for guard in guards[:-1])
    asked = [guard.asked for guard in guards]
    assert max(asked) == 1
    guards[-1].refused, guards[-1].nbytes = 1, 300 * MB
    heap[0] += 300 * MB
    watchman.look(guards)
    assert guards[-1].found == [500 * MB, 300 * MB]
    assert sum(guard.asked for guard in guards) <= sum(asked) + module.AT_ONCE


def test_where_none_holds_too_much_the_node_needs_more_and_it_is_not_asked_again():
    heap = [100 * MB]
    watchman = Watchman(lambda: heap[0])
    guards = [Hoard(heap) for _ in range(5)]
    heap[0] += 400 * MB  # weights, packed for a new plan
    for _ in range(10):
        watchman.look(guards)
    assert [guard.asked for guard in guards] == [1] * 5
    assert not any(guard.found for guard in guards)


# Real nodes

def held_mb(node: NodeProcess) -> float:
    """Return the memory of a node's process alone, shared memory of the middleware included."""
    lines = Path(f'/proc/{node.process.pid}/status').read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines
               if line.startswith(('RssAnon', 'RssShmem'))) / 1024


def attack(node, process: NodeProcess, kind, topic, profile, message, count) -> float:
    """Publish what nobody should, again and again; return how much more is held 10 s after."""
    speaker = node.create_publisher(kind, topic, profile)
    node.until(lambda: process.process.poll() is not None or speaker.get_subscription_count(),
               4 * WAIT_S)
    over, before = threading.Event(), held_mb(process)

    def publish():
        for _ in range(count):
            speaker.publish(message)
        over.set()
    threading.Thread(target=publish, daemon=True).start()
    assert over.wait(WAIT_S * 4)
    end, more = time.monotonic() + 2 * WAIT_S, 1e9
    while more > 150 and time.monotonic() < end:  # 10 s, on a machine with time for it
        time.sleep(0.5)
        more = held_mb(process) - before
    node.destroy_publisher(speaker)
    assert process.process.poll() is None, process.log
    return more


CHUNK = TensorChunk(payload=array('B', bytes(16_000_000)))


def test_a_server_gives_back_what_large_chunks_and_tables_took(node, tmp_path):
    process = NodeProcess('server_node', tmp_path)
    try:
        for kind, topic, profile, message, count in (
                (TensorChunk, 'uplink', qos.CHUNKS, CHUNK, 40),
                (PlanTable, 'plan_table', qos.LATCHED, PlanTable(json='[' * 66_000_000), 3)):
            assert attack(node, process, kind, topic, profile, message, count) < 150, topic
        assert 'Traceback' not in process.log
    finally:
        process.close()


def test_a_robot_gives_back_what_large_reports_took(node, tmp_path):
    process = NodeProcess('robot_node', tmp_path)
    try:
        for kind, topic, profile, message, count in (
                (FrameReport, 'frame_report', qos.REPORTS, FrameReport(text='x' * 16_000_000), 20),
                (TensorChunk, 'downlink', qos.CHUNKS, CHUNK, 20)):
            assert attack(node, process, kind, topic, profile, message, count) < 150, topic
        assert 'Traceback' not in process.log
    finally:
        process.close()


@pytest.mark.long
@pytest.mark.parametrize('tcp', [False, True])
def test_a_server_gives_back_all_of_2_400_MB(node, tmp_path, tcp, monkeypatch):
    if tcp:
        profiles = Path(__file__).parents[2] / 'config/dds/fastdds_tcp.xml'
        monkeypatch.setenv('FASTRTPS_DEFAULT_PROFILES_FILE', str(profiles))
    process = NodeProcess('server_node', tmp_path)
    try:
        assert attack(node, process, TensorChunk, 'uplink', qos.CHUNKS, CHUNK, 150) < 150
    finally:
        process.close()
