# SPDX-License-Identifier: Apache-2.0
"""Baselines are the best of their kind; the minimum cut is the minimum."""

from itertools import product

import pytest
from settings import drawn_profile, drawn_setting, profile_of, setting_of, tiny

from hp_inference.split.plan import layer
from hp_inference.split.program import compile_plan
from hp_planner.search.baselines import baselines, JPEG, latency, minimum_cut
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import bytes_per_s
from hp_planner.timeline.simulate import message_seconds
from hp_planner.timeline.timeline import Timeline

RATES = [0.0, 0.3, 1.0, 3.0, 10.0, 100.0]


def sum_of_times(timeline, robot, mbit_s):
    """Return the seconds of all operators and messages; robot[v]: whether it computes v."""
    layout, tables, costs = timeline.setting.layout, timeline.tables, timeline.costs
    total = 0.0
    for op in layout.graph.ops:
        v = op.output
        total += costs.compute[0 if robot[v] else 1, tables.at_row[v] + tables.rows[v]]
    readers = {v: [] for v in range(len(layout.rows))}
    for op in layout.graph.ops:
        for ref in op.refs:
            readers[ref].append(robot[op.output])
    for v in layout.graph.outputs.values():
        readers[v].append(True)
    for v, on_robot in readers.items():
        if any(there != robot[v] for there in on_robot):
            if not mbit_s:
                return float('inf')
            total += costs.trip_s + message_seconds(
                costs, 0, v, layout.rows[v], 0 if robot[v] else 1, bytes_per_s(mbit_s))[0]
    return total


@pytest.mark.parametrize('name', ['chain', 'residual', 'downsampling', 'classes', 'branches'])
@pytest.mark.parametrize('seed', [0, 1])
def test_the_minimum_cut_is_the_least_sum_over_all_assignments(name, seed):
    layout = tiny(name)
    timeline = Timeline(drawn_setting(layout, seed))
    everything = [(True, *rest) for rest in product((False, True), repeat=len(layout.rows) - 1)]
    for rate in RATES:
        plan = minimum_cut(timeline, rate)
        compile_plan(layout, plan)
        mine = sum_of_times(timeline, [share > 0 for share in plan.robot], rate)
        least = min(sum_of_times(timeline, robot, rate) for robot in everything)
        assert mine == pytest.approx(least, rel=1e-6)


@pytest.mark.parametrize('objective', [Objective(), Objective('energy')])
def test_layer_cut_and_switch_are_the_best_of_their_kind(objective):
    layout = tiny('residual', 32)
    timeline = Timeline(drawn_setting(layout, 3))
    found = baselines(timeline, objective, RATES[1:])
    assert set(found) == {'robot_only', 'full_offload', 'whole_switch', 'layer_cut', 'minimum_cut'}
    if objective.name == 'latency':
        for i, rate in enumerate(RATES[1:]):
            cuts = [latency(timeline, layer(layout, k, codec='none'), rate)
                    for k in range(len(layout.rows))]
            assert latency(timeline, found['layer_cut'][i], rate) == pytest.approx(min(cuts))
            assert latency(timeline, found['whole_switch'][i], rate) == min(
                latency(timeline, found[name][i], rate) for name in ('robot_only', 'full_offload'))


def test_the_jpeg_baseline_sends_the_image_as_jpeg():
    layout = tiny('chain')
    robot = drawn_profile(layout, 0, 1.0)
    timeline = Timeline(setting_of(layout, robot, profile_of(layout, codecs=robot.codecs)))
    plan = baselines(timeline, Objective(), [5.0], jpeg=True)[JPEG][0]
    assert plan.codec_of(0) == 'jpeg' and plan.lossy
    programs = compile_plan(layout, plan)
    assert [step.codec for step in programs[0].sends] == ['jpeg']


def test_without_a_link_every_adaptive_baseline_is_the_robot_alone():
    timeline = Timeline(drawn_setting(tiny('residual'), 1))
    found = baselines(timeline, Objective(), [0.0])
    for name in ('whole_switch', 'layer_cut', 'minimum_cut'):
        assert found[name][0].robot == tuple(timeline.setting.layout.rows)
