# SPDX-License-Identifier: Apache-2.0
"""
The two Programs of a plan: flat lists of Compute, Send and Receive, one per side.

``steps`` says in which order, and why nobody waits in a circle. The planner's timeline simulates
these same lists.
"""

from __future__ import annotations

from dataclasses import dataclass

from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows
from hp_inference.split.plan import Plan, PlanError
from hp_inference.split.row_rules import RowRules
from hp_inference.split.rowsets import rows_of
from hp_inference.split.shares import (
    COMPLETE,
    new_workspace,
    ROBOT,
    SERVER,
    SIDES,
    SPOILT,
    Workspace,
)
from hp_inference.split.steps import COMPUTE, make_steps, new_steps, SEND, Steps

INTERVALS = 6
"""Room for intervals of rows of a value at one side, to begin with; it grows as it must."""


@dataclass(frozen=True)
class Compute:
    """Compute rows [begin, end) of a value."""

    value: int
    begin: int
    end: int


@dataclass(frozen=True)
class Send:
    """Hand rows [begin, end) of a value to the link; does not wait."""

    value: int
    begin: int
    end: int
    codec: str


@dataclass(frozen=True)
class Receive:
    """Wait until rows [begin, end) of a value have arrived."""

    value: int
    begin: int
    end: int
    codec: str


@dataclass(frozen=True)
class Program:
    """
    What one side does for one frame under one plan.

    ``held[v]``: the interval of rows that the side keeps of value v while it needs it.
    """

    side: int
    plan: str
    steps: tuple
    held: dict[int, tuple[int, int]]

    @property
    def sends(self) -> list[Send]:
        """The slices that leave this side, in order."""
        return [step for step in self.steps if isinstance(step, Send)]

    @property
    def receives(self) -> list[Receive]:
        """The slices that arrive at this side, in the order in which they are waited for."""
        return [step for step in self.steps if isinstance(step, Receive)]

    def text(self, layout: Layout) -> str:
        """Return the program as lines that a person can read."""
        lines = [f'{SIDES[self.side]} program of plan {self.plan}: {len(self.steps)} steps']
        for step in self.steps:
            value = layout.graph.values[step.value]
            rows = f'rows [{step.begin},{step.end}) of {layout.rows[step.value]}'
            if layout.axes[step.value] is None:
                rows = 'whole'
            what = type(step).__name__.lower()
            detail = ''
            if isinstance(step, Compute):
                detail = layout.graph.ops[step.value - 1].target.split('.')[1]
            elif isinstance(step, Send):
                detail = step.codec
            lines.append(f'  {what:8}%{step.value:<4} {rows:24} {detail:16} {value.name}')
        return '\n'.join(lines)


def compile_plan(layout: Layout, plan: Plan) -> tuple[Program, Program]:
    """Return the robot's and the server's Program; raises PlanError for an incomplete plan."""
    plan.validate(layout)
    rules, intervals = RowRules(layout), INTERVALS
    blocks = [plan.block_count(value) for value in range(len(layout.rows))]
    while True:
        work, steps = new_workspace(intervals), new_steps()
        outcome = make_steps(rules, plan.robot, plan.server, blocks, work, steps)
        if outcome == COMPLETE:
            return _program(plan, steps, ROBOT), _program(plan, steps, SERVER)
        if outcome != SPOILT:
            raise _gap(layout, plan, outcome, work)
        intervals *= 4


def _program(plan: Plan, steps: Steps, side: int) -> Program:
    made = []
    for i in range(steps.counts[side]):
        what = steps.value[side, i], steps.begin[side, i], steps.end[side, i]
        kind = steps.kind[side, i]
        made.append(Compute(*what) if kind == COMPUTE
                    else (Send if kind == SEND else Receive)(*what, plan.codec_of(what[0])))
    held = {value: (steps.held_begin[side, value], steps.held_end[side, value])
            for value in range(len(plan.robot)) if steps.held_end[side, value]}
    return Program(side, plan.name, tuple(made), held)


def _gap(layout: Layout, plan: Plan, value: int, work: Workspace) -> PlanError:
    rows, robot, server = layout.rows[value], plan.robot[value], plan.server[value]
    wanted = rows_of(work.wanted[value, ROBOT]) | rows_of(work.wanted[value, SERVER])
    gap = wanted - (Rows.of(0, robot) | Rows.of(server, rows))
    return PlanError(
        f'plan {plan.name!r} has a gap: rows {gap} of value {value} '
        f'({layout.graph.values[value].name}) are needed, but the robot computes [0,{robot}) and '
        f'the server [{server},{rows})')
