# SPDX-License-Identifier: Apache-2.0
"""What bench/trace.py makes of a record of a link, and of the frames along it."""

import importlib.util
from pathlib import Path
import sys

import pytest

pytest.importorskip('rclpy')
sys.path.insert(0, str(Path(__file__).parents[2] / 'bench'))
import _camera  # noqa: E402

pytestmark = pytest.mark.ros
# By its path: Python has a module of this name, too.
_spec = importlib.util.spec_from_file_location(
    'trace_bench', Path(__file__).parents[2] / 'bench' / 'trace.py')
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)


def frame(at_s, mbit_s, **more):
    return {'at_s': at_s, 'passed_s': 0.1, 'lost': False, 'latency_s': 0.1, 'energy_j': 1.0,
            'fallback': False, 'frames_late': 0, 'plan': 'a', 'error': 0.0,
            'heard_bytes_per_s': bench.PAYLOAD * mbit_s * 125e3, **more}


def test_a_segment_begins_at_0_with_what_held_then_and_ends_in_time():
    samples = [(0.5 * i, float(i)) for i in range(100)]
    for seed in range(20):
        piece = bench.segment(samples, 10.0, seed)
        times = [t for t, _ in piece]
        assert times[0] == 0.0 and times == sorted(times) and 9.0 < times[-1] < 10.0
        rates = [rate for _, rate in piece]
        assert rates == [rates[0] + i for i in range(len(rates))] and 20 <= len(rates) <= 21


def test_a_segment_of_a_coarse_record_begins_with_the_newest_that_held_then():
    for seed in range(20):
        piece = bench.segment([(0.0, 1.0), (7.0, 2.0), (30.0, 3.0), (60.0, 4.0)], 5.0, seed)
        assert piece[0][0] == 0.0 and piece[0][1] in (1.0, 2.0, 3.0) and len(piece) <= 2


@pytest.mark.parametrize('begin, end, expected', [
    (0.0, 0.5, 10.0), (0.5, 1.5, 15.0), (0.75, 1.25, 15.0), (1.0, 2.0, 20.0), (3.0, 4.0, 0.001)])
def test_the_oracle_is_told_what_comes_on_average(begin, end, expected):
    samples = [[0.0, 10.0], [1.0, 20.0], [2.0, 0.0]]
    assert _camera.average(samples, begin, end) == pytest.approx(expected)


def test_the_reaction_to_a_step_is_when_the_bandwidth_heard_is_near_the_new_one(monkeypatch):
    monkeypatch.setattr(bench, 'STEPS', [(0.0, 100.0), (6.0, 10.0), (12.0, 50.0)])
    frames = [frame(5.9, 100.0), frame(6.2, 100.0), frame(6.5, 12.0), frame(6.8, 10.0),
              frame(12.1, 10.0), frame(14.0, 100.0)]
    down, up = bench.reactions(frames)
    assert down['reaction_s'] == pytest.approx(0.6) and down['mbit_s'] == 10.0
    assert up['reaction_s'] is None


def test_lost_and_late_frames_are_counted_and_lost_ones_take_no_part_in_the_mean():
    frames = [frame(0.0, 1.0, latency_s=0.2), frame(1.0, 1.0, plan='b', frames_late=2),
              {'lost': True, 'plan': '', 'latency_s': 5.0, 'at_s': 2.0},
              frame(3.0, 1.0, latency_s=0.3, frames_late=3)]
    made = bench.summary([frames])
    assert (made['frames'], made['lost'], made['late'], made['switches']) == (4, 1, 3, 2)
    assert made['mean_s'] == pytest.approx(0.2) and made['max_s'] == 0.3
    # What happened between two segments was under other systems.
    twice = bench.summary([frames, [frame(0.0, 1.0, frames_late=50, plan='c')] * 2])
    assert (twice['frames'], twice['late'], twice['switches']) == (6, 3, 2)
    goals = bench.judge({'steps': [], 'traces': {'t': {'exact': {**made, 'worst_error': 0.1}}}})
    assert [(goal.name, goal.value, goal.held) for goal in goals] == [
        ('t: frames that exact lost', 1, False), ('t: error of exact', 0.1, False)]
