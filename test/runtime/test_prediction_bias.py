# SPDX-License-Identifier: Apache-2.0
"""What frames took counts where the link stayed the same, and is tried again ever more rarely."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.runtime import prediction_bias
from hp_inference.runtime.prediction_bias import (
    PredictionBias,
    REST_FRAMES,
    REST_S,
    SETTLED_S,
)


class Clock:
    """The time by which a bias ages, to be set."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(prediction_bias, 'time', made)
    return made


def learn(known, clock, ratios, mbit_s=20.0, after=20.0):
    """Have frames take so many times what was predicted, and the link carry ``after`` then."""
    known.carries(mbit_s)
    for ratio in ratios:
        known.note('plan', mbit_s, ratio)
    clock.now += SETTLED_S
    known.carries(after)
    known.carries(mbit_s)
    return known.factor('plan')


@pytest.mark.parametrize('ratios, factor', [
    ([], None), ([3.0], None), ([1.2, 1.3], 1.2), ([9.0, 1.1], 1.1), ([1.2, 1.4, 1.3], 1.3),
    ([9.0, 9.0, 9.0, 1.1, 1.2, 1.3, 1.4, 1.5], 1.3), ([0.8, 0.9], 0.8)])
def test_the_lower_median_of_the_last_frames_counts_and_of_one_frame_nothing(
        clock, ratios, factor):
    assert learn(PredictionBias(), clock, ratios) == (factor and pytest.approx(factor))


def test_other_plans_and_rates_an_octave_away_are_not_touched(clock):
    known = PredictionBias()
    learn(known, clock, [1.5, 1.5])
    assert known.factor('other') is None
    known.carries(40.0)
    assert known.factor('plan') is None
    known.carries(17.0)
    assert known.factor('plan') == pytest.approx(1.5)


@pytest.mark.parametrize('mbit_s', [[23.0, 22.0, 24.0], [1e4, 2e4, 1.2e4]])
def test_a_rate_that_swings_a_little_or_far_above_what_counts_is_one_rate(clock, mbit_s):
    known = PredictionBias()
    learn(known, clock, [1.5, 1.5], mbit_s=mbit_s[0], after=mbit_s[0])
    for rate in mbit_s:
        known.carries(rate)
        assert known.factor('plan') == pytest.approx(1.5)


@pytest.mark.parametrize('after, counts', [(20.0, True), (16.0, True), (24.0, True),
                                           (14.0, False), (26.0, False), (0.0, False)])
def test_frames_from_just_before_the_link_changed_do_not_count(clock, after, counts):
    assert (learn(PredictionBias(), clock, [1.5, 1.5], after=after) is not None) == counts


def test_a_change_that_is_over_by_then_has_been_seen(clock):
    known = PredictionBias()
    known.carries(20.0)
    for _ in range(2):
        known.note('plan', 20.0, 4.0)
    known.carries(5.0)
    assert learn(known, clock, []) is None


def others(known, frames=REST_FRAMES):
    """Let frames run under another plan."""
    for _ in range(frames):
        known.note('other', 20.0, 1.0)


@pytest.mark.parametrize('seconds, frames, counts', [
    (REST_S - 0.01, 99, True), (99.0, REST_FRAMES - 1, True), (REST_S, REST_FRAMES, False)])
def test_a_plan_that_does_not_run_is_given_another_chance_after_some_time_and_frames(
        clock, seconds, frames, counts):
    known = PredictionBias()
    assert learn(known, clock, [1.5, 1.5])
    clock.now += seconds
    others(known, frames)
    assert (known.factor('plan') is not None) == counts


def test_a_trial_ends_as_soon_as_the_plan_is_seen_to_be_slow_still(clock):
    known = PredictionBias()
    learn(known, clock, [1.5, 1.5])
    clock.now += REST_S
    others(known)
    known.note('plan', 20.0, 1.6)
    assert known.factor('plan') is None
    known.note('plan', 20.0, 1.7)
    assert known.factor('plan') == pytest.approx(1.6)
    assert known.tries('plan') and not known.tries('other')
    known.carries(5.0)  # the link it was
    known.carries(20.0)
    assert known.factor('plan') is None


def test_in_a_trial_what_has_settled_and_what_has_not_count_together(clock):
    known = PredictionBias()
    learn(known, clock, [1.5, 1.5])
    clock.now += REST_S
    others(known)
    learn(known, clock, [1.6])
    assert known.factor('plan') is None
    known.note('plan', 20.0, 1.7)
    assert known.factor('plan') == pytest.approx(1.6)


def rest(known, clock, frames_per_s):
    """Return for how long what is known counts now."""
    begun = clock.now
    while known.factor('plan') is not None:
        clock.now += 1 / frames_per_s
        others(known, 1)
    return clock.now - begun


@pytest.mark.parametrize('frames_per_s, wanted', [
    (16, [2, 4, 8, 16, 32, 60, 60, 60]), (1, [10, 20, 40, 60, 60, 60, 60, 60]),
    (0.1, [100] * 8)])
def test_trials_get_ever_rarer_while_they_fail_and_begin_anew_after_a_good_one(
        clock, frames_per_s, wanted):
    known, rests = PredictionBias(), []
    for ratio in [1.5] * 8 + [1.0, 1.5]:
        learn(known, clock, [ratio] * 2)
        rests.append(rest(known, clock, frames_per_s))
    assert rests == pytest.approx([*wanted, *wanted[:2]], abs=1.1 / frames_per_s)


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0, 3)), max_size=60))
def test_the_factor_is_one_of_those_noted_or_none(notes):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(prediction_bias, 'time', clock)
        known, ratios = PredictionBias(), {None}
        for mbit_s, ratio, passes_s in notes:
            known.carries(mbit_s)
            known.note('plan', mbit_s, ratio)
            ratios.add(ratio)
            clock.now += passes_s
            known.carries(mbit_s)
            assert known.factor('plan') in ratios
        known.carries(20.0)
        for _ in range(2):
            known.note('plan', 20.0, 0.5)
        clock.now += SETTLED_S + 0.01
        known.carries(20.0)
        assert known.factor('plan') is not None
