# SPDX-License-Identifier: Apache-2.0
"""`hp simulate`: a plan table and its baselines along a recorded bandwidth; needs no PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial

import numpy as np

from hp_cli.commands import Outcome, UserError
from hp_cli.commands.progress import bar
from hp_planner.report import trace
from hp_planner.report.table_file import label, read_table_file, TABLE, TableFile

HEAD = ('', 'mean ms', 'p95 ms', 'energy J', 'switches', 'inferences')

#: Answers on what the codec leaves of the image; no exact plan can be compared with it.
LOSSY = 'full_offload_jpeg'


def run(args) -> Outcome:
    """Run inferences back to back along ``args.trace`` under the table and every baseline."""
    table = read_table_file(args.table)
    samples = trace.load_trace(args.trace)
    if len(table.record.grid) < 2:
        raise UserError(f'plan table {args.table} was made for {table.record.grid[0]:g} Mbit/s '
                        'alone: make one for the bandwidths of the trace')
    held = trace.held(samples[:, 0])
    seconds = float(held.sum())
    mean = float((samples[:, 1] * held).sum()) / seconds
    found: dict[str, trace.Outcome] = {}
    with bar(not args.json) as progress:
        for approach in table.approaches:
            alike = next((known for known in found if same(table, known, approach, samples)), None)
            found[approach] = found[alike] if alike else along(
                table, approach, samples, partial(progress, label(approach)))
    data = {'table': str(args.table), 'model': table.model, 'objective': table.record.objective,
            'trace': str(args.trace), 'samples': len(samples), 'seconds': seconds,
            'mean_mbit_s': mean,
            'results': {approach: asdict(outcome) for approach, outcome in found.items()}}
    text = [f'{table.model}  table {args.table}, objective {table.record.objective}',
            f'trace {args.trace}: {len(samples)} samples, {seconds:.0f} s, mean '
            f'{mean:.1f} Mbit/s', '', *_lines(found), *_gain(table, found)]
    return Outcome(data, '\n'.join(text))


def same(table: TableFile, one: str, other: str, samples: np.ndarray) -> bool:
    """Return whether two approaches put the same plans in force along a trace."""
    return table.plans_at(one, samples[:, 1]) == table.plans_at(other, samples[:, 1])


def along(table: TableFile, approach: str, samples: np.ndarray,
          progress: Callable[[int, int], None] = lambda done, of: None) -> trace.Outcome:
    """Return what the table, or one of its baselines, comes to along a trace, [samples, 2]."""
    record = table.record
    outcome = trace.follow(
        samples, partial(table.plans_at, approach),
        lambda plan, rates: (record.latency_at(plan, rates), record.energy_at(plan, rates)),
        record.waiting_w, progress)
    return outcome if record.power_known else replace(outcome, energy_j=None)


def _lines(found: dict[str, trace.Outcome]) -> list[str]:
    rows = [HEAD, *([label(approach), _shown(outcome.mean_s, 1e3), _shown(outcome.p95_s, 1e3),
                     _shown(outcome.energy_j), str(outcome.switches), str(outcome.inferences)]
                    for approach, outcome in found.items())]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ['  '.join(cell.rjust(width) if place else cell.ljust(width)
                       for place, (cell, width) in enumerate(zip(row, widths))) for row in rows]
    for approach, outcome in found.items():
        if not outcome.inferences or outcome.unfinished_s > 2 * outcome.p95_s:
            lines.append(f'{label(approach)}: the last inference was still under way after '
                         f'{outcome.unfinished_s:.1f} s, when the trace ended')
    return lines


def _gain(table: TableFile, found: dict[str, trace.Outcome]) -> list[str]:
    """Return a line that compares the table with the fastest baseline under the same policy."""
    others = [approach for approach, outcome in found.items() if approach != TABLE
              and outcome.inferences and (approach != LOSSY or table.record.policy == 'lossy')]
    mine = found[TABLE]
    if not others or not mine.inferences:
        return []
    best = min(others, key=lambda approach: found[approach].mean_s)
    energy = found[best].energy_j
    saved = f', energy {100 * (mine.energy_j / energy - 1):+.1f} %' if energy else ''
    return ['', f'the table against the fastest baseline under policy {table.record.policy} '
                f'({label(best)}): mean latency {100 * (mine.mean_s / found[best].mean_s - 1):+.1f}'
                f' %{saved}']


def _shown(number: float | None, scale: float = 1.0) -> str:
    """Return four digits."""
    return '-' if number is None else f'{scale * number:#.4g}'.rstrip('.')
