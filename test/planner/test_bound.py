# SPDX-License-Identifier: Apache-2.0
"""No plan is under the bound."""

import pytest
from settings import drawn_setting, NETS, profile_of, setting_of, tiny

from hp_inference.split.codecs import EXACT_CODECS
from hp_inference.split.plan import random_plan
from hp_planner.search.bound import Bound
from hp_planner.search.loss import Loss
from hp_planner.search.objective import Objective
from hp_planner.timeline.timeline import Population, Timeline

RATES = [0.3, 2.0, 10.0, 300.0]
OBJECTIVES = [Objective(), Objective('energy'), Objective('throughput'),
              Objective('weighted', latency_weight=3.0)]


def cases():
    """Return every net with every objective and duplex; a quarter, evenly spread, is not long."""
    for i, name in enumerate(sorted(NETS)):
        for j, objective in enumerate(OBJECTIVES):
            for k, duplex in enumerate(('half', 'full')):
                yield pytest.param(duplex, name, objective, id=f'{duplex}-{name}-{objective.name}',
                                   marks=[pytest.mark.long] if (i + j + k) % 4 else [])


@pytest.mark.parametrize('duplex, name, objective', list(cases()))
def test_no_plan_costs_less_than_the_bound(duplex, name, objective):
    layout = tiny(name, 32)
    timeline = Timeline(drawn_setting(layout, 8, duplex))
    bound = Bound(timeline, objective, list(EXACT_CODECS))
    plans = [random_plan(layout, seed) for seed in range(30)]
    plans += Loss(timeline, objective).solve(RATES)
    costs = objective.cost(timeline.figures(Population.of(plans), RATES))
    for i, rate in enumerate(RATES):
        least = bound.at(rate)
        assert 0 < least
        assert (costs[:, i] >= least * (1 - 1e-6)).all()


def test_without_a_link_the_bound_is_the_robot_alone():
    layout = tiny('residual')
    timeline = Timeline(setting_of(layout, profile_of(layout, 0.5)))
    bound = Bound(timeline, Objective(), ['none'])
    assert bound.at(0.0) == pytest.approx(0.5 * (len(layout.rows) - 1))


def test_two_equal_devices_on_an_endless_link_halve_the_time():
    layout = tiny('residual')
    timeline = Timeline(setting_of(layout))
    bound = Bound(timeline, Objective(), ['none'])
    assert bound.at(1e9) == pytest.approx((len(layout.rows) - 1) / 2, rel=1e-3)
