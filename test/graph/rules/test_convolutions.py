# SPDX-License-Identifier: Apache-2.0
"""Convolution and transposed convolution, their rows worked out by hand; images of 8 rows."""

import pytest
from rule_oracle import captured, Chain, expect, tiny_nets
from torch import nn
import torch.nn.functional as F

from hp_inference.graph.rules.window import by_own_padding, Window
from hp_inference.graph.table import GLOBAL, PARTIAL

# Output row j reads rows j*stride - padding + dilation*t of the input, t = 0 .. kernel - 1.
CONVOLUTIONS = {
    # -1..1 at the top, 3-1 .. 4+1 in the middle, 6..8 at the bottom
    'a window of three rows':
        (nn.Conv2d(3, 4, 3, padding=1),
         {(0, 1): [(0, 2)], (3, 5): [(2, 6)], (7, 8): [(6, 8)], (0, 8): [(0, 8)]}),
    # row 1 begins at 2 - 1, row 2 ends at 4 - 1 + 2, row 3 reads 5..7
    'stride': (nn.Conv2d(3, 4, 3, 2, 1), {(1, 2): [(1, 4)], (1, 3): [(1, 6)], (3, 4): [(5, 8)]}),
    # row 0 reads -2, 0 and 2; row 4 reads 2, 4 and 6
    'dilation': (nn.Conv2d(3, 4, 3, padding=2, dilation=2), {(0, 1): [(0, 3)], (4, 5): [(2, 7)]}),
    # row 1 reads 3-2 .. 3+2, row 2 reads 6-2 .. 6+2 of which row 8 is padding
    'groups': (nn.Conv2d(3, 6, (5, 1), (3, 1), (2, 0), groups=3),
               {(1, 2): [(1, 6)], (2, 3): [(4, 8)]}),
    # 3 rows of padding in all, 1 above and 2 below: row 0 reads -1..2, row 7 reads 6..9
    'same padding, even kernel': (nn.Conv2d(3, 4, (4, 2), padding='same'),
                                  {(0, 1): [(0, 3)], (3, 5): [(2, 7)], (7, 8): [(6, 8)]}),
    # again 1 above and 2 below: row j reads j - 1 and j + 2
    'same padding, dilation': (nn.Conv2d(3, 4, (2, 3), padding='same', dilation=(3, 1)),
                               {(0, 1): [(0, 3)], (4, 5): [(3, 7)], (6, 8): [(5, 8)]}),
    # no padding: row 5 is the last and reads 5..7
    'valid padding': (nn.Conv2d(3, 4, 3, padding='valid', bias=False),
                      {(0, 1): [(0, 3)], (5, 6): [(5, 8)]}),
    # the rows between the strides are nobody's, and so is the last row, 7
    'stride beyond the kernel': (nn.Conv2d(3, 4, 1, 2), {(1, 3): [(2, 5)], (0, 4): [(0, 7)]}),
    # rows 0, 1, 10 and 11 are nothing but padding; they name one row to run on
    'padding beyond the kernel': (nn.Conv2d(3, 4, 1, padding=2),
                                  {(0, 2): [(0, 1)], (2, 4): [(0, 2)], (11, 12): [(7, 8)]}),
    # row 8 of the padded image is zeros; row 3 reads rows 6..8 of it
    'padding below only': (Chain(lambda x: F.pad(x, (0, 1, 0, 1)), nn.Conv2d(3, 4, 3, 2)),
                           {(0, 1): [(0, 3)], (3, 4): [(6, 9)]}),
    # the kernel is 5 wide with padding 2: column 0 reads -2..2, column 3 reads 1..5
    'rows along the width': (Chain(lambda x: x.mT, nn.Conv2d(3, 4, (3, 5), padding=(1, 2))),
                             {(0, 1): [(0, 3)], (3, 4): [(1, 6)]}),
    'rows that are channels': (Chain(lambda x: x.transpose(1, 2), nn.Conv2d(8, 4, 3)),
                               {(0, 1): [(0, 8)]}, GLOBAL),
    'a computed kernel': (lambda x: F.conv2d(x, x[:, :, :3, :3]),
                          {(0, 1): [[(0, 8)], [(0, 3)]]}, GLOBAL),
    # row 1 reads 2..4
    'no batch': (Chain(lambda x: x[0], nn.Conv2d(3, 4, 3)), {(0, 1): [(0, 8)]}, GLOBAL),
    'one dimension': (Chain(lambda x: x[..., 0], nn.Conv1d(3, 4, 3, 2)), {(1, 2): [(2, 5)]}),
    'rows that are the batch': (Chain(lambda x: x[0].transpose(0, 1),
                                      nn.Conv1d(3, 4, 3, padding='same')), {(2, 5): [(2, 5)]}),
    # the rows are the second of three: rows 3 and 4 read 2..5
    'three dimensions': (Chain(lambda x: x.unsqueeze(2),
                               nn.Conv3d(3, 4, (1, 3, 3), padding=(0, 1, 1))),
                         {(0, 1): [(0, 2)], (3, 5): [(2, 6)]}),
}
# Input row i adds to output rows i*stride - padding + dilation*t, t = 0 .. kernel - 1.
TRANSPOSED = {
    # output row j comes from row j // 2
    'twice the rows': (nn.ConvTranspose2d(3, 4, 2, 2), {(3, 5): [(1, 3)], (15, 16): [(7, 8)]}),
    # row 1 from rows 0 (1 = 0 - 1 + 2) and 1 (1 = 2 - 1 + 0); row 14 from 7 (14 = 14 - 1 + 1)
    'padding': (nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1),
                {(0, 1): [(0, 1)], (1, 2): [(0, 2)], (3, 6): [(1, 4)], (14, 16): [(7, 8)]}),
    # rows 6 and 7 lie in the gap behind row 1, 30 and 31 are output padding: the bias alone,
    # for which one row is named
    'stride beyond the kernel':
        (nn.ConvTranspose2d(3, 4, 2, 4, output_padding=2),
         {(4, 6): [(1, 2)], (6, 8): [(1, 2)], (5, 9): [(1, 3)], (30, 32): [(7, 8)]}),
    # row j from rows j - 3 and j
    'dilation': (nn.ConvTranspose2d(3, 4, 2, dilation=3),
                 {(0, 1): [(0, 1)], (5, 6): [(2, 6)], (10, 11): [(7, 8)]}),
    # row j from (j + 1) // 3, or from none
    'groups': (nn.ConvTranspose2d(3, 6, (2, 3), (3, 1), (1, 0), groups=3, bias=False),
               {(0, 1): [(0, 1)], (2, 3): [(1, 2)], (2, 6): [(1, 3)]}),
    'no batch': (Chain(lambda x: x[0], nn.ConvTranspose2d(3, 4, 2)), {(0, 1): [(0, 8)]}, GLOBAL),
    'one dimension': (Chain(lambda x: x[..., 0], nn.ConvTranspose1d(3, 4, 2, 2)),
                      {(3, 5): [(1, 3)]}),
    'three dimensions': (Chain(lambda x: x.unsqueeze(2), nn.ConvTranspose3d(3, 4, 2, 2)),
                         {(3, 5): [(1, 3)]}),
    'rows that are the batch': (Chain(lambda x: x[0].transpose(0, 1),
                                      nn.ConvTranspose1d(3, 4, 3)), {(2, 5): [(2, 5)]}),
    'rows that are channels': (Chain(lambda x: x.transpose(1, 2), nn.ConvTranspose2d(8, 4, 2)),
                               {(0, 1): [(0, 8)]}, GLOBAL),
    'a computed kernel': (lambda x: F.conv_transpose2d(x, x.transpose(0, 1)),
                          {(0, 1): [[(0, 8)], [(0, 8)]]}, GLOBAL),
}


ALL = {**CONVOLUTIONS, **{f'transposed, {name}': entry for name, entry in TRANSPOSED.items()}}


@pytest.fixture(scope='module')
def nets():
    return tiny_nets(ALL)


@pytest.mark.parametrize('name', ALL)
def test_convolution(nets, name):
    expect(nets.output(name), *ALL[name][1:])


def test_a_decoder_after_a_whole_value_has_rows_again():
    # Each row of the transposed convolution needs the whole [1, 2, 2, 2]. What follows goes by
    # rows: row 1 reads 0..2.
    net = captured(nn.Flatten(), nn.Linear(144, 8), nn.Unflatten(1, (2, 2, 2)),
                   nn.ConvTranspose2d(2, 3, 2, 2), nn.Conv2d(3, 2, 3, padding=1))
    assert net.layout.axes[-5:] == [None, None, None, 2, 2]
    expect(net.case('conv_transpose2d'), {(0, 1): [(0, 1)], (1, 4): [(0, 1)]}, PARTIAL)
    expect(net.case('conv2d'), {(1, 2): [(0, 3)]})


def test_a_convolution_of_a_whole_value_has_rows_again():
    net = captured(lambda x: x.softmax(2), nn.Conv2d(3, 4, 3, 2, 1))
    expect(net.case('conv2d'), {(1, 2): [(0, 1)]}, PARTIAL)


def test_a_slice_at_the_border_is_right_whether_the_operator_pads_it_or_a_copy():
    # Copying is dear beside the extra rows that one channel costs, cheap beside those of 64.
    net = tiny_nets({f'{channels}': (nn.Conv2d(3, channels, 3, padding=1),)
                     for channels in (1, 64)}, shape=(1, 3, 8, 40))
    for channels in (1, 64):
        expect(net.output(f'{channels}'), {(0, 2): [(0, 3)]})


def test_an_operator_pads_a_slice_itself_unless_a_window_would_be_nothing_but_padding():
    # 3 rows of kernel reach 2 rows beyond the first: of 3 rows of padding one window sees no row.
    window = Window(size=3, stride=1, top=3, bottom=3, dilation=1, rows=8)
    assert by_own_padding(window, 2, 2) == (2, 0)
    assert by_own_padding(window, 3, 3) is None
    assert by_own_padding(window, 0, 2) == (2, 2)
    dilated = Window(size=3, stride=1, top=4, bottom=4, dilation=2, rows=8)
    assert by_own_padding(dilated, 4, 0) == (4, 0)
    assert by_own_padding(dilated, 5, 0) is None
