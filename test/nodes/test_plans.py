# SPDX-License-Identifier: Apache-2.0
"""Which plan a robot's node runs: its parameters, the tables of a planner, the bandwidth."""

import json
import threading

import pytest

pytest.importorskip('rclpy')
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from ros_rig import error_of, MODEL, pixels, SIZE  # noqa: E402

from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes.convert import digest_to_msg, table_to_msg  # noqa: E402
from hp_inference.nodes.diagnostics import WARN  # noqa: E402
from hp_inference.nodes.plans import plan_in_force  # noqa: E402
from hp_inference.nodes.robot_node import RobotNode  # noqa: E402
from hp_inference.split.plan import make_plan  # noqa: E402
from hp_inference.split.table import PlanTable  # noqa: E402
from hp_inference.split.table_json import Choice  # noqa: E402
from hp_msgs.msg import PlanTable as PlanTableMsg  # noqa: E402

pytestmark = pytest.mark.ros
SUCCESS = TransitionCallbackReturn.SUCCESS
PLANS = ('robot_only', 'uniform:0.75', 'full_offload')


@pytest.fixture(scope='module')
def layouts():
    return {MODEL: open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1],
            'other': open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE), seed=1))[1]}


def table_of(layout, plans=PLANS, choices=((5.0, 1), (50.0, 2)), record=None):
    return PlanTable(layout, [make_plan(plan, layout) for plan in plans],
                     [Choice(*choice) for choice in choices], record)


@pytest.fixture
def make(node_here, layouts):
    """Return a function that makes a robot's node, its client, and what publishes tables to it."""
    def make(**params):
        node, client = node_here(RobotNode, layouts, **{
            'model': MODEL, 'input': [1, 3, SIZE, SIZE], **params})
        client.ready(plan_table=False)
        speaker = client.node.create_publisher(PlanTableMsg, 'planned_table', qos.LATCHED)
        client.until(speaker.get_subscription_count)
        client.tables = []
        client.node.create_subscription(PlanTableMsg, 'plan_table', client.tables.append,
                                        qos.LATCHED)
        client.until(lambda: client.tables)

        def give(msg):
            lines = len(node.log.lines)
            speaker.publish(msg)
            client.until(lambda: any('planned table' in line for line in node.log.lines[lines:]))
        return node, client, give
    return make


# The rule

@pytest.mark.parametrize('plan, mbit_s, expected', [
    ('uniform:0.5', 0.0, 'robot_only'), ('full_offload', 0.0, 'full_offload'),
    ('uniform:0.75', 0.0, 'uniform:0.75'), ('full_offload', 0.1, 'robot_only'),
    ('full_offload', 5.0, 'uniform:0.75'), ('full_offload', 49.9, 'uniform:0.75'),
    ('robot_only', 50.0, 'full_offload'), ('robot_only', 1e6, 'full_offload')])
def test_the_bandwidth_decides_where_it_is_known_and_else_the_name(layouts, plan, mbit_s,
                                                                  expected):
    table = table_of(layouts[MODEL])
    assert table.plans[plan_in_force(table, plan, mbit_s)].name == expected


@pytest.mark.parametrize('plan, expected', [('full_offload', 2), ('uniform:0.75', 1), ('x', 0)])
def test_without_choices_the_name_decides_whatever_the_bandwidth(layouts, plan, expected):
    assert plan_in_force(table_of(layouts[MODEL], choices=()), plan, 20.0) == expected


# Adopting

def test_a_planned_table_is_adopted_announced_and_run(make, layouts):
    node, client, give = make(bandwidth_mbit_s=20.0)
    assert node.engine.table.plans[node.engine.index].name == 'uniform:0.5'
    table = table_of(layouts[MODEL], record={'objective': 'latency', 'grid': [5.0, 50.0]})
    give(table_to_msg(table))
    client.until(lambda: bytes(client.tables[-1].digest) == table.digest)
    announced = json.loads(client.tables[-1].json)
    assert announced['choices'] == [{'mbit_s': 5.0, 'plan': 1}, {'mbit_s': 50.0, 'plan': 2}]
    assert 'record' not in announced  # the server needs none, and it is long
    assert PlanTable.loads(client.tables[-1].json, layouts[MODEL]).digest == table.digest
    client.until(lambda: client.plans[-1] == 'uniform:0.75')
    assert (f'info: plan uniform:0.5 -> uniform:0.75: planned table {table.digest.hex()[:12]} of 3 '
            'plans; its choice for 20 Mbit/s') in node.log
    result = client.ask(client.image(2))
    assert (result.plan, result.plan_index) == ('uniform:0.75', 1)
    assert bytes(result.table_digest) == table.digest
    assert error_of(result, pixels(2)) <= 1e-5


def test_the_bandwidth_and_the_plan_switch_within_a_planned_table(make, layouts):
    node, client, give = make()
    give(table_to_msg(table_of(layouts[MODEL])))
    table = node.engine.table
    assert client.ask(client.image()).plan == 'robot_only'  # plan is not in it
    for values, plan in (({'bandwidth_mbit_s': 100}, 'full_offload'),
                         ({'plan': 'robot_only'}, 'full_offload'),
                         ({'bandwidth_mbit_s': 7.0}, 'uniform:0.75'),
                         ({'bandwidth_mbit_s': 0.0}, 'robot_only'),
                         ({'plan': 'uniform:0.75'}, 'uniform:0.75'),
                         ({'codec': 'none'}, 'uniform:0.75')):
        assert client.set(**values) == ''
        assert client.ask(client.image()).plan == plan, values
        assert node.engine.table is table
    assert ('info: plan full_offload stays: parameter plan set; its choice for 100 Mbit/s'
            in node.log)
    refusal = client.set(bandwidth_mbit_s=-1.0)
    assert 'bandwidth_mbit_s' in refusal and '0' in refusal


def test_a_plan_of_a_name_that_only_the_planned_table_knows_can_be_set(make, layouts):
    node, client, give = make()
    assert 'is not known' in client.set(plan='loss:20')
    table = table_of(layouts[MODEL], choices=())
    plan = table.plans[1]
    plan = type(plan)('loss:20', plan.robot, plan.server, plan.blocks, plan.codecs, plan.codec)
    give(table_to_msg(PlanTable(layouts[MODEL], [table.plans[0], plan])))
    assert client.set(plan='loss:20') == ''
    assert client.ask(client.image()).plan == 'loss:20'
    assert 'is not known' in client.set(plan='loss:21')


def test_a_plan_that_the_planned_table_lacks_replaces_it_until_the_next(make, layouts):
    node, client, give = make()
    give(table_to_msg(table_of(layouts[MODEL])))
    assert client.set(plan='uniform:0.3') == ''
    result = client.ask(client.image())
    assert result.plan == 'uniform:0.3'
    client.until(lambda: bytes(client.tables[-1].digest) == bytes(result.table_digest))
    assert client.set(codec='none') == ''
    assert node.engine.table.plans[0].codec == 'none'
    give(table_to_msg(table_of(layouts[MODEL])))
    assert client.ask(client.image()).plan == 'robot_only'


def test_a_table_file_keeps_its_choices_and_the_bandwidth_picks_from_it(make, layouts, tmp_path):
    path = tmp_path / 'table.json'
    path.write_text(table_of(layouts[MODEL], record={'grid': []}).dumps())
    node, client, give = make(plan=str(path), bandwidth_mbit_s=60.0)
    assert client.ask(client.image()).plan == 'full_offload'
    assert client.set(bandwidth_mbit_s=6.0) == ''
    assert client.ask(client.image()).plan == 'uniform:0.75'
    assert client.set(bandwidth_mbit_s=0.0) == ''
    assert client.ask(client.image()).plan == 'robot_only'


# Refusing

@pytest.mark.parametrize('change, text', [
    ({'digest': digest_to_msg(b'\7' * 32)}, 'the plan table is not the one that its digest names'),
    ({'json': ''}, 'the plan table is not JSON'),
    ({'json': '{"plans": 3}'}, 'the plan table has format None, this version reads 1'),
    ('other', 'the plan table is for model ')])
def test_a_table_that_can_not_be_used_is_refused_and_the_one_before_stays(make, layouts, change,
                                                                         text):
    node, client, give = make()
    good = table_of(layouts[MODEL])
    give(table_to_msg(good))
    bad = table_to_msg(table_of(layouts['other' if change == 'other' else MODEL], PLANS[:2], ()))
    for name, value in change.items() if change != 'other' else ():
        setattr(bad, name, value)
    before = len(node.log.lines)
    give(bad)
    line, = [line for line in node.log.lines[before:] if 'planned table' in line]
    assert line.startswith('error: planned table refused: ') and text in line
    assert node.engine.table.digest == good.digest
    result = client.ask(client.image())
    assert result.plan == 'robot_only' and bytes(result.table_digest) == good.digest
    assert text in node._diagnose()[1] and node._diagnose()[0] == WARN
    give(table_to_msg(table_of(layouts[MODEL], PLANS[:2], ())))
    assert text not in node._diagnose()[1]


def test_while_a_table_is_made_ready_images_are_answered_under_the_old_one(make, layouts,
                                                                          monkeypatch):
    node, client, give = make()
    begun, hold, prepare = threading.Event(), threading.Event(), node.engine.prepare

    def slow(table):
        assert threading.current_thread() is not threading.main_thread()
        begun.set()
        assert hold.wait(20)
        return prepare(table)
    monkeypatch.setattr(node.engine, 'prepare', slow)
    first, last = (table_of(layouts[MODEL], PLANS[:count], ()) for count in (2, 3))
    for table in (first, last):
        node.plans._on_planned(table_to_msg(table))
        assert begun.wait(10)
    for seed in range(3):
        result = client.ask(client.image(seed))
        assert result.plan == 'uniform:0.5' and error_of(result, pixels(seed)) <= 1e-5
    monkeypatch.setattr(node.engine, 'prepare', prepare)
    hold.set()
    client.until(lambda: node.engine.table.digest == last.digest)
    assert client.ask(client.image()).plan == 'robot_only'
    assert first.digest.hex()[:12] not in str(node.log.lines)  # it was old before it was ready


def test_of_what_was_planned_nothing_is_left_after_a_cleanup(make, layouts):
    node, client, give = make()
    give(table_to_msg(table_of(layouts[MODEL])))
    assert node.trigger_deactivate() == SUCCESS and node.trigger_cleanup() == SUCCESS
    assert node.engine is None and node.worker is None and node.plans.refusal == ''
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    # The planner's word is latched: who comes anew hears it anew.
    client.until(lambda: node.engine.table.plans[0].name == 'robot_only')
