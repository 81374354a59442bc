# SPDX-License-Identifier: Apache-2.0
"""
The plans of which no other is better in everything: latency, energy, throughput, robot memory.

From sweeps over weights and bounds of LOSS; every plan that any of the searches looked at counts.
After Kress et al., "Automated DNN inference partitioning" (2024), which shows such a front.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hp_planner.search.loss import Judged, Loss, Progress
from hp_planner.search.objective import Objective
from hp_planner.timeline.simulate import (
    ENERGY,
    LATENCY,
    RADIO_BUSY,
    ROBOT_BUSY,
    ROBOT_PEAK,
    SERVER_BUSY,
)
from hp_planner.timeline.timeline import Population, Timeline

# Points closer than this in all four figures are one point.
RESOLUTION = 0.02
BETWEEN = 5  # sweeps between two extremes


def pareto(timeline: Timeline, policy: str, mbit_s: float, seed: int = 0,
           progress: Progress = lambda *_: None) -> dict:
    """
    Return the nondominated plans at a rate as JSON data, by latency.

    ``{'mbit_s': rate, 'points': [{'plan', 'latency_s', 'energy_j', 'throughput',
    'robot_peak_bytes'}]}``; throughput in frames per second with several in flight.
    """
    judged: Judged = {}

    def search(objective: Objective) -> np.ndarray:
        loss = Loss(timeline, objective, policy, seed, judged)
        best = loss.solve([mbit_s])
        return timeline.figures(Population.of(best), [mbit_s])[0, 0]
    ends = [search(Objective(name)) for name in ('latency', 'energy', 'throughput')]
    sweeps = [*_weights(ends[0], ends[1]), *_bounds(ends), *_memory(judged[mbit_s])]
    for done, objective in enumerate(sweeps):
        search(objective)
        progress('Pareto front', done + 1, len(sweeps))
    genomes = list(judged[mbit_s])
    costs = four(np.array([judged[mbit_s][genome] for genome in genomes]))
    loss = Loss(timeline, Objective(), policy, seed)
    points = []
    for number, i in enumerate(nondominated(costs)):
        latency, energy, seconds, peak = costs[i].tolist()
        plan = replace(loss.plan(genomes[i], mbit_s), name=f'front:{number}')
        points.append({'plan': plan.to_json(), 'latency_s': latency, 'energy_j': energy,
                       'throughput': 1 / seconds, 'robot_peak_bytes': peak})
    return {'mbit_s': mbit_s, 'points': points}


def four(figures: np.ndarray) -> np.ndarray:
    """Return [plans, (latency, energy, seconds per frame, robot bytes)], all to be small."""
    return np.stack([figures[:, LATENCY], figures[:, ENERGY],
                     figures[:, [ROBOT_BUSY, SERVER_BUSY, RADIO_BUSY]].max(1),
                     figures[:, ROBOT_PEAK]], 1)


def nondominated(costs: np.ndarray) -> list[int]:
    """
    Return which rows of [points, costs] no other row beats, by the first cost.

    Of rows that differ by less than RESOLUTION the first stands for all.
    """
    with np.errstate(divide='ignore'):
        coarse = np.floor(np.log(np.maximum(costs, 1e-12)) / np.log1p(RESOLUTION))
    order = np.lexsort([*costs.T[::-1]])
    kept: list[int] = []
    for i in order:
        if not np.isfinite(costs[i]).all():
            continue
        if not kept or not (coarse[kept] <= coarse[i]).all(1).any():
            kept.append(int(i))
    return [i for i in kept
            if not ((costs[kept] <= costs[i]).all(1) & (costs[kept] < costs[i]).any(1)).any()]


def _weights(fastest: np.ndarray, thriftiest: np.ndarray) -> list[Objective]:
    """Return objectives between least latency and least energy."""
    rate = fastest[LATENCY] / max(fastest[ENERGY], 1e-12)  # joules in seconds
    return [Objective('weighted', latency_weight=1.0, energy_weight=rate * factor)
            for factor in np.geomspace(0.1, 10, BETWEEN)]


def _bounds(ends: list[np.ndarray]) -> list[Objective]:
    """Return objectives under latency bounds between the least and those of the other ends."""
    least = ends[0][LATENCY]
    most = max(end[LATENCY] for end in ends)
    bounds = np.linspace(least, most, BETWEEN + 2)[1:-1] if most > least else []
    return [Objective(name, latency_bound_s=float(bound)) for bound in bounds
            for name in ('energy', 'throughput')]


def _memory(judged: dict) -> list[Objective]:
    """Return objectives under limits of the robot's memory."""
    peaks = np.array([figures[ROBOT_PEAK] for figures in judged.values()])
    peaks = peaks[np.isfinite(peaks)]
    limits = np.geomspace(max(peaks.min(), 1.0), max(peaks.max(), 1.0), BETWEEN + 2)[1:-1]
    return [Objective(name, robot_bytes=float(limit)) for limit in limits
            for name in ('latency', 'energy')]
