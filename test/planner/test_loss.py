# SPDX-License-Identifier: Apache-2.0
"""LOSS is never worse than what it starts from, and near the optimum where that can be known."""

from itertools import product

from draws import again_when_long, first, MANY
from nets import Net
import numpy as np
import pytest
from settings import drawn_setting, tiny
import torch

from hp_inference.split.codecs import EXACT_CODECS, LOSSY_CODECS
from hp_planner.search.baselines import baselines
from hp_planner.search.loss import Loss
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import SettingError
from hp_planner.timeline.simulate import LATENCY, ROBOT_PEAK
from hp_planner.timeline.timeline import Population, Timeline

RATES = [0.5, 2.0, 5.0, 10.0, 30.0, 200.0]
#: Small enough to try all plans of: nets of three and four operators, two with a way around.
SMALL = {
    'chain': lambda net: net.conv(net.relu(net.conv(net.conv(net.x), 3, 2))),
    'around one': lambda net: _around(net, net.conv(net.x)),
    'around two': lambda net: net.conv(_around(net, net.conv(net.x, 3, 2))),
}
OBJECTIVES = [Objective(), Objective('energy'), Objective('throughput'), Objective('weighted')]


def _around(net, x):
    return net.add(net.conv(x), x)


def small(name):
    """Return the layout of one of SMALL."""
    net = Net(16, 1000, 3, dtype=torch.float32)
    return net.layout(SMALL[name](net))


def exhaustive(loss, rates, levels=5):
    """Return the least cost at each rate over all plans that cut each value at a level."""
    tables = loss.timeline.tables
    cuts = [sorted({round(rows * i / (levels - 1)) for i in range(levels)}) for rows in tables.rows]
    shares = np.array([(tables.rows[0], *rest) for rest in product(*cuts[1:])], np.int32)
    best = np.full(len(rates), np.inf)
    for i, rate in enumerate(rates):
        codecs = np.broadcast_to(loss.fastest_codecs(rate).astype(np.int32), shares.shape).copy()
        for blocks in (1, 2, 4, 8):
            plans = Population(shares, shares, np.full_like(shares, blocks), codecs)
            figures = loss.timeline.figures(plans, [rate])
            best[i] = min(best[i], loss.objective.cost(figures).min())
    return best


@again_when_long
@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('seed', first(1, 2))
def test_the_plan_is_within_one_percent_of_the_exhaustive_optimum(name, seed):
    layout = small(name)
    loss = Loss(Timeline(drawn_setting(layout, seed)), Objective())
    plans = loss.solve(RATES)
    costs = loss.objective.cost(loss.timeline.figures(Population.of(plans), RATES)).diagonal()
    tried = slice(None, None, 1 if MANY else 2)
    assert (costs[tried] <= exhaustive(loss, RATES[tried]) * 1.01).all()


@pytest.mark.parametrize('name, objective', [
    pytest.param(name, objective, id=f'{name}-{objective.name}',
                 marks=[pytest.mark.long] if (i + j) % 2 else [])
    for i, name in enumerate(['residual', 'branches', 'reordered', 'u_shaped'])
    for j, objective in enumerate(OBJECTIVES)])
def test_never_worse_than_any_baseline_that_the_space_holds(name, objective):
    timeline = Timeline(drawn_setting(tiny(name, 32), 5))
    known = baselines(timeline, objective, RATES)
    given = [plan for plans in known.values() for plan in plans]
    loss = Loss(timeline, objective)
    mine = objective.cost(timeline.figures(
        Population.of(loss.solve(RATES, given)), RATES)).diagonal()
    for plans in known.values():
        theirs = objective.cost(timeline.figures(Population.of(plans), RATES)).diagonal()
        assert (mine <= theirs * (1 + 1e-12)).all()


def test_the_same_seed_gives_the_same_plans_and_nothing_else_matters():
    timeline = Timeline(drawn_setting(tiny('residual', 32), 2))
    first, again = (Loss(timeline, Objective(), seed=7).solve(RATES) for _ in range(2))
    assert first == again


@pytest.mark.parametrize('policy, allowed', [
    ('exact', set(EXACT_CODECS)), ('lossy', {*EXACT_CODECS, *LOSSY_CODECS})])
def test_a_policy_limits_the_codecs(policy, allowed):
    timeline = Timeline(drawn_setting(tiny('residual', 32), 4))
    plans = Loss(timeline, Objective(), policy).solve(RATES)
    used = {plan.codec_of(v) for plan in plans for v in range(len(plan.robot))}
    assert used <= allowed
    assert policy == 'lossy' or not any(plan.lossy for plan in plans)
    assert all(plan.codec_of(v) != 'jpeg' for plan in plans for v in range(1, len(plan.robot)))


def test_an_unknown_policy_is_refused():
    with pytest.raises(SettingError, match='policy'):
        Loss(Timeline(drawn_setting(tiny('chain'), 0)), Objective(), 'careless')


def test_limits_are_kept_where_some_plan_keeps_them():
    timeline = Timeline(drawn_setting(tiny('residual', 32), 6))
    free = timeline.figures(Population.of(Loss(timeline, Objective()).solve(RATES)), RATES)
    peaks = free[:, :, ROBOT_PEAK].diagonal()
    limit = float(peaks.max()) * 0.6
    plans = Loss(timeline, Objective(robot_bytes=limit)).solve(RATES)
    kept = timeline.figures(Population.of(plans), RATES)
    assert (kept[:, :, ROBOT_PEAK].diagonal() <= limit).all()
    assert (kept[:, :, LATENCY].diagonal() >= free[:, :, LATENCY].diagonal() * (1 - 1e-9)).all()
