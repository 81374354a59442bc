# SPDX-License-Identifier: Apache-2.0
"""What planning knew of a table, for its file: hp_planner/report reads it without the model."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from hp_inference import __version__
from hp_inference.profile.device import DeviceProfile
from hp_inference.split.plan import Plan
from hp_planner.search.bound import Bound
from hp_planner.search.loss import Loss
from hp_planner.search.objective import Objective, OUTSIDE
from hp_planner.timeline.simulate import (
    DOWN_BYTES,
    ENERGY,
    LATENCY,
    RADIO_BUSY,
    ROBOT_BUSY,
    ROBOT_PEAK,
    SERVER_BUSY,
    SERVER_PEAK,
    UP_BYTES,
)
from hp_planner.timeline.timeline import Timeline

CURVES = {'latency_s': LATENCY, 'energy_j': ENERGY, 'robot_busy_s': ROBOT_BUSY,
          'server_busy_s': SERVER_BUSY, 'radio_busy_s': RADIO_BUSY}
NUMBERS = {'up_bytes': UP_BYTES, 'down_bytes': DOWN_BYTES, 'robot_peak_bytes': ROBOT_PEAK,
           'server_peak_bytes': SERVER_PEAK}


def account(timeline: Timeline, loss: Loss, objective: Objective, grid: list[float],
            figures: np.ndarray, every: list[Plan], best: np.ndarray,
            rivals: dict[str, list[Plan]], table_plans: list[Plan]) -> dict:
    """
    Return the record of a table, which hp_planner/report reads.

    ``figures``: [plans, rates of the grid, figures]; ``best``: the table's plan at each rate;
    ``rivals``: per baseline its plan at each rate; ``table_plans``: those in the table.
    """
    setting = timeline.setting
    kept = {plan.name for plan in table_plans}
    named = kept | {plan.name for plans in rivals.values() for plan in plans}
    bound = Bound(timeline, Objective('latency'), loss.codecs)
    choices = []
    for i, rate in enumerate(grid):
        plan = every[best[i]]
        choices.append({
            'mbit_s': rate, 'plan': plan.name, 'latency_s': float(figures[best[i], i, LATENCY]),
            'energy_j': float(figures[best[i], i, ENERGY]), 'bound_s': bound.at(rate),
            'kept': bool(objective.cost(figures[best[i], i]) < OUTSIDE),
            'lanes': [asdict(span) for span in merged(timeline.lanes(plan, rate))]})
    return {
        'version': __version__, 'objective': objective.name,
        'latency_bound_ms': (None if objective.latency_bound_s is None
                             else objective.latency_bound_s * 1e3),
        'weights': ([objective.latency_weight, objective.energy_weight]
                    if objective.name == 'weighted' else None),
        'policy': loss.policy, 'link': asdict(setting.link), 'power': asdict(setting.power),
        'robot': _provenance(setting.robot), 'server': _provenance(setting.server), 'grid': grid,
        'curves': {plan.name: _curve(figures[i]) for i, plan in enumerate(every)
                   if plan.name in named},
        'baselines': {name: [plan.name for plan in plans] for name, plans in rivals.items()},
        'others': [plan.to_json() for plan in every
                   if plan.name in named and plan.name not in kept],
        'choices': choices, 'depth': _depth(timeline), 'pareto': None}


def _curve(figures: np.ndarray) -> dict:
    """Return one plan's figures over the grid; [rates, figures]."""
    return {**{name: figures[:, i].tolist() for name, i in CURVES.items()},
            **{name: float(figures[-1, i]) for name, i in NUMBERS.items()}}


def _provenance(profile: DeviceProfile) -> dict:
    return {'device': profile.device, 'host': profile.host, 'date': profile.date,
            'whole_s': profile.whole_s, 'threads': profile.threads}


def _depth(timeline: Timeline) -> list[int]:
    """Return the values whose operators take more than their share of the robot's time."""
    tables, costs = timeline.tables, timeline.costs
    whole = costs.compute[0, tables.at_row + tables.rows]
    return [int(v) for v in np.flatnonzero(whole >= whole.mean())]


def merged(spans: list, gap_s: float = 1e-5) -> list:
    """Return spans with consecutive computing on a side made one."""
    made: list = []
    for span in spans:
        if (made and span.lane in ('robot', 'server') and made[-1].lane == span.lane
                and span.start_s - made[-1].start_s - made[-1].duration_s < gap_s):
            made[-1] = replace(made[-1], label='compute',
                               duration_s=span.start_s + span.duration_s - made[-1].start_s)
        else:
            made.append(span)
    return made
