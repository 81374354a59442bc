# SPDX-License-Identifier: Apache-2.0
"""Batch norm goes by rows alone, and into the convolution before it where that is its only use."""

import pytest
from rule_oracle import Chain, check, check_blocks, expect, tiny_nets
import torch
from torch import nn

from hp_inference.graph.table import GLOBAL

CONVOLUTION = nn.Conv2d(3, 3, 1)
OTHERS = {
    'alone': (Chain(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, affine=False)),),
    'two norms': (Chain(CONVOLUTION, nn.BatchNorm2d(3), CONVOLUTION, nn.BatchNorm2d(3)),),
    'transposed': (Chain(nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4)),),
    'over an activation': (Chain(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),),
    'rows that are channels': (Chain(lambda x: x.transpose(1, 2), nn.BatchNorm2d(8)),),
}


@pytest.fixture(scope='module')
def others():
    return tiny_nets(OTHERS)


def targets(net, name):
    """Return the operators that lead to an output, and the cases of them."""
    cases, value = [], net.graph.outputs[name]
    while value > 3:  # the last of the normalisation
        cases.append(net.cases[value - 1])
        value, = cases[-1].view.op.refs
    return [case.view.op.target.split('.')[1] for case in cases[::-1]], cases[::-1]


def test_alone_it_goes_by_rows(others):
    names, cases = targets(others, 'alone')
    assert names == ['batch_norm', 'relu', 'batch_norm']
    expect(cases[0], {(2, 5): [(2, 5)]})
    expect(cases[2], {(2, 5): [(2, 5)]})


FOLDABLE = {
    'no bias': (Chain(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)),),
    'bias': (Chain(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)),),
    'same padding, no scale': (Chain(nn.Conv2d(3, 6, (4, 2), padding='same', groups=3),
                                     nn.BatchNorm2d(6, affine=False)),),
    'one dimension': (Chain(lambda x: x[..., 0], nn.Conv1d(3, 4, 3, 2), nn.BatchNorm1d(4)),),
    'three dimensions': (Chain(lambda x: x.unsqueeze(2), nn.Conv3d(3, 4, 1),
                               nn.BatchNorm3d(4)),),
}


@pytest.mark.parametrize('fold', [True, False])
def test_it_is_folded_into_the_convolution_before_it(fold):
    # Net compares the answers with the module's own, either way.
    net = tiny_nets(FOLDABLE, fold=fold)
    for name in FOLDABLE:
        assert net.output(name).view.op.target.startswith('aten.conv') == fold
    assert sum('batch_norm' in name for name in net.ops()) == (0 if fold else len(FOLDABLE))
    check(net)


class Shared(nn.Module):
    """A convolution whose output goes to a batch norm and elsewhere."""

    def __init__(self, elsewhere):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.elsewhere = elsewhere

    def forward(self, x):
        x = self.convolution(x)
        return self.elsewhere(x, self.norm(x))


def test_it_is_not_folded_where_the_convolution_has_another_use():
    net = tiny_nets({'read': (Shared(torch.add),), 'output': (Shared(lambda x, y: (x, y)),)})
    assert net.ops().count('batch_norm.default') == 2
    check(net)


def test_one_convolution_with_two_norms_is_folded_into_each_of_its_uses(others):
    names, cases = targets(others, 'two norms')
    assert names == ['conv2d'] * 2
    assert len({case.view.op.args[1] for case in cases}) == 2


def test_it_is_not_folded_into_a_transposed_convolution_or_over_an_activation(others):
    for name in ('transposed', 'over an activation'):
        names, cases = targets(others, name)
        assert names[-1] == 'batch_norm'
        for case in cases:
            check_blocks(case)


def test_rows_that_are_channels_are_not_scaled_by_rows(others):
    expect(others.output('rows that are channels'), {(0, 1): [(0, 8)]}, GLOBAL)
