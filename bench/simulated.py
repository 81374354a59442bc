# SPDX-License-Identifier: Apache-2.0
"""
What the timeline predicts against what two processes take, for plans of every kind.

Robot and server are two processes on a core each, with one thread, joined by a link of a set rate,
full duplex. Both are profiled and the plans run within the same minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import mean, median
import sys

from _common import finish, parser, table
from _goals import at_most, Goal
from _two_processes import TwoProcesses
import torch

from hp_inference.graph.layout import Layout
from hp_inference.graph.load import ModelSpec
from hp_inference.profile.sample import sample_image
from hp_inference.runtime.reference import TOLERANCE, worst_error
from hp_inference.split.plan import full_offload, layer, Plan, random_plan, robot_only, uniform
from hp_planner.timeline.setting import LinkModel, Setting
from hp_planner.timeline.timeline import Timeline

MODELS = ('vgg16', 'resnet50')
GOAL = 0.10  # mean absolute error of the predicted latency


def plans(layout: Layout) -> list[tuple[Plan, float]]:
    """Return twelve plans, each with the rate in Mbit/s that it runs at."""
    early, late = narrow_values(layout)
    streamed = {v: 4 for v in range(len(layout.rows))}
    uneven = uniform(layout, 0.7)
    overlapping = replace(uneven, name='uniform:0.7+halo', server=tuple(
        rows if v == 0 else max(0, mine - rows // 8)
        for v, (mine, rows) in enumerate(zip(uneven.robot, layout.rows))))
    return [
        (full_offload(layout), 10.0),
        (full_offload(layout, blocks={0: 4}, codec='none'), 20.0),
        (layer(layout, early), 50.0),
        (layer(layout, late), 50.0),
        (layer(layout, early, blocks=streamed, codec='none'), 100.0),
        (uniform(layout, 0.5), 100.0),
        (uniform(layout, 0.5, codec='none'), 400.0),
        (uniform(layout, 0.3, blocks=streamed), 200.0),
        (overlapping, 200.0),
        (random_plan(layout, 1), 200.0),
        (random_plan(layout, 2), 400.0),
        (random_plan(layout, 3, codec='none'), 800.0),
    ]


def narrow_values(layout: Layout) -> Iterator[int]:
    """Yield where little travels: the smallest value of the second and of the third quarter."""
    count = len(layout.rows)
    for first, end in ((count // 4, count // 2), (count // 2, 3 * count // 4)):
        yield min(range(first, end), key=lambda v: layout.graph.values[v].nbytes)


def measure(name: str, rounds: int, seconds: float) -> list[dict]:
    """Return, for each plan, what was predicted and what it took."""
    with TwoProcesses(ModelSpec(f'torchvision:{name}')) as pair:
        layout = pair.layout
        image = sample_image(layout.graph.input.shape)
        cases = plans(layout)
        pair.prepare([robot_only(layout), *(plan for plan, _ in cases)])
        whole = pair.frame(0, 1.0, image).outputs
        robot, server = pair.profiles(image, seconds)
        trip = pair.round_trip_s()
        link = LinkModel('full', message_s=0.0, byte_s=0.0, round_trip_s=trip)
        timeline = Timeline(Setting(layout, robot, server, link))
        runs: list[list] = [[] for _ in cases]
        for number in range(rounds + 1):
            for place, (_, mbit_s) in enumerate(cases):
                run = pair.frame(place + 1, mbit_s, image)
                if number:  # the first round warms up
                    runs[place].append(run)
    results = []
    for (plan, mbit_s), frames in zip(cases, runs):
        error = worst_error(frames[0].outputs, whole)
        if error > TOLERANCE[torch.float32]:
            raise SystemExit(f'{name}, plan {plan.name}: the answer is wrong by {error:.3g}')
        foreseen = timeline.predict(plan, mbit_s)
        took = median(frame.latency_s for frame in frames)
        results.append({
            'plan': plan.name, 'mbit_s': mbit_s, 'codec': plan.codec,
            'blocks': max(plan.blocks.values(), default=1),
            'predicted_s': foreseen.latency_s, 'measured_s': took,
            'ratio': foreseen.latency_s / took,
            'robot_busy_s': [foreseen.robot_busy_s, median(f.robot_compute_s for f in frames)],
            'server_busy_s': [foreseen.server_busy_s, median(f.server_compute_s for f in frames)],
            'scale': [robot.scale, server.scale], 'round_trip_s': trip})
    return results


def judge(models: dict) -> list[Goal]:
    """Return how near the predictions were to come."""
    return [at_most(f'{name}: mean error of the predicted latency',
                    figures['mean_absolute_error'], GOAL) for name, figures in models.items()]


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument('--models', nargs='+', default=MODELS)
    options.add_argument('--rounds', type=int, default=9)
    options.add_argument('--seconds', type=float, default=20.0, help='of profiling')
    options = options.parse_args()
    torch.set_num_threads(1)
    rounds, seconds = (3, 5.0) if options.quick else (options.rounds, options.seconds)
    figures, summary = {}, []
    for name in options.models:
        results = measure(name, rounds, seconds)
        table(f'{name}: latency in ms, median of {rounds} frames',
              ['plan', 'Mbit/s', 'codec', 'blocks', 'predicted', 'measured', 'ratio',
               'robot busy', 'server busy'],
              [[r['plan'], r['mbit_s'], r['codec'], r['blocks'], 1e3 * r['predicted_s'],
                1e3 * r['measured_s'], r['ratio'],
                *('{:.1f} / {:.1f}'.format(*(1e3 * s for s in r[busy]))
                  for busy in ('robot_busy_s', 'server_busy_s'))] for r in results])
        ratios = [r['ratio'] for r in results]
        error = mean(abs(ratio - 1) for ratio in ratios)
        summary.append([name, median(ratios), error, max(abs(ratio - 1) for ratio in ratios)])
        figures[name] = {'plans': results, 'median_ratio': median(ratios),
                         'mean_absolute_error': error}
    table('predicted / measured', ['model', 'median', 'mean |error|', 'worst'], summary)
    return finish(options, {'rounds': rounds, 'models': figures}, judge(figures))


if __name__ == '__main__':
    sys.exit(main())
