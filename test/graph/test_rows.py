# SPDX-License-Identifier: Apache-2.0
"""Sets of row intervals behave as Python's sets of row numbers."""

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st

from hp_inference.graph.rows import Rows

INTERVALS = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), max_size=6)


def numbers(rows) -> set[int]:
    """Return the row numbers of a Rows or of a list of intervals."""
    return {row for begin, end in rows for row in range(begin, end)}


@drawn(70, 200)
@given(INTERVALS)
def test_intervals_are_ascending_disjoint_and_do_not_touch(intervals):
    rows = Rows(intervals)
    assert numbers(rows) == numbers(intervals)
    assert all(begin < end for begin, end in rows)
    assert all(before[1] < behind[0] for before, behind in zip(rows, list(rows)[1:]))


@drawn(70, 200)
@given(INTERVALS, INTERVALS)
def test_the_operators_are_those_of_sets(one, other):
    left, right = Rows(one), Rows(other)
    a, b = numbers(left), numbers(right)
    assert numbers(left | right) == a | b
    assert numbers(left & right) == a & b
    assert numbers(left - right) == a - b
    assert (left <= right) == (a <= b)
    assert (left == right) == (a == b)
    for made in (left | right, left & right, left - right):
        assert made == Rows((row, row + 1) for row in numbers(made))  # one form for one set
    assert (numbers(left), numbers(right)) == (a, b)


@drawn(70, 200)
@given(INTERVALS)
def test_count_hull_truth_and_hash(intervals):
    rows = Rows(intervals)
    own = numbers(rows)
    assert rows.count == len(own)
    assert bool(rows) == bool(own)
    assert rows.hull == ((min(own), max(own) + 1) if own else (0, 0))
    assert hash(rows) == hash(Rows(reversed(rows.intervals)))


@drawn(70, 200)
@given(INTERVALS, st.integers(1, 8))
def test_split_gives_ascending_parts_of_nearly_equal_size(intervals, parts):
    rows = Rows(intervals)
    blocks = rows.split(parts)
    assert len(blocks) == min(parts, rows.count)
    assert sorted(row for block in blocks for row in numbers(block)) == sorted(numbers(rows))
    assert all(max(numbers(a)) < min(numbers(b)) for a, b in zip(blocks, blocks[1:]))
    if blocks:
        sizes = [block.count for block in blocks]
        assert max(sizes) - min(sizes) <= 1


def test_a_single_interval_and_how_sets_are_shown():
    assert Rows.of(2, 5).intervals == ((2, 5),)
    assert not Rows.of(5, 2) and not Rows.of(3, 3)
    assert repr(Rows([(4, 6), (0, 2), (2, 3)])) == '[0,3)+[4,6)'
    assert repr(Rows()) == '[)'
    assert Rows.of(0, 1) != ((0, 1),)
