# SPDX-License-Identifier: Apache-2.0
"""
Thousands of frames while everything goes wrong: each image ends as one right result or one drop.

Real nodes, on two hosts of the lab where there can be one (else over loopback). Every few seconds
something happens, at random by a seed: the server dies, is restarted, stands still; the link is
gone, loses packets, changes its rate; the monitor dies; damaged and repeated chunks and impossible
bandwidths are published; the plan is changed. Answers are compared to the last bit. How soon
robot and server compute together again is counted from where all is as it was; for a server that
was started anew, from where it is configured, discovery included.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
import random
import re
from statistics import median
import sys
import threading
import time

from _common import finish, parser, table
from _goals import at_most, Goal, none
from _soak_events import Event, Events, RATE
from _soak_hosts import Hosts
from _soak_model import MEAN, MODEL, SHAPE, STD

from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.runtime.meters import NO_POWER
from hp_inference.split.curves import FIGURES, SIZES
from hp_inference.split.plan import make_plan
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import Choice

CHOICES = ((1.0, 'uniform:0.75'), (8.0, 'uniform:0.5'), (40.0, 'full_offload'))  # Mbit/s
# What the record of the table says; alone the robot is in truth quicker, but not allowed to know.
ALONE_S, TOGETHER_S = 0.3, 0.02
BACK_S = 2.0  # goal
PATIENCE_S = 30.0  # in which splitting must be back for the next thing to happen
CALM_S = (1.0, 3.0)
ALONE = 1  # InferenceResult.COMPUTED_ROBOT, which a process without rclpy does not import
GROWTH = 1.10  # goal: memory at the end over that at a tenth of the way


def record(names: list[str], image_bytes: int) -> dict:
    """Return what planning might say of the plans, so that the robot compares frames with it."""
    grid = [1.0, 8.0, 40.0, 200.0]
    curves = {}
    for name in names:
        alone = name == 'robot_only'
        travels_s = [0.0 if alone else 8e-6 * image_bytes / rate for rate in grid]
        curves[name] = {
            **dict.fromkeys(FIGURES, [0.0] * len(grid)), **dict.fromkeys(SIZES, 0.0),
            'latency_s': [ALONE_S if alone else TOGETHER_S + seconds for seconds in travels_s],
            'robot_busy_s': [ALONE_S if alone else TOGETHER_S] * len(grid),
            'server_busy_s': [0.0 if alone else TOGETHER_S] * len(grid),
            'up_bytes': 0.0 if alone else float(image_bytes)}
    return {'grid': grid, 'objective': 'latency', 'curves': curves, 'power': asdict(NO_POWER)}


def plans(folder: Path) -> str:
    """Write the table that the robot runs; return its file."""
    layout = open_model(ModelSpec(MODEL, SHAPE, '', 0, MEAN, STD))[1]
    names = ['robot_only', *(name for _, name in CHOICES)]
    made = PlanTable(layout, [make_plan(name, layout) for name in names],
                     [Choice(mbit_s, names.index(name)) for mbit_s, name in CHOICES],
                     record(names, layout.graph.input.nbytes))
    file = folder / 'soak.json'
    file.write_text(made.dumps())
    return str(file)


class Book:
    """What the camera has told, and what the robot's process held meanwhile."""

    def __init__(self, frames: int, memory):
        self._frames, self._memory = frames, memory
        self._changed = threading.Condition()
        self.results: list[dict] = []
        self.silent: list[dict] = []
        self.refused: list[str] = []
        self.robot_bytes: list[tuple[int, int]] = []  # images so far, bytes
        self.sums: dict | None = None
        self.started_s = 0.0

    def take(self, line: dict) -> None:
        """Take a line of the camera."""
        with self._changed:
            if 'result' in line:
                self.results.append(line)
                if line['result'] >= (len(self.robot_bytes) + 1) * self._frames / 100:
                    self.robot_bytes.append((line['result'], self._memory()))
            elif 'silent' in line:
                self.silent.append(line)
            elif 'refused' in line:
                self.refused.append(line['refused'])
            elif 'done' in line:
                self.sums = line
            else:
                self.started_s = line['at_s']
            self._changed.notify_all()

    def wait(self, done, seconds: float) -> bool:
        """Wait until something holds of what has been told; return whether it came about."""
        with self._changed:
            return self._changed.wait_for(done, seconds)

    def back_s(self, after_s: float) -> float | None:
        """Return how long after a time the first frame was computed together, None: not yet."""
        return next((line['at_s'] - after_s for line in reversed_until(self.results, after_s)
                     if line['on'] != ALONE), None)

    def memory_at(self, part: float) -> int:
        """Return what the robot's process held at this part of the way."""
        return self.robot_bytes[max(0, round(part * len(self.robot_bytes)) - 1)][1]


def reversed_until(results: list[dict], after_s: float) -> list[dict]:
    """Return the results after a time, in their order."""
    begin = len(results)
    while begin and results[begin - 1]['at_s'] > after_s:
        begin -= 1
    return results[begin:]


def run(frames: int, per_second: float, seed: int) -> dict:
    """Return what became of so many images."""
    draw = random.Random(seed)
    happened: list[tuple[Event, float | None]] = []
    with Hosts(RATE, plan='robot_only') as hosts:
        file = plans(hosts.folder)
        hosts.server.start()
        hosts.robot.start()
        hosts.monitor.start()
        for node in (hosts.server, hosts.robot):
            node.wait_up()
        book = Book(frames, lambda: hosts.robot.memory_bytes)
        camera = hosts.script('_soak_camera.py', frames, per_second, take=book.take)
        junk = hosts.script('_soak_junk.py', seed, take=lambda line: None)
        camera.write('{"set": {"plan": "%s"}}' % file)
        begun_s = time.monotonic()
        if not book.wait(lambda: book.back_s(0.0) is not None, 120.0):
            raise SystemExit(f'robot and server never computed together:\n{hosts.robot.text}\n'
                             f'{hosts.server.text}')
        events = Events(hosts, camera, junk, file, draw)
        while book.sums is None and camera.running and hosts.robot.process.poll() is None:
            if book.wait(lambda: book.sums, draw.uniform(*CALM_S)):
                break
            event = events.next()
            book.wait(lambda: book.sums or book.back_s(event.over_s) is not None, PATIENCE_S)
            back_s = book.back_s(event.over_s)
            if back_s is None and book.sums:
                break  # the images were over before
            happened.append((event, back_s))
            print(f'  {len(book.results):6} {event.kind} ({event.detail}): '
                  + ('not back' if back_s is None else f'back after {back_s:.2f} s'), flush=True)
        book.wait(lambda: book.sums, 30.0)
        figures = _figures(book, happened, time.monotonic() - begun_s, hosts)
        for process in (camera, junk):
            process.close()
        return figures


def _figures(book: Book, happened: list, seconds: float, hosts: Hosts) -> dict:
    sums = book.sums or {}
    logs = {node.name: node.text for node in (hosts.robot, hosts.server, hosts.monitor)}
    server = [event.server_bytes for event, _ in happened if event.server_bytes]
    together = sum(line['on'] != ALONE for line in book.results)
    kinds: dict[str, list] = {}
    for event, back_s in happened:
        kinds.setdefault(event.kind, []).append(back_s)
    return {
        'two_hosts': hosts.lab is not None, 'seconds': seconds, 'shown': sums.get('shown'),
        'results': len(book.results), 'together': together,
        'wrong': sum(not line['right'] for line in book.results),
        'out_of_order_or_stale': sum(not line['in_order'] for line in book.results),
        'dropped': sums.get('dropped'),
        'lost': sums['shown'] - sums['answered'] - sums['dropped'] if sums else None,
        'silent': len(book.silent), 'refused_settings': book.refused,
        'slowest_s': max(line['latency_s'] for line in book.results),
        'fallbacks': Counter(_kind(line['why']) for line in book.results if line['why']),
        'robot_bytes': book.robot_bytes,
        'robot_mb': [book.memory_at(part) / 1e6 for part in (0.1, 0.5, 1.0)],
        'server_mb': [held / 1e6 for held in server],
        'exit_statuses': [event.exit_status for event, _ in happened
                          if event.kind == 'server told to stop'],
        'tracebacks': {name: text.count('Traceback') for name, text in logs.items()},
        'back_s': kinds,
        'events': [{**asdict(event), 'back_s': back_s} for event, back_s in happened],
        'log': {name: text[-4000:] for name, text in logs.items() if 'Traceback' in text}}


def _kind(why: str) -> str:
    """Return a reason without what differs from frame to frame."""
    return re.sub(r'\d+', 'N', re.sub(r'[0-9a-f]{12,}', 'X', why))[:70]


def judge(figures: dict) -> list[Goal]:
    """Return what was to be reached."""
    early, _, late = figures['robot_mb']
    return [*(none(name.replace('_', ' '), figures[name])
              for name in ('wrong', 'out_of_order_or_stale', 'lost')),
            *(at_most(f'{kind}: slowest s to be back together',
                      None if None in times else max(times), BACK_S)
              for kind, times in figures['back_s'].items()),
            *(none(f'tracebacks of {name}', count)
              for name, count in figures['tracebacks'].items()),
            none('servers told to stop that did not end well',
                 sum(status != 0 for status in figures['exit_statuses'])),
            at_most("the robot's memory at the end over that at a tenth of the way", late / early,
                    GROWTH)]


def main() -> int:
    """Run, print, write."""
    options = parser(__doc__)
    options.add_argument('--frames', type=int, default=10_000)
    options.add_argument('--rate', type=float, default=20.0, help='images a second at most')
    options.add_argument('--seed', type=int, default=0)
    options = options.parse_args()
    figures = run(300 if options.quick else options.frames, options.rate, options.seed)
    table('images', ['shown', 'results', 'together', 'wrong', 'order', 'dropped', 'lost',
                     'slowest s'],
          [[figures[name] for name in ('shown', 'results', 'together', 'wrong',
                                       'out_of_order_or_stale', 'dropped', 'lost', 'slowest_s')]])
    table('computed on the robot alone because', ['reason', 'frames'],
          [[why, count] for why, count in Counter(figures['fallbacks']).most_common()])
    table('computing together again', ['after', 'times', 'median s', 'max s', 'never'],
          [[kind, len(times), *(f'{pick(known):.2f}' if known else '-' for pick in (median, max)),
            times.count(None)] for kind, times in sorted(figures['back_s'].items())
           for known in [[t for t in times if t is not None]]])
    table('memory in MB', ['process', 'figures'], [
        ['robot at 10, 50, 100 %', ' '.join(f'{mb:.0f}' for mb in figures['robot_mb'])],
        ['servers at their end', ' '.join(f'{mb:.0f}' for mb in figures['server_mb'])]])
    return finish(options, {'seed': options.seed, 'rate': options.rate, **figures}, judge(figures))


if __name__ == '__main__':
    sys.exit(main())
