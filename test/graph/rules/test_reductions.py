# SPDX-License-Identifier: Apache-2.0
"""Reductions: by rows where they leave the rows alone, over rows in two steps; images of 8 rows."""

import pytest
from rule_oracle import captured, check, check_blocks, expect, tiny_nets
import torch
import torch.nn.functional as F

from hp_inference.graph.table import GLOBAL, LOCAL


def within(x):
    """Move the rows before what is reduced: [1, 8, 3, 6]."""
    return x.transpose(1, 2)


# Over channels or columns rows [2, 5) come from rows [2, 5).
WITHIN = {
    'mean of channels': lambda x: x.mean(1),
    'mean of channels, kept': lambda x: x.mean(1, keepdim=True),
    'mean of columns': lambda x: x.mean(-1),
    'mean of channels and columns': lambda x: x.mean((1, 3)),
    'mean behind the rows': lambda x: within(x).mean((2, 3)),
    'sum as another type': lambda x: x.sum(1, dtype=torch.float32),
    'count': lambda x: (x > 0).sum(1),
    'largest': lambda x: x.amax(1),
    'smallest, kept': lambda x: x.amin((1, 3), keepdim=True),
    'variance': lambda x: x.var(1),
    'deviation, kept': lambda x: x.std(3, keepdim=True),
    'deviation without correction': lambda x: x.std(1, correction=0),
    'mean beside variance': lambda x: torch.var_mean(x, 1)[1],
    'variance beside mean': lambda x: torch.var_mean(x, 1, correction=0)[0],
    'largest of both': lambda x: x.aminmax(dim=1)[1],
    'product': lambda x: x.prod(1),
    'log of sum': lambda x: x.logsumexp((1, 3)),
    'index of the largest': lambda x: x.argmax(1),
    'index of the smallest, kept': lambda x: x.argmin(3, keepdim=True),
    'any': lambda x: (x > 1).any(1),
    'all': lambda x: (x > -1).all(3),
    'largest with index': lambda x: x.max(1)[0],
    'index with largest, kept': lambda x: x.min(1, keepdim=True)[1],
    'median': lambda x: x.median(1)[0],
    'second smallest': lambda x: x.kthvalue(2, 1)[1],
    'two largest': lambda x: x.topk(2, 1)[0],
    'indices of the two largest': lambda x: x.topk(2, 1)[1],
    'sorted': lambda x: x.sort(3)[0],
    'norm': lambda x: x.norm(dim=1),
    'norm of channels and columns': lambda x: torch.linalg.vector_norm(x, 1, (1, 3)),
    'divided by its norm': lambda x: F.normalize(x, dim=1).sum(1),
    'how many': lambda x: torch.count_nonzero(x > 0, 1),
}
# Over the rows they need all.
OVER = {
    'variance': lambda x: x.var(2),
    'index of the largest': lambda x: x.argmax(2),
    'largest with index': lambda x: x.max(2)[1],
    'two largest rows': lambda x: x.topk(2, 2)[0],
    'sum as another type': lambda x: x.sum((2, 3), dtype=torch.float32),
    'mean of everything': lambda x: x.mean(),
    'index in everything': lambda x: x.argmax(),
    'product': lambda x: x.prod(2),
}


@pytest.fixture(scope='module')
def nets():
    return tiny_nets({**{f'{n} within': (f,) for n, f in WITHIN.items()},
                      **{f'{n} over': (f,) for n, f in OVER.items()}})


@pytest.mark.parametrize('name', WITHIN)
def test_a_reduction_within_rows(nets, name):
    expect(nets.output(f'{name} within'), {(2, 5): [(2, 5)]})


@pytest.mark.parametrize('name', OVER)
def test_a_reduction_over_rows_that_is_not_taken_apart(nets, name):
    expect(nets.output(f'{name} over'), {(0, 1): [(0, 8)]}, GLOBAL)


SEPARABLE = {
    'mean': lambda x, dims, keep: x.mean(dims, keep),
    'sum': lambda x, dims, keep: x.sum(dims, keep),
    'amax': lambda x, dims, keep: x.amax(dims, keep),
    'amin': lambda x, dims, keep: x.amin(dims, keep),
}


@pytest.fixture(scope='module')
def separable():
    return tiny_nets({f'{name} {"kept" if keep else "dropped"}': (
        lambda x, reduce=reduce, keep=keep: reduce(x, (2, 3), keep),)
        for name, reduce in SEPARABLE.items() for keep in (True, False)})


@pytest.mark.parametrize('name', SEPARABLE)
def test_a_reduction_over_rows_and_columns_is_taken_in_two_steps(separable, name):
    # First the columns of each row, [1, 3, 8, 1]; then the 8 rows of one number per channel.
    net = separable
    for number in range(2):
        first, second = net.case(name, 2 * number), net.case(name, 2 * number + 1)
        assert first.whole.shape == (1, 3, 8, 1)
        expect(first, {(2, 5): [(2, 5)]})
        expect(second, {(0, 1): [(0, 8)]}, GLOBAL)
    assert net.output(f'{name} kept').whole.shape == (1, 3, 1, 1)
    assert net.output(f'{name} dropped').whole.shape == (1, 3)
    check_blocks(net.output(f'{name} dropped'))


def test_channels_rows_and_columns_at_once_and_truths_that_are_counted():
    net = tiny_nets({'all': (lambda x: x.mean((-1, -2, -3)),),
                     'count': (lambda x: (x > 0).sum((2, 3)),)})
    expect(net.case('mean'), {(2, 5): [(2, 5)]})
    assert net.case('mean').whole.shape == (1, 1, 8, 1)
    for number in range(2):
        counted = net.case('sum', number)
        assert counted.whole.dtype == torch.int64
        assert net.graph.values[counted.view.op.output].dtype == 'int64'
    check(net)


def test_a_mean_of_tokens_is_taken_in_groups_where_their_number_divides():
    # 48 tokens, [1, 48, 3], make 6 groups of 8: group 2 is tokens 16 to 24, of which the reshape
    # takes its rows and the mean within it the group.
    net = tiny_nets({f'keep {keep}': (
        lambda x, keep=keep: x.flatten(2).transpose(1, 2).mean(1, keepdim=keep),)
        for keep in (True, False)})
    assert net.ops() == ['reshape.default', 'transpose.int', 'reshape.default', 'mean.dim',
                         'mean.dim'] * 2
    for number in range(2):
        expect(net.case('reshape', 2 * number + 1), {(2, 3): [(16, 24)], (2, 5): [(16, 40)]})
        within = expect(net.case('mean', 2 * number), {(2, 3): [(2, 3)]})
        assert within.whole.shape == (1, 6, 3)
        expect(net.case('mean', 2 * number + 1), {(0, 1): [(0, 6)]}, GLOBAL)
    assert [net.output(f'keep {keep}').whole.dim() for keep in (True, False)] == [3, 2]


def test_a_mean_of_tokens_whose_number_is_prime_is_whole():
    # 7 rows of 1 column
    net = captured(lambda x: x.flatten(2).transpose(1, 2).amax(1), shape=(1, 3, 7, 1))
    expect(net.case('amax'), {(0, 1): [(0, 7)]}, GLOBAL)
    assert [case.kind for case in net.cases] == [LOCAL] * 5 + [GLOBAL]


def test_squeeze_and_excite_sends_a_column_per_channel():
    def net(x):
        scale = x.mean((2, 3), keepdim=True).sigmoid()
        return x * scale
    net = captured(net)
    assert [case.kind for case in net.cases[3:]] == [LOCAL, GLOBAL, GLOBAL, 'partial']
    expect(net.cases[-1], {(2, 5): [[(2, 5)], [(0, 1)]]}, 'partial')
