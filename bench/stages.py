# SPDX-License-Identifier: Apache-2.0
"""
What each stage of LOSS gains, and what SciPy's differential evolution finds instead.

Cost (latency) relative to the whole search, at six bandwidths; device profiles are made up. The
differential evolution has as many evaluations as the whole search had at that bandwidth: a share,
clipped from [-0.5, 1.5], for each of the places where little is alive, started from the coarse net.
"""

from __future__ import annotations

from statistics import mean
import sys

from _common import finish, parser, table
from _goals import at_least, Goal
from _made_up import made_up_setting
import numpy as np
from scipy.optimize import differential_evolution

from hp_planner.search.baselines import baselines
from hp_planner.search.loss import Loss
from hp_planner.search.objective import Objective
from hp_planner.search.space import Genome, RECOMPUTE, Stretch, tidy
from hp_planner.timeline.timeline import Timeline

MODELS = {'vgg16': (224, 224), 'vgg19_bn': (480, 640), 'resnet50': (480, 640),
          'densenet121': (224, 224)}
RATES = [1.0, 4.0, 10.0, 25.0, 60.0, 200.0]
POPULATION = 64
# Goals: nothing that the search begins with, or that could stand in for it, is cheaper than it.
ROUNDING, RIVAL = 1e-6, 1e-3


def stages(name: str) -> list[dict]:
    """Return the cost after each stage, at each rate, relative to the whole search."""
    timeline = Timeline(made_up_setting(name, *MODELS[name]))
    known = baselines(timeline, Objective(), RATES)
    given = list({(p.robot, p.server): p for plans in known.values() for p in plans}.values())
    whole = Loss(timeline, Objective())
    whole.solve(RATES, given)
    lines = []
    for rate in RATES:
        costs = whole.costs(list(whole.judged[rate]), rate)
        final, evaluations = min(costs), len(costs)
        alone = Loss(timeline, Objective())
        seeds = [genome for plan in given
                 if (genome := alone.space.of_shares(plan.robot, plan.server))]
        coarse = list(alone.space.coarse())
        steps = {'baselines': min(alone.costs(seeds, rate)),
                 'coarse net': min(alone.costs([*seeds, *coarse], rate))}
        start = sorted({*seeds, *coarse}, key=lambda genome: alone.costs([genome], rate))[:16]
        evolved = alone._evolve(rate, start)
        steps['evolution'] = alone.costs([evolved], rate)[0]
        steps['polish'] = alone.costs([alone._polish(rate, [evolved])], rate)[0]
        steps['differential evolution'] = by_scipy(timeline, rate, start, evaluations)
        lines.append({'model': name, 'mbit_s': rate, 'evaluations': evaluations,
                      **{stage: cost / final for stage, cost in steps.items()}})
    return lines


def by_scipy(timeline: Timeline, rate: float, start: list[Genome], evaluations: int) -> float:
    """Return the least cost that SciPy's differential evolution finds."""
    loss = Loss(timeline, Objective())
    ends = loss.space.narrow[::max(1, len(loss.space.narrow) // 15)][:15]
    ends = sorted({*ends, loss.space.last})

    def genome(shares) -> Genome:
        return Genome(2, tidy([Stretch(end, float(min(1, max(0, share))), RECOMPUTE)
                               for end, share in zip(ends, shares)], loss.space.last))

    def cost(population: np.ndarray) -> np.ndarray:
        return np.array(loss.costs([genome(shares) for shares in population.T], rate))
    draw = np.random.default_rng(0)
    first = draw.uniform(-0.5, 1.5, (POPULATION, len(ends)))
    for i, known in enumerate(start[:POPULATION]):
        first[i] = [next(s.share for s in known.stretches if s.end >= end) for end in ends]
    found = differential_evolution(
        cost, [(-0.5, 1.5)] * len(ends), init=first, maxiter=evaluations // POPULATION,
        vectorized=True, updating='deferred', polish=False, tol=0, seed=0)
    return float(found.fun)


def judge(lines: list[dict]) -> list[Goal]:
    """Return that neither baselines nor another search were to be under the whole search."""
    return [at_least(f'{line["model"]} at {line["mbit_s"]:g} Mbit/s: {stage} over the search',
                     line[stage], 1 - slack)
            for line in lines for stage, slack in (
                ('baselines', ROUNDING), ('coarse net', ROUNDING),
                ('differential evolution', RIVAL))]


def main() -> int:
    """Measure, print, write."""
    args = parser(__doc__).parse_args()
    lines = [line for name in list(MODELS)[:1 if args.quick else None] for line in stages(name)]
    names = list(lines[0])
    table('cost relative to the whole search', names, [list(line.values()) for line in lines])
    table('mean', names[3:], [[mean(line[name] for line in lines) for name in names[3:]]])
    return finish(args, {'lines': lines}, judge(lines))


if __name__ == '__main__':
    sys.exit(main())
