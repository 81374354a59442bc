# SPDX-License-Identifier: Apache-2.0
"""Costs from figures, and limits that grade what is outside."""

import math

import numpy as np
import pytest

from hp_planner.search.objective import Objective, OUTSIDE
from hp_planner.timeline.setting import SettingError

#: latency, energy, robot, server and radio busy, bytes up and down, peaks.
PLAN = np.array([0.2, 3.0, 0.1, 0.05, 0.15, 4000.0, 1000.0, 7e6, 9e6])


@pytest.mark.parametrize('objective, cost', [
    (Objective(), 0.2), (Objective('energy'), 3.0), (Objective('throughput'), 0.15),
    (Objective('weighted', latency_weight=10, energy_weight=2), 8.0),
    (Objective('energy_under_latency', latency_bound_s=0.2), 3.0)])
def test_each_objective_makes_its_own_figure_the_cost(objective, cost):
    assert objective.cost(PLAN) == pytest.approx(cost)


@pytest.mark.parametrize('limit, fits, breaks', [
    ('latency_bound_s', 0.2, 0.19), ('robot_bytes', 7e6, 6.9e6), ('server_bytes', 9e6, 8.9e6),
    ('link_bytes_per_s', 25_000.0, 24_000.0)])
def test_a_limit_costs_nothing_within_and_more_the_further_outside(limit, fits, breaks):
    assert Objective(**{limit: fits}).cost(PLAN) == pytest.approx(0.2)
    near, far = (Objective(**{limit: breaks / part}).cost(PLAN) for part in (1, 2))
    assert OUTSIDE < near < far


def test_what_cannot_run_costs_without_end():
    assert Objective().cost(np.full(9, np.inf)) == np.inf
    assert Objective(link_bytes_per_s=1.0).cost(np.full(9, np.inf)) == np.inf


@pytest.mark.parametrize('wrong, message', [
    ({'name': 'speed'}, 'not known'), ({'name': 'energy_under_latency'}, 'needs a latency bound'),
    ({'latency_bound_s': 0.0}, 'more than 0'), ({'robot_bytes': math.nan}, 'more than 0'),
    ({'link_bytes_per_s': math.inf}, 'more than 0'), ({'energy_weight': -1.0}, '0 or more'),
    ({'latency_weight': math.nan}, '0 or more'),
    ({'name': 'weighted', 'latency_weight': 0.0, 'energy_weight': 0.0}, 'a weight above 0')])
def test_what_is_no_objective_is_refused(wrong, message):
    with pytest.raises(SettingError, match=message):
        Objective(**wrong)


@pytest.mark.parametrize('objective, weighs', [
    (Objective(), False), (Objective('throughput'), False), (Objective('energy'), True),
    (Objective('energy_under_latency', latency_bound_s=1), True), (Objective('weighted'), True),
    (Objective('weighted', energy_weight=0.0), False)])
def test_power_matters_where_energy_is_weighed(objective, weighs):
    assert objective.weighs_energy == weighs
