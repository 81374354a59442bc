# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators: every name in the table, and every kind of broadcasting by hand."""

import pytest
from rule_oracle import applied, captured, check, check_blocks, expect, Given, random, tiny_nets
import torch
from torch import nn

from hp_inference.graph.rules.elementwise import NARY, UNARY
from hp_inference.graph.table import GLOBAL, overload, PARTIAL, TABLE

NAMES = [name if '.' in name else f'{name}.default' for name in (UNARY + NARY).split()]
NAMED = {'clamp.Tensor': {'max': torch.tensor(0.5)},
         'clamp.default': {'min': -0.5, 'max': 0.5}, '_to_copy.default': {'dtype': torch.float32},
         'div.Tensor_mode': {'rounding_mode': 'floor'},
         'div.Scalar_mode': {'rounding_mode': 'trunc'}}


def drawn_argument(name: str, argument, seed: int, dtype: torch.dtype):
    """Return what to give for an argument of an overload: by its type and its name."""
    truth = name.startswith(('bitwise', 'logical')) or argument.name in ('mask', 'condition')
    if str(argument.type) != 'Tensor':
        return 2
    if name == 'masked_fill.Tensor' and argument.name == 'value':
        return torch.tensor(0.5, dtype=dtype)
    tensor = random(1, 3, 6, 5, seed=seed, dtype=dtype)
    return Given(tensor > 0 if truth else tensor)


@pytest.mark.parametrize('dtype', [
    pytest.param(torch.float64, id='double'),
    pytest.param(torch.float32, id='single', marks=pytest.mark.long)])
@pytest.mark.parametrize('name', NAMES)
def test_row_i_needs_row_i_of_each_input(name, dtype):
    arguments = [a for a in overload(f'aten.{name}')._schema.arguments
                 if not a.kwarg_only and not a.has_default_value()]
    given = [drawn_argument(name, a, seed, dtype) for seed, a in enumerate(arguments)]
    case = applied(name, *given, **NAMED.get(name, {}))
    expect(case, {(1, 3): [[(1, 3)]] * len(case.inputs) if len(case.inputs) > 1 else [(1, 3)]})
    # What may be written over an input is what computes most of a net's time in memory.
    assert case.rule.block(0, 1).out is not None or name not in (
        'relu.default', 'hardtanh.default', 'silu.default', 'add.Tensor', 'mul.Tensor')


def test_every_name_in_the_table_is_an_operator_of_pytorch():
    for target in TABLE:
        overload(target)


def row_of(values, *shape):
    """Return a constant."""
    return random(*shape, seed=values)


OF_EIGHT, OF_SIX, OF_IMAGE = row_of(1, 8, 1), row_of(2, 6), row_of(3, 1, 3, 8, 6)
OF_CHANNELS = row_of(4, 1, 3, 1, 1)
BROADCASTS = {
    # constants: along the rows they are cut, along other dimensions they are not
    'scalar': (lambda x: x * 2.5, {(2, 5): [(2, 5)]}),
    'constant of channels': (lambda x: x * OF_CHANNELS, {(2, 5): [(2, 5)]}),
    'constant of columns': (lambda x: x + OF_SIX, {(2, 5): [(2, 5)]}),
    'constant of rows': (lambda x: x + OF_EIGHT, {(2, 5): [(2, 5)]}),
    'constant image': (lambda x: x - OF_IMAGE, {(2, 5): [(2, 5)]}),
    'constant image on the left': (lambda x: OF_IMAGE - x, {(2, 5): [(2, 5)]}),
    'constant with more dimensions': (lambda x: x + OF_IMAGE.expand(2, 2, 3, 8, 6),
                                      {(2, 5): [(2, 5)]}),
    # another value with rows: its own rows, wherever its row axis lies in fewer dimensions
    'the same value twice': (lambda x: x * x, {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'a value of fewer dimensions': (lambda x: x + x[0, 1], {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'a value of fewer dimensions first': (lambda x: x[0, 1] + x, {(2, 5): [[(2, 5)], [(2, 5)]]}),
    # one row for all rows, its only one is needed wherever the block lies
    'a value of one row': (lambda x: x + x[:, :, 4:5], {(2, 5): [[(2, 5)], [(0, 1)]]}, PARTIAL),
    'a value of one row first': (lambda x: x[:, :, 4:5] - x,
                                 {(2, 5): [[(0, 1)], [(2, 5)]]}, PARTIAL),
    # whole values: needed whole, and cut to the rows where they extend along them
    'a whole value of channels': (lambda x: x * x.sum((2, 3), keepdim=True),
                                  {(2, 5): [[(2, 5)], [(0, 1)]]}, PARTIAL),
    'a whole value that extends along the rows': (lambda x: x - x.cumsum(2),
                                                  {(2, 5): [[(2, 5)], [(0, 1)]]}, PARTIAL),
    'a whole value first': (lambda x: x.cumsum(2) - x,
                            {(2, 5): [[(0, 1)], [(2, 5)]]}, PARTIAL),
    # rows along the other value's columns: the first value's rows win, the other's are all asked
    'rows along another dimension': (lambda x: x[..., :6, :] + x[..., :6, :].mT,
                                     {(2, 5): [[(2, 5)], [(0, 6)]]}, PARTIAL),
    # one row becomes eight along a constant: nothing of it goes by rows
    'one row spread': (lambda x: x[:, :, 4:5] + OF_EIGHT, {(0, 1): [(0, 1)]}, GLOBAL),
    'where': (lambda x: torch.where(x > 0, x, OF_EIGHT), {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'where, constant first': (lambda x: torch.where(x > 0, OF_EIGHT, x),
                              {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'where, constants both': (lambda x: torch.where(x > 0, OF_EIGHT, OF_SIX), {(2, 5): [(2, 5)]}),
    'where, number': (lambda x: x.where(x > 0, -1.0), {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'clamp by constants': (lambda x: x.clamp(OF_EIGHT - 1, OF_SIX + 1), {(2, 5): [(2, 5)]}),
    'clamp from above': (lambda x: x.clamp(max=OF_EIGHT), {(2, 5): [(2, 5)]}),
    'clamp by numbers': (lambda x: x.clamp(-0.5, 0.5), {(2, 5): [(2, 5)]}),
    'masked fill': (lambda x: x.masked_fill(x > 0, 1.0), {(2, 5): [[(2, 5)], [(2, 5)]]}),
    'masked fill by a constant': (lambda x: x.masked_fill(OF_EIGHT > 0, 1.0), {(2, 5): [(2, 5)]}),
    # of the tensor that lends its type nothing is needed
    'type_as': (lambda x: x.type_as(x > 0), {(2, 5): [[(2, 5)], []]}),
    'type_as itself': (lambda x: x.type_as(x.exp()), {(2, 5): [[(2, 5)], []]}),
}


@pytest.fixture(scope='module')
def broadcasts():
    return tiny_nets(BROADCASTS)


@pytest.mark.parametrize('name', BROADCASTS)
def test_broadcasting(broadcasts, name):
    expect(broadcasts.output(name), *BROADCASTS[name][1:])


def test_the_normalisation_itself_goes_by_rows(broadcasts):
    assert broadcasts.ops(0)[:3] == ['_to_copy.default', 'mul.Tensor', 'add.Tensor']
    for case in broadcasts.cases[:3]:
        expect(case, {(2, 5): [(2, 5)]})


def test_what_is_not_a_number_stays_where_it_is():
    x = random(1, 2, 6, 5)
    x[0, 0, 2, 1], x[0, 1, 3, 2], x[0, 0, 4, 4] = float('nan'), float('inf'), -float('inf')
    for name in ('isnan.default', 'isinf.default', 'isfinite.default', 'nan_to_num.default',
                 'relu.default', 'hardswish.default'):
        check_blocks(applied(name, Given(x)))


def test_activations_of_modules_are_in_the_table():
    net = captured(*(module() for module in (
        nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
        nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Softshrink,
        nn.Hardshrink, nn.Tanhshrink, nn.LogSigmoid, nn.Sigmoid, nn.Tanh)))
    assert not net.layout.unsupported
    assert {case.kind for case in net.cases} == {'local'}
    check(net)


def test_prelu():
    net = captured(nn.PReLU(3), nn.PReLU(), lambda x: x.transpose(1, 2), nn.PReLU(8))
    expect(net.case('prelu'), {(2, 5): [(2, 5)]})
    expect(net.case('prelu', 1), {(2, 5): [(2, 5)]})
    # A slope per row would have to be cut: whole.
    expect(net.case('prelu', 2), {(0, 1): [(0, 8)]}, GLOBAL)
