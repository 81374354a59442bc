# SPDX-License-Identifier: Apache-2.0
"""Which plan a frame runs under: what is set, what is heard, and what can't be believed."""

import math

from engine_pair import small_net
from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.runtime import prediction_bias, switching
from hp_inference.runtime.prediction_bias import REST_FRAMES, REST_S, SETTLED_S
from hp_inference.runtime.switching import BadBandwidth, Switching
from hp_inference.split.curves import FIGURES, read_curves, SIZES
from hp_inference.split.plan import make_plan
from hp_inference.split.record_json import Part
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import Choice

PLANS = ('robot_only', 'uniform:0.75', 'full_offload')
MBIT = 1e6 / 8


def table_of(choices=((5.0, 1), (50.0, 2))):
    layout = small_net()
    return PlanTable(layout, [make_plan(plan, layout) for plan in PLANS],
                     [Choice(*choice) for choice in choices])


TABLE, NO_CHOICES = table_of(), table_of(())


@pytest.fixture
def clock(monkeypatch):
    """Return the hands of the clock, to be set."""
    hands = [100.0]
    monkeypatch.setattr(switching.time, 'monotonic', lambda: hands[0])
    return hands


def named(switch, table=TABLE, index=0):
    return PLANS[switch.choose(table, index).index]


@pytest.mark.parametrize('plan, mbit_s, expected', [
    ('uniform:0.5', 0.0, 'robot_only'), ('full_offload', 0.0, 'full_offload'),
    ('uniform:0.75', 0.0, 'uniform:0.75'), ('full_offload', 0.1, 'robot_only'),
    ('full_offload', 5.0, 'uniform:0.75'), ('full_offload', 49.9, 'uniform:0.75'),
    ('robot_only', 50.0, 'full_offload'), ('robot_only', 1e6, 'full_offload')])
def test_a_bandwidth_that_is_set_decides_and_without_any_the_name(plan, mbit_s, expected):
    switch = Switching()
    switch.named, switch.fixed_mbit_s = plan, mbit_s
    assert named(switch) == expected


@pytest.mark.parametrize('plan, expected', [('full_offload', 2), ('uniform:0.75', 1), ('x', 0)])
def test_without_choices_the_name_decides_whatever_the_bandwidth(plan, expected):
    switch = Switching()
    switch.named, switch.fixed_mbit_s = plan, 20.0
    switch.hear(20 * MBIT)
    assert switch.choose(NO_CHOICES, 0).index == expected


def test_a_bandwidth_heard_decides_and_one_that_is_set_comes_first():
    switch = Switching()
    switch.named = 'uniform:0.75'
    switch.hear(100 * MBIT, source='traffic')
    pick = switch.choose(TABLE, 0)
    assert (PLANS[pick.index], pick.bytes_per_s) == ('full_offload', 100 * MBIT)
    assert pick.why == '100 Mbit/s (traffic)'
    switch.fixed_mbit_s = 6.0
    assert named(switch) == 'uniform:0.75'


def test_a_swing_around_a_boundary_does_not_switch_and_a_step_does():
    switch, index, changes = Switching(), 1, 0
    for mbit_s in (48, 52, 47, 53, 49, 51, 54, 46):
        switch.hear(mbit_s * MBIT)
        index, before = switch.choose(TABLE, index).index, index
        changes += index != before
    assert (changes, index) == (0, 1)
    switch.hear(57 * MBIT)
    assert PLANS[switch.choose(TABLE, index).index] == 'full_offload'
    switch.hear(46 * MBIT)
    assert PLANS[switch.choose(TABLE, 2).index] == 'full_offload'
    switch.hear(44 * MBIT)
    assert PLANS[switch.choose(TABLE, 2).index] == 'uniform:0.75'


def test_no_link_is_robot_only_whatever_was_in_force():
    switch = Switching()
    for index in range(3):
        switch.hear(0.0, source='silence')
        assert named(switch, index=index) == 'robot_only'


def test_when_nobody_says_any_more_what_the_link_carries_there_is_none(clock):
    switch = Switching()
    switch.named = 'full_offload'
    switch.hear(100 * MBIT)
    clock[0] += switching.SILENCE_S - 0.1
    assert named(switch) == 'full_offload'
    clock[0] += 0.2
    pick = switch.choose(TABLE, 2)
    assert PLANS[pick.index] == 'robot_only' and 'no bandwidth heard for 3 s' in pick.why


def test_of_several_publishers_the_least_counts_while_it_is_fresh(clock):
    switch = Switching()
    switch.several = True
    switch.hear(6 * MBIT)
    switch.hear(100 * MBIT)
    assert named(switch) == 'uniform:0.75'
    clock[0] += switching.TOGETHER_S + 0.1
    switch.hear(100 * MBIT)
    assert named(switch) == 'full_offload'
    switch.several = False
    switch.hear(6 * MBIT)
    switch.hear(100 * MBIT)
    assert named(switch) == 'full_offload'


@pytest.mark.parametrize('bytes_per_s, age_s', [
    (math.nan, 0.0), (-1.0, 0.0), (math.inf, 0.0), (1e18, 0.0), (1e6, math.nan), (1e6, -1.0),
    (1e6, 1e9), (1e6, math.inf)])
def test_what_can_not_be_believed_is_refused_and_changes_nothing(bytes_per_s, age_s):
    switch = Switching()
    switch.hear(100 * MBIT)
    with pytest.raises(BadBandwidth, match='expected 0 to .*it is ignored'):
        switch.hear(bytes_per_s, age_s)
    assert named(switch) == 'full_offload'


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30), st.integers(0, 2))
def test_whatever_is_heard_the_pick_is_one_of_the_table_and_settles_at_once(rates, index):
    switch = Switching()
    for rate in rates:
        switch.hear(rate)
        pick = switch.choose(TABLE, index)
        assert 0 <= pick.index < 3
        assert switch.choose(TABLE, pick.index).index == pick.index
        index = pick.index


def test_force_and_hold_win_over_the_bandwidth_in_this_order():
    switch = Switching()
    switch.hear(100 * MBIT)
    switch.hold = True
    assert named(switch, index=1) == 'uniform:0.75'
    switch.force = 'robot_only'
    assert named(switch, index=1) == 'robot_only'
    switch.force = 'a plan of another table'
    assert named(switch, index=1) == 'uniform:0.75'
    switch.hold = False
    assert named(switch, index=1) == 'full_offload'


def test_a_change_is_told_once_with_the_reason():
    told = []
    switch = Switching(lambda *change: told.append(change))
    switch.hear(100 * MBIT, source='probe')
    pick = switch.pick(TABLE, 0)
    assert told == [(TABLE, 0, pick)] and 'probe' in pick.why
    switch.pick(TABLE, pick.index)
    assert len(told) == 1


def test_the_pick_says_what_planning_predicts_at_that_bandwidth():
    curve = {**{name: [0.2, 0.1] for name in FIGURES}, **dict.fromkeys(SIZES, 7.0)}
    record = Part({'grid': [5.0, 10.0], 'curves': {'robot_only': curve, 'uniform:0.75': curve}},
                  'the record')
    switch = Switching()
    switch.expect(TABLE, read_curves(record))
    switch.force = 'uniform:0.75'
    assert switch.choose(TABLE, 1).predicted_s is None  # at what bandwidth?
    switch.hear(5 * MBIT)
    assert switch.choose(TABLE, 1).predicted_s == pytest.approx(0.2)
    switch.hear(20 / 3 * MBIT)
    assert switch.choose(TABLE, 1).predicted_s == pytest.approx(0.15)  # linear in 1 / rate
    switch.hear(0.0)
    assert switch.choose(TABLE, 1).predicted_s is None  # it would never end
    switch.force = 'full_offload'
    assert switch.choose(TABLE, 1).predicted_s is None  # no curve


# What frames take, against what planning predicts

COMPUTING = {'robot_only': (1.0, 0.0), 'uniform:0.75': (1.0, 1.0), 'full_offload': (0.0, 1.0)}


@pytest.fixture
def predicting(clock, monkeypatch):
    """Return a function: a switch that expects these latencies of the table's plans at any rate."""
    monkeypatch.setattr(prediction_bias.time, 'monotonic', lambda: clock[0])

    def make(*latencies_s, least_latency=True, computing=COMPUTING):
        curves = {}
        for name, seconds in zip(PLANS, latencies_s):
            robot, server = computing[name]
            curves[name] = {**{figure: [seconds] for figure in FIGURES},
                            **dict.fromkeys(SIZES, 7.0),
                            'robot_busy_s': [robot], 'server_busy_s': [server]}
        switch = Switching()
        switch.expect(TABLE, read_curves(Part({'grid': [20.0], 'curves': curves}, 'the record')),
                      least_latency)
        switch.fixed_mbit_s = 20.0
        return switch
    return make


def frames(switch, clock, took_s, count=2):
    """Let frames under each pick take what their plan takes, and return the pick thereafter."""
    index = 0
    for _ in range(count):
        pick = switch.choose(TABLE, index)
        switch.took(TABLE, pick, took_s[pick.index])
        index = pick.index
    clock[0] += SETTLED_S
    return named(switch, index=index)


def test_a_plan_that_takes_longer_than_predicted_loses_to_one_that_is_better_then(
        clock, predicting):
    switch = predicting(0.4, 0.1, 0.12)
    took_s = [0.4, 0.2, 0.3]
    assert frames(switch, clock, took_s) == 'full_offload'  # as 0.12 is less than 0.2
    assert frames(switch, clock, took_s) == 'uniform:0.75'  # 0.3 it was, and alone is no better
    assert switch.choose(TABLE, 0).predicted_s == 0.1


def test_the_reason_says_which_plan_took_how_much_longer(clock, predicting):
    switch = predicting(0.4, 0.1, 0.12)
    frames(switch, clock, [0.4, 0.2, 0.12])
    assert switch.choose(TABLE, 1).why == ('20 Mbit/s (parameter bandwidth_mbit_s); uniform:0.75 '
                                           'takes 2.00 times what was predicted')


@pytest.mark.parametrize('split', [0.1, 0.102, 0.12])
def test_the_choice_stays_where_little_is_to_be_gained(clock, predicting, split):
    assert frames(predicting(0.4, 0.1, 0.12), clock, [0.4, split, 0.12]) == 'uniform:0.75'


def test_the_choice_stays_where_another_would_be_better_by_planning_alone(clock, predicting):
    # As with a swing, where planning looks at more than the rate that is heard.
    switch = predicting(0.4, 0.13, 0.12)
    assert frames(switch, clock, [0.4, 0.13, 0.12]) == 'uniform:0.75'


@pytest.mark.parametrize('busy, plan', [((1.0, 1.0), 'uniform:0.75'), ((0.0, 1.0), 'full_offload')])
def test_a_plan_that_has_not_run_is_taken_for_half_as_slow_as_those_that_compute_where_it_does(
        clock, predicting, busy, plan):
    switch = predicting(9.0, 0.1, 0.12, computing={**COMPUTING, 'full_offload': busy})
    # 1.3 times what was predicted it is; of its kind sqrt(1.3) * 0.12 s = 0.137 s are expected.
    assert frames(switch, clock, [9.0, 0.13, 9.0]) == plan
    assert frames(switch, clock, [9.0, 0.2, 0.12], count=5) == 'full_offload'


def test_a_server_that_is_slow_for_a_moment_leaves_the_robot_alone_for_a_moment(clock, predicting):
    switch = predicting(0.4, 0.1, 0.12)
    slow = [0.4, 1.0, 1.0]
    frames(switch, clock, slow)
    assert frames(switch, clock, slow) == 'robot_only'
    for _ in range(REST_FRAMES):
        switch.took(TABLE, switch.choose(TABLE, 0), 0.4)
    clock[0] += REST_S
    assert switch.choose(TABLE, 0).why.endswith('; uniform:0.75 is tried again')
    assert named(switch) == 'uniform:0.75'
    well = [0.4, 0.1, 0.12]
    assert frames(switch, clock, well) == 'uniform:0.75'


def test_nothing_is_learnt_for_another_aim_from_forced_frames_or_of_another_table(
        clock, predicting):
    took_s = [0.4, 0.2, 0.12]
    energy = predicting(0.4, 0.1, 0.12, least_latency=False)
    assert frames(energy, clock, took_s) == 'uniform:0.75'
    switch = predicting(0.4, 0.1, 0.12)
    switch.force = 'uniform:0.75'
    frames(switch, clock, took_s)
    switch.force = ''
    assert named(switch) == 'uniform:0.75'
    assert frames(switch, clock, took_s) == 'full_offload'
    other = table_of(((4.0, 1), (50.0, 2)))
    pick = switch.choose(other, 0)
    assert (PLANS[pick.index], pick.predicted_s) == ('uniform:0.75', None)
    switch.took(other, switch.choose(TABLE, 1), 9.0)
    switch.expect(TABLE, switch._expected.curves, True)
    assert named(switch) == 'uniform:0.75'
