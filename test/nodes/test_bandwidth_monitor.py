# SPDX-License-Identifier: Apache-2.0
"""The node that measures the link, against a server that answers probes at a made-up rate."""

from array import array
from collections import deque
import math
from statistics import median
import subprocess
import sys
import time

import pytest

pytest.importorskip('rclpy')
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_rig import NodeProcess  # noqa: E402

from hp_inference.link.receipts import Receipt, Receipts  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes.bandwidth_monitor_node import BandwidthMonitorNode  # noqa: E402
from hp_inference.nodes.receipts import receipt_to_msg  # noqa: E402
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
        self._receipts, self._free_s = Receipts(RECEIVER), 0.0
        self._due: deque = deque()
        node = client.node
        self.reports = node.create_publisher(LinkReport, 'link_report', qos.RECEIPTS)
        node.create_subscription(Bandwidth, 'bandwidth', self.bandwidths.append, qos.METRICS)
        node.create_subscription(Probe, 'probe', self._on_probe, qos.RECEIPTS)
        node.create_timer(0.001, self._answer)

    @property
    def last(self) -> Bandwidth | None:
        return self.bandwidths[-1] if self.bandwidths else None

    def says(self, mbit_s, seconds=3.0, rel=0.25, **fields):
        """Wait for a bandwidth of about this and return how long it took."""
        began = time.monotonic()
        self.bandwidths.clear()
        self.client.until(lambda: self.last and math.isclose(
            self.last.bytes_per_s, mbit_s * MBIT, rel_tol=rel, abs_tol=1.0) and all(
                getattr(self.last, name) == value for name, value in fields.items()), seconds)
        return time.monotonic() - began

    def carry(self, session, seq, nbytes, sent_s, last, left_s):
        """``left_s`` is the time of day when it was handed to the link."""
        if not self.mbit_s:
            return
        self._free_s = max(self._free_s, left_s) + nbytes / (self.mbit_s * MBIT)
        receipt = self._receipts.took(session, seq, nbytes, sent_s, self._free_s + 1e6, last)
        if receipt:
            self._due.append((self._free_s, receipt))

    def _on_probe(self, msg, info):
        self.probed.append((time.monotonic(), len(msg.payload)))
        # This busy thread may come to it later, which is not the link's doing.
        self.carry(msg.session, msg.seq, len(msg.payload), msg.sent_s, msg.last,
                   info['source_timestamp'] * 1e-9)

    def _answer(self):
        while self._due and self._due[0][0] <= time.time():
            self.reports.publish(receipt_to_msg(self._due.popleft()[1]))


@pytest.fixture
def make(node_here):
    """Return a function that makes a monitor and the server that it measures the way to."""
    def make(mbit_s=20.0, start=True, **params):
        node, client = node_here(BandwidthMonitorNode, {}, start, **params)
        return node, Server(client, mbit_s)
    return make


def test_probes_tell_what_an_idle_link_carries(make):
    node, server = make(20.0)
    assert server.says(20.0, source='probe') < 2.0
    server.client.spin(0.6)
    now = server.last
    assert 0.7 * now.bytes_per_s <= now.low_bytes_per_s <= now.bytes_per_s
    assert 0.0 < now.round_trip_s < 0.1 and 0.0 <= now.age_s < 1.0
    assert 3 <= len(server.bandwidths) <= 15


@pytest.mark.parametrize(('before', 'after'), [(40.0, 8.0), (8.0, 40.0)])
def test_a_step_is_followed_by_probes_alone(make, before, after):
    node, server = make(before)
    server.says(before)
    server.mbit_s = after
    assert server.says(after) < 2.0


def test_silence_is_noticed_and_so_is_its_end(make):
    node, server = make(20.0)
    server.says(20.0)
    server.mbit_s = 0.0
    assert server.says(0.0, source='silence') < 1.0
    assert server.last.low_bytes_per_s == 0.0
    assert 'nothing gets through' in node.log
    server.mbit_s = 10.0
    assert server.says(10.0, source='probe') < 1.0
    assert 'the link is back' in node.log


def test_without_a_server_there_is_silence(make):
    node, server = make(0.0)
    assert server.says(0.0, source='silence') < 1.5


def test_receipts_of_traffic_make_trains_of_probes_needless(make):
    node, server = make(16.0)
    server.says(16.0)
    seq = 0
    end = time.monotonic() + 1.5
    server.probed.clear()
    while time.monotonic() < end:
        for piece in range(3):
            seq += 1
            server.carry(99, seq, 30_000, time.monotonic(), piece == 2, time.time())
        server.client.spin(0.1)
    assert server.last.source == 'traffic'
    assert server.last.bytes_per_s == pytest.approx(16 * MBIT, rel=0.15)
    late = [nbytes for when, nbytes in server.probed if when > end - 1.0]
    assert late and max(late) < 1000  # only to hear whether the link is there


def test_wrong_receipts_are_warned_about_and_strange_ones_do_no_harm(make):
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


def test_two_monitors_at_once_both_tell_the_truth(make):
    node, server = make(20.0)
    other = BandwidthMonitorNode()
    other.get_logger = lambda: node.log
    server.client.executor.add_node(other)
    try:
        assert other.trigger_configure() == other.trigger_activate() == SUCCESS
        server.says(20.0)
        server.client.spin(1.5)
        assert len(server.bandwidths) > 20
        said = [said.bytes_per_s / MBIT for said in server.bandwidths]
        assert median(said) == pytest.approx(20, rel=0.2)
        assert 10 < min(said) and max(said) < 40
    finally:
        other.cleanup()
        server.client.executor.remove_node(other)
        other.destroy_node()


def test_without_a_period_nothing_is_probed_and_nothing_said(make):
    node, server = make(20.0, probe_period_s=0.0)
    server.client.spin(1.0)
    assert server.probed == [] and server.bandwidths == []


def test_a_limit_makes_the_link_look_that_slow_from_the_next_probe_on(make):
    node, server = make(1000.0, limit_mbit_s=10.0)
    server.says(10.0)
    assert node.set_parameters([Parameter('limit_mbit_s', value=0.001)])[0].successful
    assert server.says(0.0, source='silence') < 1.5
    assert node.set_parameters([Parameter('limit_mbit_s', value=40.0)])[0].successful
    assert server.says(40.0) < 2.0


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
    status = server.client.until(lambda: name in diagnostics and next(
        (status for status in [diagnostics[name]] if 'Mbit/s' in status.message), None))
    values = {value.key: value.value for value in status.values}
    assert {'bandwidth_bytes_per_s', 'age_s', 'round_trip_s', 'source'} <= set(values)
    assert float(values['bandwidth_bytes_per_s']) == pytest.approx(20 * MBIT, rel=0.2)
    assert status.level == b'\x00'
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


def test_a_receipt_comes_through_its_message_unchanged():
    from hp_inference.nodes.receipts import receipt_from_msg
    receipt = Receipt(2 ** 64 - 1, 3, [1, 2], [60_000, 7], [0.5, 0.75], [1e9, 1e9 + 1.0], 0.25)
    back = receipt_from_msg(receipt_to_msg(receipt))
    assert (back.session, back.receiver, back.held_s) == (2 ** 64 - 1, 3, 0.25)
    for name in ('seq', 'payload_bytes', 'sent_s', 'arrived_s'):
        assert list(getattr(back, name)) == list(getattr(receipt, name))
