# SPDX-License-Identifier: Apache-2.0
"""`hp program`: the two Programs of a plan."""

from __future__ import annotations

from hp_cli.commands import Outcome
from hp_cli.commands.common import open_plan, open_subject
from hp_inference.graph.layout import Layout
from hp_inference.split.program import compile_plan, Compute, Program, Send
from hp_inference.split.shares import SIDES


def run(args) -> Outcome:
    """Show what robot and server do under a plan."""
    subject = open_subject(args)
    layout = subject.layout
    plan = open_plan(args, layout)
    programs = compile_plan(layout, plan)
    data = {'model': layout.graph.model, 'digest': layout.graph.digest, 'plan': plan.to_json(),
            **{SIDES[program.side]: {
                'steps': [_step(layout, step) for step in program.steps],
                'held': {str(value): list(rows) for value, rows in program.held.items()}}
               for program in programs}}
    text = '\n\n'.join([subject.title, *(program.text(layout) for program in programs),
                        *(_travels(layout, program) for program in programs)])
    return Outcome(data, text)


def _step(layout: Layout, step) -> dict:
    shown = {'step': type(step).__name__.lower(), 'value': step.value,
             'name': layout.graph.values[step.value].name, 'begin': step.begin, 'end': step.end}
    if isinstance(step, Compute):
        shown['operator'] = layout.graph.ops[step.value - 1].target
    elif isinstance(step, Send):
        shown['codec'] = step.codec
    return shown


def _travels(layout: Layout, program: Program) -> str:
    """Return how much leaves a side, before it is encoded."""
    total = 0
    for send in program.sends:
        value = layout.graph.values[send.value]
        total += value.nbytes * (send.end - send.begin) // layout.rows[send.value]
    return (f'{SIDES[program.side]} sends {len(program.sends)} slices, '
            f'{total} bytes before encoding')
