# SPDX-License-Identifier: Apache-2.0
"""Pools, their rows worked out by hand; images of 8 rows."""

import pytest
from rule_oracle import applied, Chain, check_blocks, expect, Given, random, tiny_nets
import torch
from torch import nn
import torch.nn.functional as F

from hp_inference.graph.table import GLOBAL, PARTIAL


def column(x):
    return x[..., 0]


def rows_as_channels(x):
    return x.transpose(1, 2)


# Row i of an adaptive pool to n rows takes input rows floor(i * 8 / n) to ceil((i + 1) * 8 / n).
POOLS = {
    # row 0 reads -1..1, row 3 reads 5..7
    'max': (nn.MaxPool2d(3, 2, 1), {(0, 1): [(0, 2)], (1, 3): [(1, 6)], (3, 4): [(5, 8)]}),
    # (8 - 3) / 2 rounded up makes 4 rows; row 3 reads 6..8 where the last is 7
    'max, ceil mode': (nn.MaxPool2d(3, 2, ceil_mode=True), {(2, 3): [(4, 7)], (3, 4): [(6, 8)]}),
    # row 1 reads 1, 3 and 5
    'max, dilation': (nn.MaxPool2d((3, 2), 1, dilation=(2, 1)),
                      {(1, 2): [(1, 6)], (0, 4): [(0, 8)]}),
    'max, one dimension': (lambda x: F.max_pool1d(column(x), 3, 2, 1), {(1, 3): [(1, 6)]}),
    'max, three dimensions': (Chain(lambda x: x.unsqueeze(2), nn.MaxPool3d((1, 2, 2))),
                              {(1, 3): [(2, 6)]}),
    'max, rows that are channels': (Chain(rows_as_channels, nn.MaxPool2d(2)), {(2, 5): [(2, 5)]}),
    'max of a whole value': (Chain(lambda x: x.softmax(2), nn.MaxPool2d(2)),
                             {(1, 2): [(0, 1)]}, PARTIAL),
    # places are counted from the top of the whole image
    'max, no batch': (Chain(lambda x: x[0], nn.MaxPool2d(2)), {(1, 3): [(2, 6)]}),
    'max with places': (lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
                        {(0, 1): [(0, 8)]}, GLOBAL),
    'average, padding counted': (nn.AvgPool2d(3, 2, 1), {(0, 1): [(0, 2)], (3, 4): [(5, 8)]}),
    'average, padding not counted': (nn.AvgPool2d(3, 2, 1, count_include_pad=False),
                                     {(0, 1): [(0, 2)], (3, 4): [(5, 8)]}),
    # (8 + 2 - 4) / 3 makes 3 rows exactly; row 2 reads 5..8, of which 8 is padding
    'average, four rows by three': (nn.AvgPool2d(4, 3, 1), {(2, 3): [(5, 8)]}),
    # (8 - 3) / 2 rounded up makes 4 rows; row 3 reads 6..8 and 8 is not even padding
    'average, ceil mode': (nn.AvgPool2d(3, 2, ceil_mode=True), {(3, 4): [(6, 8)]}),
    # (8 + 2 - 3) / 2 rounded up makes 5 rows; row 4 reads 7..9
    'average, ceil mode and padding': (nn.AvgPool2d(3, 2, 1, True, True), {(3, 5): [(5, 8)]}),
    'average, ceil mode, padding not counted': (nn.AvgPool2d(3, 2, 1, True, False),
                                                {(3, 5): [(5, 8)]}),
    'average, a divisor': (nn.AvgPool2d(3, 2, 1, True, False, 7),
                           {(0, 1): [(0, 2)], (3, 5): [(5, 8)]}),
    'average, one dimension': (lambda x: F.avg_pool1d(column(x), 2), {(1, 3): [(2, 6)]}),
    'average, three dimensions': (Chain(lambda x: x.unsqueeze(2), nn.AvgPool3d((1, 2, 1))),
                                  {(1, 3): [(2, 6)]}),
    'average, rows that are channels': (Chain(rows_as_channels, nn.AvgPool2d(2)),
                                        {(2, 5): [(2, 5)]}),
    'average, no batch': (Chain(lambda x: x[0], nn.AvgPool2d(2)), {(1, 3): [(2, 6)]}),
    'average of a whole value': (Chain(lambda x: x.softmax(2), nn.AvgPool2d(2)),
                                 {(1, 2): [(0, 1)]}, PARTIAL),
    # two rows each
    'adaptive, dividing': (nn.AdaptiveAvgPool2d((4, 3)), {(1, 3): [(2, 6)], (3, 4): [(6, 8)]}),
    # 0..2, 2..5 and 5..7
    'adaptive, not dividing': (nn.AdaptiveAvgPool2d((3, 4)),
                               {(0, 1): [(0, 3)], (1, 2): [(2, 6)], (1, 3): [(2, 8)]}),
    # row 1: 0.67 .. 1.33, row 4: 2.67 .. 3.33, row 11: 7.33 .. 8
    'adaptive, more rows': (nn.AdaptiveAvgPool2d((12, 5)),
                            {(1, 2): [(0, 2)], (4, 5): [(2, 4)], (11, 12): [(7, 8)]}),
    'adaptive max, dividing': (nn.AdaptiveMaxPool2d((4, 3)), {(1, 3): [(2, 6)]}),
    'adaptive max, not dividing': (nn.AdaptiveMaxPool2d((3, 4)), {(1, 2): [(2, 6)]}),
    'adaptive max, more rows': (nn.AdaptiveMaxPool2d((12, 5)), {(4, 5): [(2, 4)]}),
    'adaptive max, places': (lambda x: F.adaptive_max_pool2d(x, 4, return_indices=True)[1],
                             {(0, 1): [(0, 8)]}, GLOBAL),
    'adaptive, no batch': (Chain(lambda x: x[0], nn.AdaptiveAvgPool2d(4)), {(1, 3): [(2, 6)]}),
    'adaptive, square': (nn.AdaptiveAvgPool2d(4), {(1, 3): [(2, 6)]}),
    'adaptive, same rows': (nn.AdaptiveAvgPool2d((None, 2)), {(1, 3): [(1, 3)]}),
    'adaptive, one dimension': (Chain(column, nn.AdaptiveAvgPool1d(3)), {(1, 2): [(2, 6)]}),
    'adaptive max, one dimension': (Chain(column, nn.AdaptiveMaxPool1d(3)), {(1, 2): [(2, 6)]}),
    'adaptive, rows that are channels': (Chain(rows_as_channels, nn.AdaptiveAvgPool2d((1, 2))),
                                         {(2, 5): [(2, 5)]}),
    'adaptive to one row of several columns': (nn.AdaptiveAvgPool2d((1, 3)),
                                               {(0, 1): [(0, 8)]}, GLOBAL),
    # no inner dimension to take first
    'adaptive to one row, one dimension': (Chain(column, nn.AdaptiveAvgPool1d(1)),
                                           {(0, 1): [(0, 8)]}, GLOBAL),
}


@pytest.fixture(scope='module')
def pools():
    return tiny_nets(POOLS)


@pytest.mark.parametrize('name', POOLS)
def test_pool(pools, name):
    expect(pools.output(name), *POOLS[name][1:])


def test_adaptive_pool_to_one_element_is_a_reduction_in_two_steps():
    net = tiny_nets({'mean.dim': (nn.AdaptiveAvgPool2d(1),),
                     'amax.default': (nn.AdaptiveMaxPool2d(1),)})
    assert net.ops() == ['mean.dim'] * 2 + ['amax.default'] * 2
    for name in ('mean.dim', 'amax.default'):
        case = expect(net.case(name), {(2, 5): [(2, 5)]})
        assert case.whole.shape == (1, 3, 8, 1)
        expect(net.case(name, 1), {(0, 1): [(0, 8)]}, GLOBAL)


def test_padding_never_wins_a_max_pool():
    case = applied('max_pool2d.default', Given(-1 - random(1, 2, 8, 6).abs()), [3, 3], [1, 1],
                   [1, 1])
    check_blocks(case)
    assert case.whole.max() < 0


def test_what_an_average_pool_divides_by():
    # Ones, windows of 3 by 1, padding 1: the first row sums 2 ones of 3 rows, or of 2 counted.
    ones = Given(torch.ones(1, 1, 8, 6, dtype=torch.float64))
    settings = [3, 1], [1, 1], [1, 0], False
    for counted, first in ((True, 2 / 3), (False, 1)):
        block = applied('avg_pool2d.default', ones, *settings, counted).rule.block(0, 2)
        made = block.run(ones.tensor[:, :, :3])[0, 0, :, 0]
        assert made.tolist() == pytest.approx([first, 1], rel=1e-15)
