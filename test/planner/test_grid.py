# SPDX-License-Identifier: Apache-2.0
"""Tables over a grid: never worse than a baseline, few plans, readable, loadable."""

import functools
import math

import pytest
from settings import drawn_setting, POWER, profile_of, setting_of, tiny

from hp_inference.runtime.meters import NO_POWER
from hp_inference.split.table import PlanTable
from hp_planner.report.record import Record
from hp_planner.search.grid import (
    checked_grid,
    default_grid,
    expected_costs,
    FINE,
    plan_table,
    SPARE,
    SURE,
)
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import SettingError
from hp_planner.timeline.timeline import Population, Timeline

GRID = [0.5, 1.0, 2.0, 5.0, 12.0, 40.0, 300.0]
OBJECTIVES = [Objective(), Objective('energy'), Objective('throughput')]


@functools.cache
def residual():
    """Return the timeline that most of these tables are about."""
    return Timeline(drawn_setting(tiny('residual', 32), 9))


@functools.cache
def table_of(objective=OBJECTIVES[0], policy='exact'):
    """Return a table of it over the grid, which several tests look at."""
    return plan_table(residual(), objective, GRID, policy)


@pytest.mark.parametrize('objective', OBJECTIVES, ids=lambda o: o.name)
@pytest.mark.parametrize('policy', ['exact', 'lossy'])
def test_at_every_rate_the_table_costs_at_most_what_every_baseline_costs(objective, policy):
    timeline, table = residual(), table_of(objective, policy)
    record = table.record
    others = {plan['name']: plan for plan in record['others']}
    plans = {plan.name: plan for plan in table.plans}
    for name, data in others.items():
        plans[name] = type(table.plans[0]).from_json(data, timeline.setting.layout)
    for i, rate in enumerate(record['grid']):
        mine = objective.cost(timeline.figures(Population.of(
            [table.plans[table.choose(rate)]]), [rate]))[0, 0]
        for names in record['baselines'].values():
            theirs = objective.cost(timeline.figures(Population.of([plans[names[i]]]), [rate]))
            assert mine <= theirs[0, 0] * (1 + 1e-12)


def test_the_record_is_what_the_reports_read_and_the_table_survives_its_file():
    timeline = residual()
    table = plan_table(timeline, Objective(), GRID, pareto_mbit_s=5.0)
    record = Record.from_json(table.record)
    assert set(GRID) <= set(record.grid)
    for point in record.points:
        assert point.latency_s == pytest.approx(
            timeline.predict(table.plans[table.index(point.plan)], point.mbit_s).latency_s)
        assert point.latency_s >= point.bound_s * (1 - 1e-9)
        assert table.plans[table.choose(point.mbit_s)].name == point.plan
    again = PlanTable.loads(table.dumps(), timeline.setting.layout)
    assert (again.digest, again.choices, again.record) == (
        table.digest, table.choices, table.record)
    assert again.plans == table.plans
    assert table.plans[0].name == 'robot_only'
    assert len({plan.name for plan in table.plans}) == len(table.plans) <= len(GRID) + 3


def test_a_baseline_as_good_as_the_best_is_in_the_table_where_that_is_near_the_best_plan():
    table = table_of()
    record = Record.from_json(table.record)
    near, baseline_names = 0, {
        name for names in table.record['baselines'].values() for name in names}
    for point, names in zip(record.points, zip(*table.record['baselines'].values())):
        best_s = min(record.curves[name].at(point.mbit_s) for name in names)
        if best_s <= (1 + SPARE) * point.latency_s * (1 - 1e-9):
            near += 1
            assert any(record.curves[plan.name].at(point.mbit_s) <= best_s * (1 + SURE + 1e-9)
                       for plan in table.plans if plan.name in baseline_names)
    assert near


def test_a_plan_of_ours_has_a_choice_only_where_it_is_surely_better_than_every_baseline():
    table = table_of()
    record = Record.from_json(table.record)
    kinds = set()
    for point, names in zip(record.points, zip(*table.record['baselines'].values())):
        least = min(record.curves[name].at(point.mbit_s) for name in names)
        kinds.add(point.plan in names)
        assert point.plan in names or point.latency_s * (1 + SURE) < least * (1 + 1e-9)
    assert kinds == {True, False}


def test_progress_is_told_and_the_same_seed_gives_the_same_table():
    timeline, told = Timeline(drawn_setting(tiny('chain', 32), 3)), []
    made = [plan_table(timeline, Objective(), GRID, seed=5,
                       progress=lambda *news: told.append(news)) for _ in range(2)]
    assert made[0].digest == made[1].digest
    assert ('planning', 2 * len(GRID), 2 * len(GRID)) in told


def test_with_a_swing_the_expected_cost_is_least_and_a_small_swing_changes_little():
    timeline, plain = residual(), table_of()
    swung = plan_table(timeline, Objective(), GRID, swing=0.6)
    for rate in GRID[1:-1]:
        plans = [table.plans[table.choose(rate)] for table in (swung, plain)]
        mine, other = expected_costs(timeline, Objective(), plans, [rate], 0.6)[:, 0]
        assert mine <= other * 1.003
    with pytest.raises(SettingError, match='swing'):
        plan_table(timeline, Objective(), GRID, swing=-0.1)


@pytest.mark.parametrize('rates, message', [
    ([], 'empty'), ([1.0, math.nan], 'makes no sense'), ([-1.0], 'makes no sense'),
    ([math.inf], 'makes no sense')])
def test_what_is_no_grid_is_refused(rates, message):
    with pytest.raises(SettingError, match=message):
        checked_grid(rates)


def test_rate_zero_means_the_robot_alone():
    assert checked_grid([20.0, 0.0, 5.0, 5.0]) == [5.0, 20.0]
    timeline = Timeline(drawn_setting(tiny('chain', 32), 3))
    table = plan_table(timeline, Objective(), [0.0, 5.0, 20.0])
    assert table.plans[table.choose(0.0)].name == 'robot_only'
    alone = plan_table(timeline, Objective(), [0.0])
    assert alone.plans[alone.choose(0.0)].name == 'robot_only'


def test_the_usual_grid_is_log_spaced_from_half_a_megabit_to_a_gigabit():
    grid = default_grid()
    assert (len(grid), grid[0], grid[-1]) == (31, 0.5, 1000.0)
    steps = [after / before for before, after in zip(grid, grid[1:])]
    assert max(steps) / min(steps) < 1.01
    assert FINE > 1


def test_a_bound_that_no_plan_reaches_says_what_could_be_reached():
    timeline = residual()
    with pytest.raises(SettingError, match=r'the least latency is [\d.]+ ms: allow more'):
        plan_table(timeline, Objective('energy_under_latency', latency_bound_s=1e-9), GRID)


def test_energy_is_not_planned_for_where_nobody_knows_the_power():
    layout = tiny('chain')
    unknown = profile_of(layout, power=NO_POWER)
    timeline = Timeline(setting_of(layout, unknown))
    with pytest.raises(SettingError, match='--computing-w'):
        plan_table(timeline, Objective('energy'), GRID)
    assert plan_table(timeline, Objective(), [5.0, 20.0]).choices
    assert POWER.known


def test_choices_say_where_a_limit_can_not_be_kept():
    timeline, free = residual(), table_of().record['choices']
    slow, fast = free[0]['latency_s'], free[-1]['latency_s']
    bound = (slow + fast) / 2
    bounded = plan_table(timeline, Objective(latency_bound_s=bound), GRID).record['choices']
    assert {choice['kept'] for choice in bounded} == {True, False}
    assert all(choice['kept'] == (choice['latency_s'] <= bound * (1 + 1e-9)) for choice in bounded)
    assert all(choice['kept'] for choice in free)


def test_a_front_without_a_link_is_refused_before_the_work():
    timeline = Timeline(drawn_setting(tiny('chain', 32), 3))
    with pytest.raises(SettingError, match='above 0'):
        plan_table(timeline, Objective(), GRID, pareto_mbit_s=0.0)
