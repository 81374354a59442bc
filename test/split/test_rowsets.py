# SPDX-License-Identifier: Apache-2.0
"""Row sets in used memory are graph.rows.Rows as long as there is room, and spoilt after."""

from functools import reduce
from operator import or_, sub

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from hp_inference.graph.rows import Rows
from hp_inference.split import rowsets as rs

SPOILT = 'spoilt'
INTERVALS = 6
SIZE = rs.room_for(INTERVALS)
row = st.integers(0, 30)
intervals = st.lists(st.tuples(row, row), max_size=12)
few = st.builds(Rows, st.lists(st.tuples(row, row), max_size=INTERVALS))
patient = settings(deadline=None)


def spoilt():
    return np.array([-1] + [7] * (SIZE - 1), np.int32)


def array(rows):
    """Return a set as an array, with rubbish behind its end."""
    made = np.full(SIZE, 99, np.int32)
    made[0] = len(rows.intervals)
    made[1:1 + 2 * made[0]] = np.ravel(rows.intervals)
    return made


def content(made):
    return SPOILT if made[0] < 0 else Rows(map(tuple, made[1:1 + 2 * made[0]].reshape(-1, 2)))


def is_kept(made):
    """Return whether the intervals stand as Rows keeps them: ascending, disjoint, apart."""
    ends = made[1:1 + 2 * max(0, made[0])]
    return (np.diff(ends) > 0).all()


def expected(steps):
    """Return the last of some sets, spoilt where one of them takes too many intervals."""
    return SPOILT if any(len(rows.intervals) > INTERVALS for rows in steps) else steps[-1]


def growing(start, parts):
    """Return the sets that come up when parts are added one by one."""
    return [reduce(or_, parts[:i], start) for i in range(len(parts) + 1)]


@patient
@given(intervals)
def test_add(pairs):
    made = array(Rows())
    for pair in pairs:
        rs.add(made, *pair)
    assert content(made) == expected(growing(Rows(), [Rows.of(*pair) for pair in pairs]))
    assert is_kept(made)


@patient
@given(few, few)
def test_add_all(one, other):
    made = array(one)
    rs.add_all(made, array(other))
    assert content(made) == expected(growing(one, [Rows((pair,)) for pair in other]))
    assert is_kept(made)


@patient
@given(few, row, row)
def test_clip(rows, low, high):
    made = array(Rows.of(3, 5))
    rs.clip(made, array(rows), low, high)
    assert content(made) == rows & Rows.of(low, high)


@patient
@given(few, few, few)
def test_add_common(start, one, other):
    made = array(start)
    rs.add_common(made, array(one), array(other))
    assert content(made) == expected(growing(start, [Rows((pair,)) for pair in one & other]))
    assert is_kept(made)


@patient
@given(few, few)
def test_remove(one, other):
    made = array(one)
    rs.remove(made, array(other), array(Rows()))
    taken = [Rows((pair,)) for pair in other]
    assert content(made) == expected([reduce(sub, taken[:i], one)
                                      for i in range(len(taken) + 1)])
    assert is_kept(made)


@patient
@given(few, row, row)
def test_count_meets_and_holds(rows, low, high):
    assert rs.count(array(rows)) == rows.count
    assert rs.holds(array(rows), low, high) == (Rows.of(low, high) <= rows)
    if low < high:  # nobody asks whether a set meets no rows
        assert rs.meets(array(rows), low, high) == bool(rows & Rows.of(low, high))


def test_one_interval_too_many_spoils_a_set_for_good():
    made = array(Rows())
    for i in range(INTERVALS):
        rs.add(made, 3 * i, 3 * i + 1)
    assert made[0] == INTERVALS
    rs.add(made, 100, 101)
    assert content(made) == SPOILT
    rs.add(made, 0, 200)
    assert content(made) == SPOILT


@pytest.mark.parametrize('spoil', [
    lambda s: rs.add_all(s, spoilt()), lambda s: rs.clip(s, spoilt(), 0, 9),
    lambda s: rs.add_common(s, spoilt(), array(Rows.of(0, 3))),
    lambda s: rs.add_common(s, array(Rows.of(0, 3)), spoilt()),
    lambda s: rs.remove(s, spoilt(), spoilt())])
def test_what_is_made_of_a_spoilt_set_is_spoilt(spoil):
    made = array(Rows.of(2, 5))
    spoil(made)
    assert content(made) == SPOILT


def test_a_spoilt_set_stays_so_whatever_is_done_to_it():
    made = spoilt()
    rs.add_all(made, array(Rows.of(0, 9)))
    rs.add_common(made, array(Rows.of(0, 9)), array(Rows.of(0, 9)))
    rs.remove(made, array(Rows.of(0, 30)), array(Rows()))
    assert content(made) == SPOILT
