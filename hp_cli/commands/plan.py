# SPDX-License-Identifier: Apache-2.0
"""`hp plan`: the best plan at every bandwidth, as a table."""

from __future__ import annotations

from dataclasses import replace

from hp_cli.commands import Outcome, UserError
from hp_cli.commands.common import columns, open_subject, writable
from hp_cli.commands.progress import bar
from hp_inference import files
from hp_inference.profile.device import DeviceProfile
from hp_inference.runtime.meters import UNKNOWN
from hp_planner.search.grid import checked_grid, default_grid, plan_table
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import LinkModel, Setting
from hp_planner.timeline.timeline import Timeline

# Rates in the summary; the file has all.
SHOWN = 12


def run(args) -> Outcome:
    """Plan for every bandwidth and write the table to ``args.out``."""
    grid = default_grid() if args.bandwidths is None else checked_grid(args.bandwidths)
    objective = _objective(args)
    if args.pareto is not None and not args.pareto > 0:
        raise UserError('--pareto is for a bandwidth above 0 Mbit/s')
    link = _link(args)
    profiles = [DeviceProfile.load(path) for path in (args.robot, args.server)]
    out = writable(args.out)
    subject = open_subject(args)
    timeline = Timeline(Setting(subject.layout, *profiles, link))
    with bar(not args.json) as progress:
        table = plan_table(timeline, objective, grid, args.policy, args.seed, args.swing,
                           args.pareto, progress)
    files.write(out, table.dumps())
    record = table.record
    known = record['power']['source'] != UNKNOWN
    data = {'table': args.out, 'model': subject.layout.graph.model,
            'digest': table.digest.hex(), 'plans': [plan.name for plan in table.plans],
            **{key: record[key] for key in ('objective', 'policy', 'grid', 'baselines', 'pareto',
                                            'seconds')},
            'choices': [{**{key: item for key, item in choice.items() if key != 'lanes'},
                         **({} if known else {'energy_j': None}),
                         'baseline_s': _fastest(record, i)[1]}
                        for i, choice in enumerate(record['choices'])]}
    text = [subject.title, f'objective {objective.name}, policy {args.policy}, {link.duplex} '
            'duplex', '', *_summary(record), '', *_limits(record), *_front(record, known),
            f'{len(table.plans)} plans, {len(table.choices)} choices, {record["seconds"]:.1f} s '
            f'-> {args.out}']
    return Outcome(data, '\n'.join(text))


def _objective(args) -> Objective:
    def times(amount, factor):
        return None if amount is None else amount * factor
    return Objective(args.objective, times(args.latency_bound_ms, 1e-3), args.latency_weight,
                     args.energy_weight, times(args.robot_mb, 1e6), times(args.server_mb, 1e6),
                     times(args.link_mb_per_s, 1e6))


def _link(args) -> LinkModel:
    link = LinkModel(args.duplex)
    if args.message_ms is not None:
        link = replace(link, message_s=args.message_ms * 1e-3)
    if args.round_trip_ms is not None:
        link = replace(link, round_trip_s=args.round_trip_ms * 1e-3)
    return link


def _fastest(record: dict, i: int) -> tuple[str, float]:
    """Return the fastest baseline at a rate of the grid, and its latency in seconds."""
    latencies = {name: record['curves'][plans[i]]['latency_s'][i]
                 for name, plans in record['baselines'].items()
                 if name != 'whole_switch'}  # which is one of the others
    name = min(latencies, key=latencies.get)
    return name, latencies[name]


def _limits(record: dict) -> list[str]:
    """Return a line that says where the limits can't be kept, nothing where they are."""
    broken = [choice for choice in record['choices'] if not choice['kept']]
    if not broken:
        return []
    return [f'NOTE: no plan keeps the limits at {len(broken)} of {len(record["choices"])} rates, '
            f'up to {broken[-1]["mbit_s"]:g} Mbit/s: there the table has what comes nearest, a '
            f'latency of up to {max(choice["latency_s"] for choice in broken) * 1e3:.1f} ms', '']


def _front(record: dict, known: bool) -> list[str]:
    """Return a table of the Pareto front, where there is one: a few of its points."""
    if not record['pareto']:
        return []
    points = record['pareto']['points']
    rows = [['latency', 'energy', 'frames/s', 'robot holds']]
    for point in points[::-(-len(points) // SHOWN)]:
        rows.append([f'{point["latency_s"] * 1e3:.1f} ms',
                     f'{point["energy_j"]:.3f} J' if known else '-',
                     f'{point["throughput"]:.1f}', f'{point["robot_peak_bytes"] / 1e6:.2f} MB'])
    return [f'no plan is better in all of these at {record["pareto"]["mbit_s"]:g} Mbit/s '
            f'({len(points)} plans):', *columns(rows), '']


def _summary(record: dict) -> list[str]:
    """Return a table: per rate the plan, what it costs, and what the fastest baseline costs."""
    rows = [['Mbit/s', 'plan', 'latency', 'energy', 'latency bound', 'ratio', 'fastest baseline',
             '']]
    known = record['power']['source'] != UNKNOWN
    step = -(-len(record['choices']) // SHOWN)
    for i, choice in enumerate(record['choices']):
        if i % step:
            continue
        name, latency = _fastest(record, i)
        bound = choice['bound_s']
        energy = f'{choice["energy_j"]:.3f} J' if known else '-'
        rows.append([
            f'{choice["mbit_s"]:g}', choice['plan'], f'{choice["latency_s"] * 1e3:.1f} ms', energy,
            f'{bound * 1e3:.1f} ms',
            f'{choice["latency_s"] / bound:.2f}' if bound else '-', name.replace('_', ' '),
            f'{latency * 1e3:.1f} ms'])
    return columns(rows)

