# SPDX-License-Identifier: Apache-2.0
"""Which plan a robot's node runs: its parameters, the tables of a planner, the bandwidth."""

import json
import math
import threading

import pytest

pytest.importorskip('rclpy')
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from ros_rig import error_of, MODEL, pixels, SIZE  # noqa: E402
from std_srvs.srv import SetBool  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes import qos  # noqa: E402
from hp_inference.nodes.convert import digest_to_msg, table_to_msg  # noqa: E402
from hp_inference.nodes.diagnostics import WARN  # noqa: E402
from hp_inference.nodes.robot_node import RobotNode  # noqa: E402
from hp_inference.split.curves import FIGURES, SIZES  # noqa: E402
from hp_inference.split.plan import make_plan  # noqa: E402
from hp_inference.split.table import PlanTable  # noqa: E402
from hp_inference.split.table_json import Choice  # noqa: E402
from hp_msgs.msg import Bandwidth  # noqa: E402
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


@pytest.fixture
def hold_preparing(monkeypatch):
    """Return a function that holds a node's next tables until the second event is set."""
    def hold(node):
        begun, go, prepare = threading.Event(), threading.Event(), node.engine.prepare

        def slow(table):
            begun.set()
            assert go.wait(WAIT_S)
            return prepare(table)
        monkeypatch.setattr(node.engine, 'prepare', slow)
        return begun, go
    return hold


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
            'plans; 20 Mbit/s (parameter bandwidth_mbit_s)') in node.log
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
    assert ('info: plan full_offload stays: parameter plan set; 100 Mbit/s (parameter '
            'bandwidth_mbit_s)' in node.log)
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


def test_what_is_held_is_held_in_the_next_planned_table_too_where_it_has_it(make, layouts):
    node, client, give = make(bandwidth_mbit_s=100.0)
    give(table_to_msg(table_of(layouts[MODEL])))
    assert client.ask(client.image()).plan == 'full_offload'
    assert client.set(hold=True) == ''
    give(table_to_msg(table_of(layouts[MODEL], choices=((1.0, 1),))))
    assert client.ask(client.image()).plan == 'full_offload'
    give(table_to_msg(table_of(layouts[MODEL], plans=PLANS[:2], choices=())))
    assert client.ask(client.image()).plan == 'robot_only'


def test_a_forced_plan_that_the_next_table_lacks_is_missed_aloud(make, layouts):
    node, client, give = make(bandwidth_mbit_s=7.0)
    assert client.set(force_plan='uniform:0.5') == ''
    give(table_to_msg(table_of(layouts[MODEL])))
    assert "warning: parameter 'force_plan' is 'uniform:0.5', which is no plan of" in node.log
    assert client.ask(client.image()).plan == 'uniform:0.75'


def test_of_several_plans_set_the_last_counts_and_frames_go_on_meanwhile(make, hold_preparing):
    node, client, _ = make()
    begun, go = hold_preparing(node)
    assert client.set(plan='uniform:0.3') == ''
    assert begun.wait(WAIT_S)
    # Frames and parameters go on while it is made ready.
    assert client.ask(client.image()).plan == 'uniform:0.5'
    assert client.set(plan='uniform:0.4') == ''
    go.set()
    client.until(lambda: client.plans[-1] == 'uniform:0.4')
    assert not any('uniform:0.3' in line for line in node.log.lines)


def test_a_plan_taken_back_before_it_was_ready_never_runs_nor_does_a_third(make, hold_preparing):
    node, client, _ = make(plans=['robot_only', 'full_offload'])
    assert client.set(plan='full_offload') == ''
    begun, go = hold_preparing(node)
    assert client.set(plan='uniform:0.3') == ''
    assert begun.wait(WAIT_S)
    assert client.ask(client.image()).plan == 'full_offload'
    assert client.set(codec='none') == '' and client.set(plan='full_offload') == ''
    go.set()
    client.until(lambda: node.engine.table.plans[0].codec == 'none')
    assert client.ask(client.image()).plan == 'full_offload'
    assert not any('uniform' in line and 'plan uniform:0.5 -> full_offload' not in line
                   for line in node.log.lines)


def test_a_plan_that_the_planned_table_lacks_replaces_it_until_the_next(make, layouts):
    node, client, give = make()
    give(table_to_msg(table_of(layouts[MODEL])))
    assert client.set(plan='uniform:0.3') == ''
    client.until(lambda: client.plans[-1] == 'uniform:0.3')
    result = client.ask(client.image())
    assert result.plan == 'uniform:0.3'
    client.until(lambda: bytes(client.tables[-1].digest) == bytes(result.table_digest))
    assert client.set(codec='none') == ''
    client.until(lambda: node.engine.table.plans[0].codec == 'none')
    give(table_to_msg(table_of(layouts[MODEL])))
    assert client.ask(client.image()).plan == 'robot_only'


def test_a_table_file_keeps_its_choices_and_the_bandwidth_picks_from_it(make, layouts, tmp_path):
    path = tmp_path / 'table.json'
    path.write_text(table_of(layouts[MODEL], record={'grid': []}).dumps())
    node, client, give = make(plan='table.json', plans_dir=str(tmp_path), bandwidth_mbit_s=60.0)
    assert client.ask(client.image()).plan == 'full_offload'
    assert client.set(bandwidth_mbit_s=6.0) == ''
    assert client.ask(client.image()).plan == 'uniform:0.75'
    assert client.set(bandwidth_mbit_s=0.0) == ''
    assert client.ask(client.image()).plan == 'robot_only'


# The bandwidth that is heard

@pytest.fixture
def speaker(make, layouts):
    """Return a robot's node under a planned table, its client, and what says the bandwidth."""
    node, client, give = make()
    give(table_to_msg(table_of(layouts[MODEL])))
    topic = client.node.create_publisher(Bandwidth, 'bandwidth', qos.METRICS)
    client.until(topic.get_subscription_count)

    def say(mbit_s, **more):
        heard = len(node.plans.switching._heard)
        topic.publish(Bandwidth(bytes_per_s=mbit_s * 125e3, low_bytes_per_s=math.nan,
                                source='test', **more))
        client.until(lambda: len(node.plans.switching._heard) > heard
                     or 'topic bandwidth: ' in node.log)
        return client.ask(client.image())
    return node, client, say


def test_the_plan_follows_the_bandwidth_from_frame_to_frame_and_the_log_says_why(speaker):
    node, client, say = speaker
    table = node.engine.table
    for mbit_s, plan in ((100.0, 'full_offload'), (20.0, 'uniform:0.75'), (0.0, 'robot_only'),
                         (60.0, 'full_offload')):
        result = say(mbit_s)
        assert result.plan == plan and error_of(result, pixels()) <= 1e-5
        assert result.bandwidth_bytes_per_s == mbit_s * 125e3
        client.until(lambda plan=plan: client.plans[-1] == plan)
    assert node.engine.table is table and result.frames_dropped == 0
    changes = [line for line in node.log.lines if line.startswith('info: plan ')]
    assert changes[-3:] == ['info: plan full_offload -> uniform:0.75: 20 Mbit/s (test)',
                            'info: plan uniform:0.75 -> robot_only: 0 Mbit/s (test)',
                            'info: plan robot_only -> full_offload: 60 Mbit/s (test)']


def test_the_low_forecast_counts_where_there_is_one(speaker):
    node, client, say = speaker
    say(100.0)
    message = Bandwidth(bytes_per_s=100 * 125e3, low_bytes_per_s=10 * 125e3)
    node.plans._on_bandwidth(message)
    assert client.ask(client.image()).plan == 'uniform:0.75'


@pytest.mark.parametrize('values', [
    {'mbit_s': math.nan}, {'mbit_s': -5.0}, {'mbit_s': 1e12}, {'mbit_s': 1.0, 'age_s': 1e6},
    {'mbit_s': 1.0, 'age_s': -3.0}, {'mbit_s': 1.0, 'age_s': math.nan}])
def test_a_bandwidth_that_can_not_be_is_ignored_and_said_so(speaker, values):
    node, client, say = speaker
    assert say(100.0).plan == 'full_offload'
    assert say(**values).plan == 'full_offload'
    assert 'warning: topic bandwidth: a bandwidth ' in node.log


def test_a_plan_is_held_by_the_service_and_the_parameter_and_let_go_again(speaker):
    node, client, say = speaker
    assert say(100.0).plan == 'full_offload'
    answer = client.call(SetBool, 'robot_node/hold', SetBool.Request(data=True))
    assert answer.success and answer.message == 'plan full_offload is held'
    assert say(20.0).plan == 'full_offload' and node.params.hold
    assert client.set(hold=False) == ''
    assert say(20.0).plan == 'uniform:0.75'


def test_a_plan_is_forced_by_its_name_and_no_other_name_is_taken(speaker):
    node, client, say = speaker
    assert client.set(force_plan='uniform:0.75') == ''
    assert say(100.0).plan == 'uniform:0.75'
    refusal = client.set(force_plan='uniform:0.1')
    assert 'expected the name of a plan of the table in force: robot_only, uniform' in refusal
    assert client.set(force_plan='') == ''
    assert say(100.0).plan == 'full_offload'


def test_with_two_publishers_the_least_bandwidth_counts_and_it_is_said_once(speaker):
    node, client, say = speaker
    other = client.node.create_publisher(Bandwidth, 'bandwidth', qos.METRICS)
    client.until(lambda: '2 publishers on /bandwidth: /client, /client. The least bandwidth '
                 'counts' in node.log)
    say(20.0)
    assert say(100.0).plan == 'uniform:0.75'
    client.node.destroy_publisher(other)
    client.until(lambda: not node.plans.switching.several)
    assert say(100.0).plan == 'full_offload'


def test_what_planning_predicts_is_said_with_each_frame_and_sets_its_deadline(make, layouts):
    curve = {**{name: [0.3, 0.2] for name in FIGURES}, **dict.fromkeys(SIZES, 1.0)}
    power = {'waiting_w': 2.0, 'communicating_w': 3.0, 'computing_w': 10.0, 'source': 'given'}
    record = {'grid': [5.0, 50.0], 'curves': dict.fromkeys(PLANS, curve), 'power': power}
    node, client, give = make(bandwidth_mbit_s=5.0)
    give(table_to_msg(table_of(layouts[MODEL], record=record)))
    result = client.ask(client.image())
    assert result.predicted_s == pytest.approx(0.3) and 0.6 <= result.deadline_s <= 0.9
    assert result.energy_j > 0 and node.energy.source == 'watts by state, given'
    least_s = result.latency_s - result.queue_s  # the wait for its turn is another frame's
    assert 2.0 * least_s - 1e-9 <= result.energy_j <= 10.0 * result.latency_s + 1e-9
    figures = client.until(lambda: client.metrics)[-1]
    assert figures.energy_total_j >= figures.energy_j > 0
    assert client.set(**{'power.computing_w': 100.0}) == ''
    result = client.ask(client.image())
    assert result.energy_j >= 100.0 * result.robot_compute_s > 0


def test_a_record_that_makes_no_sense_costs_the_predictions_and_nothing_else(make, layouts):
    node, client, give = make(bandwidth_mbit_s=60.0)
    give(table_to_msg(table_of(layouts[MODEL], record={'grid': 'nonsense'})))
    result = client.ask(client.image())
    assert (result.plan, result.predicted_s) == ('full_offload', 0.0)
    assert 'warning: the plan table works, but says nothing about what to expect' in node.log


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
        assert hold.wait(WAIT_S)
        return prepare(table)
    monkeypatch.setattr(node.engine, 'prepare', slow)
    first, last = (table_of(layouts[MODEL], PLANS[:count], ()) for count in (2, 3))
    for table in (first, last):
        node.plans._on_planned(table_to_msg(table))
        assert begun.wait(WAIT_S)
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
