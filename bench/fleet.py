# SPDX-License-Identifier: Apache-2.0
"""
Several robots on one server, over real ROS topics on one host.

The server is server_node in a process of its own with one computing thread. The robots live in a
second process; each has its topics, chunks, acknowledgements and pacing, but computes nothing: the
plan is full_offload, so that the server is what they share. Each asks for its next frame when it
has the answer to the last, and every answer is compared with the unsplit model's. Beside the
fleets, one robot is measured alone and next to one that floods the server, with robots that take
turns and with all frames at once.

With --hostile, instead: seven robots that give a frame up when a robot's node would, in turns
alone and with an eighth that sends the same server large tables, tables of many plans, large
chunks, probes, unfinished frames and bad chunks as fast as it can, from a process of its own on a
core of its own. The others share what is left, in all cases. Processors compute more slowly while
a core beside them is busy, with whatever: in a third turn the eighth keeps its core busy and sends
nothing, and what it sends is judged by that. The robots are on one host, the server on another,
those of the lab (test/lab), by a link that none of them fills: between hosts no queue of the
middleware's shared memory is common to all senders.
"""

from __future__ import annotations

import json
import os
from statistics import median
import subprocess
import sys

from _common import finish, parser, ratio, ros_domain, table
from _goals import at_least, at_most, Goal, none, SKIPPED
from _two_hosts import hosts_environment, Lab, possible
import numpy as np

MODEL, SIZE, PLAN = 'torchvision:resnet18', 224, 'full_offload'
FLEETS = (1, 2, 4, 8)
STOP_S = 10.0
FAST_MBIT_S = 1e5
# Of the robot that behaves well: how many there are with it, how many of these flood the server.
SETTINGS = {'alone': {'count': 1},
            'beside a flood, in turns': {'count': 2, 'flooding': 1},
            'beside a flood, all at once': {'count': 2, 'flooding': 1, 'places': 64}}
ROUNDS = 3
# Goals: frames/s of the worst robot over the best one's; memory of each robot; how long a frame
# takes beside a robot that floods the server, of what it takes alone, where robots take turns.
FAIR, ROBOT_MB, BESIDE = 0.9, 20.0, 2.5
HONEST, HOSTILE, BESIDE_ROUNDS = 7, 'hostile', 5
KINDS = ('large tables', 'many plans', 'large chunks', 'probes', 'unfinished frames', 'bad chunks')
# Goals beside a hostile robot: of the others' frames, and of their 95th percentile.
TOGETHER, SLOWER = 0.95, 1.3


def open_table():
    """Return the model and the table of the robots."""
    import torch

    from hp_inference.graph.load import ModelSpec, open_model
    from hp_inference.split.plan import make_plan
    from hp_inference.split.table import PlanTable
    torch.set_num_threads(1)
    model, layout = open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))
    return model, PlanTable(layout, [make_plan(PLAN, layout)])


def play(options) -> None:
    """Be the robots and print their figures, or be the hostile one."""
    if options.role == 'hostile':
        from _fleet_hostile import main
        return main(HOSTILE, open_table()[1], options.core,
                    [options.only] if options.only else KINDS)
    from _fleet_robots import play, play_beside
    names, seconds = options.robots, options.seconds
    if options.role == 'robots':
        figures = play(*open_table(), names, seconds, options.flooding)
    else:
        hostile = subprocess.Popen([sys.executable, __file__, '--role', 'hostile', '--core',
                                    str(options.core), *given_only(options)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            json.loads(hostile.stdout.readline())
            figures = play_beside(*open_table(), names, seconds,
                                  1 if options.quick else BESIDE_ROUNDS, hostile)
        finally:
            hostile.kill()
            hostile.wait()
    print(json.dumps(figures))
    sys.stdout.flush()
    os._exit(0)  # the spinning thread has nothing to end for


def measure(count: int, seconds: float, flooding: int = 0, places: int = 1) -> dict:
    """Return the figures of a fleet on a server of its own."""
    names = [f'r{i}' for i in range(count)]
    return _served(names, places, ['--role', 'robots', '--robots', *names, '--flooding',
                                   str(flooding), '--seconds', str(seconds)], 120 + 3 * seconds)


def measure_beside(options, seconds: float) -> dict:
    """Return the figures of robots without and with a hostile one beside them."""
    names, all_cores = [f'r{i}' for i in range(HONEST)], sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, all_cores[:-1] or all_cores)  # also of all processes from here on
    with Lab(FAST_MBIT_S) as lab:
        return _served([*names, HOSTILE], 1, [
            '--role', 'beside', '--robots', *names, '--seconds', str(seconds), '--core',
            str(all_cores[-1]), *['--quick'] * options.quick, *given_only(options)],
            300 + 3 * BESIDE_ROUNDS * (seconds + 10), lab)


def given_only(options) -> list[str]:
    """Return the option that narrows what the hostile robot sends, as it was given."""
    return ['--only', options.only] if options.only else []


def _served(names: list[str], places: int, arguments: list[str], seconds: float,
            lab: Lab | None = None) -> dict:
    """Return what this script says in another role, beside a server of its own."""
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'ROS_DOMAIN_ID': ros_domain()}
    params = {'model': MODEL, 'input': [1, 3, SIZE, SIZE], 'threads': 1, 'robots': names,
              'compute_places': places}
    serve = [sys.executable, '-m', 'hp_inference.nodes.server_node', '--ros-args', '--log-level',
             'ERROR', *(part for name, value in params.items()
                        for part in ('-p', f'{name}:={json.dumps(value)}'))]
    ask = [sys.executable, __file__, *arguments]
    if lab:
        env = hosts_environment(env)
        serve, ask = lab.server.command(serve), lab.robot.command(ask)
    else:
        env['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    server = subprocess.Popen(serve, env=env)
    try:
        output = subprocess.run(ask, env=env, check=True, stdout=subprocess.PIPE, text=True,
                                timeout=seconds).stdout
    finally:
        server.terminate()
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
    return json.loads(output.strip().splitlines()[-1])


def judge(fleets: dict[int, dict], per_robot_mb: float,
          beside: dict[str, list[dict]]) -> list[Goal]:
    """Return what the fleets, and the robot beside a flood, were to come to."""
    robots = [robot for fleet in fleets.values() for robot in fleet['robots']]
    robots += [robot for each in beside.values() for robot in each]
    lost, wrong = _faults(robots)
    alone, flooded = (median(robot['p50_ms'] for robot in beside[name])
                      for name in list(SETTINGS)[:2])
    return [none('lost frames', lost), none('wrong answers', wrong),
            *(at_least(f'{count} robots: frames/s of the worst over the best', fleet['fairness'],
                       FAIR) for count, fleet in fleets.items()),
            at_most('MB of the server for each robot', per_robot_mb, ROBOT_MB),
            at_most('a frame beside a flood, in turns, over one alone', flooded / alone, BESIDE)]


def main() -> int | None:
    """Run fleet after fleet, print, write."""
    options = parser(__doc__)
    options.add_argument('--seconds', type=float, default=10.0, help='per fleet')
    options.add_argument('--hostile', action='store_true', help='seven robots beside a hostile one')
    options.add_argument('--only', choices=KINDS, help='with --hostile: it sends nothing else')
    options.add_argument('--role', choices=('robots', 'beside', 'hostile'),
                         help='used by the bench itself')
    options.add_argument('--robots', nargs='+', default=[], help='used by the bench itself')
    options.add_argument('--flooding', type=int, default=0, help='used by the bench itself')
    options.add_argument('--core', type=int, help='used by the bench itself')
    options = options.parse_args()
    if options.role:
        return play(options)
    seconds = 2.0 if options.quick else options.seconds
    if options.hostile:
        if not possible():
            return SKIPPED
        return beside_hostile(options, seconds)
    fleets = {count: measure(count, seconds) for count in FLEETS}
    per_robot_mb = float(np.polyfit(FLEETS, [fleets[count]['memory_mb'] for count in FLEETS], 1)[0])
    rows = []
    for count, fleet in fleets.items():
        robots = fleet['robots']
        rates = [robot['frames_per_s'] for robot in robots]
        fleet['frames_per_s'] = sum(rates)
        fleet['fairness'] = min(rates) / max(rates) if max(rates) else 0.0
        rows.append([count, sum(rates), *_latencies(robots), fleet['fairness'],
                     fleet['memory_mb'], *_faults(robots)])
    table(f'{MODEL} {SIZE}x{SIZE}, {PLAN}, {seconds:g} s each', [
        'robots', 'frames/s', 'p50 ms', 'p95 ms, best robot', 'p95 ms, worst robot',
        'frames/s worst/best', 'server MB', 'lost', 'wrong'], rows)
    print(f'memory per added robot, fitted: {per_robot_mb:.1f} MB')
    beside: dict[str, list[dict]] = {name: [] for name in SETTINGS}
    for _ in range(1 if options.quick else ROUNDS):
        for name, setting in SETTINGS.items():  # interleaved: the machine's noise hits all alike
            beside[name] += measure(seconds=seconds, **setting)['robots']
    table('one robot that behaves well, medians', [
        'setting', 'frames/s', 'p50 ms', 'p95 ms', 'lost', 'wrong'], [
        [name, *(median(robot[figure] for robot in robots)
                 for figure in ('frames_per_s', 'p50_ms', 'p95_ms')), *_faults(robots)]
        for name, robots in beside.items()])
    return finish(options, {'fleets': fleets, 'memory_mb_per_robot': per_robot_mb,
                            'flood': beside}, judge(fleets, per_robot_mb, beside))


def beside_hostile(options, seconds: float) -> int | None:
    """Run, print and write what a hostile robot does to the others; return the exit status."""
    figures = measure_beside(options, seconds)
    table(f'{HONEST} robots, {seconds:g} s each, medians', [
        'setting', 'frames/s', 'together %', 'p95 ms', 'p95 ms, worst robot', 'lost', 'wrong',
        'server MB'], [
        [name, median(sum(robot['frames_per_s'] for robot in one['robots']) for one in rounds),
         100 * median(one['together'] for one in rounds),
         median(one['p95_ms'] for one in rounds),
         median(_latencies(one['robots'])[2] for one in rounds),
         *_faults([robot for one in rounds for robot in one['robots']]),
         max(one['memory_mb'] for one in rounds)]
        for name, rounds in (('alone', figures['alone']), ('a core beside is busy',
                              figures['idle']), ('beside a hostile one', figures['attack']))])
    print('sent by the hostile one: ' + ', '.join(
        f'{count} {kind}' for kind, count in figures['sent'].items()))
    p95_ms = {name: [one['p95_ms'] for one in figures[name]]
              for name in ('alone', 'idle', 'attack')}
    slower, low, high = ratio(p95_ms['attack'], p95_ms['idle'])
    together = min(median(one['robots'][place]['together']
                          for one in figures['attack']) for place in range(HONEST))
    print(f'p95 beside it / beside a busy core: {slower:.2f} [{low:.2f}, {high:.2f}], / alone: '
          '{:.2f} [{:.2f}, {:.2f}]; '.format(*ratio(p95_ms['attack'], p95_ms['alone'])) +
          f'the robot that is alone most is together in {100 * together:.1f} %')
    return finish(options, {**figures, 'slower': slower, 'together': together}, judge_beside(
        together, slower, median(one['together'] for one in figures['idle']),
        _faults([robot for one in figures['attack'] for robot in one['robots']])[1],
        len([options.only] if options.only else KINDS) - len(figures['sent'])))


def judge_beside(together: float, slower: float, without: float, wrong: int,
                 unsent: int) -> list[Goal]:
    """Return what the robots beside a hostile one were to come to; ``unsent``: of its kinds."""
    return [none('wrong answers', wrong), none('kinds that the hostile robot never sent', unsent),
            at_least('part of frames together without the hostile robot (else nothing can be said)',
                     without, TOGETHER),
            at_least("part of the worst robot's frames together beside it", together, TOGETHER),
            at_most('95th percentile beside it over that beside a busy core', slower, SLOWER)]


def _latencies(robots: list[dict]) -> tuple[float, float, float]:
    """Return the middle robot's median, the best and the worst robot's 95th percentile [ms]."""
    medians = sorted(robot['p50_ms'] for robot in robots)
    late = [robot['p95_ms'] for robot in robots]
    return medians[len(medians) // 2], min(late), max(late)


def _faults(robots: list[dict]) -> tuple[int, int]:
    return sum(robot['lost'] for robot in robots), sum(robot['wrong'] for robot in robots)


if __name__ == '__main__':
    sys.exit(main())
