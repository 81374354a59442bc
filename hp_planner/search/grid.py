# SPDX-License-Identifier: Apache-2.0
"""
The plan table of a setting: LOSS at every bandwidth of a grid, and the lower envelope.

All plans found and all baselines compete at rates much closer than the grid's; a choice stands
wherever the best plan changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import math
import time

import numpy as np

from hp_inference.split.plan import Plan, robot_only
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import Choice
from hp_planner.search.account import account
from hp_planner.search.baselines import baselines
from hp_planner.search.loss import Loss, Progress
from hp_planner.search.objective import Objective, OUTSIDE
from hp_planner.search.pareto import pareto
from hp_planner.timeline.setting import SettingError
from hp_planner.timeline.simulate import (
    LATENCY,
    ROBOT_PEAK,
    SERVER_PEAK,
)
from hp_planner.timeline.timeline import Population, Timeline

LEAST_MBIT_S, MOST_MBIT_S, POINTS = 0.5, 1000.0, 31
LOWEST_MBIT_S, HIGHEST_MBIT_S = 1e-3, 1e6
# Rates at which plans compete, per interval of the grid.
FINE = 8
# A plan that is nowhere better than the others by more than this share is left out of the table:
# each plan costs the nodes memory and time to prepare.
WORTH = 0.003
# A plan of ours must be predicted to cost less than the best baseline by more than this part. The
# simpler plan has less that can go otherwise than predicted.
SURE = 0.03
# The best baseline stays in the table where it is not worse than the best plan by more than this
# part: the robot turns to it where the others turn out slower than predicted.
SPARE = 0.25
# Where an uncertain rate is tried, in standard deviations of its logarithm.
SPREAD = (-1.5, -0.75, 0.0, 0.75, 1.5)
MOST_SWING = 2.0


def default_grid() -> list[float]:
    """Return the rates that are planned for where none are given, log spaced, in Mbit/s."""
    return [float(f'{rate:.4g}') for rate in np.geomspace(LEAST_MBIT_S, MOST_MBIT_S, POINTS)]


def checked_grid(mbit_s: Sequence[float]) -> list[float]:
    """Return rates ascending, each once, without 0 (there the robot is alone); SettingError."""
    wrong = [rate for rate in mbit_s if rate and not LOWEST_MBIT_S <= rate <= HIGHEST_MBIT_S]
    if wrong:
        raise SettingError(f'a bandwidth of {wrong[0]} Mbit/s makes no sense, expected 0 or '
                           f'{LOWEST_MBIT_S:g} to {HIGHEST_MBIT_S:g}')
    if not len(mbit_s):
        raise SettingError('the bandwidth grid is empty: give at least one rate in Mbit/s')
    # A table always holds the robot's own plan, in force where there is no link.
    return sorted({float(rate) for rate in mbit_s if rate}) or [LEAST_MBIT_S]


def expected_costs(timeline: Timeline, objective: Objective, plans: Sequence[Plan],
                   mbit_s: Sequence[float], swing: float) -> np.ndarray:
    """Return [plans, rates]: the mean cost, the rate being log-normal about ``mbit_s``."""
    weights = np.exp(-np.square(SPREAD) / 2)
    everyone = Population.of(plans)
    costs = [objective.cost(timeline.figures(everyone, [rate * math.exp(place * swing)
                                                        for rate in mbit_s])) for place in SPREAD]
    return np.average(costs, axis=0, weights=weights)


@dataclass
class _Catalogue:
    """Plans by what they do, each with a name of its own."""

    plans: dict[tuple, Plan]

    def enter(self, plan: Plan) -> Plan:
        """Return the plan, or the one already here that does the same."""
        key = (plan.robot, plan.server, tuple(sorted(plan.blocks.items())),
               tuple(sorted(plan.codecs.items())), plan.codec)
        if key not in self.plans:
            names = {known.name for known in self.plans.values()}
            name, number = plan.name, 2
            while name in names:
                name, number = f'{plan.name}#{number}', number + 1
            self.plans[key] = replace(plan, name=name)
        return self.plans[key]


def plan_table(timeline: Timeline, objective: Objective, mbit_s: Sequence[float],
               policy: str = 'exact', seed: int = 0, swing: float = 0.0,
               pareto_mbit_s: float | None = None,
               progress: Progress = lambda *_: None) -> PlanTable:
    """
    Return the table of plans over a grid of bandwidths (Mbit/s), with choices and its record.

    At every rate its cost is at most that of every baseline that the policy allows. With a
    ``swing`` (the standard deviation of the logarithm of the rate that a frame meets, about the
    rate that it is chosen for) that holds for the cost to be expected. Raises SettingError for a
    grid or swing that makes no sense and for limits that no plan keeps anywhere.
    """
    if not 0 <= swing <= MOST_SWING:
        raise SettingError(f'a swing of {swing} makes no sense, expected 0 to {MOST_SWING}')
    if objective.weighs_energy and not timeline.setting.power.known:
        raise SettingError(f"objective {objective.name} needs the robot's power, which its "
                           'profile does not know: measure again with hp profile --waiting-w W '
                           '--communicating-w W --computing-w W')
    if pareto_mbit_s is not None and not checked_grid([pareto_mbit_s]) == [pareto_mbit_s]:
        raise SettingError('a Pareto front is for a bandwidth above 0')
    begun = time.monotonic()
    grid = checked_grid(mbit_s)
    loss = Loss(timeline, objective, policy, seed)
    fine = _refined(grid)
    rivals = baselines(timeline, objective, fine, 'jpeg' in loss.codecs)
    catalogue = _Catalogue({})
    alone = catalogue.enter(robot_only(timeline.setting.layout, codec='none'))
    for plans in rivals.values():
        plans[:] = [catalogue.enter(plan) for plan in plans]
    given = list(catalogue.plans.values())
    for plan in loss.solve(grid, given, progress):
        catalogue.enter(plan)
    every = list(catalogue.plans.values())
    figures = timeline.figures(Population.of(every), fine)
    costs = objective.cost(figures)
    _check_reachable(objective, figures, costs, fine)
    if swing:
        costs = expected_costs(timeline, objective, every, fine, swing)
    simple = np.array([min((every.index(plans[i]) for plans in rivals.values()),
                           key=lambda plan: costs[plan, i]) for i in range(len(fine))])
    simple_costs = costs[simple, range(len(fine))]
    used = _worthwhile(costs, every.index(alone), simple_costs)
    best = np.array(used)[costs[used].argmin(0)]
    least = costs[best, range(len(fine))]
    best = np.where((simple_costs <= least * (1 + SURE)) & (least < OUTSIDE), simple, best)
    changes = [i for i in range(len(fine)) if not i or best[i] != best[i - 1]]
    order = list(dict.fromkeys([every.index(alone), *best.tolist()]))
    if objective.name == 'latency':
        order += _spare(costs, simple, simple_costs <= least * (1 + SPARE), order)
    table_plans = [every[i] for i in order]
    choices = [Choice(fine[i], order.index(int(best[i]))) for i in changes]
    shown = sorted({*grid, *(fine[i] for i in changes)})
    places = [fine.index(rate) for rate in shown]
    record = account(timeline, loss, objective, shown, figures[:, places], every, best[places],
                     {name: [plans[i] for i in places] for name, plans in rivals.items()},
                     table_plans)
    record['swing'] = swing
    if pareto_mbit_s is not None:
        record['pareto'] = pareto(timeline, policy, pareto_mbit_s, seed, progress)
    record['seconds'] = time.monotonic() - begun
    return PlanTable(timeline.setting.layout, table_plans, choices, record)


def _refined(grid: list[float]) -> list[float]:
    """Return the grid with rates, log spaced, between each two."""
    fine = []
    for low, high in zip(grid, grid[1:]):
        fine += [low, *(float(f'{low * (high / low) ** (i / FINE):.4g}') for i in range(1, FINE))]
    return sorted({*fine, grid[-1]})


def _spare(costs: np.ndarray, simple: np.ndarray, near: np.ndarray,
           table: list[int]) -> list[int]:
    """
    Return the best baselines of the rates that are ``near``, as few as it takes.

    That is where the ``table`` has none that costs about the same. simple: [rates], the best
    baseline of each; costs: [plans, rates].
    """
    kept: list[int] = []
    baselines_in = [plan for plan in table if plan in simple]
    for i in np.flatnonzero(near):
        enough = costs[simple[i], i] * (1 + SURE)
        if not any(costs[plan, i] <= enough for plan in (*baselines_in, *kept)):
            kept.append(int(simple[i]))
    return kept


def _worthwhile(costs: np.ndarray, alone: int, limit: np.ndarray) -> list[int]:
    """
    Return which plans to keep: those without which some rate would be worse by WORTH.

    Without any other the cost also stays at or under ``limit``. costs: [plans, rates].
    """
    used = sorted(set(costs.argmin(0).tolist()) | {alone})
    least = costs[used].min(0)
    while True:
        spare = []
        for i in used:
            rest = [j for j in used if j != i]
            if i == alone or not rest:
                continue
            without = costs[rest].min(0)
            if (without <= np.minimum(least * (1 + WORTH), np.maximum(limit, least))).all():
                spare.append((float((without / least).max()), i))
        if not spare:
            return used
        used.remove(min(spare)[1])


def _check_reachable(objective: Objective, figures, costs, rates: list[float]) -> None:
    """Raise SettingError when no plan keeps the limits at any rate."""
    if (costs < OUTSIDE).any():
        return
    plan, rate = np.unravel_index(costs.argmin(), costs.shape)
    best = figures[plan, rate]
    raise SettingError(
        f'no plan keeps the limits of objective {objective.name} at any bandwidth: the nearest '
        f'has a latency of {best[LATENCY] * 1e3:.1f} ms, {best[ROBOT_PEAK] / 1e6:.1f} MB of values '
        f'on the robot and {best[SERVER_PEAK] / 1e6:.1f} MB on the server at {rates[rate]:g} '
        f'Mbit/s; the least latency is {figures[:, :, LATENCY].min() * 1e3:.1f} ms: allow more')
