# SPDX-License-Identifier: Apache-2.0
"""Operators that move, cut or join elements, worked out by hand; images [1, 3, 8, 6]."""

import pytest
from rule_oracle import applied, check_blocks, expect, Given, random, tiny_nets
import torch
from torch import nn

from hp_inference.graph.table import GLOBAL, PARTIAL

TWO_ROWS, ONE_CHANNEL = random(1, 3, 2, 6), random(1, 1, 8, 6)


def tokens(x):
    """Return the image as tokens [1, 48, 3]: row i is tokens 6i to 6i + 6."""
    return x.flatten(2).transpose(1, 2)


def channels_last(x):
    return x.permute(0, 2, 3, 1)


# name: (net, the output's row axis, needs[, kind])
MOVES = {
    # row i of the image becomes elements 6i to 6i + 6: [7, 13) lies in rows 1 and 2
    'flatten': (nn.Flatten(2), 2, {(7, 13): [(1, 3)], (6, 12): [(1, 2)], (0, 1): [(0, 1)]}),
    'reshape to tokens': (lambda x: x.reshape(3, -1), 1, {(7, 13): [(1, 3)]}),
    # the channels lie outside the rows and go into them
    'flatten everything': (nn.Flatten(), None, {(0, 1): [(0, 8)]}, GLOBAL),
    # rows outermost, [1, 8, 6, 3]: element 18i begins row i
    'flatten with the rows outermost': (lambda x: channels_last(x).flatten(1), 1,
                                        {(17, 19): [(0, 2)], (18, 36): [(1, 2)]}),
    # a row of windows is 2 rows
    'rows by windows': (lambda x: x.view(1, 3, 4, 2, 3, 2), 2, {(1, 3): [(2, 6)]}),
    'unflatten': (lambda x: x.unflatten(2, (2, 4)), 2, {(1, 2): [(4, 8)]}),
    'unflatten channels': (nn.Unflatten(1, (3, 1)), 3, {(2, 5): [(2, 5)]}),
    # 48 elements by 4 are 12 new rows: row 1 is elements 4..7 of rows 0 and 1
    'rows of another length': (lambda x: x.reshape(1, 3, 12, 4), 2,
                               {(0, 1): [(0, 1)], (1, 2): [(0, 2)], (3, 6): [(2, 4)]}),
    # tokens back to an image: row i is tokens 6i to 6i + 6 of [1, 48, 3]
    'tokens to an image': (lambda x: tokens(x).unflatten(1, (8, 6)), 1, {(2, 5): [(12, 30)]}),
    'permute': (channels_last, 1, {(2, 5): [(2, 5)]}),
    'transpose': (lambda x: x.mT, 3, {(2, 5): [(2, 5)]}),
    'transpose of others': (lambda x: x.transpose(0, 1), 2, {(2, 5): [(2, 5)]}),
    'transpose of a matrix': (lambda x: x[0, 0].t(), 1, {(2, 5): [(2, 5)]}),
    'swapped axes': (lambda x: x.swapaxes(1, 2), 1, {(2, 5): [(2, 5)]}),
    'moved dimension': (lambda x: x.movedim(2, 0), 0, {(2, 5): [(2, 5)]}),
    'a part of the channels': (lambda x: x.chunk(2, 1)[1], 2, {(2, 5): [(2, 5)]}),
    # 4 and 4 rows
    'a part of the rows': (lambda x: x.chunk(2, 2)[1], 2, {(0, 1): [(4, 5)], (1, 4): [(5, 8)]}),
    # 1, 3 and 4 rows
    'split by sizes': (lambda x: x.split([1, 3, 4], 2)[1], 2, {(0, 2): [(1, 3)]}),
    'split from behind': (lambda x: x.split(3, -2)[2], 2, {(0, 2): [(6, 8)]}),
    # 3, 3 and 2 rows
    'tensor split': (lambda x: x.tensor_split(3, 2)[2], 2, {(0, 1): [(6, 7)]}),
    'tensor split at places': (lambda x: x.tensor_split((2, 5), 2)[1], 2, {(0, 1): [(2, 3)]}),
    'unbind channels': (lambda x: x.unbind(1)[2], 1, {(2, 5): [(2, 5)]}),
    'unbind rows': (lambda x: x.unbind(2)[5], None, {(0, 1): [(5, 6)]}, GLOBAL),
    'crop': (lambda x: x[:, :, 2:7, 1:], 2, {(2, 5): [(2, 5)]}),
    'crop of rows': (lambda x: x[:, :, 2:7], 2, {(0, 5): [(2, 7)], (1, 2): [(3, 4)]}),
    'crop from behind': (lambda x: x[:, :, -3:-1], 2, {(0, 2): [(5, 7)]}),
    'narrow': (lambda x: x.narrow(2, 3, 4), 2, {(1, 3): [(4, 6)]}),
    # rows 1, 4 and 7: with those between, of which the last two belong to nobody
    'every third row': (lambda x: x[:, :, 1::3], 2, {(0, 1): [(1, 2)], (1, 3): [(4, 8)]}),
    'every second column': (lambda x: x[..., ::2], 2, {(2, 5): [(2, 5)]}),
    'a channel': (lambda x: x[:, 1], 1, {(2, 5): [(2, 5)]}),
    'a column': (lambda x: x[..., -1], 2, {(2, 5): [(2, 5)]}),
    'a row': (lambda x: x[:, :, 4], None, {(0, 1): [(4, 5)]}, GLOBAL),
    'a row from behind': (lambda x: x[:, :, -1], None, {(0, 1): [(7, 8)]}, GLOBAL),
    'squeeze': (lambda x: x[:, 1:2].squeeze(1), 1, {(2, 5): [(2, 5)]}),
    'squeeze of everything': (lambda x: x[:, 1:2].squeeze(), 0, {(2, 3): [(2, 3)]}),
    'squeeze of several': (lambda x: x[:, 1:2].squeeze((0, 1)), 0, {(2, 5): [(2, 5)]}),
    'squeeze of nothing': (lambda x: x.squeeze(1), 2, {(2, 5): [(2, 5)]}),
    'squeeze of the only row': (lambda x: x[:, :, 3:4].squeeze(2), None,
                                {(0, 1): [(0, 1)]}, GLOBAL),
    'unsqueeze before': (lambda x: x.unsqueeze(2), 3, {(2, 5): [(2, 5)]}),
    'unsqueeze behind': (lambda x: x.unsqueeze(-1), 2, {(2, 5): [(2, 5)]}),
    'expand': (lambda x: x[:, :1].expand(2, 3, 8, 6), 2, {(2, 5): [(2, 5)]}),
    'expand to more dimensions': (lambda x: x.expand(4, 1, 3, 8, 6), 3, {(2, 5): [(2, 5)]}),
    'expand of the only row': (lambda x: x[:, :, 3:4].expand(1, 3, 8, 6), None,
                               {(0, 1): [(0, 1)]}, GLOBAL),
    'expand as another': (lambda x: x[:, :1].expand_as(x), 2, {(2, 5): [(2, 5)]}),
    'channel shuffle': (lambda x: nn.ChannelShuffle(2)(x.repeat(1, 2, 1, 1)), 2,
                        {(2, 5): [(2, 5)]}),
    'shuffle of channels that are rows': (lambda x: nn.ChannelShuffle(2)(x.transpose(1, 2)), None,
                                          {(0, 1): [(0, 8)]}, GLOBAL),
}
JOINS = {
    'cat of channels': (lambda x: torch.cat([x, x * 2], 1), 2, {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'cat with a constant': (lambda x: torch.cat([ONE_CHANNEL, x], 1), 2, {(2, 5): [(2, 5)]}),
    'cat with a whole value': (lambda x: torch.cat([x, x.cumsum(2)], 1), 2,
                               {(2, 5): [[(2, 5)], [(0, 1)]]}, PARTIAL),
    # the second has its rows along the joined columns: all of them are asked
    'cat with other rows': (lambda x: torch.cat([x[..., :6, :], x[..., :6, :].mT], 1), 2,
                            {(2, 5): [[(2, 5)], [(0, 6)]]}, PARTIAL),
    # rows 0..7 and 8..15
    'cat of rows': (lambda x: torch.cat([x, x * 2], 2), 2,
                    {(2, 5): [[(2, 5)], []], (6, 10): [[(6, 8)], [(0, 2)]],
                     (12, 16): [[], [(4, 8)]]}),
    # 2 constant rows, 8 of the image, 2 constant rows
    'cat of rows with constants': (lambda x: torch.cat([TWO_ROWS, x, TWO_ROWS], 2), 2,
                                   {(0, 2): [], (1, 4): [(0, 2)], (9, 12): [(7, 8)]}),
    # rows 0..7 are whole: all of it or nothing
    'cat of rows with a whole value': (lambda x: torch.cat([x.cumsum(2), x], 2), 2,
                                       {(2, 5): [[(0, 1)], []], (7, 9): [[(0, 1)], [(0, 1)]],
                                        (8, 9): [[], [(0, 1)]]}, PARTIAL),
    # a class token before the tokens
    'cat of a token': (lambda x: torch.cat([TWO_ROWS[:, :, 0, :1].mT, tokens(x)], 1), 1,
                       {(0, 1): [], (0, 8): [(0, 7)]}),
    'cat of whole values': (lambda x: torch.cat([x.cumsum(2)] * 2, 1), None,
                            {(0, 1): [[(0, 1)], [(0, 1)]]}, GLOBAL),
    'stack before': (lambda x: torch.stack([x, x * 2], 1), 3, {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'stack behind': (lambda x: torch.stack([x, x * 2], -1), 2, {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'stack with a constant': (lambda x: torch.stack([x[:, :1], ONE_CHANNEL]), None,
                              {(0, 1): [(0, 8)]}, GLOBAL),
}
ALL = {'moves': MOVES, 'joins': JOINS}


@pytest.fixture(scope='module')
def nets():
    return tiny_nets({f'{kind}, {name}': entry for kind, entries in ALL.items()
                      for name, entry in entries.items()})


@pytest.mark.parametrize('kind, name', [(kind, name) for kind in ALL for name in ALL[kind]])
def test_rows(nets, kind, name):
    case = nets.output(f'{kind}, {name}')
    assert case.rule.axis == ALL[kind][name][1]
    expect(case, *ALL[kind][name][2:])


def test_every_piece_of_a_split_is_an_operator_of_its_own():
    nets = tiny_nets({'pieces': (lambda x: [piece * 2 for piece in x.split([1, 3, 4], 2)],)})
    slices = [case for case in nets.cases if case.view.op.target == 'aten.slice.Tensor']
    assert [case.needs(0, 1) for case in slices] == [[[(0, 1)]], [[(1, 2)]], [[(4, 5)]]]


@pytest.mark.parametrize('axis', range(4))
def test_rows_of_any_dimension_are_followed(axis):
    x = Given(random(4, 3, 6, 5), axis)
    permuted = applied('permute.default', x, [2, 0, 3, 1])
    assert permuted.rule.axis == [1, 3, 0, 2][axis]
    assert applied('unsqueeze.default', x, 2).rule.axis == axis + (axis >= 2)
    for case in (permuted, applied('transpose.int', x, -1, 1), applied('select.int', x, 1, 2),
                 applied('slice.Tensor', x, 2, 1, 99, 2), applied('cat.default', [x, x], 1),
                 applied('stack.default', [x, x], 1), applied('flip.default', x, [1, 2])):
        check_blocks(case)
