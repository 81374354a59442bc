# SPDX-License-Identifier: Apache-2.0
"""The row rules as arrays say what the operator table says, of every interval of every value."""

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
from nets import chain, Net, random_net
import numpy as np
import pytest
from settings import NETS, real, small_swin, tiny

from hp_inference.graph.rows import Rows
from hp_planner.timeline.row_tables import row_tables


def reads(grid, argument, rows, begin, end):
    """Return what [begin, end) of a value with ``rows`` rows reads by an argument."""
    at, p = grid.at[argument], grid.pairs[argument]
    if p < 0:
        return Rows.of(int(grid.low[at + begin]), int(grid.high[at + end]))
    p += begin * (rows + 1) + end
    return Rows(map(tuple, grid.spans[grid.starts[p]:grid.starts[p + 1]].tolist()))


def check_all_intervals(layout):
    grid = row_tables(layout)
    for value in range(1, len(layout.rows)):
        rows, refs = layout.rows[value], layout.graph.ops[value - 1].refs
        arguments = range(grid.first[value], grid.first[value + 1])
        assert list(refs) == [grid.source[k] for k in arguments]
        for begin in range(rows):
            for end in range(begin + 1, rows + 1):
                expected = layout.rules[value].block(begin, end).needs
                assert [reads(grid, k, rows, begin, end) for k in arguments] == list(expected)


@pytest.mark.parametrize('name', NETS)
def test_the_arrays_hold_the_rules_of_all_intervals(name):
    check_all_intervals(tiny(name))


@given(st.integers(0, 10_000))
@drawn(6, 15, anew=True)
def test_the_arrays_hold_the_rules_of_random_nets(seed):
    check_all_intervals(random_net(seed))


@pytest.mark.parametrize('layout', [
    pytest.param(small_swin, id='swin'),
    pytest.param(lambda: real('torchvision:resnet18'), id='resnet18', marks=pytest.mark.long)])
def test_the_arrays_hold_the_rules_of_real_networks(layout):
    check_all_intervals(layout())


def test_a_convolution_is_separable_and_what_moves_rows_is_not():
    grid = row_tables(tiny('reordered'))
    targets = [op.target.split('.')[1] for op in tiny('reordered').graph.ops]
    for value, target in enumerate(targets, 1):
        assert (grid.pairs[grid.first[value]] >= 0) == (target in ('roll', 'flip')), target


def test_rows_that_a_roll_takes_from_both_ends_are_two_intervals():
    net = Net(8)
    grid = row_tables(net.layout(net.op('roll.default', net.x, [3], [2])))
    k = grid.first[2]  # row i is row i - 3
    assert reads(grid, k, 8, 0, 8) == Rows.of(0, 8)
    assert reads(grid, k, 8, 2, 5) == Rows([(7, 8), (0, 2)])
    assert reads(grid, k, 8, 4, 4) == Rows()


def test_a_3x3_convolution_reads_a_row_more_on_either_side():
    grid = row_tables(chain(8, 1))
    at = grid.at[grid.first[2]]
    assert grid.low[at:at + 9].tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 8]
    assert grid.high[at:at + 9].tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 8]


def test_it_is_known_who_reads_a_value_last_and_where_its_times_are():
    net = Net(8)
    a = net.conv(net.x)
    b = net.conv(a, 3, 2)
    grid = row_tables(net.layout(net.linear(net.add(net.relu(a), a)), b))  # values 4 to 7 follow
    assert grid.rows.tolist() == [8, 8, 8, 4, 8, 8, 1, 1]
    assert grid.last.tolist() == [1, 2, 5, 8, 5, 6, 7, 8]
    assert grid.output.tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    assert grid.at_row.tolist() == np.cumsum([0, 9, 9, 9, 5, 9, 9, 2]).tolist()
