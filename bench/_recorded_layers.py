# SPDX-License-Identifier: Apache-2.0
"""
What a recorded call of a torch function computed, as far as names and shapes tell it.

Where they say nothing: convolutions are 3x3 (3x3x3) with the padding that keeps the size where the
sizes allow that, transposed convolutions and poolings have windows of their stride, softmax runs
over channels, layer norm over the last dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

from _recorded import RecordError
import torch
from torch import nn
import torch.nn.functional as F

Shape = Sequence[int]
Maker = Callable[[str, list[Shape], Shape], Callable[..., torch.Tensor]]
MAKERS: dict[str, Maker] = {}
# Calls that return their input, or would in inference, and calls that only arrange it anew.
SAME = {'type', 'to', 'float', 'half', 'type_as', 'dropout', 'dropout2d', 'contiguous', 'clone',
        'detach', 'identity'}
VIEWS = {'view', 'reshape', 'flatten', 'unflatten', 'squeeze', 'unsqueeze', 'permute', 'transpose',
         'getitem', 'select', 'narrow', 'expand', 't', 'movedim', 'swapaxes', 'chunk', 'split',
         'unbind'}
UNARY = """relu relu6 hardswish hardsigmoid hardtanh silu leaky_relu elu selu mish gelu sigmoid tanh
           softplus logsigmoid""".split()
OTHER_UNARY = 'abs neg exp log sqrt square sin cos'.split()
BINARY = 'add sub mul div maximum minimum'.split()
JOINS = 'cat concat'.split()
REDUCTIONS = 'mean sum amax amin argmax argmin'.split()
PYTHON_NAMES = {'truediv': 'div', 'iadd': 'add', 'radd': 'add', 'isub': 'sub', 'imul': 'mul',
                'rmul': 'mul', 'itruediv': 'div'}


def plain(name: str) -> str:
    """Return a torch function's name without the marks of operators (__add__) and in-place."""
    if name.startswith('__') and name.endswith('__'):
        return PYTHON_NAMES.get(name[2:-2], name[2:-2])
    return name.rstrip('_') if not name.startswith('_') else name


def joined_along(shapes: list[Shape], out: Shape) -> int | None:
    """Return the dimension along which tensors of these shapes join to ``out``, None for none."""
    for dim, size in enumerate(out):
        if all(len(shape) == len(out) for shape in shapes) and sum(
                shape[dim] for shape in shapes) == size and all(
                [*shape[:dim], *shape[dim + 1:]] == [*out[:dim], *out[dim + 1:]]
                for shape in shapes):
            return dim
    return None


def register(*names: str) -> Callable[[Maker], Maker]:
    """Enter a maker for torch functions of these plain names."""
    def enter(maker: Maker) -> Maker:
        MAKERS.update(dict.fromkeys(names, maker))
        return maker
    return enter


def _window(rows: int, made: int) -> tuple[int, int, int]:
    """
    Return size, stride and padding of a window that takes so many rows to so many.

    Nothing says which it was: the smallest of those that keep the size at stride 1, from 3 on,
    else the smallest that pads less.
    """
    for size in (3, 5, 7, 9, 11):
        for padding in range(size // 2, -1, -1):
            span = rows + 2 * padding - size
            for stride in range(1, rows + 1):
                if span >= 0 and span // stride + 1 == made:
                    return size, stride, padding
    raise RecordError(f'no window of 3 to 11 rows takes {rows} rows to {made}')


@register('conv1d', 'conv2d', 'conv3d')
def _convolution(kind: str, ins: list[Shape], out: Shape) -> nn.Module:
    (_, channels, *size), (_, made, *sizes) = ins[0], out
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(size) - 1]
    windows = [_window(a, b) for a, b in zip(size, sizes)]
    return layer(channels, made, *(list(part) for part in zip(*windows)))


@register('conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d')
def _transposed(kind: str, ins: list[Shape], out: Shape) -> nn.Module:
    (_, channels, *size), (_, made, *sizes) = ins[0], out
    if any(b % a for a, b in zip(size, sizes)):
        raise RecordError(f'{sizes} rows are no multiple of {size}')
    scale = [b // a for a, b in zip(size, sizes)]
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[len(size) - 1]
    return layer(channels, made, scale, scale)


@register('batch_norm')
def _batch_norm(kind: str, ins: list[Shape], out: Shape) -> nn.Module:
    layers = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    return layers[len(out)](out[1]).eval()


@register('layer_norm')
def _layer_norm(kind: str, ins: list[Shape], out: Shape) -> Callable:
    return lambda x: F.layer_norm(x, [out[-1]])


@register('linear')
def _linear(kind: str, ins: list[Shape], out: Shape) -> nn.Module:
    return nn.Linear(ins[0][-1], out[-1])


@register('max_pool2d', 'max_pool3d', 'avg_pool2d', 'avg_pool3d')
def _pool(kind: str, ins: list[Shape], out: Shape) -> Callable:
    windows = [(a // b, a // b, 0) if a > b and a % b == 0 else _window(a, b)
               for a, b in zip(ins[0][2:], out[2:])]
    size, stride, padding = (list(part) for part in zip(*windows))
    return lambda x: getattr(F, kind)(x, size, stride, padding)


@register('adaptive_avg_pool2d', 'adaptive_max_pool2d')
def _adaptive(kind: str, ins: list[Shape], out: Shape) -> Callable:
    return lambda x: getattr(F, kind)(x, list(out[2:]))


@register(*UNARY)
def _unary(kind: str, ins: list[Shape], out: Shape) -> Callable:
    return getattr(F, kind)


@register(*OTHER_UNARY)
def _other_unary(kind: str, ins: list[Shape], out: Shape) -> Callable:
    return getattr(torch, kind)


@register(*BINARY)
def _binary(kind: str, ins: list[Shape], out: Shape) -> Callable:
    function = getattr(torch, kind)
    return function if len(ins) == 2 else lambda x: function(x, 1)


@register(*JOINS)
def _cat(kind: str, ins: list[Shape], out: Shape) -> Callable:
    dim = joined_along(ins, out)
    if dim is None:
        raise RecordError(f'inputs of shapes {[list(shape) for shape in ins]} do not join')
    return lambda *xs: torch.cat(xs, dim)


@register(*REDUCTIONS)
def _reduction(kind: str, ins: list[Shape], out: Shape) -> Callable:
    source, size = list(ins[0]), len(ins[0])
    for gone in sorted(product((False, True), repeat=size), key=sum):
        dims = [d for d in range(size) if gone[d]]
        for keep in (False, True):
            shape = [1 if d in dims else n for d, n in enumerate(source) if keep or d not in dims]
            if dims and shape == list(out):
                dim = dims[0] if kind.startswith('arg') else dims
                return lambda x: getattr(torch, kind)(x, dim, keep)
    raise RecordError(f'no reduction takes {source} to {list(out)}')


@register('softmax', 'log_softmax')
def _softmax(kind: str, ins: list[Shape], out: Shape) -> Callable:
    return lambda x: getattr(torch, kind)(x, 1)


@register('interpolate', 'upsample')
def _interpolate(kind: str, ins: list[Shape], out: Shape) -> Callable:
    return lambda x: F.interpolate(x, list(out[2:]))


@register(*SAME)
def _same(kind: str, ins: list[Shape], out: Shape) -> Callable:
    return lambda x: x


@register(*VIEWS)
def _view(kind: str, ins: list[Shape], out: Shape) -> Callable:
    source, out = list(ins[0]), list(out)
    if kind in ('permute', 'transpose', 't', 'movedim', 'swapaxes'):
        order, left = [], list(range(len(source)))
        for size in out:  # of dimensions of one size the earlier stays the earlier
            order.append(next((d for d in left if source[d] == size), None))
            if order[-1] is None:
                raise RecordError(f'no order of the dimensions of {source} gives {out}')
            left.remove(order[-1])
        return lambda x: x.permute(order)
    if kind == 'expand':
        return lambda x: x.expand(out)
    if prod(source) == prod(out):
        return lambda x: x.reshape(out)
    cut = [d for d in range(len(source)) if len(out) == len(source) and source[d] > out[d]]
    if len(cut) == 1:  # which rows it was does not show; the first ones cost as much
        return lambda x: x.narrow(cut[0], 0, out[cut[0]])
    raise RecordError(f'it is not recorded how {source} became {out}')
