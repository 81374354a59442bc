# SPDX-License-Identifier: Apache-2.0
"""Batch norm goes by rows alone, and into the convolution before it where that is its only use."""

import pytest
from rule_oracle import captured, Chain, check, expect, tiny_nets
import torch
from torch import nn

from hp_inference.graph.table import GLOBAL


def test_alone_it_goes_by_rows():
    net = captured(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3, affine=False))
    assert net.ops() == ['batch_norm.default', 'relu.default', 'batch_norm.default']
    expect(net.case('batch_norm'), {(2, 5): [(2, 5)]})
    expect(net.case('batch_norm', 1), {(2, 5): [(2, 5)]})


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


def test_one_convolution_with_two_norms_is_folded_into_each_of_its_uses():
    convolution, first, second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    net = captured(convolution, first, convolution, second)
    assert net.ops() == ['conv2d.default'] * 2
    assert len({case.view.op.args[1] for case in net.cases[3:]}) == 2


def test_it_is_not_folded_into_a_transposed_convolution_or_over_an_activation():
    net = captured(nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1),
                   nn.ReLU(), nn.BatchNorm2d(4))
    assert net.ops().count('batch_norm.default') == 2
    check(net)


def test_rows_that_are_channels_are_not_scaled_by_rows():
    net = captured(lambda x: x.transpose(1, 2), nn.BatchNorm2d(8))
    expect(net.case('batch_norm'), {(0, 1): [(0, 8)]}, GLOBAL)
