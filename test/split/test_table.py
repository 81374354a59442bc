# SPDX-License-Identifier: Apache-2.0
"""Plan tables: what both sides hold, and what is not one."""

import json

from nets import chain, random_net
import pytest

from hp_inference.graph.layout import Layout
from hp_inference.split.plan import (
    full_offload,
    layer,
    Plan,
    PlanError,
    random_plan,
    robot_only,
    uniform,
)
from hp_inference.split.table import FORMAT, MAX_PLANS, PlanTable

LAYOUT = chain(16)


def table(layout=LAYOUT):
    return PlanTable(layout, [robot_only(layout), uniform(layout, 0.5), full_offload(layout)])


def test_a_table_compiles_its_plans_and_finds_them_by_name():
    made = table()
    assert [robot.plan for robot, _ in made.programs] == [
        'robot_only', 'uniform:0.5', 'full_offload']
    assert [robot.side for robot, _ in made.programs] == [0, 0, 0]
    assert [server.side for _, server in made.programs] == [1, 1, 1]
    assert [made.index(name) for name in ('robot_only', 'full_offload', 'layer:3')] == [0, 2, None]


def test_json_gives_the_same_table_again():
    made = table()
    again = PlanTable.loads(made.dumps(), LAYOUT)
    assert again.plans == made.plans and again.digest == made.digest and len(made.digest) == 32
    assert again.dumps() == made.dumps()
    assert again.programs == made.programs


@pytest.mark.parametrize('seed', range(20))
def test_random_tables_survive_json(seed):
    layout = random_net(seed)
    made = PlanTable(layout, [random_plan(layout, seed), random_plan(layout, seed + 1)])
    assert PlanTable.loads(made.dumps(), layout).digest == made.digest


def test_the_text_has_a_plan_a_line_and_the_graph():
    data = json.loads(table().dumps())
    assert list(data) == ['format', 'model', 'model_digest', 'graph', 'axes', 'plans']
    assert data['format'] == FORMAT == 1
    assert (data['model'], data['model_digest']) == ('net', 'digest of the net')
    assert [op['op'] for op in data['graph']['ops']] == [
        'aten._to_copy.default', *['aten.conv2d.default'] * 3]
    assert data['axes'] == [2] * 5
    assert sum('"robot": [' in line for line in table().dumps().splitlines()) == 3


def test_the_digest_tells_tables_apart():
    digests = {
        table().digest,
        PlanTable(LAYOUT, [robot_only(LAYOUT)]).digest,
        PlanTable(LAYOUT, [full_offload(LAYOUT), robot_only(LAYOUT)]).digest,
        PlanTable(LAYOUT, [robot_only(LAYOUT), full_offload(LAYOUT)]).digest,
        PlanTable(LAYOUT, [robot_only(LAYOUT, codec='none')]).digest,
        PlanTable(LAYOUT, [robot_only(LAYOUT, blocks={1: 2})]).digest,
        PlanTable(chain(17), [robot_only(chain(17))]).digest}
    assert len(digests) == 7
    other = chain(16)
    other.graph.digest = 'digest of other weights'
    assert PlanTable(other, [robot_only(other)]).digest not in digests


def test_both_sides_may_name_the_model_as_they_like():
    here, there = chain(16), chain(16)
    there.graph.model = '/another/path/to/net.pt2'
    made = table(here)
    again = PlanTable.loads(made.dumps(), there)
    assert again.digest == made.digest == table(there).digest


def test_a_single_plan_is_read_as_a_table_of_one():
    plan = uniform(LAYOUT, 0.5)
    assert PlanTable.loads(json.dumps(plan.to_json()), LAYOUT).plans == [plan]


def test_what_a_table_says_of_its_plans_beside_them_is_left_alone():
    data = json.loads(table().dumps())
    assert PlanTable.loads(json.dumps({**data, 'made_by': 'a planner'}), LAYOUT).digest == (
        table().digest)


@pytest.mark.parametrize('text, said', [
    ('', 'the plan table is not JSON'),
    ('{', 'the plan table is not JSON'),
    ('robot_only', 'the plan table is not JSON'),
    ('{"plans": [' + '9' * 5000 + ']}', 'the plan table is not JSON'),
    ('[' * 200_000 + ']' * 200_000, 'the plan table is not JSON'),
    ('{"plans": ' + '[' * 200_000, 'the plan table is not JSON'),
    ('null', 'a plan table is a JSON object, got NoneType'),
    ('[]', 'a plan table is a JSON object, got list'),
    ('"plans"', 'a plan table is a JSON object, got str'),
    ('{}', "plan keys: missing ['name', 'robot', 'server']"),
    ('{"plan": 1}', "unknown ['plan']"),
])
def test_what_is_no_table_is_refused(text, said):
    with pytest.raises(PlanError) as error:
        PlanTable.loads(text, LAYOUT)
    assert said in str(error.value) and len(str(error.value)) < 300


def changed(**more):
    data = json.loads(table().dumps())
    data.update(more)
    return json.dumps({key: item for key, item in data.items() if item is not ...})


@pytest.mark.parametrize('more, said', [
    ({'format': 2}, 'the plan table has format 2, this version reads 1: run the same version'),
    ({'format': True}, 'has format True'),
    ({'format': 1.0}, 'has format 1.0'),
    ({'format': '1'}, "has format '1'"),
    ({'format': ...}, 'has format None'),
    ({'format': 'f' * 10_000}, 'has format'),
    ({'model': 'theirs', 'model_digest': 'abcdef0123456789'},
     "is for model 'theirs' with digest abcdef012345, this side has 'net' with digest digest of t"),
    ({'model': 'm' * 10_000, 'model_digest': 'd' * 10_000}, 'other weights'),
    ({'model_digest': ...}, 'with digest None, this side has'),
    ({'model_digest': None}, 'with digest None'),
    ({'model_digest': ['digest of the net']}, 'other weights, another input size'),
    ({'graph': ...}, "numbers the operators of 'net' differently"),
    ({'graph': {}}, 'differently: it was made by another version of hp_inference'),
    ({'axes': [2, 2, 2, 2, None]}, 'differently'),
    ({'axes': [2] * 6}, 'differently'),
    ({'axes': 'x'}, 'differently'),
    ({'plans': {}}, '"plans" is a list of at most 1024 plans'),
    ({'plans': None}, '"plans" is a list'),
    ({'plans': []}, 'a table holds 1 to 1024 plans, got 0'),
    ({'plans': [{}] * (MAX_PLANS + 1)}, '"plans" is a list of at most 1024 plans'),
    ({'plans': [5]}, 'a plan is a JSON object, got int'),
    ({'plans': [[]]}, 'a plan is a JSON object, got list'),
    ({'plans': [{'name': 'p', 'robot': [16, 8, 8, 4, 8], 'server': [16, 8, 8, 10, 8]}]},
     "plan 'p' has a gap: rows [4,10) of value 3 (conv2d) are needed"),
])
def test_a_table_that_does_not_fit_is_refused_in_one_short_line(more, said):
    with pytest.raises(PlanError) as error:
        PlanTable.loads(changed(**more), LAYOUT)
    assert said in str(error.value)
    assert len(str(error.value)) < 500 and '\n' not in str(error.value)


def test_a_table_for_another_image_size_is_refused():
    # The same digest, as if by mistake: the graphs still differ in the shapes of the values.
    with pytest.raises(PlanError, match='numbers the operators'):
        PlanTable.loads(table(chain(17)).dumps(), LAYOUT)


def test_a_table_for_a_graph_with_other_row_axes_is_refused():
    other = Layout(LAYOUT.graph)
    other.axes = [2, 2, 2, 2, None]
    with pytest.raises(PlanError, match='numbers the operators'):
        PlanTable.loads(table().dumps(), other)


def test_too_much_text_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr('hp_inference.split.table.MAX_JSON_BYTES', 100)
    with pytest.raises(PlanError, match='the plan table has [0-9]+ characters, at most 100'):
        PlanTable.loads(table().dumps(), LAYOUT)


def test_a_table_of_an_incomplete_plan_is_not_made():
    plan = Plan('p', (16, 8, 8, 4, 8), (16, 8, 8, 10, 8))
    with pytest.raises(PlanError, match='has a gap'):
        PlanTable(LAYOUT, [robot_only(LAYOUT), plan])
    with pytest.raises(PlanError, match='a table holds 1 to 1024 plans, got 0'):
        PlanTable(LAYOUT, [])
    assert layer(LAYOUT, 2) == PlanTable(LAYOUT, [layer(LAYOUT, 2)]).plans[0]
