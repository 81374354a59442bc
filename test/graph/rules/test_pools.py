# SPDX-License-Identifier: Apache-2.0
"""Pools, their rows worked out by hand; images of 8 rows."""

import pytest
from rule_oracle import applied, captured, check_blocks, Each, expect, Given, random
import torch
from torch import nn
import torch.nn.functional as F

from hp_inference.graph.table import GLOBAL, PARTIAL


def test_max_pool():
    # Row 0 reads -1..1, row 3 reads 5..7.
    net = captured(nn.MaxPool2d(3, 2, 1))
    expect(net.case('max_pool2d.default'), {(0, 1): [(0, 2)], (1, 3): [(1, 6)], (3, 4): [(5, 8)]})


def test_max_pool_with_ceil_mode_reads_past_the_bottom():
    # (8 - 3) / 2 rounded up makes 4 rows; row 3 reads 6..8 where the last is 7.
    net = captured(nn.MaxPool2d(3, 2, ceil_mode=True))
    expect(net.case('max_pool2d.default'), {(2, 3): [(4, 7)], (3, 4): [(6, 8)]})


def test_max_pool_with_dilation():
    # Row 1 reads 1, 3 and 5.
    net = captured(nn.MaxPool2d((3, 2), 1, dilation=(2, 1)))
    expect(net.case('max_pool2d.default'), {(1, 2): [(1, 6)], (0, 4): [(0, 8)]})


def test_padding_never_wins_a_max_pool():
    case = applied('max_pool2d.default', Given(-1 - random(1, 2, 8, 6).abs()), [3, 3], [1, 1],
                   [1, 1])
    check_blocks(case)
    assert case.whole.max() < 0


AVERAGES = {
    # row 0 reads -1..1, row 3 reads 5..7
    'padding counted': (nn.AvgPool2d(3, 2, 1), {(0, 1): [(0, 2)], (3, 4): [(5, 8)]}),
    'padding not counted': (nn.AvgPool2d(3, 2, 1, count_include_pad=False),
                            {(0, 1): [(0, 2)], (3, 4): [(5, 8)]}),
    # (8 + 2 - 4) / 3 makes 3 rows exactly; row 2 reads 5..8, of which 8 is padding
    'four rows by three': (nn.AvgPool2d(4, 3, 1), {(2, 3): [(5, 8)]}),
    # (8 - 3) / 2 rounded up makes 4 rows; row 3 reads 6..8 and 8 is not even padding
    'ceil mode': (nn.AvgPool2d(3, 2, ceil_mode=True), {(3, 4): [(6, 8)]}),
    # (8 + 2 - 3) / 2 rounded up makes 5 rows; row 4 reads 7..9
    'ceil mode and padding': (nn.AvgPool2d(3, 2, 1, True, True), {(3, 5): [(5, 8)]}),
    'ceil mode, padding not counted': (nn.AvgPool2d(3, 2, 1, True, False),
                                       {(3, 5): [(5, 8)]}),
    'a divisor': (nn.AvgPool2d(3, 2, 1, True, False, 7), {(0, 1): [(0, 2)], (3, 5): [(5, 8)]}),
}


@pytest.fixture(scope='module')
def averages():
    return captured(Each({name: module for name, (module, _) in AVERAGES.items()}))


@pytest.mark.parametrize('name', AVERAGES)
def test_average_pool(averages, name):
    expect(averages.output(name), AVERAGES[name][1])


def test_what_an_average_pool_divides_by():
    # Ones, windows of 3 by 1, padding 1: the first row sums 2 ones of 3 rows, or of 2 counted.
    ones = Given(torch.ones(1, 1, 8, 6, dtype=torch.float64))
    settings = [3, 1], [1, 1], [1, 0], False
    for counted, first in ((True, 2 / 3), (False, 1)):
        block = applied('avg_pool2d.default', ones, *settings, counted).rule.block(0, 2)
        made = block.run(ones.tensor[:, :, :3])[0, 0, :, 0]
        assert made.tolist() == pytest.approx([first, 1], rel=1e-15)


def test_pools_in_one_and_three_dimensions():
    net = captured(lambda x: F.avg_pool1d(x[..., 0], 2))
    expect(net.case('avg_pool1d.default'), {(1, 3): [(2, 6)]})
    net = captured(lambda x: F.max_pool1d(x[..., 0], 3, 2, 1))
    expect(net.case('max_pool1d.default'), {(1, 3): [(1, 6)]})
    net = captured(lambda x: x.unsqueeze(2), nn.MaxPool3d((1, 2, 2)), nn.AvgPool3d((1, 2, 1)))
    expect(net.case('max_pool3d.default'), {(1, 3): [(2, 6)]})
    expect(net.case('avg_pool3d.default'), {(1, 2): [(2, 4)]})


def test_pools_leave_rows_alone_that_are_channels():
    net = captured(lambda x: x.transpose(1, 2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((1, 2)))
    expect(net.case('max_pool2d.default'), {(2, 5): [(2, 5)]})
    expect(net.case('adaptive_avg_pool2d.default'), {(2, 5): [(2, 5)]})
    net = captured(lambda x: x.transpose(1, 2), nn.AvgPool2d(2))
    expect(net.case('avg_pool2d.default'), {(2, 5): [(2, 5)]})


def test_pools_of_a_whole_value_have_rows_again():
    net = captured(lambda x: x.softmax(2), nn.MaxPool2d(2), nn.AvgPool2d(2))
    expect(net.case('max_pool2d.default'), {(1, 2): [(0, 1)]}, PARTIAL)
    expect(net.case('avg_pool2d.default'), {(1, 2): [(2, 4)]})


def test_a_max_pool_that_also_gives_places_is_whole():
    net = captured(lambda x: F.max_pool2d(x, 2, return_indices=True))
    expect(net.case('max_pool2d_with_indices.default', 1), {(0, 1): [(0, 8)]}, GLOBAL)


# Row i pools input rows floor(i * 8 / n) to ceil((i + 1) * 8 / n).
ADAPTIVE = {
    # two rows each
    (4, 3): {(1, 3): [(2, 6)], (3, 4): [(6, 8)]},
    # 0..2, 2..5 and 5..7
    (3, 4): {(0, 1): [(0, 3)], (1, 2): [(2, 6)], (1, 3): [(2, 8)]},
    # row 1: 0.67 .. 1.33, row 4: 2.67 .. 3.33, row 11: 7.33 .. 8
    (12, 5): {(1, 2): [(0, 2)], (4, 5): [(2, 4)], (11, 12): [(7, 8)]},
}


@pytest.fixture(scope='module')
def adaptive():
    return captured(Each({f'{kind}{size}': pool(size) for size in ADAPTIVE for kind, pool in (
        ('avg', nn.AdaptiveAvgPool2d), ('max', nn.AdaptiveMaxPool2d))}))


@pytest.mark.parametrize('size', ADAPTIVE)
def test_adaptive_pool(adaptive, size):
    expect(adaptive.output(f'avg{size}'), ADAPTIVE[size])
    expect(adaptive.output(f'max{size}'), ADAPTIVE[size])


def test_adaptive_pool_in_one_dimension():
    net = captured(lambda x: x[..., 0], nn.AdaptiveAvgPool1d(3))
    expect(net.case('adaptive_avg_pool1d.default'), {(1, 2): [(2, 6)]})
    net = captured(lambda x: x[..., 0], nn.AdaptiveMaxPool1d(3))
    expect(net.case('adaptive_max_pool1d.default'), {(1, 2): [(2, 6)]})


def test_adaptive_pool_to_one_element_is_a_reduction_in_two_steps():
    for module, name in ((nn.AdaptiveAvgPool2d(1), 'mean.dim'),
                         (nn.AdaptiveMaxPool2d(1), 'amax.default')):
        net = captured(module)
        assert net.ops() == [name, name]
        case = expect(net.case(name), {(2, 5): [(2, 5)]})
        assert case.whole.shape == (1, 3, 8, 1)
        expect(net.case(name, 1), {(0, 1): [(0, 8)]}, GLOBAL)


def test_adaptive_pool_to_one_row_of_several_columns_is_whole():
    net = captured(nn.AdaptiveAvgPool2d((1, 3)))
    expect(net.case('adaptive_avg_pool2d.default'), {(0, 1): [(0, 8)]}, GLOBAL)


def test_adaptive_pool_to_one_element_of_one_dimension():
    # One row of tokens: there is no inner dimension to take first.
    net = captured(lambda x: x[..., 0], nn.AdaptiveAvgPool1d(1))
    assert net.ops()[-1] == 'mean.dim'
    expect(net.case('mean.dim'), {(0, 1): [(0, 8)]}, GLOBAL)
