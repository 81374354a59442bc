# SPDX-License-Identifier: Apache-2.0
"""Tiny graphs put together operator by operator, without torch.export, and their whole answer."""

from __future__ import annotations

import random

import torch

from hp_inference.graph.build import Builder
from hp_inference.graph.ir import Const, Graph, leaves, Ref, substitute, Value
from hp_inference.graph.layout import Layout
from hp_inference.graph.table import overload


class Net:
    """
    A graph in the making: each method appends an operator and returns its value.

    Value 0 is the uint8 image, ``x`` (value 1) the same in a float type. With ``whole_numbers``
    all weights are small integers, so that no sum of float32 rounds.
    """

    def __init__(self, height: int, width: int = 6, channels: int = 2, *,
                 dtype: torch.dtype = torch.float64, whole_numbers: bool = False):
        self.builder = Builder('net', Value(0, 'image', (1, channels, height, width), 'uint8'), {})
        self.dtype, self.whole_numbers = dtype, whole_numbers
        self.generator = torch.Generator().manual_seed(0)
        self.x = self.op('_to_copy.default', Ref(0), dtype=dtype)

    def shape(self, x: Ref) -> tuple[int, ...]:
        return self.builder.values[x.value].shape

    def weight(self, *shape: int) -> Const:
        if self.whole_numbers:
            tensor = torch.randint(-2, 3, shape, generator=self.generator).to(self.dtype)
        else:
            tensor = torch.randn(*shape, generator=self.generator, dtype=self.dtype) / 3
        return self.builder.constant('weight', tensor)

    def op(self, target: str, *args, **kwargs) -> Ref:
        """Append any operator; its shape is what torch says of tensors without memory."""
        def meta(leaf):
            if isinstance(leaf, Ref):
                value = self.builder.values[leaf.value]
                return torch.empty(value.shape, dtype=getattr(torch, value.dtype), device='meta')
            return self.builder.constants[leaf.name].to('meta') if isinstance(leaf, Const) else leaf
        made = overload(f'aten.{target}')(*substitute(args, meta), **substitute(kwargs, meta))
        return self.builder.add(f'aten.{target}', args, kwargs, name=target.split('.')[0],
                                shape=made.shape, dtype=str(made.dtype)[6:])

    def conv(self, x: Ref, kernel: int = 3, stride: int = 1, padding: int = 1,
             channels: int = 2) -> Ref:
        """Append a convolution whose columns stay as many as they are."""
        weight = self.weight(channels, self.shape(x)[1], kernel, 1)
        return self.op('conv2d.default', x, weight, self.weight(channels), [stride, 1],
                       [padding, 0])

    def relu(self, x: Ref) -> Ref:
        return self.op('relu.default', x)

    def add(self, x: Ref, y: Ref) -> Ref:
        return self.op('add.Tensor', x, y)

    def max_pool(self, x: Ref, size: int = 2) -> Ref:
        return self.op('max_pool2d.default', x, [size, 1], [size, 1])

    def linear(self, x: Ref, features: int = 3) -> Ref:
        """Append a linear layer over all elements, which needs everything."""
        flat = self.op('reshape.default', x, [1, -1])
        return self.op('linear.default', flat, self.weight(features, self.shape(flat)[1]))

    def squeeze_excite(self, x: Ref) -> Ref:
        """Append a gate of the mean over the image, taken row by row first."""
        rows = self.op('mean.dim', x, [3], True)
        gate = self.op('sigmoid.default', self.op('mean.dim', rows, [2], True))
        return self.op('mul.Tensor', x, gate)

    def attend(self, x: Ref) -> Ref:
        """Append attention of every row of pixels to all others."""
        rows = self.op('permute.default', x, [0, 2, 3, 1])
        rows = self.op('reshape.default', rows, [1, self.shape(x)[2], -1])
        keys = self.op('linear.default', rows, self.weight(*[self.shape(rows)[2]] * 2))
        mixed = self.op('scaled_dot_product_attention.default', rows, keys, rows)
        mixed = self.op('reshape.default', mixed, [1, *self.shape(x)[2:], self.shape(x)[1]])
        return self.op('permute.default', mixed, [0, 3, 1, 2])

    def graph(self, *outputs: Ref, **named: Ref) -> Graph:
        outputs = {str(i): ref for i, ref in enumerate(outputs)}
        return self.builder.finish({**outputs, **named}, 'digest of the net')

    def layout(self, *outputs: Ref, **named: Ref) -> Layout:
        return Layout(self.graph(*outputs, **named))


def chain(height: int, convs: int = 3) -> Layout:
    """Return the layout of 3x3 convolutions, one after the other: values 2, 3, ..."""
    net = Net(height)
    x = net.x
    for _ in range(convs):
        x = net.conv(x)
    return net.layout(x)


def random_net(seed: int, **options) -> Layout:
    """Return a net of random operators that exchange rows, reorder them and need them all."""
    draw = random.Random(seed)
    net = Net(draw.randrange(5, 40), draw.randrange(2, 7), 2, **options)
    made = [net.x]
    steps = {
        'conv': lambda x: net.conv(x, draw.choice((1, 3, 5)), draw.choice((1, 1, 2)),
                                   draw.randrange(3)),
        'conv again': lambda x: net.conv(x, 3),
        'strided': lambda x: net.conv(x, 1, 2, 0),
        'relu': net.relu,
        'add': lambda x: net.add(x, draw.choice([y for y in made if net.shape(y) == net.shape(x)])),
        'max pool': net.max_pool,
        'mean pool': lambda x: net.op('avg_pool2d.default', x, [3, 1], [2, 1], [1, 0], True, False),
        'squeeze excite': net.squeeze_excite,
        'attend': net.attend,
        'upsample': lambda x: net.op('upsample_nearest2d.vec', x, None, [2.0, 1.0]),
        'bilinear': lambda x: net.op('upsample_bilinear2d.vec', x, [draw.randrange(2, 30), 4],
                                     False, None),
        'roll': lambda x: net.op('roll.default', x, [draw.randrange(-5, 6)], [2]),
        'flip': lambda x: net.op('flip.default', x, [2]),
        'crop': lambda x: net.op('slice.Tensor', x, 2, 1, net.shape(x)[2] - 1),
        'pad': lambda x: net.op('pad.default', x, [0, 0, draw.randrange(3), 2]),
        'transposed conv': lambda x: net.op(
            'conv_transpose2d.input', x, net.weight(2, 2, 3, 1), None, [2, 1], [1, 0], [1, 0]),
        'join': lambda x: net.conv(net.op('cat.default', [x, net.relu(x)], 1)),
        'softmax of rows': lambda x: net.op('softmax.int', x, 2),
        'below one': lambda x: net.op('minimum.default', x, net.op('mean.dim', x, [1, 3], True)),
    }
    for _ in range(draw.choice((3, 6, 12))):
        x = draw.choice(made[-3:])
        height = net.shape(x)[2]
        if 5 <= height <= 80:  # what every operator takes
            made.append(steps[draw.choice(list(steps))](x))
    outputs = [made[-1], *(draw.choice(made) for _ in range(draw.choice((0, 0, 1, 2))))]
    return net.layout(*outputs)


def random_image(layout: Layout, seed: int = 0) -> torch.Tensor:
    """Return a uint8 image that the graph takes, channels_last."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, layout.graph.input.shape, dtype=torch.uint8, generator=generator)
    return image.contiguous(memory_format=torch.channels_last)


def whole(graph: Graph, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the outputs by running every operator once, on whole values, as torch has it."""
    values = [image]

    def tensor(leaf):
        if isinstance(leaf, Ref):
            return values[leaf.value]
        return graph.constants[leaf.name] if isinstance(leaf, Const) else leaf
    with torch.inference_mode():
        for op in graph.ops:
            args, kwargs = substitute((op.args, op.kwargs), tensor)
            made = overload(op.target)(*args, **kwargs)
            values.append(made if op.item is None else made[op.item])
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves(values))
    return {name: values[value] for name, value in graph.outputs.items()}
