# SPDX-License-Identifier: Apache-2.0
"""Nodes with keys: only those who share one heed each other, and they find each other again."""

from contextlib import contextmanager
from pathlib import Path
import re
import secrets
import signal
from xml.etree import ElementTree

import pytest

pytest.importorskip('rclpy')
from forgers import EXCHANGED, Forger, Recorder  # noqa: E402
import rclpy  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from ros_rig import Client, error_of, NodeProcess, pixels  # noqa: E402

from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes.sealing import SEALED  # noqa: E402
from hp_msgs.msg import Bandwidth  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.timeout(900)]  # nodes start slowly beside others
TOLERANCE = 1e-5
LONG_S, START_S = 60.0, 240.0  # on a busy machine
UP = ' operators, on '  # what a node says when it has its model
# What goes to users of the answers, and is not sealed.
FOR_USERS = {'result', 'metrics', 'timeline'}
SROS2 = Path(__file__).parents[2] / 'config' / 'sros2'


def key_file(path, mode=0o600):
    path.write_text(secrets.token_hex(32) + '\n')
    path.chmod(mode)
    return str(path)


class Rig:
    """A server with a key for each of its two robots; robot1 with its monitor, and a client."""

    def __init__(self, folder):
        self.folder = folder
        self.key = {name: key_file(folder / f'{name}.key') for name in ('robot1', 'robot2')}
        self.nodes = {name: self.start(name) for name in ('server', 'robot', 'bandwidth_monitor')}
        self.client, self.other = Client('robot1'), Client('robot2', name='other')

    def start(self, name, namespace='robot1', **params):
        if name == 'server':
            return NodeProcess('server_node', self.folder, robots=['robot1', 'robot2'],
                               keys_dir=str(self.folder))
        return NodeProcess(f'{name}_node', self.folder, namespace=namespace,
                           **{'key_file': self.key['robot1'], **params})

    def restart(self, name):
        self.nodes[name].end(signal.SIGKILL)
        self.nodes[name] = self.start(name)

    def security(self, node, client=None):
        """Return what a node says of its security, by key; the message is under ''."""
        client = client or self.client
        client.diagnostics.pop(node, None)
        status = client.until(lambda: client.diagnostics.get(node), LONG_S)
        return {'': status.message, **{pair.key: pair.value for pair in status.values}}

    def close(self):
        for each in (self.client, self.other, *self.nodes.values()):
            each.close()


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    rclpy.init()
    rig = Rig(tmp_path_factory.mktemp('keys'))
    try:
        for name in ('server', 'robot'):
            rig.nodes[name].says(UP, START_S)
        rig.client.ready(plan_table=False)
        yield rig
    finally:
        rig.close()
        rclpy.try_shutdown()


@contextmanager
def closing(*things):
    try:
        yield
    finally:
        for thing in things:
            thing.close()


def ask(client, count):
    """Return the answers to so many images and their errors."""
    results = [client.ask(client.image(seed), LONG_S) for seed in range(count)]
    return results, [error_of(result, pixels(seed)) for seed, result in enumerate(results)]


def test_with_keys_robot_and_server_compute_together_by_the_bandwidth_measured(rig):
    recorder = Recorder(rig.client)
    with closing(recorder):
        rig.client.answered_together(LONG_S)
        _, errors = ask(rig.client, 3)
        assert max(errors) <= TOLERANCE
        rig.client.until(lambda: {'bandwidth', 'probe', 'link_report', 'server_load',
                                  'server_status', 'plan_table'} <= recorder.heard, LONG_S)
        robot = rig.security('robot1/robot_node: security')
        assert robot['security'] == 'key' and int(robot['met']) >= 2
        assert 'met: ' in robot[''] and 'server' in robot['']
        assert rig.security('server_node: security of robot1')['security'] == 'key'
        assert rig.security('robot1/bandwidth_monitor_node: security')['security'] == 'key'
        rig.client.until(lambda: float(rig.security('robot1/robot_node: inference').get(
            'bandwidth_mbit_s', 'None').replace('None', '0')) > 0, LONG_S)
        # Everything that they have said is sealed.
        for topic, data in recorder.kept:
            if topic in EXCHANGED:
                assert len(deserialize_message(data, EXCHANGED[topic][0]).seal) == 48, topic


def test_all_that_the_nodes_exchange_is_sealed(rig):
    """A topic that is added to the nodes must be added here, or stay outside on purpose."""
    rig.client.answered_together(LONG_S)
    topics = {name.removeprefix('/robot1/') for name, types in
              rig.client.node.get_topic_names_and_types()
              if name.startswith('/robot1/') and types[0].startswith('hp_msgs/')}
    assert topics - FOR_USERS - {'meeting'} <= SEALED
    assert SEALED == set(EXCHANGED)


def test_forged_rows_are_not_taken(rig):
    forger = Forger(rig.client)
    with closing(forger):
        rig.client.answered_together(LONG_S)
        before = int(rig.security('robot1/robot_node: security')['dropped_forged'])
        results, errors = ask(rig.client, 30)
        assert forger.sent >= 25
        assert max(errors) <= TOLERANCE
        assert sum(not result.fallback for result in results) >= 15
        after = rig.security('robot1/robot_node: security')
        assert int(after['dropped_forged']) - before >= 25
        assert 'downlink does not fit' in after['']


def test_without_keys_the_same_forger_is_believed(rig, tmp_path):
    """Else the test before this one would show nothing."""
    nodes = [NodeProcess(name, tmp_path, namespace='open') for name in
             ('server_node', 'robot_node')]
    client = Client('open', name='open')
    with closing(client, *nodes):
        for node in nodes:
            node.says(UP, START_S)
        client.ready(plan_table=False)
        with closing(Forger(client)):
            client.answered_together(LONG_S)
            assert max(ask(client, 30)[1]) > TOLERANCE


def test_nodes_that_start_anew_meet_again_and_take_nothing_that_was_recorded(rig):
    recorder = Recorder(rig.client)
    with closing(recorder):
        rig.client.answered_together(LONG_S)
        ask(rig.client, 3)
        rig.client.until(lambda: 'bandwidth' in recorder.heard, LONG_S)
        recorder.stop()
        for name in ('robot', 'server'):
            rig.restart(name)
            rig.nodes[name].says(UP, START_S)
            recorder.play()
            rig.client.answered_together(LONG_S)  # they have met each other, and the monitor
            recorder.play()
            _, errors = ask(rig.client, 5)
            assert max(errors) <= TOLERANCE
        robot = rig.security('robot1/robot_node: security')
        server = rig.security('server_node: security of robot1')
        assert int(robot['dropped_unmet']) > 0 or int(robot['dropped_replayed']) > 0
        assert int(server['dropped_unmet']) >= 5 and int(server['dropped_forged']) == 0
        # Of this run: all that is played again after it was taken.
        latest = Recorder(rig.client)
        with closing(latest):
            rig.client.answered_together(LONG_S)
            latest.stop()
            before = int(rig.security('server_node: security of robot1')['dropped_replayed'])
            latest.play()
            rig.client.until(lambda: int(rig.security('server_node: security of robot1')[
                'dropped_replayed']) > before, LONG_S)
            rig.client.answered_together(LONG_S)


def test_a_monitor_that_starts_anew_is_met_again(rig):
    rig.restart('bandwidth_monitor')
    heard = []
    subscription = rig.client.node.create_subscription(
        Bandwidth, 'bandwidth', heard.append, qos.METRICS)
    rig.client.until(lambda: 'server' in rig.security(
        'robot1/bandwidth_monitor_node: security')[''], LONG_S)
    heard.clear()
    rig.client.until(lambda: heard and heard[-1].source != 'silence', LONG_S)
    rig.client.node.destroy_subscription(subscription)
    rig.client.until(lambda: 'monitor' in rig.security('robot1/robot_node: security')[''], LONG_S)


@pytest.mark.parametrize(('key', 'why', 'says'), [
    ('robot1', "does not fit this node's key", "does not fit this node's key"),
    ('', 'messages without a seal arrive on /robot2/', 'messages with a seal arrive')])
def test_a_robot_with_another_key_or_none_stays_alone_and_says_why(rig, key, why, says):
    robot = rig.start('robot', 'robot2', key_file=rig.key.get(key, ''))
    with closing(robot):
        robot.says(UP, START_S)
        rig.other.ready(plan_table=False)
        rig.other.until(lambda: rig.other.node.count_publishers('result'), LONG_S)
        robot.says(says, LONG_S)
        rig.nodes['server'].says(why, LONG_S)

        def alone():
            result = rig.other.ask(rig.other.image(1), LONG_S)
            assert result.fallback and error_of(result, pixels(1)) <= TOLERANCE
            return why in result.fallback_reason
        rig.other.until(alone, LONG_S)
        assert robot.end() == 0
    rig.client.answered_together(LONG_S)  # which all this is nothing to


def test_the_policies_for_sros2_allow_what_the_nodes_do_and_nothing_else(rig):
    """The example's robot is /robot1, and its server's namespace is /."""
    planner = rig.start('planner', server_node='/server_node')
    with closing(planner):
        planner.says('no profile yet', START_S)
        for node, path in (('robot_node', '/robot1'), ('bandwidth_monitor_node', '/robot1'),
                           ('planner_node', '/robot1'), ('server_node', '/')):
            allowed = policy(node, path)
            rig.client.until(lambda: done_by(rig.client.node, node, path) == allowed, LONG_S)


def done_by(asking, node, namespace):
    """Return what a node publishes, subscribes to, replies to and requests."""
    return {what: {name for name, _ in getattr(asking, f'get_{by}_names_and_types_by_node')(
        node, namespace) if not name.startswith('/robot2/')} for what, by in (
            ('publish', 'publisher'), ('subscribe', 'subscriber'), ('reply', 'service'),
            ('request', 'client'))}


def policy(node, namespace):
    """Return what the file for a node allows, with the names as SROS2 reads them."""
    root = ElementTree.parse(SROS2 / f'{node}.policy.xml').getroot()
    enclave = root.find('enclaves/enclave')
    assert root.attrib == {'version': '0.2.0'} and len(root.findall('.//profile')) == 1
    assert enclave.get('path') == f'{namespace.rstrip("/")}/{node}'
    profile = enclave.find('profiles/profile')
    assert profile.attrib == {'ns': namespace, 'node': node}
    allowed = {what: set() for what in ('publish', 'subscribe', 'reply', 'request')}
    for rule in profile:
        assert rule.tag in ('topics', 'services') and set(rule.attrib.values()) == {'ALLOW'}
        for what in rule.attrib:
            assert what in (('publish', 'subscribe') if rule.tag == 'topics' else
                            ('reply', 'request'))
            for each in rule:
                assert each.tag == rule.tag.removesuffix('s')
                allowed[what].add(
                    each.text if each.text.startswith('/') else
                    f'{namespace.rstrip("/")}/' + re.sub('^~', node, each.text))
    return allowed
