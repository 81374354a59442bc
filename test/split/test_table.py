# SPDX-License-Identifier: Apache-2.0
"""Plan tables: what both sides hold, and what is not one."""

import json
import math

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
from nets import chain, random_net
import pytest

from hp_inference import __version__
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
from hp_inference.split.table import Choice, FORMAT, MAX_PLANS, PlanTable

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
    ({'format': 2}, f'on both sides (a newer version than this one, {__version__}, made it: '
                    f'install that one here, or make the table again with {__version__})'),
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
    ({'plans': {}}, f'"plans" is a list of at most {MAX_PLANS} plans'),
    ({'plans': None}, '"plans" is a list'),
    ({'plans': []}, f'a table holds 1 to {MAX_PLANS} plans, got 0'),
    ({'plans': [{}] * (MAX_PLANS + 1)}, f'"plans" is a list of at most {MAX_PLANS} plans'),
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
    with pytest.raises(PlanError, match=f'a table holds 1 to {MAX_PLANS} plans, got 0'):
        PlanTable(LAYOUT, [])
    assert layer(LAYOUT, 2) == PlanTable(LAYOUT, [layer(LAYOUT, 2)]).plans[0]


CHOICES = (Choice(1, 0), Choice(8.5, 1), Choice(30, 2))
RECORD = {'objective': 'latency', 'grid': [1.0, 30.0], 'power': {'waiting_w': 4.7},
          'curves': {'robot_only': {'latency_s': [0.1, 0.1]}, 'uniform:0.5': {'latency_s': []}},
          'choices': [{'mbit_s': 1.0, 'lanes': []}, {'mbit_s': 30.0, 'lanes': []}]}


def chosen(choices=CHOICES, record=None):
    return PlanTable(LAYOUT, table().plans, choices, record)


@pytest.mark.parametrize('rate, plan', [
    (1, 0), (8.49, 0), (8.5, 1), (29, 1), (30, 2), (1e9, 2), (math.inf, 2),
    (0.99, 0), (0, 0), (-5, 0), (math.nan, 0), (-math.inf, 0)])
def test_the_choice_at_or_next_below_a_bandwidth_is_in_force(rate, plan):
    assert chosen().choose(rate) == plan


def test_below_the_first_choice_it_is_robot_only_wherever_that_is_in_the_table():
    made = PlanTable(LAYOUT, [full_offload(LAYOUT), robot_only(LAYOUT)], [Choice(5, 0)])
    assert [made.choose(rate) for rate in (5, 4.9, 0, math.nan)] == [0, 1, 1, 1]


def test_a_table_without_choices_chooses_nothing():
    assert [table().choose(rate) for rate in (0, 10, math.nan)] == [None] * 3


@drawn(40, 100)
@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20, unique=True), st.floats(0, 2e9))
def test_choosing_is_a_step_function_of_the_bandwidth(rates, rate):
    made = chosen([Choice(at, place % 3) for place, at in enumerate(sorted(rates))])
    below = [choice.plan for choice in made.choices if choice.mbit_s <= rate]
    assert made.choose(rate) == (below[-1] if below else 0)


def test_choices_and_record_survive_json():
    made = chosen(record=RECORD)
    again = PlanTable.loads(made.dumps(), LAYOUT)
    assert again.choices == made.choices == CHOICES
    assert again.record == RECORD and again.digest == made.digest
    assert again.dumps() == made.dumps()


def test_the_text_has_a_choice_a_plan_and_a_curve_a_line():
    lines = chosen(record=RECORD).dumps().splitlines()
    assert ' "choices": [' in lines
    assert '  {"mbit_s": 8.5, "plan": 1},' in lines
    assert sum('"robot": [' in line for line in lines) == 3
    assert '  "grid": [1.0, 30.0],' in lines and '  "curves": {' in lines
    assert '   "robot_only": {"latency_s": [0.1, 0.1]},' in lines
    assert '   {"mbit_s": 1.0, "lanes": []},' in lines


def test_choices_are_part_of_the_digest_and_the_record_is_not():
    digests = [table().digest, chosen().digest, chosen(CHOICES[:2]).digest,
               chosen((Choice(1, 0), Choice(8.5, 2))).digest]
    assert len(set(digests)) == 4
    assert chosen(record=RECORD).digest == chosen(record={'x': 1}).digest == chosen().digest
    assert chosen((Choice(1.0, 0), *CHOICES[1:])).digest == chosen().digest


@pytest.mark.parametrize('choices, said', [
    ([Choice(0, 1)], 'choice 0 of the plan table is at 0 Mbit/s: expected finite rates above 0'),
    ([Choice(-1, 1)], 'is at -1 Mbit/s'),
    ([Choice(math.nan, 1)], 'is at nan Mbit/s'),
    ([Choice(math.inf, 1)], 'is at inf Mbit/s'),
    ([Choice(10 ** 400, 1)], 'Mbit/s: expected finite rates'),
    ([Choice(True, 1)], 'is at True Mbit/s'),
    ([Choice('5', 1)], "is at '5' Mbit/s"),
    ([Choice(None, 1)], 'is at None Mbit/s'),
    ([Choice(5, 1), Choice(5.0, 2)], 'choice 1 of the plan table is at 5.0 Mbit/s: expected finite '
                                     'rates above 0, each above the one before (5)'),
    ([Choice(5, 1), Choice(4, 2)], 'each above the one before (5)'),
    ([Choice(5, 3)], 'choice 0 of the plan table, at 5 Mbit/s, is plan 3: expected an index from '
                     '0 to 2'),
    ([Choice(5, -1)], 'is plan -1'),
    ([Choice(5, 1.0)], 'is plan 1.0'),
    ([Choice(5, True)], 'is plan True'),
    ([Choice(5, 'uniform:0.5')], "is plan 'uniform:0.5'"),
    ([Choice(1 + place, 0) for place in range(4097)], 'at most 4096 choices'),
])
def test_choices_that_make_no_sense_are_refused(choices, said):
    with pytest.raises(PlanError) as error:
        chosen(choices)
    assert said in str(error.value) and len(str(error.value)) < 300
    if choices[0].mbit_s != math.inf:  # which is no JSON
        with pytest.raises(PlanError):
            PlanTable.loads(changed(choices=[choice.to_json() for choice in choices]), LAYOUT)


@pytest.mark.parametrize('more, said', [
    ({'choices': 5}, '"choices" of a plan table is a list of at most 4096 choices'),
    ({'choices': None}, '"choices" of a plan table is a list'),
    ({'choices': [{}] * 4097}, 'at most 4096 choices'),
    ({'choices': [5]}, 'a choice of a plan table is an object of "mbit_s" and "plan", got 5'),
    ({'choices': [{'mbit_s': 5}]}, 'an object of "mbit_s" and "plan"'),
    ({'choices': [{'mbit_s': 5, 'plan': 0, 'name': 'x' * 1000}]}, 'of "mbit_s" and "plan"'),
    ({'record': []}, '"record" of a plan table is an object, got []'),
    ({'record': 'x' * 1000}, '"record" of a plan table is an object'),
])
def test_a_file_whose_choices_or_record_are_none_is_refused(more, said):
    with pytest.raises(PlanError) as error:
        PlanTable.loads(changed(**more), LAYOUT)
    assert said in str(error.value) and len(str(error.value)) < 300


def test_choices_need_the_plan_for_when_there_is_no_link():
    with pytest.raises(PlanError, match="needs a plan named 'robot_only', for when there is no li"):
        PlanTable(LAYOUT, [full_offload(LAYOUT)], [Choice(1, 0)])


def test_choices_need_plans_that_can_be_told_apart():
    twice = [robot_only(LAYOUT), uniform(LAYOUT, 0.5), uniform(LAYOUT, 0.5, codec='none')]
    assert len(PlanTable(LAYOUT, twice).plans) == 3
    with pytest.raises(PlanError, match="holds each name once, 'uniform:0.5' is there 2 times"):
        PlanTable(LAYOUT, twice, [Choice(1, 0)])
