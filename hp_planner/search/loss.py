# SPDX-License-Identifier: Apache-2.0
"""
LOSS: the plan that costs least at a bandwidth, by evolutionary search and polish.

Per bandwidth: start from all baselines, a coarse net over the space and the plans found for the
bandwidths beside it; evolve (the best of parents and children go on; stretches are moved, cut,
joined, re-shared and crossed); then walk downhill over all one-number changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np

from hp_inference.split.codecs import EXACT_CODECS, LOSSY_CODECS
from hp_inference.split.plan import Plan
from hp_planner.search.objective import Objective
from hp_planner.search.space import Genome, population, Space
from hp_planner.timeline.setting import bytes_per_s, SettingError
from hp_planner.timeline.simulate import message_seconds
from hp_planner.timeline.timeline import CODECS, Timeline

POLICIES = {'exact': EXACT_CODECS, 'lossy': EXACT_CODECS + LOSSY_CODECS}
PARENTS, CHILDREN = 16, 64
# Generations: at most, and without anything gained.
GENERATIONS, PATIENCE = 40, 8
COARSE_RATES = 9
COARSE_KEPT = 12
GAIN = 1e-4  # a relative gain below this is none

Progress = Callable[[str, int, int], None]
Judged = dict[float, dict[Genome, np.ndarray]]


class Loss:
    """
    The search in one setting; everything random comes from ``seed``.

    ``judged``: per rate, the figures of every plan looked at; may be shared by searches of one
    setting and policy.
    """

    def __init__(self, timeline: Timeline, objective: Objective, policy: str = 'exact',
                 seed: int = 0, judged: Judged | None = None):
        if policy not in POLICIES:
            raise SettingError(f"policy {policy!r} is not known: expected 'exact' or 'lossy'")
        self.timeline, self.objective, self.policy = timeline, objective, policy
        self.space = Space(timeline.tables)
        self._draw = Random(seed)
        self.judged: Judged = {} if judged is None else judged
        self._codecs: dict[float, np.ndarray] = {}

    @property
    def codecs(self) -> list[str]:
        """The codecs that the policy allows and both devices were measured with."""
        setting = self.timeline.setting
        return [name for name in CODECS if name in POLICIES[self.policy] and (
            name == 'none' or all(name in profile.codecs
                                  for profile in (setting.robot, setting.server)))]

    def fastest_codecs(self, mbit_s: float) -> np.ndarray:
        """Return per value the code of the codec that brings its rows over soonest."""
        if mbit_s not in self._codecs:
            tables, costs, rate = self.timeline.tables, self.timeline.costs, bytes_per_s(mbit_s)
            values = range(len(tables.rows))
            codes = [CODECS.index(name) for name in self.codecs]
            seconds = np.array([[sum(
                message_seconds(costs, code, v, tables.rows[v], side, rate)[0] for side in range(2))
                if v == 0 or code != CODECS.index('jpeg') else np.inf
                for v in values] for code in codes])
            self._codecs[mbit_s] = np.array(codes)[seconds.argmin(0)]
        return self._codecs[mbit_s]

    def solve(self, mbit_s: Sequence[float], given: Sequence[Plan] = (),
              progress: Progress = lambda *_: None) -> list[Plan]:
        """
        Return the best plan of the space at each rate (ascending, > 0, Mbit/s).

        ``given``: plans to start from besides (those that split nothing are). Never costlier at a
        rate than the given plans that the space holds; the caller compares with the others.
        ``progress(what, done, of)`` is called as the work goes on.
        """
        rates = list(mbit_s)
        seeds = {genome for plan in given
                 if (genome := self.space.of_shares(plan.robot, plan.server))}
        best: list[Genome | None] = [None] * len(rates)
        self._look(rates, seeds, progress)
        for done, i in enumerate((*range(len(rates)), *reversed(range(len(rates))))):
            beside = [best[j] for j in (i - 1, i + 1) if 0 <= j < len(rates) and best[j]]
            if best[i] is None:
                best[i] = self._evolve(rates[i], [*seeds, *beside])
            best[i] = self._polish(rates[i], [best[i], *beside])
            progress('planning', done + 1, 2 * len(rates))
        return [self.plan(genome, rate) for genome, rate in zip(best, rates)]

    def plan(self, genome: Genome, rate: float) -> Plan:
        """Return a genome's plan, with the codecs that are fastest at a rate."""
        return population(self.timeline.tables, [genome],
                          self.fastest_codecs(rate)).plan(0, f'loss:{rate:g}')

    def costs(self, genomes: Sequence[Genome], rate: float) -> list[float]:
        """Return the cost of each at a rate; what was judged before is remembered."""
        known = self.judged.setdefault(rate, {})
        new = list(dict.fromkeys(genome for genome in genomes if genome not in known))
        if new:
            plans = population(self.timeline.tables, new, self.fastest_codecs(rate))
            known.update(zip(new, self.timeline.figures(plans, [rate])[:, 0]))
        if not genomes:
            return []
        return self.objective.cost(np.array([known[genome] for genome in genomes])).tolist()

    def _look(self, rates: list[float], seeds: set[Genome], progress: Progress) -> None:
        """Add to the seeds what does best of a coarse net, at rates spread over the grid."""
        coarse = list(self.space.coarse())
        step = max(1, -(-len(rates) // COARSE_RATES))
        looked_at = rates[step // 2::step]
        for done, rate in enumerate(looked_at):
            progress('looking around', done, len(looked_at))
            costs = self.costs(coarse, rate)
            order = sorted(range(len(coarse)), key=costs.__getitem__)
            seeds.update(coarse[i] for i in order[:COARSE_KEPT])

    def _evolve(self, rate: float, start: list[Genome]) -> Genome:
        draw = Random(self._draw.random())
        pool = self._fittest(start, rate)
        still = 0
        for _ in range(GENERATIONS):
            before, parents = pool[0], list(pool)
            children = [self.space.mutant(draw.choice(parents), draw.choice(parents), draw)
                        for _ in range(CHILDREN)]
            pool = self._fittest([*parents, *children], rate)
            gained = self.costs(pool[:1], rate)[0] < self.costs([before], rate)[0] * (1 - GAIN)
            still = 0 if gained else still + 1
            if still == PATIENCE:
                break
        return pool[0]

    def _fittest(self, genomes: Sequence[Genome], rate: float) -> list[Genome]:
        """Return the best, of those that cost the same the simplest: drift is no variety."""
        ranked = sorted((cost, len(genome.stretches), genome)
                        for cost, genome in zip(self.costs(genomes, rate), genomes))
        kept = [genome for i, (cost, _, genome) in enumerate(ranked)
                if not i or cost > ranked[i - 1][0]]
        return kept[:PARENTS]

    def _polish(self, rate: float, start: list[Genome]) -> Genome:
        cost, genome = min(zip(self.costs(start, rate), start))
        while True:
            around = list(self.space.neighbours(genome))
            less, step = min(zip(self.costs(around, rate), around))
            if not less < cost * (1 - GAIN):
                return genome
            cost, genome = less, step

