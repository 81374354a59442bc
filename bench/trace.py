# SPDX-License-Identifier: Apache-2.0
"""
Frame after frame along recorded Wi-Fi, plans switched live, against what people use instead.

Real nodes over a real link whose rate follows the record (test/lab). Every system lives through
the same segments; all but the oracle know of the link what bandwidth_monitor_node tells them. The
oracle is our table with what the link will carry in the next half second.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import random
from statistics import mean, median
import sys
import threading
import time

from _common import finish, parser, table
from _goals import at_most, Goal, none, SKIPPED
from _rivals import ALL, PAYLOAD, POLICIES, rivals
from _two_hosts import possible, TwoHosts
from end_to_end import LINK, SLOWER
import torch

from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.profile.measure import profile
from hp_inference.profile.sample import sample_image
from hp_inference.runtime.memory import keep_freed_memory
from hp_inference.runtime.reference import TOLERANCE
from hp_planner.report.trace import read_trace

RATES = [2.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0]
AHEAD_S = 0.5  # of the oracle
ORACLE = 'oracle'
OF_ORACLE, REACTION_S = 1.10, 1.0
#: A link in steps: seconds, Mbit/s.
STEPS = [(0.0, 100.0), (6.0, 10.0), (12.0, 100.0), (18.0, 25.0), (24.0, 5.0), (30.0, 100.0)]
SWING = 0.3


def segment(samples: list, seconds: float, seed: int) -> list[tuple[float, float]]:
    """Return a piece of a record, its time from 0 on."""
    last = samples[-1][0] - seconds
    start = random.Random(seed).uniform(samples[0][0], max(samples[0][0], last))
    before = [rate for t, rate in samples if t <= start]
    return [(0.0, before[-1]), *((t - start, rate) for t, rate in samples
                                 if start < t < start + seconds)]


def run(hosts: TwoHosts, samples: list[tuple[float, float]], seconds: float,
        oracle: bool) -> list[dict]:
    """Return the frames along a segment."""
    begin = time.monotonic() + 0.5
    stop = threading.Event()
    hosts.begin('ask_for', begin_s=begin, duration_s=seconds, samples=[
        (t, PAYLOAD * rate) for t, rate in samples] if oracle else None, ahead_s=AHEAD_S)
    time.sleep(max(0.0, begin - time.monotonic()))
    with ThreadPoolExecutor(1) as pool:
        followed = pool.submit(hosts.lab.follow, samples, stop)
        frames = hosts.end()['frames']
        stop.set()
        followed.result()  # raises what went wrong there
    hosts.lab.blackout(False)
    hosts.lab.rate(100.0)
    return frames


def summary(segments: list[list[dict]]) -> dict:
    """Return what a system came to in the frames of all segments."""
    frames = [frame for segment in segments for frame in segment]
    apart = [[frame for frame in segment if not frame['lost']] for segment in segments]
    done = [frame for segment in apart for frame in segment]
    latencies = sorted(frame['latency_s'] for frame in done)
    return {
        'frames': len(frames), 'lost': len(frames) - len(done),
        'mean_s': mean(latencies), 'median_s': median(latencies),
        'p95_s': latencies[int(0.95 * (len(latencies) - 1))], 'max_s': latencies[-1],
        'energy_j': mean(frame['energy_j'] for frame in done),
        'alone': sum(frame['fallback'] for frame in done),
        'late': sum(one[-1]['frames_late'] - one[0]['frames_late'] for one in apart if one),
        'switches': sum(a['plan'] != b['plan'] for one in apart for a, b in zip(one, one[1:])),
        'worst_error': max(frame['error'] for frame in done)}


def reactions(frames: list[dict]) -> list[dict]:
    """Return how long after each step the bandwidth heard was within a quarter of the new one."""
    found = []
    for (at_s, mbit_s), (end_s, _) in zip(STEPS[1:], [*STEPS[2:], (STEPS[-1][0] + 6.0, 0.0)]):
        after = [f for f in frames if at_s <= f['at_s'] < end_s and not f['lost']]
        near = [f for f in after if abs((f['heard_bytes_per_s'] or 0.0) * 8e-6
                                        / (PAYLOAD * mbit_s) - 1) < 0.25]
        # What is heard is noted when the frame has ended.
        found.append({'at_s': at_s, 'mbit_s': mbit_s, 'reaction_s': (
            near[0]['at_s'] + near[0]['passed_s'] - at_s if near else None)})
    return found


def measure(name: str, shape: tuple[int, ...], traces: dict[str, list], seconds: float,
            seeds: int, systems: list[str], profiling_s: float) -> dict:
    """Return what every system came to along every segment."""
    layout = open_model(ModelSpec(name, shape))[1]
    made_here = profile(layout, sample_image(shape), seconds=profiling_s)
    results = {}
    with TwoHosts(name, shape, 'robot_only', 100.0, SLOWER, monitor=True) as hosts:
        robot, server = hosts.profiles(made_here)
        tables = {}
        for policy in POLICIES:
            made = rivals(layout, robot, server, LINK, RATES, policy, SWING)
            tables |= {**made.live, policy: made.ours}
        tables[ORACLE] = tables['exact']

        def follow(system: str, samples: list, length: float) -> list[dict]:
            hosts.use(tables[system])
            hosts.lab.rate(max(1.0, samples[0][1]))  # a piece may begin in a blackout
            hosts.ask(10)  # by then the monitor knows the rate
            return run(hosts, samples, length, system == ORACLE)
        steps = reactions(follow('exact', STEPS, STEPS[-1][0] + 6.0))
        for trace, samples in traces.items():
            for seed in range(seeds):
                piece = segment(samples, seconds, seed)
                for system in systems:
                    frames = follow(system, piece, seconds)
                    results.setdefault(trace, {}).setdefault(system, []).append(frames)
                    print(f'  {trace} {seed} {system}: {1e3 * summary([frames])["mean_s"]:.0f} '
                          'ms', flush=True)
        logs = hosts.logs()
    return {'server_s': server.whole_s, 'robot_s': robot.whole_s, 'steps': steps,
            'traces': {trace: {system: summary(pieces) for system, pieces in each.items()}
                       for trace, each in results.items()}, 'log': logs[-4000:]}


def judge(figures: dict) -> list[Goal]:
    """Return what was to be reached."""
    goals = [at_most(f'step to {step["mbit_s"]:g} Mbit/s: followed after s', step['reaction_s'],
                     REACTION_S) for step in figures['steps']]
    for trace, systems in figures['traces'].items():
        for system, s in systems.items():
            goals.append(none(f'{trace}: frames that {system} lost', s['lost']))
            if not system.endswith(('lossy', 'jpeg')):
                goals.append(at_most(f'{trace}: error of {system}', s['worst_error'],
                                     TOLERANCE[torch.float32]))
        if ORACLE in systems and 'exact' in systems:
            goals.append(at_most(f'{trace}: exact over the oracle', systems['exact']['mean_s']
                                 / systems[ORACLE]['mean_s'], OF_ORACLE))
    return goals


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument('--traces', nargs='+', type=Path, default=[],
                         help='CSV files with the columns time_s and mbit_s')
    options.add_argument('--model', default='torchvision:resnet50')
    options.add_argument('--size', nargs=2, type=int, default=(224, 224))
    options.add_argument('--seconds', type=float, default=60.0, help='of a segment')
    options.add_argument('--seeds', type=int, default=2, help='segments of each trace')
    options.add_argument('--systems', nargs='+', default=['exact', 'lossy', ORACLE, *ALL])
    options = options.parse_args()
    if not possible():
        return SKIPPED
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.quick:
        options.seconds, options.seeds = 8.0, 1
        options.systems = ['exact', ORACLE, 'robot_only', 'full_offload']
    traces = {path.stem: read_trace(path) for path in options.traces}
    if not traces:
        print('no --traces were given: only the link in steps is run')
    figures = measure(options.model, (1, 3, *options.size), traces, options.seconds, options.seeds,
                      options.systems, 8.0 if options.quick else 20.0)
    table('a link in steps', ['at s', 'Mbit/s', 'followed after s'],
          [[s['at_s'], s['mbit_s'], '-' if s['reaction_s'] is None else s['reaction_s']]
           for s in figures['steps']])
    for trace, systems in figures['traces'].items():
        least = systems.get(ORACLE, systems[next(iter(systems))])['mean_s']
        table(f'{trace}: {options.seeds} x {options.seconds:g} s', [
            'system', 'frames', 'mean ms', 'p95', 'max', 'of oracle', 'J', 'alone', 'late',
            'switches', 'lost'],
            [[system, s['frames'], *(f'{1e3 * s[key]:.1f}' for key in ('mean_s', 'p95_s', 'max_s')),
              f'{s["mean_s"] / least:.2f}', f'{s["energy_j"]:.2f}', s['alone'], s['late'],
              s['switches'], s['lost']] for system, s in systems.items()])
    return finish(options, {'model': options.model, 'size': options.size,
                            'seconds': options.seconds, 'seeds': options.seeds, **figures},
                  judge(figures))


if __name__ == '__main__':
    sys.exit(main())
