# SPDX-License-Identifier: Apache-2.0
"""What the benches share: the machine's name, medians with bootstrap intervals, output."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import os
from pathlib import Path
import platform
import random
from statistics import median
import sys
import time

from _goals import Goal, SKIPPED, status, verdict
import torch


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every bench."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument('--json', type=Path, help='write the figures to this file as well')
    options.add_argument('--quick', action='store_true',
                         help='few repeats, for a first look: nothing is judged')
    return options


def ros_domain() -> str:
    """Return the caller's ROS domain; where it names none, one that no other run here uses."""
    if not os.environ.get('ROS_DOMAIN_ID'):
        sys.path.append(str(Path(__file__).resolve().parent.parent / 'test'))
        from own_domain import take
        take()
    return os.environ['ROS_DOMAIN_ID']


def machine() -> dict:
    """Return what the figures were measured on."""
    cpu = platform.processor()
    info = Path('/proc/cpuinfo')
    if info.exists():
        lines = info.read_text().splitlines()
        fields = dict(line.split('\t: ', 1) for line in lines if '\t: ' in line)
        cpu = f'{fields.get("model name", cpu)} family {fields.get("cpu family", "?")}'
    return {'cpu': cpu, 'cores': os.cpu_count(), 'system': platform.platform(),
            'python': platform.python_version(), 'torch': torch.__version__,
            'threads': torch.get_num_threads(), 'load': os.getloadavg()[0],
            'date': time.strftime('%Y-%m-%d')}


def ratio(above: list[float], below: list[float], draws: int = 2000) -> tuple[float, float, float]:
    """
    Return the ratio of the medians of paired samples, and its 95 % bootstrap interval.

    Rounds are drawn, not single samples: what disturbs a shared machine disturbs a whole round.
    """
    draw, count = random.Random(0), len(above)
    ratios = []
    for _ in range(draws):
        rounds = [draw.randrange(count) for _ in range(count)]
        ratios.append(median(above[i] for i in rounds) / median(below[i] for i in rounds))
    ratios.sort()
    return median(above) / median(below), ratios[int(draws * 0.025)], ratios[int(draws * 0.975)]


def table(title: str, columns: list[str], rows: list[list]) -> None:
    """Print a table whose columns are as wide as what is in them."""
    cells = [columns, *([f'{item:.3f}' if isinstance(item, float) else str(item) for item in row]
                        for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    print(f'\n{title}')
    for number, row in enumerate(cells):
        print('  '.join(cell.rjust(width) if i else cell.ljust(width)
                        for i, (cell, width) in enumerate(zip(row, widths))))
        if number == 0:
            print('  '.join('-' * width for width in widths))


def finish(options: argparse.Namespace, figures: dict, goals: Sequence[Goal]) -> int:
    """
    Print goals and machine, write the JSON file when one is asked for; return the exit status.

    It is 0 where every goal held, 1 where one fell short; a quick run is not judged.
    """
    table('goals', ['goal', 'reached', 'wanted', ''], [
        [goal.name, '-' if goal.value is None else f'{goal.value:.4g}', goal.wanted,
         'held' if goal.held else 'SHORT'] for goal in goals])
    print('\n' + verdict(goals, options.quick))
    figures = {'machine': machine(), **figures, 'judged': not options.quick,
               'goals': [goal.to_json() for goal in goals]}
    print(f'\nmachine: {figures["machine"]}')
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=1) + '\n')
    return status(goals, options.quick)


def skip(why: str) -> int:
    """Say why nothing can be measured here; return the exit status that says so."""
    print(f'skipped: {why}')
    return SKIPPED
