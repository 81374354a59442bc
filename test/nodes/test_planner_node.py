# SPDX-License-Identifier: Apache-2.0
"""When the planner's node plans, and what it refuses; the whole way with robot and server."""

from contextlib import closing
import json
import os
import re
import threading

import pytest

pytest.importorskip('rclpy')
from device_profiles import profile_of  # noqa: E402
import rclpy  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from ros_rig import Client, DEADLINE_S, error_of, MODEL, NodeProcess, pixels, SIZE  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.split.plan import robot_only, uniform  # noqa: E402
from hp_inference.split.table import PlanTable  # noqa: E402
from hp_inference.split.table_json import Choice  # noqa: E402
from hp_msgs.msg import DeviceProfile  # noqa: E402
from hp_msgs.msg import PlanTable as PlanTableMsg  # noqa: E402
from hp_planner import planner_node as module  # noqa: E402
from hp_planner.planner_node import PlannerNode  # noqa: E402

pytestmark = pytest.mark.ros
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
SIDES = {'robot': DeviceProfile.ROBOT, 'server': DeviceProfile.SERVER}


@pytest.fixture(scope='module')
def layouts():
    return {MODEL: open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1],
            'other': open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE), seed=1))[1]}


class Planning:
    """Stands for the search: notes what it is to do, and ends when it is let or told to stop."""

    def __init__(self):
        self.asked, self.hold, self.error = [], threading.Event(), None
        self.hold.set()

    def __call__(self, setting, objective, rates, policy, seed, progress):
        self.asked.append((setting, objective, rates, policy, seed))
        for done in range(2000):
            progress('planning', done, 2000)
            if self.hold.wait(0.01):
                break
        if self.error:
            raise self.error
        # Another table for another setting.
        plans = [robot_only(setting.layout),
                 uniform(setting.layout, 1 / (1 + len(self.asked)))]
        return PlanTable(setting.layout, plans, [Choice(5.0, 1)], {'seconds': 0.5})


@pytest.fixture
def planning(monkeypatch):
    made = Planning()
    monkeypatch.setattr(module, 'plan_table', made)
    monkeypatch.setattr(module, 'Timeline', lambda setting: setting)
    return made


class Side:
    """Speaks to the planner as a robot's or server's node would."""

    def __init__(self, client, layout, side):
        self.client, self.layout, self.side = client, layout, side
        self.asked, self.answer = 0, (True, '')
        self.profiles = client.node.create_publisher(DeviceProfile, f'{side}_profile', qos.LATCHED)
        client.node.create_service(Trigger, f'{side}_node/profile', self._on_asked)

    def _on_asked(self, _, response):
        self.asked += 1
        response.success, response.message = self.answer
        return response

    def say(self, whole_s=0.1, **changes):
        profile = profile_of(self.layout, whole_s, self.side)
        self.profiles.publish(DeviceProfile(**{
            'side': SIDES[self.side], 'model': profile.model,
            'model_digest': profile.model_digest, 'json': profile.dumps(), **changes}))


@pytest.fixture
def make(node_here, layouts, planning):
    """Return a function that makes a planner's node, its client, and a robot and a server."""
    def make(start=True, sides=True, **params):
        node, client = node_here(PlannerNode, layouts, start, model=MODEL, **params)
        client.tables = []
        client.node.create_subscription(PlanTableMsg, 'planned_table', client.tables.append,
                                        qos.LATCHED)
        client.trigger = lambda name: client.call(Trigger, f'planner_node/{name}',
                                                  Trigger.Request())
        both = [Side(client, layouts[MODEL], side) for side in SIDES] if sides else []
        if start and sides:
            client.until(lambda: all(side.profiles.get_subscription_count() for side in both)
                         and all(each.service_is_ready() for each in node.clients_made.values()))
        return node, client, *both
    return make


@pytest.fixture
def files(layouts, tmp_path):
    """Return parameters that name a profile's file for both sides."""
    for side, whole_s in (('robot', 0.1), ('server', 0.01)):
        profile_of(layouts[MODEL], whole_s, side).save(tmp_path / f'{side}.json')
    return {f'{side}_profile': str(tmp_path / f'{side}.json') for side in SIDES}


# From profiles to a table

def test_asked_to_it_has_one_profiled_after_the_other_plans_and_publishes(make, planning, layouts):
    node, client, robot, server = make()
    assert 'info: no profile yet of the robot and of the server: call ~/profile' in node.log
    answer = client.trigger('profile')
    assert answer.success
    assert answer.message == 'profiling of the robot and then of the server has begun'
    client.until(lambda: robot.asked == 1)
    answer = client.trigger('profile')
    assert (answer.success, answer.message) == (False, 'the robot is being profiled already')
    client.spin(0.1)
    assert not server.asked  # they may share a machine
    robot.say(0.1)
    client.until(lambda: server.asked == 1)
    assert not planning.asked
    server.say(0.01)
    table = PlanTable.loads(client.until(lambda: client.tables)[0].json, layouts[MODEL])
    assert bytes(client.tables[0].digest) == table.digest == node.table.digest
    assert (robot.asked, server.asked, len(planning.asked)) == (1, 1, 1)
    setting = planning.asked[0][0]
    assert (setting.robot.whole_s, setting.server.whole_s) == (0.1, 0.01)
    assert 'uniform:0.5 from 5 Mbit/s' in node.log
    assert node._diagnose()[:2] == (module.OK, 'a plan table is published')


def test_with_profiles_in_files_it_plans_at_once_and_writes_the_table(make, planning, files,
                                                                      layouts, tmp_path):
    path = tmp_path / 'table.json'
    node, client = make(sides=False, plans_dir=str(tmp_path), save_to=str(path), **files)
    table, = client.until(lambda: client.tables)
    assert PlanTable.loads(path.read_text(), layouts[MODEL]).digest == bytes(table.digest)
    assert planning.asked[0][0].robot.host == 'robot'
    answer = client.trigger('profile')
    assert not answer.success and 'both profiles come from files' in answer.message


def test_one_profile_may_come_from_a_file(make, planning, files):
    node, client, robot, server = make(sides=False, robot_profile=files['robot_profile']) + (
        None, None)
    server = Side(client, node.layout, 'server')
    client.until(server.profiles.get_subscription_count)
    client.until(lambda: node.clients_made['server'].service_is_ready())
    assert client.trigger('profile').message == 'profiling of the server has begun'
    client.until(lambda: server.asked)
    server.say()
    client.until(lambda: client.tables)


def test_a_table_that_can_not_be_written_is_published_all_the_same(make, files, tmp_path):
    os.mkdir(tmp_path / 'gone')
    node, client = make(start=False, sides=False, plans_dir=str(tmp_path),
                        save_to='gone/table.json', **files)
    assert node.trigger_configure() == SUCCESS
    os.rmdir(tmp_path / 'gone')
    assert node.trigger_activate() == SUCCESS
    client.until(lambda: client.tables)
    assert 'error: can not write gone/table.json: No such file or directory' in node.log


@pytest.mark.parametrize('name', [
    '/nowhere/x.json', '../x.json', 'a/../../x.json', 'table.txt', '.bashrc', '/dev/null',
    'link.json', 'pipe.json'])
def test_where_tables_are_saved_is_a_new_name_in_the_folder_or_another_table(make, files, tmp_path,
                                                                             name):
    (tmp_path / 'plans').mkdir()
    (tmp_path / 'plans' / 'link.json').symlink_to('../x.json')
    os.mkfifo(tmp_path / 'plans' / 'pipe.json')
    node, client = make(sides=False, plans_dir=str(tmp_path / 'plans'), **files)
    result, = node.set_parameters([Parameter('save_to', value=name)])
    assert not result.successful and result.reason.isprintable()
    assert node.params.save_to == ''
    client.until(lambda: client.tables)
    assert sorted(os.listdir(tmp_path / 'plans')) == ['link.json', 'pipe.json']
    assert not (tmp_path / 'x.json').exists()


def test_a_table_is_saved_over_a_table_and_over_nothing_else(make, files, tmp_path, layouts):
    for file, text in (('diary.json', '{"format": 1, "mine": []}'), ('notes.json', 'dear diary')):
        (tmp_path / file).write_text(text)
    node, client = make(sides=False, plans_dir=str(tmp_path), save_to='table.json', **files)
    first, = client.until(lambda: client.tables)
    for count, (name, saved) in enumerate((
            ('table.json', True), ('diary.json', False), ('notes.json', False),
            ('robot.json', False)), 2):
        before = (tmp_path / name).read_bytes()
        assert node.set_parameters([Parameter('save_to', value=name)])[0].successful
        assert client.trigger('plan').success
        client.until(lambda count=count: len(client.tables) == count)
        assert ((tmp_path / name).read_bytes() != before) is saved
        assert (f'error: can not write {name}: what is there is something else, which stays'
                in node.log) is not saved
    assert 'table.json' in os.listdir(tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith('.')]


def test_a_place_outside_that_is_given_at_start_is_refused_at_start(make, files, tmp_path):
    node, client = make(start=False, sides=False, plans_dir=str(tmp_path / 'plans'),
                        save_to='../x.json', **files)
    assert node.trigger_configure() == FAILURE
    assert 'error: cannot start: can not write ../x.json: it is not in the folder' in node.log


def test_what_a_peer_says_of_itself_is_cleaned_before_it_is_kept(make, planning, layouts):
    node, client, robot, server = make()
    odd = '$(touch X)`touch X`\n[ERROR] forged\ud800"; rm -rf /'
    profile = json.loads(profile_of(layouts[MODEL], 0.1, 'robot').dumps())
    profile.update(host=odd, device=odd, date=odd, versions={odd: odd})
    profile['power']['source'] = odd
    robot.say(json=json.dumps(profile))
    server.say()
    client.until(lambda: client.tables)
    kept = node.profiles['robot']
    texts = [kept.device, kept.date, *kept.versions, *kept.versions.values(), kept.power.source]
    for text in (kept.host, *texts):
        assert text.isprintable() and not set(text) & set('$`"\\;|&<>\'\n')
    assert re.fullmatch('[A-Za-z0-9._-]+', kept.host)
    assert not any('\n' in line or '\ud800' in line for line in node.log.lines)
    status = client.until(lambda: [status for status in client.diagnostics.values()
                                   if any(v.key == 'robot_profile' for v in status.values)])
    assert 'forged' in str(status) and 'diagnostic itself failed' not in str(status)


def test_texts_of_a_peer_that_explain_a_failure_are_one_line(make):
    node, client, robot, server = make()
    robot.say(json='', text='no\n[ERROR] forged' + 'x' * 5_000_000)
    client.until(lambda: 'error: no use for the profile of the robot' in node.log)
    robot.answer = False, 'no\n[ERROR] forged'
    assert client.trigger('profile').success
    client.until(lambda: 'error: the robot refuses to be profiled' in node.log)
    assert all(line.isprintable() and len(line) < 5000 for line in node.log.lines)


def test_a_new_profile_makes_a_new_plan_and_the_same_again_does_not(make, planning):
    node, client, robot, server = make()
    server.say()
    robot.say(0.1)
    client.until(lambda: client.tables)
    robot.say(0.1)  # as a node does that becomes active again
    client.spin(0.1)
    robot.say(0.2)
    client.until(lambda: len(client.tables) == 2)
    assert [asked[0].robot.whole_s for asked in planning.asked] == [0.1, 0.2]


def test_what_comes_while_it_plans_is_planned_for_next(make, planning):
    node, client, robot, server = make()
    planning.hold.clear()
    robot.say(0.1)
    server.say()
    client.until(lambda: planning.asked)
    assert client.trigger('plan').message == 'planning already'
    assert node._diagnose()[1] == 'planning'
    robot.say(0.2)
    client.until(lambda: node.again)
    planning.hold.set()
    client.until(lambda: len(client.tables) == 2)
    assert planning.asked[1][0].robot.whole_s == 0.2


def test_parameters_change_while_it_runs_and_hold_from_the_next_planning_on(make, planning, files):
    node, client = make(sides=False, bandwidths=[], **files)
    client.until(lambda: client.tables)
    assert planning.asked[0][1].name == 'latency' and len(planning.asked[0][2]) == 31
    for name, value in (('objective', 'energy_under_latency'), ('latency_bound_ms', 80),
                        ('bandwidths', [20.0, 5.0]), ('link.duplex', 'full'),
                        ('power.computing_w', 20.0), ('policy', 'lossy'), ('search_seed', 3)):
        result, = node.set_parameters([Parameter(name, value=value)])
        assert result.successful, result.reason
    client.spin(0.1)
    assert len(planning.asked) == 1
    assert client.trigger('plan').success
    client.until(lambda: len(client.tables) == 2)
    setting, objective, rates, policy, seed = planning.asked[1]
    assert (objective.name, objective.latency_bound_s) == ('energy_under_latency', 0.08)
    assert (list(rates), policy, seed) == ([5.0, 20.0], 'lossy', 3)
    assert (setting.link.duplex, setting.power.computing_w) == ('full', 20.0)
    for name, value in (('objective', 'speed'), ('bandwidths', [-1.0]), ('link.duplex', 'both'),
                        ('robot_bytes', -1), ('robot_profile', 'x')):
        result, = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful and name in result.reason


# What goes wrong

def test_asked_to_plan_without_profiles_it_says_what_is_missing(make, planning):
    node, client, robot, server = make()
    answer = client.trigger('plan')
    assert (answer.success, answer.message) == (
        False, 'no profile yet of the robot and of the server: call ~/profile')
    robot.say()
    client.until(lambda: node.profiles)
    assert client.trigger('plan').message == 'no profile yet of the server: call ~/profile'
    assert node._diagnose()[:2] == (module.WARN, 'no profile yet of the server')


@pytest.mark.parametrize('changes, text', [
    ({'json': '', 'text': 'out of memory'}, 'profiling failed there: out of memory'),
    ({'json': '{'}, 'it is not JSON'), ({'json': '[1]'}, 'a device profile is [1]'),
    ({'json': '{"kind": "plan"}'}, '"kind" is \'plan\', expected \'device_profile\''),
    ('other', 'is of model ')])
def test_a_profile_that_can_not_be_used_is_refused_in_a_line(make, planning, layouts, changes,
                                                            text):
    node, client, robot, server = make()
    if changes == 'other':
        changes = {'json': profile_of(layouts['other'], 0.1).dumps()}
    assert client.trigger('profile').success
    client.until(lambda: robot.asked)
    robot.say(**changes)
    client.until(lambda: 'error: no use for the profile of the robot: ' in node.log)
    line, = [line for line in node.log.lines if line.startswith('error')]
    assert text in line and '\n' not in line
    assert node._diagnose()[0] == module.ERROR and text in node._diagnose()[1]
    server.say()
    client.spin(0.1)
    assert not planning.asked and not server.asked
    assert client.trigger('profile').success  # and once more
    client.until(lambda: robot.asked == 2)
    robot.say()
    client.until(lambda: server.asked)
    assert node.trouble == ''


def test_a_node_that_refuses_to_be_profiled_is_quoted(make):
    node, client, robot, server = make()
    robot.answer = False, 'the node is not active'
    assert client.trigger('profile').success
    client.until(lambda: 'error: the robot refuses to be profiled: the node is not active'
                 in node.log)
    robot.answer = True, ''
    assert client.trigger('profile').success


def test_nodes_that_are_not_there_are_named(make):
    node, client = make(sides=False, robot_node='r1/robot_node', server_node='/server_node')
    answer = client.trigger('profile')
    assert not answer.success
    assert "there is no service /r1/robot_node/profile (is the robot's node up" in answer.message
    assert "parameter 'server_node' its name?" in answer.message


def test_profiling_begins_anew_when_the_node_at_it_is_gone(make):
    node, client, robot, server = make()
    assert client.trigger('profile').success
    client.until(lambda: robot.asked == 1)
    client.node.destroy_publisher(robot.profiles)
    client.until(lambda: not node.count_publishers('robot_profile'))
    assert client.trigger('profile').success
    client.until(lambda: robot.asked == 2)


@pytest.mark.parametrize('params, message', [
    ({'objective': 'energy_under_latency'}, "which needs 'latency_bound_ms' above 0"),
    ({'objective': 'weighted', 'latency_weight': 0, 'energy_weight': 0}, "'energy_weight' above 0"),
])
def test_parameters_that_do_not_agree_are_said_and_nothing_is_planned(make, planning, files,
                                                                      params, message):
    node, client = make(sides=False, **files, **params)
    assert 'error: can not plan: parameter ' in node.log and message in node.log
    answer = client.trigger('plan')
    assert not answer.success and message in answer.message
    assert not planning.asked and message in node._diagnose()[1]


def test_a_search_that_fails_leaves_the_table_before(make, planning, files):
    node, client = make(sides=False, **files)
    client.until(lambda: client.tables)
    planning.error = ValueError('no plan keeps the limits')
    assert client.trigger('plan').success
    client.until(lambda: 'error: planning failed: no plan keeps the limits' in node.log)
    assert node.table.digest == bytes(client.tables[-1].digest) and len(client.tables) == 1
    planning.error = None
    assert client.trigger('plan').success
    client.until(lambda: len(client.tables) == 2)


@pytest.mark.parametrize('params, message', [
    ({'robot_profile': '/nowhere.json'}, 'can not read device profile /nowhere.json'),
    ({'server_profile': 'other'}, 'is of model '),
    ({'robot_node': 'a b'}, "parameter 'robot_node' is 'a b', expected the name of a node")])
def test_files_and_names_that_can_not_be_are_refused_when_it_is_configured(
        make, layouts, tmp_path, params, message):
    profile_of(layouts['other'], 0.1).save(tmp_path / 'other.json')
    params = {name: str(tmp_path / 'other.json') if value == 'other' else value
              for name, value in params.items()}
    node, client = make(start=False, sides=False, **params)
    assert node.trigger_configure() == FAILURE
    line, = [line for line in node.log.lines if line.startswith('error')]
    assert line.startswith('error: cannot start: ') and message in line
    assert node.worker is None and not node.clients_made


# States of the lifecycle

def test_before_it_is_active_it_refuses_and_then_plans(make, planning, files):
    node, client = make(start=False, sides=False, **files)
    for transition in (lambda: SUCCESS, node.trigger_configure):
        assert transition() == SUCCESS
        for name in ('profile', 'plan'):
            answer = client.trigger(name)
            assert (answer.success, answer.message) == (
                False, 'the node is not active: configure and activate it first')
    assert node.trigger_activate() == SUCCESS
    client.until(lambda: client.tables)
    assert node.trigger_deactivate() == SUCCESS and node.trigger_activate() == SUCCESS
    client.until(lambda: len(client.tables) == 2)  # said again, not made again
    assert len(planning.asked) == 1 and client.tables[0] == client.tables[1]


def test_a_profile_that_comes_while_it_is_not_active_is_planned_for_when_it_is(make, planning):
    node, client, robot, server = make()
    robot.say(0.1)
    server.say()
    client.until(lambda: client.tables)
    assert node.trigger_deactivate() == SUCCESS
    robot.say(0.2)
    client.until(lambda: node.profiles['robot'].whole_s == 0.2)
    assert len(planning.asked) == 1
    assert node.trigger_activate() == SUCCESS
    client.until(lambda: len(client.tables) == 2)
    assert planning.asked[1][0].robot.whole_s == 0.2


def test_cleanup_ends_the_search_and_leaves_nothing_behind(make, planning, files):
    node, client = make(start=False, sides=False, **files)
    planning.hold.clear()
    counts = []
    for done in range(1, 4):
        assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
        client.until(lambda done=done: len(planning.asked) == done)
        counts.append((len(list(node.publishers)), len(list(node.subscriptions)),
                       len(list(node.clients)), len(list(node.services)), len(list(node.timers)),
                       len(list(node.guards)), len(node._managed_entities),
                       threading.active_count()))
        assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
        assert not node.planning and not node.profiles
    assert len(set(counts)) == 1
    client.spin(0.1)
    assert not client.tables
    assert not [line for line in node.log.lines if line.startswith('error')]


# The whole way

@pytest.fixture(scope='module')
def rig(tmp_path_factory, layouts):
    """Return a client, and robot, server and planner as processes, the last without profiles."""
    folder = tmp_path_factory.mktemp('planner')
    nodes = [NodeProcess('server_node', folder), NodeProcess('planner_node', folder),
             NodeProcess('robot_node', folder, deadline_s=DEADLINE_S)]
    rclpy.init()
    try:
        with closing(Client()) as client:
            client.tables = []
            client.node.create_subscription(PlanTableMsg, 'planned_table', client.tables.append,
                                            qos.LATCHED)
            client.ready()
            client.answered_together()
            yield client, nodes, folder
    finally:
        for node in nodes:
            node.close()
        rclpy.try_shutdown()


def test_profiled_planned_and_adopted_by_robot_and_server(rig, layouts):
    client, (server, planner, robot), _ = rig
    planner.says('no profile yet of the robot and of the server')
    # Refused until the planner has found both nodes' services.
    client.until(lambda: client.call(Trigger, 'planner_node/profile', Trigger.Request()).success,
                 20)
    message, = client.until(lambda: client.tables, 120)
    table = PlanTable.loads(message.json, layouts[MODEL])
    assert table.choices and table.plans[0].name == 'robot_only'
    for side in SIDES:
        planner.says(f'profile of the {side}: cpu of .* ms a frame')
    robot.says(f'planned table {table.digest.hex()[:12]}')
    client.until(lambda: bytes(client.statuses[-1].table_digest) == table.digest)
    for choice in table.choices:
        assert client.set(bandwidth_mbit_s=choice.mbit_s) == ''
        result = client.answered_together()
        assert result.plan == table.plans[choice.plan].name
        assert bytes(result.table_digest) == table.digest
        assert error_of(result, pixels()) <= 1e-5


def test_a_plan_of_loss_is_run_and_its_answers_are_the_unsplit_models(rig, layouts):
    """A robot that is made out to be slow, so that splits pay."""
    client, (_, planner, robot), folder = rig
    for side, whole_s in (('robot', 0.1), ('server', 0.01)):
        profile_of(layouts[MODEL], whole_s, side).save(folder / f'{side}.json')
    assert planner.end() == 0
    told = len(client.tables)
    planner = NodeProcess('planner_node', folder, bandwidths=[1.0, 2.0, 4.0], **{
        'link.message_s': 1e-4, 'link.round_trip_s': 1e-4},
        **{f'{side}_profile': str(folder / f'{side}.json') for side in SIDES})
    with closing(planner):
        client.until(lambda: len(client.tables) > told, 120)
        table = PlanTable.loads(client.tables[-1].json, layouts[MODEL])
        client.until(lambda: bytes(client.statuses[-1].table_digest) == table.digest)
        split = [(choice.mbit_s, table.plans[choice.plan].name) for choice in table.choices
                 if table.plans[choice.plan].name.startswith('loss:')]
        assert split
        for mbit_s, name in split:
            assert client.set(bandwidth_mbit_s=mbit_s) == ''
            result = client.answered_together()
            assert (result.plan, result.fallback) == (name, False)
            assert result.computed_on == result.COMPUTED_BOTH
            assert error_of(result, pixels()) <= 1e-5
        assert planner.end() == 0 and 'Traceback' not in planner.log
    assert 'Traceback' not in robot.log
