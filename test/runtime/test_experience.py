# SPDX-License-Identifier: Apache-2.0
"""What frames took counts where the link stayed the same, and not for ever."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.runtime import experience
from hp_inference.runtime.experience import Experience, KEPT_S, SETTLED_S


@pytest.fixture
def clock(monkeypatch):
    """Return the hands of the clock, to be set."""
    hands = [100.0]
    monkeypatch.setattr(experience.time, 'monotonic', lambda: hands[0])
    return hands


def learnt(clock, ratios, mbit_s=20.0, after=20.0):
    known = Experience()
    for ratio in ratios:
        known.note('plan', mbit_s, ratio)
    clock[0] += SETTLED_S
    known.carries(after)
    return known


@pytest.mark.parametrize('ratios, factor', [
    ([], None), ([3.0], None), ([1.2, 1.3], 1.2), ([9.0, 1.1], 1.1), ([1.2, 1.4, 1.3], 1.3),
    ([9.0, 9.0, 9.0, 1.1, 1.2, 1.3, 1.4, 1.5], 1.3), ([0.8, 0.9], 0.8)])
def test_the_lower_median_of_the_last_frames_counts_and_of_one_frame_nothing(
        clock, ratios, factor):
    assert learnt(clock, ratios).factor('plan', 20.0) == factor


def test_other_plans_and_rates_an_octave_away_are_not_touched(clock):
    known = learnt(clock, [1.5, 1.5])
    assert known.factor('plan', 17.0) == 1.5
    assert (known.factor('plan', 40.0), known.factor('other', 20.0)) == (None, None)


@pytest.mark.parametrize('after, factor', [(20.0, 1.5), (16.0, 1.5), (24.0, 1.5), (14.0, None),
                                           (26.0, None), (0.0, None)])
def test_frames_from_just_before_the_link_changed_do_not_count(clock, after, factor):
    assert learnt(clock, [1.5, 1.5], after=after).factor('plan', 20.0) == factor


def test_a_change_that_is_over_by_then_has_been_seen(clock):
    known = Experience()
    for _ in range(2):
        known.note('plan', 20.0, 4.0)
    known.carries(5.0)
    clock[0] += SETTLED_S
    known.carries(20.0)
    assert known.factor('plan', 20.0) is None


def test_what_was_long_ago_is_forgotten(clock):
    known = learnt(clock, [1.5, 1.5])
    clock[0] += KEPT_S - SETTLED_S - 0.1
    assert known.factor('plan', 20.0) == 1.5
    clock[0] += 0.2
    assert known.factor('plan', 20.0) is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), max_size=200))
def test_the_factor_is_one_of_those_noted_or_none(notes):
    known = Experience()
    for mbit_s, ratio in notes:
        known.note('plan', mbit_s, ratio)
        known.carries(mbit_s)
    assert {known.factor('plan', mbit_s) for mbit_s, _ in notes} <= {
        None, *(ratio for _, ratio in notes)}
