# SPDX-License-Identifier: Apache-2.0
"""Products, attention and normalisations, their rows worked out by hand; images of 8 rows."""

import pytest
from rule_oracle import applied, captured, check, expect, Given, random, tiny_nets
import torch
from torch import nn
import torch.nn.functional as F

from hp_inference.graph.table import GLOBAL, LOCAL, PARTIAL

EIGHTS, SIX_FIVE, TWO_SIX = random(5, 8), random(6, 5), random(2, 6)
OF_ROWS, KEYS = random(8, 4, 6), random(1, 3, 8, 6)
MASK, MASK_OF_KEYS, TRUTHS = random(8, 8), random(1, 8), random(3, 8, 8) > -1


def tokens(x):
    """Return the image as tokens [1, 48, 3]: row i is tokens 6i to 6i + 6."""
    return x.flatten(2).transpose(1, 2)


def whole(x):
    """Return a whole value of the same shape."""
    return x.cumsum(2)


PRODUCTS = {
    # rows [2, 5) of the output are those of the input unless the operator runs along the rows
    'linear': (nn.Linear(6, 5), {(2, 5): [(2, 5)]}),
    'linear along the rows': (lambda x: F.linear(x.mT, EIGHTS), {(0, 1): [(0, 8)]}, GLOBAL),
    'linear, computed weight': (lambda x: F.linear(x, x[0, 0]),
                                {(0, 1): [[(0, 8)], [(0, 8)]]}, GLOBAL),
    'layer norm of columns': (nn.LayerNorm(6), {(2, 5): [(2, 5)]}),
    'layer norm of channels of tokens': (lambda x: F.layer_norm(tokens(x), [3]),
                                         {(7, 13): [(7, 13)]}),
    'layer norm of rows': (nn.LayerNorm((8, 6)), {(0, 1): [(0, 8)]}, GLOBAL),
    'root mean square norm': (nn.RMSNorm(6), {(2, 5): [(2, 5)]}),
    'softmax over channels': (lambda x: x.softmax(1), {(2, 5): [(2, 5)]}),
    'softmax over columns': (lambda x: x.log_softmax(-1), {(2, 5): [(2, 5)]}),
    'softmax over rows': (lambda x: x.softmax(2), {(0, 1): [(0, 8)]}, GLOBAL),
    'softmin over rows': (lambda x: F.softmin(x, -2), {(0, 1): [(0, 8)]}, GLOBAL),
    'gated columns': (nn.GLU(3), {(2, 5): [(2, 5)]}),
    'gated rows': (nn.GLU(2), {(0, 1): [(0, 8)]}, GLOBAL),
    'running sum of columns': (lambda x: x.cumsum(3), {(2, 5): [(2, 5)]}),
    'running sum of rows': (lambda x: x.cumsum(2), {(0, 1): [(0, 8)]}, GLOBAL),
    # statistics over channels and rows
    'group norm': (nn.GroupNorm(3, 3), {(0, 1): [(0, 8)]}, GLOBAL),
    'instance norm': (nn.InstanceNorm2d(3), {(0, 1): [(0, 8)]}, GLOBAL),
    # the left factor's rows [2, 5) and the right factor whole
    'matmul, constant on the right': (lambda x: x @ SIX_FIVE, {(2, 5): [(2, 5)]}),
    'matmul, itself on the right': (lambda x: x @ x.mT, {(2, 5): [[(2, 5)], [(0, 8)]]}, PARTIAL),
    'matmul, whole on the right': (lambda x: x @ whole(x).mT,
                                   {(2, 5): [[(2, 5)], [(0, 1)]]}, PARTIAL),
    # the rows are the right factor's columns
    'matmul, constant on the left': (lambda x: TWO_SIX @ x.mT, {(2, 5): [(2, 5)]}),
    'matmul, whole on the left': (lambda x: whole(x) @ x.mT,
                                  {(2, 5): [[(0, 1)], [(2, 5)]]}, PARTIAL),
    # every element of the product sums over the rows
    'matmul over the rows': (lambda x: x.mT @ x, {(0, 1): [[(0, 8)], [(0, 8)]]}, GLOBAL),
    'matmul over the rows, constant': (lambda x: EIGHTS @ x, {(0, 1): [(0, 8)]}, GLOBAL),
    # the rows are the batch: [8, 3, 6] by [8, 6, 3]
    'batch rows of both': (lambda x: torch.bmm(x[0].transpose(0, 1), x[0].permute(1, 2, 0)),
                           {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'batch rows by a constant without them': (lambda x: x[0].transpose(0, 1) @ SIX_FIVE,
                                              {(2, 5): [(2, 5)]}),
    'batch rows by a constant with them': (lambda x: x[0].transpose(0, 1) @ OF_ROWS.mT,
                                           {(2, 5): [(2, 5)]}),
    'batch rows, a constant with them on the left': (lambda x: OF_ROWS @ x[0].permute(1, 2, 0),
                                                     {(2, 5): [(2, 5)]}),
    'batch rows by a whole value with them':
        (lambda x: x[0].transpose(0, 1) @ whole(x)[0].permute(1, 2, 0),
         {(2, 5): [[(2, 5)], [(0, 1)]]}, PARTIAL),
    'mm': (lambda x: torch.mm(x[0, 0], SIX_FIVE), {(2, 5): [(2, 5)]}),
    'matrix by vector': (lambda x: x @ SIX_FIVE[:, 0], {(0, 1): [(0, 8)]}, GLOBAL),
    # query rows want all keys and all values
    'attention': (lambda x: F.scaled_dot_product_attention(x, x, x),
                  {(2, 5): [[(2, 5)], [(0, 8)], [(0, 8)]]}, PARTIAL),
    'attention, scale and mask': (
        lambda x: F.scaled_dot_product_attention(x, x, x, MASK, scale=0.3),
        {(2, 5): [[(2, 5)], [(0, 8)], [(0, 8)]]}, PARTIAL),
    'attention, mask of keys': (lambda x: F.scaled_dot_product_attention(x, x, x, MASK_OF_KEYS),
                                {(2, 5): [[(2, 5)], [(0, 8)], [(0, 8)]]}, PARTIAL),
    'attention, truths by head': (lambda x: F.scaled_dot_product_attention(x, x, x, TRUTHS),
                                  {(2, 5): [[(2, 5)], [(0, 8)], [(0, 8)]]}, PARTIAL),
    'attention to a whole value': (
        lambda x: F.scaled_dot_product_attention(x, whole(x), whole(x)),
        {(2, 5): [[(2, 5)], [(0, 1)], [(0, 1)]]}, PARTIAL),
    # rows that are the batch look at their own keys only: [8, 3, 6]
    'attention within rows': (
        lambda x: F.scaled_dot_product_attention(*[x[0].transpose(0, 1)] * 3),
        {(2, 5): [[(2, 5)], [(2, 5)], [(2, 5)]]}),
    'attention within rows, mask by row': (
        lambda x: F.scaled_dot_product_attention(*[x[0].transpose(0, 1)] * 3, MASK[:, :3, None]),
        {(2, 5): [[(2, 5)], [(2, 5)], [(2, 5)]]}),
    'attention, causal': (lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
                          {(0, 1): [[(0, 8)]] * 3}, GLOBAL),
    'attention, computed mask': (lambda x: F.scaled_dot_product_attention(x, x, x, x @ x.mT),
                                 {(0, 1): [[(0, 8)]] * 4}, GLOBAL),
    'attention to constants': (lambda x: F.scaled_dot_product_attention(x, KEYS, KEYS),
                               {(0, 1): [(0, 8)]}, GLOBAL),
}


@pytest.fixture(scope='module')
def products():
    return tiny_nets(PRODUCTS)


@pytest.mark.parametrize('name', PRODUCTS)
def test_product(products, name):
    expect(products.output(name), *PRODUCTS[name][1:])


def test_keys_shared_by_all_batches_or_heads_are_not_cut_with_the_query():
    query, keys = random(4, 3, 6, 5), random(1, 3, 6, 5, seed=1)
    case = applied('scaled_dot_product_attention.default', Given(query, 0), Given(keys, 0),
                   Given(keys, 0))
    expect(case, {(0, 1): [[(0, 4)], [(0, 1)], [(0, 1)]]}, GLOBAL)
    # A query that is broadcast itself has fewer rows than the output.
    case = applied('scaled_dot_product_attention.default', Given(keys, 0), Given(query, 0),
                   Given(query, 0))
    expect(case, {(0, 1): [[(0, 1)], [(0, 4)], [(0, 4)]]}, GLOBAL)


@pytest.mark.parametrize('weights', [True, False], ids=['weights', 'no weights'])
def test_multi_head_attention_asks_for_its_query_rows_and_all_keys(weights):
    module = nn.MultiheadAttention(6, 2, batch_first=True)
    net = captured(lambda x: x.permute(0, 2, 3, 1).flatten(1, 2),  # tokens [1, 20, 3]
                   nn.Linear(3, 6), Attended(module, weights), shape=(1, 3, 5, 4))
    assert not net.layout.unsupported
    product = net.case('bmm' if weights else 'scaled_dot')
    assert product.kind == PARTIAL
    check(net)
    assert net.layout.axes[-1] == 1  # tokens go by rows up to the end


class Attended(nn.Module):
    def __init__(self, module, weights):
        super().__init__()
        self.module, self.weights = module, weights

    def forward(self, x):
        return self.module(x, x, x, need_weights=self.weights)[0]


def test_what_is_not_in_the_table_is_counted_by_name():
    net = captured(nn.GroupNorm(3, 3), nn.GroupNorm(1, 3), lambda x: torch.cdist(x, x))
    assert net.layout.unsupported == {'aten.group_norm.default': 2, 'aten.cdist.default': 1}
    assert [case.kind for case in net.cases] == [LOCAL] * 3 + [GLOBAL] * 3
    check(net)
