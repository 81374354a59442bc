# SPDX-License-Identifier: Apache-2.0
"""
The node that measures the link, against a server that answers probes at a made-up rate.

How soon it says what is shown in simulated time, that it says it on its topics in real time.
"""

from array import array
from collections import deque
import math
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from simulated_link import Link

pytest.importorskip('rclpy')
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_rig import NodeProcess, WAIT_S  # noqa: E402

from hp_inference.link.acknowledgements import Ack, Acknowledger  # noqa: E402
from hp_inference.nodes import bandwidth_monitor_node, qos  # noqa: E402
from hp_inference.nodes.acknowledgements import ack_to_msg  # noqa: E402
from hp_inference.nodes.bandwidth_monitor_node import BandwidthMonitorNode  # noqa: E402
from hp_msgs.msg import Bandwidth, LinkReport, Probe  # noqa: E402

pytestmark = pytest.mark.ros
SUCCESS = TransitionCallbackReturn.SUCCESS
MBIT = 1e6 / 8
RECEIVER = 7


class Server:
    """Answers what is sent as if it had come over a link of ``mbit_s``; 0: nothing gets through."""

    def __init__(self, client, mbit_s=20.0):
        self.client, self.mbit_s = client, mbit_s
        self.bandwidths: list[Bandwidth] = []
        self.probed: list[tuple[float, int]] = []
        self._acks, self._free_s = Acknowledger(RECEIVER), 0.0
        self._due: deque = deque()
        node = client.node
        self.reports = node.create_publisher(LinkReport, 'link_report', qos.ACKS)
        node.create_subscription(Bandwidth, 'bandwidth', self.bandwidths.append, qos.METRICS)
        node.create_subscription(Probe, 'probe', self._on_probe, qos.ACKS)
        node.create_timer(0.001, self._answer)

    @property
    def last(self) -> Bandwidth | None:
        return self.bandwidths[-1] if self.bandwidths else None

    def says(self, mbit_s, seconds=WAIT_S, rel=0.25, **fields):
        """Wait for a bandwidth of about this."""
        self.bandwidths.clear()
        self.client.until(lambda: self.last and math.isclose(
            self.last.bytes_per_s, mbit_s * MBIT, rel_tol=rel, abs_tol=1.0) and all(
                getattr(self.last, name) == value for name, value in fields.items()), seconds)

    def carry(self, session, seq, nbytes, sent_s, last, left_s):
        """``left_s`` is the time of day when it was handed to the link."""
        if not self.mbit_s:
            return
        self._free_s = max(self._free_s, left_s) + nbytes / (self.mbit_s * MBIT)
        ack = self._acks.took(session, seq, nbytes, sent_s, self._free_s + 1e6, last)
        if ack:
            self._due.append((self._free_s, ack))

    def _on_probe(self, msg, info):
        self.probed.append((time.monotonic(), len(msg.payload)))
        # This busy thread may come to it later, which is not the link's doing.
        self.carry(msg.session, msg.seq, len(msg.payload), msg.sent_s, msg.last,
                   info['source_timestamp'] * 1e-9)

    def _answer(self):
        while self._due and self._due[0][0] <= time.time():
            self.reports.publish(ack_to_msg(self._due.popleft()[1]))


@pytest.fixture
def make(node_here):
    """Return a function that makes a monitor and the server that it measures the way to."""
    def make(mbit_s=20.0, start=True, **params):
        node, client = node_here(BandwidthMonitorNode, {}, start, **params)
        return node, Server(client, mbit_s)
    return make


class Simulated:
    """Nodes on a link in simulated time, and what each said of it, with when [s]."""

    def __init__(self, monkeypatch, node_here):
        self.link, self.nodes, self.said, self.probed = Link(self._rate, late_s=0.001), [], [], []
        self._mbit_s, self._node_here = 0.0, node_here
        monkeypatch.setattr(bandwidth_monitor_node, 'time',
                            SimpleNamespace(monotonic=lambda: self.link.now))
        monkeypatch.setattr(BandwidthMonitorNode, '_every',
                            lambda node, *args: self._every(node, *args))
        monkeypatch.setattr(BandwidthMonitorNode, '_stop',
                            lambda node, name: node.timers_made.pop(name, None))

    def start(self, mbit_s, **params):
        """Have the node probe a link of this rate; return it."""
        self._mbit_s = mbit_s
        node, _ = self._node_here(BandwidthMonitorNode, {}, True, **params)
        return self.join(node)

    def join(self, node):
        """Have an active node use the link in place of its topics; return it."""
        self.nodes.append(node)
        node._probe.publish = lambda msg: (
            self.probed.append((self.link.now, len(msg.payload))),
            self.send(node, msg.session, msg.seq, len(msg.payload), msg.sent_s, msg.last))
        node._bandwidth.publish = lambda msg: self.said.append((self.link.now, msg))
        return node

    def send(self, node, session, seq, nbytes, sent_s, last):
        """Put something on the link whose acknowledgement is the node's."""
        if self._mbit_s:
            self.link.send(seq, nbytes, last,
                           lambda ack: node._on_ack(ack_to_msg(ack)),
                           session=session, sent_s=sent_s)

    def run(self, seconds, mbit_s=None):
        """Let time pass, from now on at another rate."""
        self._mbit_s = self._mbit_s if mbit_s is None else mbit_s
        self.link.run(self.link.now + seconds)

    def from_then_on(self, begin, mbit_s, rel=0.25, **fields):
        """Fail unless from a time on all that was said was this."""
        said = [msg for when, msg in self.said if when >= begin]
        assert said
        for msg in said:
            assert msg.bytes_per_s == pytest.approx(mbit_s * MBIT, rel=rel, abs=1.0)
            assert all(getattr(msg, name) == value for name, value in fields.items())
        return said

    def _rate(self, now):
        return self._mbit_s

    def _every(self, node, name, period_s, callback):
        turn = object()

        def call():
            if node.timers_made.get(name) is turn:
                self.link.at(self.link.now + period_s, call)
                callback()
        node.timers_made[name] = turn
        self.link.at(self.link.now + period_s, call)


@pytest.fixture
def simulated(monkeypatch, node_here):
    return Simulated(monkeypatch, node_here)


def test_probes_tell_within_two_seconds_what_an_idle_link_carries(simulated):
    simulated.start(20.0)
    simulated.run(5.0)
    said = simulated.from_then_on(2.0, 20.0, source='probe')
    for now in said:
        assert 0.7 * now.bytes_per_s <= now.low_bytes_per_s <= now.bytes_per_s
        assert 0.0 < now.round_trip_s < 0.1 and 0.0 <= now.age_s < 1.0
    assert 5 * 3 <= len(said) <= 5 * 15


@pytest.mark.parametrize(('before', 'after'), [(40.0, 8.0), (8.0, 40.0)])
def test_a_step_is_followed_within_two_seconds_by_probes_alone(simulated, before, after):
    simulated.start(before)
    simulated.run(3.0)
    simulated.from_then_on(2.0, before)
    simulated.run(4.0, after)
    simulated.from_then_on(5.0, after)


def test_silence_is_noticed_within_a_second_and_so_is_its_end(simulated):
    node = simulated.start(20.0)
    simulated.run(3.0)
    simulated.run(3.0, 0.0)
    said = simulated.from_then_on(4.0, 0.0, source='silence')
    assert {msg.low_bytes_per_s for msg in said} == {0.0}
    assert 'nothing gets through' in node.log and 'the link is back' not in node.log
    simulated.run(3.0, 10.0)
    simulated.from_then_on(7.0, 10.0, source='probe')
    assert 'the link is back' in node.log


def test_without_a_server_there_is_silence(simulated):
    simulated.start(0.0)
    simulated.run(3.0)
    simulated.from_then_on(1.5, 0.0, source='silence')


def test_acks_of_traffic_make_trains_of_probes_needless(simulated):
    node = simulated.start(16.0)
    simulated.run(3.0)
    for index in range(60):
        simulated.link.at(3.0 + 0.1 * (index // 3), lambda seq=index + 1: simulated.send(
            node, 99, seq, 30_000, simulated.link.now, seq % 3 == 0))
    simulated.run(2.0)
    simulated.from_then_on(4.0, 16.0, 0.15, source='traffic')
    late = [nbytes for when, nbytes in simulated.probed if when > 4.0]
    assert late and max(late) < 1000  # only to hear whether the link is there


def test_two_monitors_at_once_both_tell_the_truth(simulated):
    node = simulated.start(20.0)
    other = BandwidthMonitorNode()
    other.get_logger = lambda: node.log
    try:
        assert other.trigger_configure() == other.trigger_activate() == SUCCESS
        simulated.join(other)
        simulated.run(6.0)
        assert len(simulated.from_then_on(2.0, 20.0)) > 2 * 4 * 3
    finally:
        other.cleanup()
        other.destroy_node()


def test_a_limit_makes_the_link_look_that_slow_from_the_next_probe_on(simulated):
    node = simulated.start(1000.0, limit_mbit_s=10.0)
    for begin, limit, source in ((0.0, 10.0, 'probe'), (4.0, 0.001, 'silence'),
                                 (8.0, 40.0, 'probe')):
        assert node.set_parameters([Parameter('limit_mbit_s', value=limit)])[0].successful
        simulated.run(4.0)
        simulated.from_then_on(begin + 2.0, limit if limit > 1 else 0.0, source=source)


def test_what_probes_tell_goes_out_on_the_topics_and_so_does_a_change(make):
    node, server = make(20.0)
    for mbit_s, source in ((20.0, 'probe'), (8.0, 'probe'), (0.0, 'silence'), (10.0, 'probe')):
        server.mbit_s = mbit_s
        server.says(mbit_s, source=source)


def test_wrong_acks_are_warned_about_and_strange_ones_do_no_harm(make):
    node, server = make(20.0)
    server.says(20.0)
    right = {'session': 5, 'receiver': 6, 'seq': [1], 'payload_bytes': [60_000],
             'sent_s': [1.0], 'arrived_s': [1.0], 'held_s': 0.0}
    empty = {name: [] for name in ('seq', 'payload_bytes', 'sent_s', 'arrived_s')}
    for wrong in (empty, {'seq': [1, 2]}, {'sent_s': [math.nan]}, {'arrived_s': [math.inf]},
                  {'held_s': -1.0}, {'seq': [0]}):
        node.log.lines.clear()
        server.reports.publish(LinkReport(**{**right, **wrong}))
        server.client.until(lambda: 'expected' in node.log)
    for value in (0.0, -1e300, 1e300, 5.0):
        server.reports.publish(LinkReport(
            session=2 ** 64 - 1, receiver=1, seq=array('I', [2 ** 32 - 1] * 64),
            payload_bytes=array('I', [2 ** 32 - 1] * 64), sent_s=array('d', [value] * 64),
            arrived_s=array('d', [-value] * 64), held_s=1e300))
    server.client.spin(0.3)
    server.says(20.0, source='probe')


def test_without_a_period_nothing_is_probed_and_nothing_said(make):
    node, server = make(20.0, probe_period_s=0.0)
    server.client.spin(1.0)
    assert server.probed == [] and server.bandwidths == []


def test_parameters_out_of_range_are_refused(make):
    node, _ = make(20.0)
    for name, value in (('publish_hz', 0.0), ('probe_bytes', 10), ('silence_s', -1.0),
                        ('probe_period_s', math.nan), ('limit_mbit_s', -1.0)):
        result = node.set_parameters([Parameter(name, value=value)])[0]
        assert not result.successful and name in result.reason


def test_an_inactive_node_neither_probes_nor_publishes_and_comes_back(make):
    node, server = make(20.0)
    server.says(20.0)
    assert node.trigger_deactivate() == SUCCESS
    server.client.spin(0.2)
    server.probed.clear(), server.bandwidths.clear()
    server.client.spin(0.6)
    assert server.probed == [] and server.bandwidths == []
    assert node.trigger_cleanup() == node.trigger_configure() == node.trigger_activate() == SUCCESS
    server.says(20.0)


def test_diagnostics_say_what_the_link_carries(make):
    node, server = make(20.0)
    server.says(20.0)
    name = 'bandwidth_monitor_node: link'
    diagnostics = server.client.diagnostics

    def values():
        return {value.key: value.value for value in diagnostics[name].values}
    server.client.until(lambda: name in diagnostics and float(
        values().get('bandwidth_bytes_per_s', 0)) == pytest.approx(20 * MBIT, rel=0.2))
    assert {'age_s', 'round_trip_s', 'source'} <= set(values())
    assert 'Mbit/s' in diagnostics[name].message and diagnostics[name].level == b'\x00'
    server.mbit_s = 0.0
    server.says(0.0, source='silence')
    server.client.until(lambda: diagnostics[name].message == 'nothing gets through')
    assert diagnostics[name].level == b'\x01'


def test_the_node_needs_no_torch():
    done = subprocess.run([sys.executable, '-c',
                           'import hp_inference.nodes.bandwidth_monitor_node, sys\n'
                           'assert "torch" not in sys.modules'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_told_to_stop_the_process_ends_cleanly(tmp_path):
    node = NodeProcess('bandwidth_monitor_node', tmp_path)
    try:
        node.says('nothing gets through')
        assert node.end() == 0
        assert 'Traceback' not in node.log
    finally:
        node.close()


def test_a_ack_comes_through_its_message_unchanged():
    from hp_inference.nodes.acknowledgements import ack_from_msg
    ack = Ack(2 ** 64 - 1, 3, [1, 2], [60_000, 7], [0.5, 0.75], [1e9, 1e9 + 1.0], 0.25)
    back = ack_from_msg(ack_to_msg(ack))
    assert (back.session, back.receiver, back.held_s) == (2 ** 64 - 1, 3, 0.25)
    for name in ('seq', 'payload_bytes', 'sent_s', 'arrived_s'):
        assert list(getattr(back, name)) == list(getattr(ack, name))
