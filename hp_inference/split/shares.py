# SPDX-License-Identifier: Apache-2.0
"""From a plan to what each side computes and what travels: one backward pass over the graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows
from hp_inference.split.plan import Plan, PlanError

ROBOT, SERVER = 0, 1
SIDES = ('robot', 'server')
NONE = Rows()


@dataclass
class Share:
    """Of one value, per side (robot, server): the rows wanted, computed there and arriving."""

    wanted: list[Rows] = field(default_factory=lambda: [NONE, NONE])
    computed: list[Rows] = field(default_factory=lambda: [NONE, NONE])
    arriving: list[Rows] = field(default_factory=lambda: [NONE, NONE])

    def held(self, side: int) -> Rows:
        """Return the rows that a side ends up with."""
        return self.computed[side] | self.arriving[side]


def needs_of(layout: Layout, value: int, rows: Rows) -> dict[int, Rows]:
    """Return the input rows, by value, that computing ``rows`` of a value reads."""
    wanted: dict[int, Rows] = {}
    for begin, end in rows:
        block = layout.rules[value].block(begin, end)
        for source, need in zip(layout.graph.ops[value - 1].refs, block.needs):
            wanted[source] = wanted.get(source, NONE) | need
    return wanted


def shares(layout: Layout, plan: Plan) -> list[Share]:
    """
    Return every value's share.

    A row that is wanted is computed where the plan lets it be and needed; the side that does not
    compute a row that it wants gets it sent. Rows that nothing wants belong to nobody. Raises
    PlanError where a wanted row is computed by neither side.
    """
    plan.validate(layout)
    made = [Share() for _ in layout.rows]
    for value in layout.graph.outputs.values():
        made[value].wanted[ROBOT] = Rows.of(0, layout.rows[value])
    for value in reversed(range(len(made))):
        share, rows = made[value], layout.rows[value]
        able = (Rows.of(0, plan.robot[value]), Rows.of(plan.server[value], rows))
        gap = (share.wanted[ROBOT] | share.wanted[SERVER]) - (able[ROBOT] | able[SERVER])
        if gap:
            raise PlanError(
                f'plan {plan.name!r} has a gap: rows {gap} of value {value} '
                f'({layout.graph.values[value].name}) are needed, but the robot computes '
                f'[0,{plan.robot[value]}) and the server [{plan.server[value]},{rows})')
        for side, other in ((ROBOT, SERVER), (SERVER, ROBOT)):
            share.arriving[side] = share.wanted[side] - able[side]
            share.computed[side] = able[side] & (
                share.wanted[side] | (share.wanted[other] - able[other]))
        if value == 0:
            break
        for side in (ROBOT, SERVER):
            for source, need in needs_of(layout, value, share.computed[side]).items():
                made[source].wanted[side] = made[source].wanted[side] | need
    return made
