# SPDX-License-Identifier: Apache-2.0
"""
How long planning takes and how much memory, against the number of operators and of bandwidths.

Device profiles are made up from operations and bytes. Each case runs in a process of its own; the
compiled timeline is in its cache.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

from _common import finish, parser, table
from _goals import at_most, Goal
from _made_up import made_up_setting
import numpy as np

from hp_planner.search.grid import LEAST_MBIT_S, MOST_MBIT_S, plan_table
from hp_planner.search.objective import Objective
from hp_planner.timeline.timeline import Timeline

# Goals: a minute a table, and what a laptop has to spare.
PLANNING_S, PEAK_MB = 60.0, 2000.0
CASES = [('resnet18', 31), ('resnet50', 31), ('densenet121', 31), ('resnet152', 31),
         ('resnet50', 7), ('resnet50', 15), ('resnet50', 61)]


def case(name: str, points: int) -> dict:
    """Plan for one model over so many bandwidths."""
    begin = time.monotonic()
    setting = made_up_setting(name)
    captured = time.monotonic()
    timeline = Timeline(setting)
    made = plan_table(timeline, Objective(), np.geomspace(LEAST_MBIT_S, MOST_MBIT_S, points))
    return {'model': name, 'operators': len(setting.layout.graph.ops), 'points': points,
            'capture_s': captured - begin, 'planning_s': time.monotonic() - captured,
            'plans': len(made.plans),
            'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def judge(cases: list[dict]) -> list[Goal]:
    """Return how long planning was to take at most, and how much memory."""
    return [at_most(f'{case["model"]} over {case["points"]} bandwidths: {what}', case[key], bound)
            for case in cases for what, key, bound in (
                ('planning s', 'planning_s', PLANNING_S), ('peak MB', 'peak_mb', PEAK_MB))]


def main() -> int:
    """Run every case, print, write."""
    options = parser(__doc__)
    options.add_argument('--case', nargs=2, help='used by the bench itself')
    args = options.parse_args()
    if args.case:
        print(json.dumps(case(args.case[0], int(args.case[1]))))
        return 0
    lines = []
    for name, points in CASES[:1] if args.quick else CASES:
        output = subprocess.run([sys.executable, __file__, '--case', name, str(points)],
                                check=True, capture_output=True, text=True).stdout
        lines.append(json.loads(output.splitlines()[-1]))
        print(f'{name} over {points} bandwidths done', file=sys.stderr)
    table('planning', ['model', 'operators', 'bandwidths', 'capture s', 'planning s', 'plans',
                       'peak MB of the process'], [list(line.values()) for line in lines])
    return finish(args, {'cases': lines}, judge(lines))


if __name__ == '__main__':
    sys.exit(main())
