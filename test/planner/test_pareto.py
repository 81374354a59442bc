# SPDX-License-Identifier: Apache-2.0
"""The front: no point beats another, and the best of each figure is on it."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from settings import drawn_setting, tiny

from hp_inference.split.plan import Plan
from hp_planner.search.loss import Loss
from hp_planner.search.objective import Objective
from hp_planner.search.pareto import four, nondominated, pareto, RESOLUTION
from hp_planner.timeline.timeline import Population, Timeline


@given(st.lists(st.tuples(*[st.floats(0.1, 10)] * 4), min_size=1, max_size=40))
def test_no_kept_point_is_beaten_and_every_other_nearly_is(points):
    costs = np.array(points)
    kept = nondominated(costs)
    for i in kept:
        for j in kept:
            assert i == j or (costs[j] > costs[i]).any() or (costs[j] == costs[i]).all()
    for point in costs:
        # Two points of one cell of the grid stand for each other.
        assert any((costs[i] <= point * (1 + RESOLUTION) ** 2).all() for i in kept)


def test_points_that_cannot_run_are_left_out():
    costs = np.array([[1.0, 2.0, 3.0, 4.0], [np.inf] * 4])
    assert nondominated(costs) == [0]


def test_the_front_holds_the_best_of_each_figure_and_plans_that_load():
    timeline = Timeline(drawn_setting(tiny('residual', 32), 9))
    front = pareto(timeline, 'exact', 5.0)
    points = front['points']
    latencies = [point['latency_s'] for point in points]
    assert latencies == sorted(latencies)
    for name, figure, best in (('latency', 'latency_s', min), ('energy', 'energy_j', min)):
        plan, = Loss(timeline, Objective(name)).solve([5.0])
        cost = Objective(name).cost(timeline.figures(Population.of([plan]), [5.0]))[0, 0]
        assert best(point[figure] for point in points) <= cost * (1 + RESOLUTION)
    for point in points:
        plan = Plan.from_json(point['plan'], timeline.setting.layout)
        costs = four(timeline.figures(Population.of([plan]), [5.0])[:, 0])[0]
        assert np.allclose(costs, [point['latency_s'], point['energy_j'],
                                   1 / point['throughput'], point['robot_peak_bytes']])
