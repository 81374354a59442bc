# SPDX-License-Identifier: Apache-2.0
"""
The plan of LOSS against every plan of small graphs: chains, and two nets with a way around.

Enumerated: nine shares for each value, cut there (fewer for the longest chain: as many as give less
than a million plans), at six bandwidths. LOSS may also recompute halos and send in row blocks, so
it can be under that optimum.
"""

from __future__ import annotations

from itertools import islice, product
from statistics import mean
import sys

from _common import finish, parser, table
from _goals import at_most, Goal
from _made_up import made_up
import numpy as np
import torch
from torch import nn

from hp_inference.graph.capture import as_image_model, capture
from hp_inference.graph.layout import Layout
from hp_planner.search.loss import Loss
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import LinkModel, Setting
from hp_planner.timeline.timeline import Population, Timeline

RATES = [0.5, 2.0, 5.0, 10.0, 30.0, 200.0]
SHARES, MOST_PLANS, BATCH = 9, 1_000_000, 20_000
SHAPE = (1, 1, 32, 128)
ROUNDING = 1e-6  # goal: never costlier than the cheapest of all enumerated plans
# Operations and bytes per second and seconds per operator of a robot, and of a server.
DEVICES = {'server 10 times as fast': ((1e8, 1e8, 1e-5), (1e9, 1e9, 1e-5)),
           'server 3 times as fast': ((3e8, 3e8, 1e-4), (1e9, 1e9, 3e-5))}


class Around(nn.Module):
    """A convolution with a way around it, after another; with stride 2 before both or not."""

    def __init__(self, stride: int):
        super().__init__()
        self.before = nn.Conv2d(1, 4, 3, stride, 1)
        self.inner, self.after = nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 1, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum, convolved."""
        x = self.before(x)
        return self.after(self.inner(x) + x)


def chain(cuts: int) -> nn.Module:
    """Return convolutions one after the other, the middle one of stride 2."""
    convolutions = [nn.Conv2d(1 if i == 0 else 4, 4, 3, 2 if i == cuts // 2 else 1, 1)
                    for i in range(cuts - 3)]  # the first three are the normalisation's
    return nn.Sequential(*convolutions)


def layouts(quick: bool) -> dict[str, Layout]:
    """Return the graphs."""
    modules = {f'chain of {cuts}': chain(cuts) for cuts in ((4, 5) if quick else (4, 6, 8))}
    modules |= {'way around': Around(1), 'way around, stride 2': Around(2)}
    return {name: Layout(capture(as_image_model(module.eval(), SHAPE), SHAPE, name))
            for name, module in modules.items()}


def exhaustive(loss: Loss) -> tuple[np.ndarray, int]:
    """Return the least cost at each rate over all plans, and how many shares were tried."""
    tables, shares = loss.timeline.tables, SHARES
    while shares ** (len(tables.rows) - 1) > MOST_PLANS:
        shares -= 1
    levels = [sorted({round(rows * i / (shares - 1)) for i in range(shares)})
              for rows in tables.rows]
    every = product([levels[0][-1]], *levels[1:])
    best = np.full(len(RATES), np.inf)
    while batch := list(islice(every, BATCH)):
        plans = np.array(batch, np.int32)
        figures = loss.timeline.figures(
            Population(plans, plans, np.ones_like(plans), np.zeros_like(plans)), RATES)
        best = np.minimum(best, loss.objective.cost(figures).min(0))
    return best, shares


def judge(lines: list[dict]) -> list[Goal]:
    """Return that no plan of LOSS was to be costlier than the cheapest enumerated one."""
    return [at_most(f'{line["graph"]}, {line["devices"]}: cost over the least, less 1',
                    line['worst'], ROUNDING) for line in lines]


def main() -> int:
    """Compare, print, write."""
    args = parser(__doc__).parse_args()
    lines = []
    for name, layout in layouts(args.quick).items():
        for devices, speeds in DEVICES.items():
            setting = Setting(layout, *(made_up(layout, *speed) for speed in speeds),
                              LinkModel('half', 1e-4, 0.0, 1e-4))
            loss = Loss(Timeline(setting), Objective())
            plans = loss.solve(RATES)
            mine = loss.objective.cost(
                loss.timeline.figures(Population.of(plans), RATES)).diagonal()
            least, shares = exhaustive(loss)
            gaps = (mine / least - 1).tolist()
            lines.append({'graph': name, 'devices': devices, 'cuts': len(layout.rows) - 1,
                          'shares': shares, 'worst': max(gaps), 'mean': mean(gaps), 'gaps': gaps})
    table('cost of LOSS over the least of all enumerated plans, less 1', [
        'graph', 'devices', 'cuts', 'shares', 'worst', 'mean'],
        [list(line.values())[:-1] for line in lines])
    return finish(args, {'lines': lines, 'rates': RATES}, judge(lines))


if __name__ == '__main__':
    sys.exit(main())
