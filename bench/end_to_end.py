# SPDX-License-Identifier: Apache-2.0
"""
Latency and energy of a frame between two hosts, against what people use instead.

Real nodes over a real, shaped link (test/lab); the robot's computing thread gets a quarter of a
processor. At every rate each system answers one image after the other, in turns with the others.
Ours switches as it does live, told the rate; the baselines' plans are forced. The exact policy is
compared with the exact baselines, the lossy one with all. Rate 0 in --rates stands for the one at
which sending the pixels takes as long as the server computes.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
import random
from statistics import median
import sys
import time

from _common import finish, parser, ratio, table
from _goals import at_most, Goal, none, SKIPPED
from _rivals import PAYLOAD, POLICIES, Rivals, rivals
from _two_hosts import possible, settle, TwoHosts
import torch

from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.profile.measure import profile
from hp_inference.profile.sample import sample_image
from hp_inference.runtime.memory import keep_freed_memory
from hp_inference.runtime.reference import TOLERANCE
from hp_planner.timeline.setting import LinkModel

MASK = str(Path(__file__).with_name('_mask.py'))
CASES = {
    'vgg16 224': ('torchvision:vgg16', (224, 224)),
    'resnet50 224': ('torchvision:resnet50', (224, 224)),
    'resnet50 480x640': ('torchvision:resnet50', (480, 640)),
    'fcn_resnet50 480x640': (f'{MASK}:fcn_resnet50', (480, 640)),
}
RATES = (5.0, 10.0, 25.0, 0.0, 50.0, 100.0, 300.0)
SLOWER = 4.0
NEVER_ABOVE = 1.05  # of the best baseline, anywhere
PREDICTED = 0.10  # how far a prediction may be from what is measured
# Where sending takes about as long as the server computes, at most this part of the best baseline.
BALANCED, GOALS = (0.7, 1.5), {'vgg16 224': 0.80, 'resnet50 480x640': 0.80, 'resnet50 224': 0.88}
LINK = LinkModel('full')
# Before the frames that count, ours runs alone at a rate for so many frames and seconds.
BEFORE, BEFORE_S = 10, 8.0


def measure(case: str, rates: list[float], frames: int, seconds: float) -> dict:
    """Return what the systems took at each rate."""
    name, size = CASES[case]
    shape = (1, 3, *size)
    layout = open_model(ModelSpec(name, shape))[1]
    made_here = profile(layout, sample_image(shape), seconds=seconds)
    pixels = 8e-6 * layout.graph.input.nbytes
    with TwoHosts(name, shape, 'robot_only', 100.0, SLOWER, deadline_s=60.0) as hosts:
        robot, server = hosts.profiles(made_here)
        balanced = pixels / PAYLOAD / server.whole_s
        rates = sorted(rate or round(balanced, 1) for rate in rates)
        cells = [{'mbit_s': rate, 'over': pixels / PAYLOAD / rate / server.whole_s, 'policies': {}}
                 for rate in rates]
        for policy in POLICIES:
            made = rivals(layout, robot, server, LINK, rates, policy)
            hosts.use(made.together)
            for each in cells:
                each['policies'][policy] = cell(hosts, made, each['mbit_s'], frames, policy)
    return {'model': name, 'shape': shape, 'server_s': server.whole_s, 'robot_s': robot.whole_s,
            'balanced_mbit_s': balanced, 'cells': cells}


def cell(hosts: TwoHosts, made: Rivals, mbit_s: float, frames: int, policy: str) -> dict:
    """Return what the systems took at a rate; plans that several use run once a round."""
    hosts.lab.rate(mbit_s)
    used = made.used[mbit_s]
    runs: dict[str, list[dict]] = {plan: [] for plan in ('', *dict.fromkeys(used.values()))}
    hosts.set(force_plan='', bandwidth_mbit_s=PAYLOAD * mbit_s)
    begun, count = time.monotonic(), 0
    while count < BEFORE or time.monotonic() - begun < BEFORE_S:
        hosts.ask()
        count += 1
    order, draw = list(runs), random.Random(0)
    for number in range(frames + 1):
        draw.shuffle(order)  # what ran just before a frame makes a difference
        for plan in order:
            hosts.set(force_plan=plan)
            settle(0.02)
            frame, = hosts.ask()
            if number:  # the first round warms up
                runs[plan].append(frame)
    systems = {policy: {**figures(runs['']), 'predicted_s': median(
        made.predicted_s[mbit_s].get(frame['plan'], 0.0) for frame in runs[''])}}
    systems |= {system: {**figures(runs[plan]), 'predicted_s': made.predicted_s[mbit_s][plan]}
                for system, plan in used.items()}
    print(f'  {policy}, {mbit_s:g} Mbit/s: ' + ', '.join(
        f'{system} {1e3 * s["median_s"]:.0f}' for system, s in systems.items()), flush=True)
    best = min(used, key=lambda system: systems[system]['median_s'])
    middle, low, high = ratio(systems[policy]['latency_s'], systems[best]['latency_s'])
    return {'systems': systems, 'best': best, 'ratio': middle, 'interval': [low, high]}


def figures(done: list[dict]) -> dict:
    """Return what a system came to."""
    latencies = [frame['latency_s'] for frame in done]
    plans = Counter(frame['plan'] for frame in done)
    return {'plan': plans.most_common(1)[0][0], 'plans': plans,
            'latency_s': latencies, 'median_s': median(latencies), 'max_s': max(latencies),
            'energy_j': median(f.get('energy_j', 0.0) for f in done),
            'fallbacks': sum(f.get('fallback', True) for f in done),
            'lost': sum(f['lost'] for f in done),
            'worst_error': max(f.get('error', 0.0) for f in done),
            'sent_bytes': median(f.get('sent_bytes', 0) for f in done)}


def judge(case: str, measured: dict) -> list[Goal]:
    """Return what was to be reached."""
    goals = []
    for each in measured['cells']:
        where = f'{case} at {each["mbit_s"]:g} Mbit/s'
        for policy, judged in each['policies'].items():
            against = f'{where}: {policy} over {judged["best"]}'
            goals.append(at_most(f'{against}, low end of the interval', judged['interval'][0],
                                 NEVER_ABOVE))
            goal = GOALS.get(case)
            if goal and BALANCED[0] <= each['over'] <= BALANCED[1]:
                goals.append(at_most(f'{against}, T/S {each["over"]:.2f}', judged['ratio'], goal))
            ours = judged['systems'][policy]
            goals.append(at_most(f'{where}: error of what is predicted of {policy}',
                                 abs(ours['predicted_s'] / ours['median_s'] - 1), PREDICTED))
            goals += [none(f'{where}: {what} of {system} ({policy})', s[what])
                      for system, s in judged['systems'].items() for what in ('lost', 'fallbacks')]
        goals.append(at_most(f'{where}: error of an exact answer', max(
            s['worst_error'] for s in each['policies']['exact']['systems'].values()),
            TOLERANCE[torch.float32]))
    return goals


def show(case: str, measured: dict) -> None:
    """Print the cells of a model."""
    rows = []
    for each in measured['cells']:
        for policy, judged in each['policies'].items():
            for system, s in judged['systems'].items():
                rows.append([
                    f'{each["mbit_s"]:g}', f'{each["over"]:.2f}', system, s['plan'],
                    f'{1e3 * s["median_s"]:.1f}', f'{1e3 * s["max_s"]:.1f}',
                    f'{1e3 * s["predicted_s"]:.1f}', f'{s["energy_j"]:.2f}',
                    f'{s["sent_bytes"] / 1e3:.0f}', s['fallbacks'],
                    '{:.2f} [{:.2f}, {:.2f}] of {}'.format(
                        judged['ratio'], *judged['interval'], judged['best'])
                    if system == policy else ''])
    table(f'{case}: the server computes {1e3 * measured["server_s"]:.0f} ms, the robot '
          f'{1e3 * measured["robot_s"]:.0f}', [
              'Mbit/s', 'T/S', 'system', 'plan', 'median ms', 'max', 'predicted', 'J', 'kB sent',
              'alone', 'against the best'], rows)


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument('--cases', nargs='+', default=list(CASES), choices=list(CASES))
    options.add_argument('--rates', nargs='+', type=float, default=RATES)
    options.add_argument('--frames', type=int, default=30)
    options = options.parse_args()
    if not possible():
        return SKIPPED
    torch.set_num_threads(1)
    keep_freed_memory()
    frames, seconds = options.frames, 20.0
    if options.quick:
        options.cases, options.rates, frames, seconds = ['resnet50 224'], [25.0], 5, 8.0
    measured, goals = {}, []
    for case in options.cases:
        print(case, flush=True)
        measured[case] = measure(case, list(options.rates), frames, seconds)
        show(case, measured[case])
        goals += judge(case, measured[case])
    return finish(options, {'frames': frames, 'slower': SLOWER, 'link': LINK.__dict__,
                            'cases': measured}, goals)


if __name__ == '__main__':
    sys.exit(main())
