# SPDX-License-Identifier: Apache-2.0
"""A graph as plain data: its JSON, its digest, what reads what."""

import json
import math

from nets import Net
import pytest
import torch

from hp_inference.graph.ir import (
    canonical,
    Const,
    encode,
    leaves,
    Op,
    Ref,
    substitute,
    Value,
    weights_digest,
)


@pytest.mark.parametrize('dtype, size', [
    ('uint8', 1), ('bool', 1), ('float16', 2), ('float32', 4), ('int64', 8), ('float64', 8)])
def test_the_size_of_a_value(dtype, size):
    assert Value(3, 'x', (1, 3, 5, 7), dtype).nbytes == 105 * size
    assert Value(3, 'x', (), dtype).nbytes == size


def test_an_operator_reads_its_refs_in_order_repeats_kept():
    op = Op('aten.x.default', ([Ref(4), Const('w'), Ref(2)], 5, Ref(4)), {'mask': (Ref(9),)}, 10)
    assert op.refs == (4, 2, 4, 9)


def test_leaves_and_substitute_walk_the_same_way():
    item = ([1, (2, {'a': 3, 'b': [4]})], 'text', None)
    assert list(leaves(item)) == [1, 2, 3, 4, 'text', None]
    assert substitute(item, lambda leaf: leaf) == item
    assert substitute(item, str) == (['1', ('2', {'a': '3', 'b': ['4']})], 'text', 'None')


def test_every_kind_of_argument_becomes_json():
    args = (Ref(1), Const('w'), 2, 2.5, True, None, 'mean', [1, [2]], torch.float32,
            torch.channels_last, torch.strided, torch.device('cpu'), math.inf, -math.inf, math.nan)
    assert json.loads(canonical(encode(args))) == [
        {'value': 1}, {'constant': 'w'}, 2, 2.5, True, None, 'mean', [1, [2]], 'torch.float32',
        'torch.channels_last', 'torch.strided', 'cpu', 'inf', '-inf', 'nan']


def test_canonical_bytes_do_not_depend_on_the_order_of_keys():
    assert canonical({'b': 1, 'a': [1.5, 'é']}) == b'{"a":[1.5,"\\u00e9"],"b":1}'
    assert canonical({'b': 1, 'a': 2}) == canonical({'a': 2, 'b': 1})


def test_the_json_of_a_graph():
    net = Net(4, 5)
    graph = net.graph(answer=net.op('sum.dim_IntList', net.relu(net.x), [1], True))
    assert graph.to_json() == {
        'values': [
            {'id': 0, 'name': 'image', 'shape': [1, 2, 4, 5], 'dtype': 'uint8'},
            {'id': 1, 'name': '_to_copy', 'shape': [1, 2, 4, 5], 'dtype': 'float64'},
            {'id': 2, 'name': 'relu', 'shape': [1, 2, 4, 5], 'dtype': 'float64'},
            {'id': 3, 'name': 'sum', 'shape': [1, 1, 4, 5], 'dtype': 'float64'}],
        'ops': [
            {'op': 'aten._to_copy.default', 'args': ({'value': 0},),
             'kwargs': {'dtype': 'torch.float64'}, 'output': 1},
            {'op': 'aten.relu.default', 'args': ({'value': 1},), 'kwargs': {}, 'output': 2},
            {'op': 'aten.sum.dim_IntList', 'args': ({'value': 2}, [1], True), 'kwargs': {},
             'output': 3}],
        'outputs': {'answer': 3}}


def test_consumers_name_each_reader_once():
    net = Net(4)
    double = net.add(net.x, net.x)
    graph = net.graph(net.add(double, net.x))
    assert [[op.output for op in readers] for readers in graph.consumers()] == [
        [1], [2, 3], [3], []]


def test_a_graph_on_another_device_leaves_the_first_one_alone():
    net = Net(4)
    graph = net.graph(net.conv(net.x))
    moved = graph.to('meta')
    assert {tensor.device.type for tensor in moved.constants.values()} == {'meta'}
    assert moved.device == torch.device('meta') and graph.device == torch.device('cpu')
    assert {tensor.device.type for tensor in graph.constants.values()} == {'cpu'}
    assert moved.to_json() == graph.to_json() and moved.digest == graph.digest


WEIGHTS = {'a': torch.arange(6.).reshape(1, 2, 3, 1), 'b': torch.tensor([True, False]),
           'c': torch.tensor(3)}


def test_the_digest_is_of_the_graph_and_of_every_weight():
    digest = weights_digest({'x': 1}, WEIGHTS)
    assert len(digest) == 64 and set(digest) <= set('0123456789abcdef')
    changed = [weights_digest({'x': 2}, WEIGHTS)]
    for name, tensor in (
            ('a', WEIGHTS['a'] + 1e-6), ('a', WEIGHTS['a'].reshape(1, 3, 2, 1)),
            ('a', WEIGHTS['a'].double()), ('b', ~WEIGHTS['b']), ('c', WEIGHTS['c'] + 1),
            ('c', WEIGHTS['c'].reshape(1))):
        changed.append(weights_digest({'x': 1}, {**WEIGHTS, name: tensor}))
    changed.append(weights_digest({'x': 1}, {'a': WEIGHTS['a'], 'b': WEIGHTS['b']}))
    changed.append(weights_digest({'x': 1}, {**WEIGHTS, 'd': torch.zeros(1)}))
    assert len(changed) == 9 and len({digest, *changed}) == 10


def test_the_digest_does_not_depend_on_order_or_memory_layout():
    digest = weights_digest({'x': 1}, WEIGHTS)
    assert weights_digest({'x': 1}, dict(reversed(WEIGHTS.items()))) == digest
    laid_out = WEIGHTS['a'].contiguous(memory_format=torch.channels_last)
    strided = torch.zeros(1, 2, 3, 2)[..., :1].copy_(WEIGHTS['a'])
    for tensor in (laid_out, strided, torch.nn.Parameter(WEIGHTS['a'])):
        assert weights_digest({'x': 1}, {**WEIGHTS, 'a': tensor}) == digest
