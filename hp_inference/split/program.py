# SPDX-License-Identifier: Apache-2.0
"""
The two Programs of a plan: flat lists of Compute, Send and Receive, one per side.

Both are projections of one global order of (phase, value), so neither side can wait for the other
in a circle: Send only enqueues, arrivals are taken in by a thread of their own, and only Receive
blocks. The planner's timeline simulates these same lists.
"""

from __future__ import annotations

from dataclasses import dataclass

from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows
from hp_inference.split.blocks import timing
from hp_inference.split.plan import Plan
from hp_inference.split.shares import needs_of, NONE, ROBOT, SERVER, Share, shares, SIDES


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
    made = shares(layout, plan)
    when = timing(layout, plan, made)
    return tuple(_project(layout, plan, made, when, side) for side in (ROBOT, SERVER))


def _project(layout: Layout, plan: Plan, made: list[Share], when, side: int) -> Program:
    """Return one side's steps; a Receive stands right before the first step that needs it."""
    actions = []  # (phase, value, 0 compute / 1 send, rows)
    for value in range(len(made)):
        if value:
            actions += [(phase, value, 0, rows) for phase, rows in when.computed[value][side]]
        actions += [(phase, value, 1, rows) for phase, rows in when.leaving[value][side]]
    actions.sort(key=lambda action: (action[0], action[1], action[2], action[3].hull))
    pending = {value: [pair for _, rows in when.leaving[value][1 - side] for pair in rows]
               for value in range(len(made)) if made[value].arriving[side]}
    steps: list = []

    def receive(value: int, need: Rows) -> None:
        for pair in list(pending.get(value, ())):
            if need & Rows((pair,)):
                steps.append(Receive(value, *pair, plan.codec_of(value)))
                pending[value].remove(pair)
    for _, value, what, rows in actions:
        for begin, end in rows:
            if what == 1:
                steps.append(Send(value, begin, end, plan.codec_of(value)))
                continue
            for source, need in needs_of(layout, value, Rows.of(begin, end)).items():
                receive(source, need)
            steps.append(Compute(value, begin, end))
    for value in list(pending):
        receive(value, made[value].arriving[side])
    held = {value: share.held(side).hull for value, share in enumerate(made)
            if share.held(side) != NONE}
    return Program(side, plan.name, tuple(steps), held)
