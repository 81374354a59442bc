# SPDX-License-Identifier: Apache-2.0
"""A real network between two hosts, all systems in turns: right answers, none lost or alone."""

import json
from pathlib import Path
import subprocess
import sys

from lab import missing
import pytest

lacks = missing()
pytestmark = [pytest.mark.ros, pytest.mark.long, pytest.mark.timeout(1000),
              pytest.mark.skipif(bool(lacks), reason=f'no lab without {", ".join(lacks)}')]

BENCH = Path(__file__).resolve().parents[2] / 'bench' / 'end_to_end.py'
TOLERANCE = 1e-5
LIMIT_S = 900


def test_every_system_answers_every_image_and_the_exact_ones_exactly(tmp_path):
    file = tmp_path / 'figures.json'
    done = subprocess.run([sys.executable, str(BENCH), '--quick', '--json', str(file)],
                          timeout=LIMIT_S, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    case, = json.loads(file.read_text())['cases'].values()
    cell, = case['cells']
    assert set(cell['policies']) == {'exact', 'lossy'}
    for policy, judged in cell['policies'].items():
        assert {policy, 'robot_only', 'full_offload', 'minimum_cut'} <= set(judged['systems'])
        for system, figures in judged['systems'].items():
            assert len(figures['latency_s']) == 5
            assert (figures['lost'], figures['fallbacks']) == (0, 0), system
            exact = policy == 'exact' or system in ('robot_only', 'full_offload')
            assert figures['worst_error'] <= (TOLERANCE if exact else 0.5), system
        assert 0 < judged['interval'][0] <= judged['ratio'] <= judged['interval'][1]
