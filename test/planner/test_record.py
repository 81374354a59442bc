# SPDX-License-Identifier: Apache-2.0
"""What planning knew: figures between the rates of the grid, and records that make no sense."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import synthetic

from hp_inference.split.curves import FIGURES
from hp_inference.split.record_json import RecordError
from hp_planner.report.record import Record

RECORD = Record.from_json(synthetic.record())


@given(st.floats(0.01, 5000), st.sampled_from(list(synthetic.PLANS)), st.sampled_from(FIGURES))
def test_a_figure_that_is_linear_in_one_over_the_rate_is_met_everywhere(rate, plan, figure):
    wanted = synthetic.figures(plan, rate)[figure]
    assert RECORD.curves[plan].at(rate, figure) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_between_two_rates_it_is_linear_in_one_over_the_rate():
    data = synthetic.record((1.0, 2.0, 4.0))
    data['curves']['split_4']['latency_s'] = [8.0, 6.0, 5.0]
    record = Record.from_json(data)
    # 1 / rate: 1, 0.5, 0.25.
    assert record.latency_at('split_4', 4 / 3) == pytest.approx(7)
    assert record.latency_at('split_4', 8 / 3) == pytest.approx(5.5)
    assert record.latency_at('split_4', 0.5) == pytest.approx(12)
    assert record.latency_at('split_4', 8.0) == pytest.approx(4.5)


def test_an_array_of_rates_gives_what_each_rate_gives():
    rates = np.array([0.0, 0.1, 0.5, 3, 1000, 1e6, math.nan, -1])
    for plan in synthetic.PLANS:
        made = RECORD.latency_at(plan, rates)
        assert made.tolist() == [RECORD.latency_at(plan, rate) for rate in rates]


@pytest.mark.parametrize('rate', [0, -3.0, math.nan, 5e-324, 1e-300])
def test_without_a_link_only_what_needs_none_ends(rate):
    assert RECORD.latency_at('robot_only', rate) == synthetic.ROBOT_S
    assert RECORD.energy_at('robot_only', rate) == pytest.approx(
        synthetic.ROBOT_S * synthetic.COMPUTING_W)
    assert RECORD.latency_at('split_8', rate) == RECORD.energy_at('split_8', rate) == math.inf
    assert not RECORD.curves['robot_only'].travels and RECORD.curves['split_8'].travels


def test_on_a_link_faster_than_the_grid_a_frame_takes_at_least_what_a_side_computes():
    data = synthetic.record((1.0, 2.0))
    data['curves']['split_8'].update(latency_s=[1.0, 0.2], energy_j=[1.0, 0.2])
    record = Record.from_json(data)
    assert record.latency_at('split_8', 1e9) == 0.06 == data['curves']['split_8']['robot_busy_s'][0]
    assert record.energy_at('split_8', 1e9) == 0
    data['curves']['split_8'].update(robot_busy_s=[0, 0], server_busy_s=[0, 0])
    assert Record.from_json(data).latency_at('split_8', 1e9) == 0.2


def test_a_slower_link_than_the_grid_makes_nothing_smaller():
    data = synthetic.record((1.0, 2.0))
    data['curves']['split_8']['latency_s'] = [0.5, 0.6]
    assert Record.from_json(data).latency_at('split_8', 0.01) == 0.5


def test_with_one_rate_in_the_grid_its_figure_holds_everywhere():
    record = Record.from_json(synthetic.record((20.0,)))
    wanted = synthetic.figures('split_4', 20.0)['latency_s']
    assert {record.latency_at('split_4', rate) for rate in (1, 20, 500)} == {wanted}


def test_throughput_is_that_of_the_slowest_of_robot_radio_and_server():
    at = RECORD.curves['split_4'].at
    assert at(1.0, 'throughput') == pytest.approx(1 / 0.64)  # radio: 80 kB
    assert at(900.0, 'throughput') == pytest.approx(1 / 0.03)  # robot
    assert RECORD.curves['full_offload'].at(np.array([1e4]), 'throughput') == pytest.approx([100])


def test_a_baseline_has_the_plan_of_the_rate_at_or_below():
    assert RECORD.baselines_at('whole_switch', np.array([0.5, 19.9, 20, 25, 1e6])) == [
        'robot_only', 'robot_only', 'full_offload', 'full_offload', 'full_offload']


def test_below_the_grid_only_baselines_that_look_at_the_bandwidth_stay_on_the_robot():
    record = Record.from_json(synthetic.record((50.0, 100.0)))
    for rate in (0, 0.1, 49.9, -1, math.nan):
        assert record.baselines_at('whole_switch', np.array([rate])) == ['robot_only']
        assert record.baselines_at('minimum_cut', np.array([rate])) == ['robot_only']
        assert record.baselines_at('full_offload', np.array([rate])) == ['full_offload']
    assert record.baselines_at('whole_switch', np.array([50.0])) == ['full_offload']


def test_points_and_front_carry_what_was_planned():
    assert [point.mbit_s for point in RECORD.points] == list(synthetic.GRID)
    assert RECORD.points[4].plan == 'split_8'
    assert [span.lane for span in RECORD.points[4].lanes] == ['robot', 'uplink', 'server']
    assert RECORD.points[4].bound_s < RECORD.points[4].latency_s
    assert [point.plan for point in RECORD.pareto] == list(synthetic.IN_TABLE)
    assert (RECORD.pareto_mbit_s, RECORD.waiting_w, RECORD.policy) == (50, 5, 'exact')
    for none in (None, ...):
        record = Record.from_json(synthetic.record(pareto=none))
        assert (record.pareto, record.pareto_mbit_s) == ((), None)


@pytest.mark.parametrize('data, said', [
    (None, 'the record is None, expected an object'), ([], 'the record is [], expected an object')])
def test_what_is_no_record_is_refused(data, said):
    with pytest.raises(RecordError) as error:
        Record.from_json(data)
    assert str(error.value) == said


@pytest.mark.parametrize('key', ['objective', 'policy', 'power', 'grid', 'curves', 'baselines',
                                 'choices', 'depth'])
def test_a_missing_key_is_named(key):
    with pytest.raises(RecordError, match=f'the record has no "{key}": make the table again'):
        Record.from_json(spoiled(key, to=...))


def spoiled(*path, to):
    """Return a record in which what lies at a path is another thing (`...`: nothing)."""
    data = synthetic.record()
    *way, last = path
    part = data
    for key in way:
        part = part[key]
    if to is ...:
        del part[last]
    else:
        part[last] = to
    return data


@pytest.mark.parametrize('path, to, said', [
    (['objective'], 5, '"objective" of the record is 5, expected str'),
    (['grid'], [], '"grid" of the record is (), expected one or more rates'),
    (['grid'], [1.0, 1.0], 'ascending'),
    (['grid'], [0.0, 1.0], '"grid" of the record holds 0.0, expected a finite number above 0'),
    (['grid', 1], math.nan, '"grid" of the record holds nan'),
    (['grid', 10], math.inf, 'holds inf'),
    (['grid', 0], 5e-324, '"grid" of the record holds 5e-324, expected a finite number above 0'),
    (['objective'], 'a\ud800', 'expected one line of text that can be shown'),
    (['choices', 0, 'lanes', 0, 'label'], 'a\nb', 'expected one line of text that can be shown'),
    (['grid', 1], True, 'holds True'),
    (['grid', 10], 10 ** 400, 'expected a finite number'),
    (['grid'], '1,2', '"grid" of the record is \'1,2\', expected list'),
    (['power', 'waiting_w'], -1, '"waiting_w" of "power" of the record holds -1'),
    (['power'], 5, '"power" of the record is 5, expected dict'),
    (['curves'], {}, "\"curves\" of the record has no 'robot_only'"),
    (['curves', 'robot_only'], ..., "has no 'robot_only', which every table needs"),
    (['curves', 'split_8'], [], '"split_8" of "curves" of the record is [], expected dict'),
    (['curves', 'split_8', 'energy_j'], ..., 'of the record has no "energy_j"'),
    (['curves', 'split_8', 'energy_j'], [1.0],
     '"energy_j" of "split_8" of "curves" of the record has 1 entries, expected 11, one per rate'),
    (['curves', 'split_8', 'latency_s', 3], math.nan, '"latency_s" of "split_8" of "curves"'),
    (['curves', 'split_8', 'latency_s', 3], 0, 'expected a finite number above 0'),
    (['curves', 'split_8', 'radio_busy_s', 3], -1e-9, 'expected a finite number from 0 on'),
    (['curves', 'split_8', 'up_bytes'], '3', '"up_bytes"'),
    (['baselines', 'whole_switch'], ['robot_only'], '"whole_switch" of "baselines"'),
    (['baselines', 'whole_switch', 2], 'gone', "uses plan 'gone', which has no curve"),
    (['baselines', 'whole_switch', 2], ['robot_only'], 'which has no curve'),
    (['baselines', 'whole_switch', 2], None, 'uses plan None'),
    (['choices'], [], '"choices" of the record: expected one at each of the 11 rates'),
    (['choices', 2, 'mbit_s'], 2.5, 'expected one at each of the 11 rates of "grid", in order'),
    (['choices', 2], 'x', '"choices"[2] of the record is \'x\', expected an object'),
    (['choices', 2, 'plan'], 'gone', '"choices"[2] of the record uses plan \'gone\''),
    (['choices', 2, 'bound_s'], ..., '"choices"[2] of the record has no "bound_s"'),
    (['choices', 4, 'lanes', 0, 'duration_s'], None, '"duration_s" of "lanes"[0] of "choices"[4]'),
    (['depth', 0], -1, '"depth" of the record holds -1, expected whole numbers from 0 on'),
    (['depth', 0], 1.5, 'expected whole numbers'),
    (['pareto'], [], '"pareto" of the record is [], expected dict'),
    (['pareto', 'mbit_s'], 0, '"mbit_s" of "pareto" of the record'),
    (['pareto', 'points', 1, 'plan', 'name'], 7, '"name" of "plan" of "points"[1] of "pareto"'),
    (['pareto', 'points', 1, 'throughput'], math.inf, '"throughput"'),
])
def test_a_record_that_makes_no_sense_is_refused_in_one_short_line(path, to, said):
    with pytest.raises(RecordError) as error:
        Record.from_json(spoiled(*path, to=to))
    assert said in str(error.value)
    assert len(str(error.value)) < 300 and '\n' not in str(error.value)
