# SPDX-License-Identifier: Apache-2.0
"""`hp graph`: the operators of a model and the rule of each."""

from __future__ import annotations

from hp_cli.commands import Outcome
from hp_cli.commands.common import columns, open_subject
from hp_inference.graph.layout import Layout
from hp_inference.graph.table import GLOBAL, LOCAL, PARTIAL

HEAD = ['value', 'name', 'operator', 'rule', 'axis', 'rows', 'shape', 'bytes']


def run(args) -> Outcome:
    """Describe the graph of a model."""
    subject = open_subject(args)
    layout, graph = subject.layout, subject.layout.graph
    kinds = [layout.kind(op.output) for op in graph.ops]
    data = {'model': graph.model, 'digest': graph.digest, 'ops': len(kinds),
            **{kind: kinds.count(kind) for kind in (LOCAL, PARTIAL, GLOBAL)},
            'unsupported': layout.unsupported}
    outputs = ', '.join(f'{name} = %{value}' for name, value in graph.outputs.items())
    lines = [subject.title, '', *columns([HEAD, *_operators(layout)]), '',
             f'outputs: {outputs}',
             f'{data["ops"]} operators: {data[LOCAL]} local (row-wise), {data[PARTIAL]} partial '
             f'(some inputs whole), {data[GLOBAL]} global (no row axis)']
    for name, count in layout.unsupported.items():
        lines.append(f'not in the table: {name} ({count}): computed whole, on one side')
    return Outcome(data, '\n'.join(lines))


def _operators(layout: Layout) -> list[list[str]]:
    graph = layout.graph
    operators = ['input', *(op.target.removeprefix('aten.') for op in graph.ops)]
    kinds = ['', *(layout.kind(op.output) for op in graph.ops)]
    return [[f'%{value.id}', value.name, operators[value.id], kinds[value.id],
             '-' if layout.axes[value.id] is None else str(layout.axes[value.id]),
             '-' if layout.axes[value.id] is None else str(layout.rows[value.id]),
             ','.join(map(str, value.shape)), str(value.nbytes)] for value in graph.values]
