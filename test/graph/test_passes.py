# SPDX-License-Identifier: Apache-2.0
"""Folding and reductions in two steps: which operators come out, and the same answer."""

from nets import Net, random_image, whole
import pytest
import torch

from hp_inference.graph.ir import Graph
from hp_inference.graph.layout import Layout
from hp_inference.graph.passes import BATCH_NORM, fold_batch_norm, split_reductions


def names(graph: Graph) -> list[str]:
    return [op.target.split('.', 1)[1] for op in graph.ops[1:]]


def shapes(graph: Graph) -> list[tuple[int, ...]]:
    return [value.shape for value in graph.values[2:]]


def rewritten(change, graph: Graph) -> Graph:
    """Return the changed graph, checked for the same answer and for what it says of its values."""
    made = change(graph)
    image = random_image(Layout(graph))
    wanted, got = whole(graph, image), whole(made, image)
    assert got.keys() == wanted.keys() and made.digest == graph.digest
    for name, tensor in wanted.items():
        said = made.values[made.outputs[name]]
        assert (said.shape, said.dtype) == (tensor.shape, str(tensor.dtype)[6:])
        assert (got[name].shape, got[name].dtype) == (tensor.shape, tensor.dtype)
        scale = tensor.double().abs().max()
        assert scale > 0
        assert (got[name].double() - tensor.double()).abs().max() <= 1e-13 * scale
    inner = whole(Graph('', made.values, made.ops, {str(v.id): v.id for v in made.values},
                        made.constants), image)
    for value in made.values:
        tensor = inner[str(value.id)]
        assert (value.shape, value.dtype) == (tensor.shape, str(tensor.dtype)[6:])
    return made


def reduced(target: str, *args, height: int = 6, before=lambda net, x: x, **kwargs) -> Graph:
    """Return the graph of one reduction of the image, rewritten."""
    net = Net(height, 5)
    return rewritten(split_reductions,
                     net.graph(net.op(target, before(net, net.x), *args, **kwargs)))


@pytest.mark.parametrize('target', ['mean.dim', 'sum.dim_IntList', 'amax.default', 'amin.default'])
def test_a_reduction_over_the_image_goes_within_rows_first(target):
    made = reduced(target, [2, 3], True)
    assert names(made) == [target, target]
    assert shapes(made) == [(1, 2, 6, 1), (1, 2, 1, 1)]
    assert [op.args[1:] for op in made.ops[1:]] == [([3], True), ([2], True)]
    assert Layout(made).axes == [2, 2, 2, None]


def test_dimensions_that_are_dropped_are_dropped_at_the_end():
    made = reduced('mean.dim', [-1, -2])
    assert names(made) == ['mean.dim', 'mean.dim', 'reshape.default']
    assert shapes(made) == [(1, 2, 6, 1), (1, 2, 1, 1), (1, 2)]


def test_a_reduction_over_everything():
    assert shapes(reduced('amax.default')) == [(1, 1, 6, 1), (1, 1, 1, 1), ()]
    assert shapes(reduced('sum.dim_IntList', None, True)) == [(1, 1, 6, 1), (1, 1, 1, 1)]
    assert shapes(reduced('mean.dim', [0, 1, 2, 3])) == [(1, 1, 6, 1), (1, 1, 1, 1), ()]


def test_counting_makes_large_integers_from_the_first_step_on():
    made = reduced('sum.dim_IntList', [2, 3], True,
                   before=lambda net, x: net.op('gt.Scalar', x, 100))
    assert [value.dtype for value in made.values] == ['uint8', 'float64', 'bool', 'int64', 'int64']


def test_a_reduction_over_the_rows_alone_goes_in_groups_of_rows():
    made = reduced('mean.dim', [2], True, height=12)
    assert names(made) == ['reshape.default', 'mean.dim', 'mean.dim']
    assert shapes(made) == [(1, 2, 3, 4, 5), (1, 2, 3, 5), (1, 2, 1, 5)]
    assert Layout(made).axes == [2, 2, 2, 2, None]
    assert shapes(reduced('amax.default', [2], height=12)) == [
        (1, 2, 3, 4, 5), (1, 2, 3, 5), (1, 2, 5)]


def test_the_mean_of_tokens():
    net = Net(6, 5)
    tokens = net.op('permute.default', net.op('reshape.default', net.x, [1, 2, 30]), [0, 2, 1])
    made = rewritten(split_reductions, net.graph(net.op('mean.dim', tokens, [1])))
    assert shapes(made) == [(1, 2, 30), (1, 30, 2), (1, 5, 6, 2), (1, 5, 2), (1, 2)]
    assert Layout(made).axes == [2, 2, 2, 1, 1, 1, None]


@pytest.mark.parametrize('target, args, kwargs', [
    ('mean.dim', ([1, 3], True), {}),                             # leaves the rows alone
    ('mean.dim', ([2], True), {}),                                # 7 rows make no groups
    ('sum.dim_IntList', ([2, 3],), {'dtype': torch.float32}),     # rounds after the sum
    ('var.correction', ([2, 3],), {}),                            # not the same in two steps
    ('argmax.default', (), {}),
])
def test_other_reductions_stay_as_they_are(target, args, kwargs):
    assert names(reduced(target, *args, height=7, **kwargs)) == [target]


def test_a_pool_to_one_element_is_a_mean_in_two_steps():
    net = Net(6, 5)
    pool = net.op('adaptive_avg_pool2d.default', net.x, [1, 1])
    made = rewritten(split_reductions, net.graph(pool))
    assert names(made) == ['mean.dim', 'mean.dim']
    assert shapes(made) == [(1, 2, 6, 1), (1, 2, 1, 1)]


def test_a_pool_to_the_largest_element_is_one_too():
    net = Net(6, 5)
    pool = net.builder.add('aten.adaptive_max_pool2d.default', (net.x, [1, 1]), name='pool',
                           shape=(1, 2, 1, 1), dtype='float64', item=0)
    made = rewritten(split_reductions, net.graph(pool))
    assert names(made) == ['amax.default', 'amax.default']
    where = net.builder.add('aten.adaptive_max_pool2d.default', (net.x, [1, 1]), name='where',
                            shape=(1, 2, 1, 1), dtype='int64', item=1)
    assert names(rewritten(split_reductions, net.graph(where))) == ['adaptive_max_pool2d.default']


def test_a_pool_to_several_elements_stays():
    net = Net(6, 5)
    graph = net.graph(net.op('adaptive_avg_pool2d.default', net.x, [2, 1]))
    assert names(split_reductions(graph)) == ['adaptive_avg_pool2d.default']


def norm_behind(net: Net, x, channels: int):
    """Append what torch.export makes of a batch norm in inference: the first of three tensors."""
    weights = [net.weight(channels), net.weight(channels), net.weight(channels)]
    variance = net.builder.constant('var', torch.linspace(0.5, 2, channels, dtype=net.dtype))
    value = net.builder.values[x.value]
    return net.builder.add(BATCH_NORM, (x, *weights, variance, 0.1, 1e-5), name='norm',
                           shape=value.shape, dtype=value.dtype, item=0)


@pytest.mark.parametrize('bias', [True, False])
def test_a_batch_norm_becomes_part_of_the_convolution(bias):
    net = Net(8)
    args = [net.x, net.weight(4, 2, 3, 1), net.weight(4) if bias else None, [2, 1], [1, 0]]
    made = rewritten(fold_batch_norm,
                     net.graph(norm_behind(net, net.op('conv2d.default', *args), 4)))
    assert names(made) == ['conv2d.default'] and made.values[-1].name == 'norm'
    assert sorted(made.constants) == ['weight.folded', 'weight.folded_bias']
    assert made.ops[-1].args[3:] == ([2, 1], [1, 0])
    assert made.constants['weight.folded'].is_contiguous(memory_format=torch.channels_last)


def test_a_batch_norm_that_is_not_behind_a_convolution_gets_the_quicker_operator():
    net = Net(8)
    made = rewritten(fold_batch_norm, net.graph(norm_behind(net, net.relu(net.x), 2)))
    assert names(made) == ['relu.default', 'batch_norm.default']
    assert made.ops[-1].item is None


def test_a_convolution_that_somebody_else_reads_keeps_its_own_answer():
    net = Net(8)
    conv = net.conv(net.x)
    made = rewritten(fold_batch_norm, net.graph(net.add(norm_behind(net, conv, 2), conv)))
    assert names(made) == ['conv2d.default', 'batch_norm.default', 'add.Tensor']
    net = Net(8)
    conv = net.conv(net.x)
    made = rewritten(fold_batch_norm, net.graph(norm_behind(net, conv, 2), conv))
    assert names(made) == ['conv2d.default', 'batch_norm.default']


def test_folding_rounds_only_once():
    # In float32 the folded weights are those of float64, rounded.
    net = Net(8, dtype=torch.float32)
    made = fold_batch_norm(net.graph(norm_behind(net, net.conv(net.x), 2)))
    given = net.builder.constants
    weight, bias, gamma, beta, mean, var = (
        given[name].double() for name in ('weight', 'weight_1', 'weight_2', 'weight_3', 'weight_4',
                                          'var'))
    scale = gamma / (var + 1e-5).sqrt()
    assert torch.equal(made.constants['weight.folded'],
                       (weight * scale.reshape(-1, 1, 1, 1)).float())
    assert torch.equal(made.constants['weight.folded_bias'],
                       ((bias - mean) * scale + beta).float())
