# SPDX-License-Identifier: Apache-2.0
"""
LOSS and what people use instead, on recorded device profiles along recorded Wi-Fi traces.

Inferences back to back, the plan chosen from the previous sample. Needs a folder of records
(MODEL.json, measured.csv) and one of traces (wifi_NAME.csv): --data DIR --traces DIR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
import sys

from _common import finish, parser, skip, table
from _goals import at_least, Goal
from _recorded import RecordError
from _recorded_device import (
    fit_check,
    load_recorded,
    pause_s,
    Recorded,
    RECORDED_LINK,
    WAITING_W,
)
from _recorded_halo import without_halos
import numpy as np

from hp_inference.split.plan import Plan
from hp_planner.report.trace import Outcome, read_trace, run_trace, Sample, TraceError
from hp_planner.search.baselines import baselines
from hp_planner.search.grid import default_grid, expected_costs, plan_table
from hp_planner.search.loss import Loss
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import LinkModel, Setting
from hp_planner.timeline.simulate import ENERGY, LATENCY
from hp_planner.timeline.timeline import Population, Timeline

# This package's own messages between two processes over topics, as bench/topics.py measures them,
# and the round trip of a Wi-Fi link without load.
OWN_LINK = LinkModel(duplex='full', message_s=0.0006, byte_s=4e-9, round_trip_s=0.003)
LINKS = {'recorded': RECORDED_LINK, 'own': OWN_LINK}
SPLIT, SWITCH = "Hybrid-Parallel (authors' LOP)", 'whole_switch'
CHAINS = ('vgg19_bn', 'agrnav')
# How far the next sample is from the one that the plan is chosen from: standard deviation of the
# logarithm. Both traces have about 0.3; no other knowledge of them goes into a choice.
SWING = 0.3
# Joules that a second is worth, in sweeps between least energy and least latency.
EXCHANGE_RATES = (2.0, 6.0, 20.0)


@dataclass
class Study:
    """One model's plans and what each costs at each rate of the traces."""

    timeline: Timeline
    rates: list[float]
    plans: list[Plan]
    figures: np.ndarray  # [plans, rates, figures]

    def choice(self, costs: np.ndarray, among: Sequence[int] | None = None) -> list[int]:
        """Return the plan of least cost at each rate; costs: [plans, rates]."""
        among = list(range(len(self.plans))) if among is None else list(among)
        return [among[i] for i in costs[among].argmin(0)]

    def along(self, samples: Sequence[Sample], chosen: Sequence[int]) -> Outcome:
        """Run a trace with a plan for each rate."""
        place = {rate: i for i, rate in enumerate(self.rates)}
        return run_trace(samples, lambda rate: chosen[place[rate]], lambda plan, rate: tuple(
            self.figures[plan, place[rate], [LATENCY, ENERGY]].tolist()), WAITING_W)


def study(recorded: Recorded, link: LinkModel, rates: list[float], energy: bool
          ) -> tuple[Study, dict[str, list[int]]]:
    """Return all plans found and, per approach that needs no search, its plan at each rate."""
    timeline = Timeline(Setting(recorded.layout, recorded.robot, recorded.server, link))
    rivals = baselines(timeline, Objective(), rates)
    plans = list({(plan.robot, plan.server): plan
                  for each in rivals.values() for plan in each}.values())
    objectives = [Objective()]
    if energy:
        objectives += [Objective('energy'), *(Objective('weighted', latency_weight=weight)
                                              for weight in EXCHANGE_RATES)]
    given = list(plans)
    for objective in objectives:
        plans += Loss(timeline, objective).solve(rates, given)
    figures = timeline.figures(Population.of(plans), rates)
    place = {(plan.robot, plan.server): i for i, plan in reversed(list(enumerate(plans)))
             if i < len(given)}
    fixed = {name: [place[plan.robot, plan.server] for plan in each]
             for name, each in rivals.items()}
    return Study(timeline, rates, plans, figures), fixed


def least_energy(found: Study, samples: Sequence[Sample], bound_s: float) -> Outcome | None:
    """Return the outcome of least energy whose mean latency is within a bound, None for none."""
    best = None
    for weight in (0.0, *np.geomspace(0.1, 1000, 60)):
        costs = found.figures[..., ENERGY] + weight * found.figures[..., LATENCY]
        outcome = found.along(samples, found.choice(costs))
        if outcome.mean_s and outcome.mean_s <= bound_s and (
                best is None or outcome.energy_j < best.energy_j):
            best = outcome
    return best


def judge(recorded: Recorded, variant: str, traces: dict[str, list[Sample]], link: LinkModel,
          energy: bool) -> list[dict]:
    """Return one line per trace and approach."""
    rates = sorted({sample.mbit_s for samples in traces.values() for sample in samples
                    if sample.mbit_s})
    found, fixed = study(recorded, link, rates, energy)
    expected = expected_costs(found.timeline, Objective(), found.plans, rates, SWING)
    lines = []
    for trace, samples in traces.items():
        outcomes = {name: found.along(samples, chosen) for name, chosen in fixed.items()}
        outcomes['LOSS'] = found.along(samples, found.choice(found.figures[..., LATENCY]))
        outcomes['LOSS, swing'] = found.along(samples, found.choice(expected))
        measured = {line.approach: line for line in recorded.measured if line.trace in (trace, '-')}
        if energy and measured:
            bound = min(line.mean_ms for line in measured.values()) / 1e3
            thrifty = least_energy(found, samples, bound)
            outcomes['LOSS (energy)'] = thrifty
        lines += [{'model': recorded.record.model, 'variant': variant, 'trace': trace,
                   'approach': name, **_figures(outcome)} for name, outcome in outcomes.items()]
        if variant == 'recorded/float32':
            lines += [{'model': recorded.record.model, 'variant': 'measured there', 'trace': trace,
                       'approach': line.approach, 'mean_ms': line.mean_ms, 'p95_ms': line.p95_ms,
                       'energy_j': line.mean_energy_j} for line in measured.values()]
    return lines


def _figures(outcome: Outcome | None) -> dict:
    if outcome is None or outcome.mean_s is None:
        return {'mean_ms': None, 'p95_ms': None, 'energy_j': None}
    return {'mean_ms': float(outcome.mean_s) * 1e3, 'p95_ms': float(outcome.p95_s) * 1e3,
            'energy_j': float(outcome.energy_j)}


def honesty(recorded: Recorded, traces: dict[str, list[Sample]]) -> list[dict]:
    """Return simulated against measured means of robot only and full offload, in ms."""
    lines = []
    for trace, samples in traces.items():
        if recorded.line('full offload', trace) is None:
            continue
        plain = fit_check(recorded, samples, trace)
        paused = fit_check(recorded, samples, trace, pause_s(recorded, samples, trace))
        lines.append({'model': recorded.record.model, 'trace': trace, 'approach': 'full offload',
                      'measured_ms': plain['measured_ms'], 'simulated_ms': plain['modelled_ms'],
                      'error': plain['error'], 'error_with_pauses': paused['error']})
    alone = recorded.line('robot only')
    if alone:
        simulated = recorded.robot.whole_s * 1e3
        lines.append({'model': recorded.record.model, 'trace': '-', 'approach': 'robot only',
                      'measured_ms': alone.mean_ms, 'simulated_ms': simulated,
                      'error': simulated / alone.mean_ms - 1,
                      'error_with_pauses': simulated / alone.mean_ms - 1})
    return lines


def goals(lines: list[dict]) -> list[Goal]:
    """Return what was to be reached, of all for which there is something to compare with."""
    known = {(line['model'], line['variant'], line['trace'], line['approach']): line
             for line in lines}

    made = []
    for model, trace in sorted({(line['model'], line['trace']) for line in lines}):
        recorded, own, there = 'recorded/float32', 'own/float32', 'measured there'
        for name, wanted, mine, other, figure in (
                ('latency under the simulated switch', 0.15 if model in CHAINS else 0.08,
                 (recorded, 'LOSS, swing'), (recorded, SWITCH), 'mean_ms'),
                ('latency under the recorded split', 0.10,
                 (recorded, 'LOSS, swing'), (there, SPLIT), 'mean_ms'),
                ('latency under the switch, own messages', 0.20 if model == 'densenet121' else 0.25,
                 (own, 'LOSS, swing'), (own, SWITCH), 'mean_ms'),
                ('energy under the recorded split', 0.25,
                 (recorded, 'LOSS (energy)'), (there, SPLIT), 'energy_j')):
            ours, theirs = (known.get((model, variant, trace, approach), {})
                            for variant, approach in (mine, other))
            if ours and theirs.get(figure):
                # Where no plan is within the other's latency there is nothing: it fell short.
                reached = ours[figure] and 1 - ours[figure] / theirs[figure]
                made.append(at_least(f'{model}, {trace}: {name}', reached, wanted))
    return made


def write_tables(args, names: list[str]) -> None:
    """Write a plan table per model, for the recorded transport."""
    args.tables.mkdir(parents=True, exist_ok=True)
    for name in names:
        recorded = load_recorded(args.data, name)
        timeline = Timeline(Setting(recorded.layout, recorded.robot, recorded.server,
                                    RECORDED_LINK))
        made = plan_table(timeline, Objective(), default_grid(), swing=SWING, pareto_mbit_s=80.0)
        path = args.tables / f'{name}.json'
        path.write_text(made.dumps(), encoding='utf-8')
        print(f'{path}: {len(made.plans)} plans, {made.record["seconds"]:.0f} s')


def main() -> int | None:
    """Carry out the bench."""
    options = parser(__doc__)
    options.add_argument('--data', type=Path, help='folder of the records and measured.csv')
    options.add_argument('--traces', type=Path, help='folder of wifi_*.csv')
    options.add_argument('--tables', type=Path, help="write each model's plan table here, for "
                         'hp report and hp simulate, instead of the comparison')
    options.add_argument('--models', help='names, separated by commas (all records)')
    args = options.parse_args()
    for name in ('data', 'traces'):
        folder = getattr(args, name)
        if folder is None or not folder.is_dir():
            return skip(f'no recorded data: give --{name} a folder (got {folder})')
    try:
        traces = {path.stem.removeprefix('wifi_'): read_trace(path)
                  for path in sorted(args.traces.glob('wifi_*.csv'))}
        names = args.models.split(',') if args.models else sorted(
            path.stem for path in args.data.glob('*.json'))
        if args.tables:
            return write_tables(args, names)
        lines, honest = [], []
        for name in names[:1] if args.quick else names:
            recorded = load_recorded(args.data, name)
            for note in recorded.notes:
                print(f'note: {name}: {note}')
            honest += honesty(recorded, traces)
            for link in LINKS:
                lines += judge(recorded, f'{link}/float32', traces, LINKS[link],
                               link == 'recorded' and not args.quick)
                lines += judge(recorded.as_pixels(), f'{link}/pixels', traces, LINKS[link], False)
            with without_halos():
                free = judge(recorded, 'recorded/no halos', traces, RECORDED_LINK, False)
            lines += [line for line in free if line['approach'] == 'LOSS, swing']
            print(f'{name} done', file=sys.stderr)
    except (RecordError, TraceError) as error:
        raise SystemExit(f'bench: {error}') from error
    table('simulated / measured', ['model', 'trace', 'approach', 'measured ms', 'simulated ms',
                                   'error', 'error with pauses'],
          [list(line.values()) for line in honest])
    table('along the traces', ['model', 'variant', 'trace', 'approach', 'mean ms', 'p95 ms', 'J'],
          [['-' if item is None else item for item in line.values()] for line in lines])
    return finish(args, {'honest': honest, 'lines': lines}, goals(lines))


if __name__ == '__main__':
    sys.exit(main())
