# SPDX-License-Identifier: Apache-2.0
"""Robot and server as processes while somebody sends them texts that no node would send."""

from contextlib import closing
from dataclasses import replace
import hashlib
import json

import numpy as np
import pytest

pytest.importorskip('rclpy')
import rclpy  # noqa: E402
from ros_rig import Client, error_of, MODEL, NodeProcess, pixels, SIZE  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from type_description_interfaces.srv import GetTypeDescription  # noqa: E402

from hp_inference.graph.ir import canonical  # noqa: E402
from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes.convert import digest_to_msg  # noqa: E402
from hp_inference.split.curves import FIGURES, SIZES  # noqa: E402
from hp_inference.split.plan import robot_only, uniform  # noqa: E402
from hp_inference.split.table import PlanTable  # noqa: E402
from hp_inference.split.table_json import Choice  # noqa: E402
from hp_msgs.msg import Bandwidth, FrameReport, ServerStatus  # noqa: E402
from hp_msgs.msg import PlanTable as PlanTableMsg  # noqa: E402

pytestmark = pytest.mark.ros
FORGED = '[ERROR] [1.0] [robot_node]: forged'
TEXTS = ('\ud800', f'x\n{FORGED}', '\x1b[2J', '\u202e', ' x', 'a\0b')


@pytest.fixture(scope='module')
def layout():
    return open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1]


class Peer:
    """Sends what it likes to the nodes of a robot and its server."""

    def __init__(self, client, robot, server):
        self.client, self.robot, self.server = client, robot, server
        self.publishers, self.shares = {}, iter(np.arange(0.11, 0.9, 0.02))

    def send(self, kind, topic, profile, **values):
        if topic not in self.publishers:
            self.publishers[topic] = self.client.node.create_publisher(kind, topic, profile)
        publisher = self.publishers[topic]
        self.client.until(publisher.get_subscription_count)
        publisher.publish(kind(**values))
        self.client.spin(0.05)

    def table(self, topic, table, name='good', **changes):
        """Send a table whose plan has another name, and then with changes in it."""
        data = table.to_json()
        data['plans'][1]['name'] = name
        named = {key: data[key] for key in data if key not in ('model', 'record')}
        self.send(PlanTableMsg, topic, qos.LATCHED, json=json.dumps({**data, **changes}),
                  digest=digest_to_msg(hashlib.sha256(canonical(named)).digest()))

    def leave(self):
        for publisher in self.publishers.values():
            self.client.node.destroy_publisher(publisher)
        self.publishers.clear()

    def all_answered(self, count=20):
        """
        Have so many images answered, every one right; then show that both nodes are well.

        An image is best effort: beside messages this large the middleware may drop one on the way.
        """
        for seed in range(count):
            image = self.client.image(seed)
            result = self.client.again(lambda: self.client.show(image),
                                       lambda: self.client.result_of(image))
            assert error_of(result, pixels(seed)) <= 1e-5
        self.client.diagnostics.clear()
        self.client.until(lambda: {'robot_node: inference', 'server_node: serving the robot'}
                          <= set(self.client.diagnostics))
        for node in (self.robot, self.server):
            assert node.process.poll() is None
            assert 'Traceback' not in node.log and 'diagnostic itself failed' not in node.log
            assert not any(line.startswith(FORGED) for line in node.log.splitlines())


@pytest.fixture(scope='module')
def peer(tmp_path_factory):
    folder = tmp_path_factory.mktemp('hostile')
    with closing(NodeProcess('server_node', folder)) as server, \
            closing(NodeProcess('robot_node', folder)) as robot:
        rclpy.init()
        try:
            with closing(Client()) as client:
                client.ready()
                client.answered_together()
                yield Peer(client, robot, server)
        finally:
            rclpy.try_shutdown()


@pytest.fixture(autouse=True)
def cured_by_an_honest_table(peer):
    """Once nobody sends nonsense any more, another table brings robot and server together."""
    yield
    peer.leave()
    plan = f'uniform:{next(peer.shares):g}'
    assert peer.client.set(plan=plan) == ''
    peer.client.until(lambda: peer.client.plans[-1] == plan)
    assert peer.client.answered_together().plan == plan


@pytest.fixture(scope='module')
def table(layout):
    plans = [robot_only(layout), replace(uniform(layout, 0.4), name='good')]
    return PlanTable(layout, plans, [Choice(0.1, 1)])


@pytest.mark.parametrize('topic', ['planned_table', 'plan_table'])
def test_a_name_of_a_plan_that_can_not_be_printed_costs_no_answer(peer, table, topic):
    for text in TEXTS:
        peer.table(topic, table, text)
    peer.all_answered()
    node = peer.robot if topic == 'planned_table' else peer.server
    node.says('refused: .*its name has something in it that does not print, or spaces')


@pytest.mark.parametrize('topic', ['planned_table', 'plan_table'])
def test_other_texts_of_a_table_that_can_not_be_printed_cost_no_answer(peer, table, topic):
    for text in TEXTS:
        peer.table(topic, table, model=text, model_digest=text)
        peer.table(topic, table, format=text)
        peer.table(topic, table, choices=[{'mbit_s': text, 'plan': 1}])
        peer.table(topic, table, plans=[{text: text}])
        peer.table(topic, table, plans=[{'name': 'x', 'robot': [text], 'server': []}])
    peer.all_answered()


def record(source='given', **more):
    curve = {**{name: [0.3, 0.2] for name in FIGURES}, **dict.fromkeys(SIZES, 1.0)}
    power = {'waiting_w': 2.0, 'communicating_w': 3.0, 'computing_w': 10.0, 'source': source}
    return {'grid': [5.0, 50.0], 'objective': 'latency', 'power': {**power, **more},
            'curves': dict.fromkeys(('robot_only', 'good'), curve)}


def test_a_record_whose_texts_can_not_be_printed_costs_no_answer(peer, table):
    for text in TEXTS:
        peer.table('planned_table', table, record=record(source=text))
        peer.table('planned_table', table, record={text: text})
        peer.table('planned_table', table, record=record(**{text: text}))
    peer.robot.says(f'planned table {table.digest.hex()[:12]}')
    peer.all_answered()


@pytest.mark.parametrize('rates, latency', [
    ([5e-324, 1e-300], 5e-324), ([1.0, 2.0], 5e-324), ([1.0, 2.0], 1e100), ([1e99, 1e100], 1e-300)])
def test_predictions_that_can_not_be_cost_no_answer(peer, table, rates, latency):
    said = record()
    said['grid'] = rates
    for curve in said['curves'].values():
        curve['latency_s'] = [latency] * 2
    peer.table('planned_table', table, record=said)
    peer.client.until(lambda: peer.client.plans[-1] in ('good', 'robot_only'))
    for mbit_s in (0.0, 5e-324, 3.0, 100.0):
        peer.send(Bandwidth, 'bandwidth', qos.METRICS, bytes_per_s=mbit_s * 125e3)
        peer.all_answered(3)


def test_texts_of_a_server_forge_no_line_and_are_cut(peer):
    long = 'v' * 5_000_000
    for text in (f'x\n{FORGED}', '\x1b[2J', long):
        for ready in (False, True):
            peer.send(ServerStatus, 'server_status', qos.LATCHED, text=text, version=text,
                      model=text, model_digest=text, ready=ready,
                      table_digest=digest_to_msg(bytes(32)))
        peer.send(FrameReport, 'frame_report', qos.REPORTS, text=text, status=1)
        peer.send(Bandwidth, 'bandwidth', qos.METRICS, bytes_per_s=1e6, source=text)
    peer.all_answered()
    assert max(map(len, peer.robot.log.splitlines())) < 5000


def test_texts_of_a_camera_forge_no_line_and_are_cut(peer):
    for text in (f'x\n{FORGED}', '\x1b[2J', 'e' * 5_000_000):
        peer.client.show(Image(encoding=text))
        peer.client.spin(0.2)
        peer.client.show(CompressedImage(format=text, data=b'x'))
        peer.client.spin(0.2)
    peer.robot.says('image dropped: .*declared format')
    peer.all_answered(3)
    assert max(map(len, peer.robot.log.splitlines())) < 5000


def test_words_of_a_request_write_no_lines_into_the_log(tmp_path):
    with closing(NodeProcess('bandwidth_monitor_node', tmp_path)) as monitor, \
            closing(Client()) as client:
        client.until(lambda: client.state('bandwidth_monitor_node') == 'active')
        for text in TEXTS[1:]:
            assert not client.change('bandwidth_monitor_node', text)
            request = GetTypeDescription.Request(type_name=text, type_hash=text)
            client.call(GetTypeDescription, 'bandwidth_monitor_node/get_type_description', request)
        assert client.state('bandwidth_monitor_node') == 'active'
        assert not [line for line in monitor.log.split('\n') if line.startswith('[ERROR]')
                    or not line.isprintable()], monitor.log
