# SPDX-License-Identifier: Apache-2.0
"""Putting graphs together and rewriting them."""

from nets import Net, random_image, whole
import torch

from hp_inference.graph.build import Builder, rewrite
from hp_inference.graph.ir import Const, Ref, Value


def image():
    return Value(0, 'image', (1, 1, 4, 4), 'uint8')


def test_operators_that_no_output_needs_are_left_out_and_the_rest_numbered_anew():
    net = Net(4)
    net.conv(net.x)                                     # nobody reads it
    kept = net.relu(net.x)
    net.relu(kept)                                      # nor this
    graph = net.graph(last=net.conv(kept), middle=kept)
    assert [op.target for op in graph.ops] == [
        'aten._to_copy.default', 'aten.relu.default', 'aten.conv2d.default']
    assert [op.output for op in graph.ops] == [value.id for value in graph.values[1:]] == [1, 2, 3]
    assert [op.refs for op in graph.ops] == [(0,), (1,), (2,)]
    assert graph.outputs == {'last': 3, 'middle': 2}


def test_only_constants_that_are_read_are_kept():
    net = Net(4)
    net.conv(net.x)
    graph = net.graph(net.conv(net.x))
    # Four weights were made, of which the second convolution reads the last two.
    assert list(net.builder.constants) == ['weight', 'weight_1', 'weight_2', 'weight_3']
    assert list(graph.constants) == ['weight_2', 'weight_3']


def test_constants_get_names_of_their_own():
    builder = Builder('net', image(), {'w': torch.zeros(1)})
    assert builder.constant('w', torch.ones(1)) == Const('w_1')
    assert builder.constant('w', torch.ones(1)) == Const('w_2')
    assert builder.constant('v', torch.ones(1), ('aten.add.Tensor', (Const('w'), 1))) == Const('v')
    assert builder.recipes == {'v': ('aten.add.Tensor', (Const('w'), 1))}


def test_refs_in_lists_and_keywords_are_renumbered():
    net = Net(4)
    net.relu(net.x)
    y = net.op('sigmoid.default', net.x)
    graph = net.graph(net.op('cat.default', [net.x, y], dim=1))
    assert graph.ops[-1].args == ([Ref(1), Ref(2)],) and graph.ops[-1].kwargs == {'dim': 1}


def test_the_image_may_be_an_output():
    net = Net(4)
    graph = net.graph(Ref(0))
    assert graph.ops == [] and graph.outputs == {'0': 0} and graph.input == graph.values[0]


def test_rewriting_nothing_gives_the_same_graph():
    net = Net(8)
    graph = net.graph(net.squeeze_excite(net.conv(net.x)), net.x)
    same = rewrite(graph, lambda builder, op, moved: None)
    assert same.to_json() == graph.to_json() and same.digest == graph.digest
    assert same.constants.keys() == graph.constants.keys()


def test_an_operator_can_be_replaced_by_several_and_by_none():
    net = Net(4)
    graph = net.graph(net.op('neg.default', net.relu(net.op('neg.default', net.x))))

    def change(builder, op, moved):
        if op.target == 'aten.relu.default':
            return moved(op.args[0])                    # left out
        if op.target == 'aten.neg.default':
            value = graph.values[op.output]
            shown = {'name': value.name, 'shape': value.shape, 'dtype': value.dtype}
            half = builder.add('aten.mul.Scalar', (moved(op.args[0]), -0.5), **shown)
            return builder.add('aten.add.Tensor', (half, half), **shown)
        return None
    made = rewrite(graph, change)
    assert [op.target.split('.')[1] for op in made.ops] == ['_to_copy', 'mul', 'add', 'mul', 'add']
    assert made.outputs == {'0': 5}
    picture = random_image(net.layout(net.x))
    assert torch.equal(whole(made, picture)['0'], picture.double())


def test_an_output_follows_what_it_was_replaced_by():
    net = Net(4)
    graph = net.graph(net.relu(net.x), net.x)
    made = rewrite(graph, lambda builder, op, moved: moved(op.args[0])
                   if op.target == 'aten.relu.default' else None)
    assert made.outputs == {'0': 1, '1': 1} and len(made.ops) == 1
