# SPDX-License-Identifier: Apache-2.0
"""Rewritings of a captured graph that keep its answer: folding, and reductions in two steps."""

from __future__ import annotations

import torch

from hp_inference.graph.build import Builder, rewrite
from hp_inference.graph.ir import Const, Graph, Op, Ref
from hp_inference.graph.layout import Layout
from hp_inference.graph.rules.reduce import reduced_dims, SEPARABLE
from hp_inference.graph.table import OpView

CONVOLUTIONS = ('aten.conv1d.default', 'aten.conv2d.default', 'aten.conv3d.default',
                'aten.conv1d.padding', 'aten.conv2d.padding', 'aten.conv3d.padding')
BATCH_NORM = 'aten._native_batch_norm_legit_no_training.default'


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold batch norms into the convolution before them; give the others their plain operator."""
    readers = graph.consumers()

    def change(builder: Builder, op: Op, moved) -> Ref | None:
        if op.target != BATCH_NORM or op.item != 0:
            return None
        x, gamma, beta, mean, var, momentum, eps = op.args
        value = graph.values[op.output]
        shown = {'name': value.name, 'shape': value.shape, 'dtype': value.dtype}
        maker = graph.ops[x.value - 1] if isinstance(x, Ref) and x.value else None
        foldable = (maker is not None and maker.target in CONVOLUTIONS
                    and len(readers[x.value]) == 1 and x.value not in graph.outputs.values()
                    and isinstance(maker.args[1], Const))
        if not foldable:
            # The plain overload returns one tensor and is quicker to call.
            return builder.add('aten.batch_norm.default', moved(
                (x, gamma, beta, mean, var, False, momentum, eps, False)), **shown)

        def tensor(item, default):
            return graph.constants[item.name].double() if isinstance(item, Const) else default
        weight = graph.constants[maker.args[1].name]
        bias = tensor(maker.args[2] if len(maker.args) > 2 else None, 0.0)
        scale = tensor(gamma, 1.0) / torch.sqrt(tensor(var, None) + eps)
        shift = (bias - tensor(mean, None)) * scale + tensor(beta, 0.0)
        shape = (-1,) + (1,) * (weight.dim() - 1)
        folded = (weight.double() * scale.reshape(shape)).to(weight.dtype)
        if weight.dim() == 4:
            folded = folded.contiguous(memory_format=torch.channels_last)
        new_weight = builder.constant(f'{maker.args[1].name}.folded', folded)
        new_bias = builder.constant(f'{maker.args[1].name}.folded_bias', shift.to(weight.dtype))
        return builder.add(maker.target, (moved(maker.args[0]), new_weight, new_bias,
                                          *maker.args[3:]), maker.kwargs, **shown)
    return rewrite(graph, change)


def split_reductions(graph: Graph) -> Graph:
    """
    Take reductions over rows in two steps: within each row, which is local, then over the rows.

    So a squeeze-excite block or a global pool asks for a column per channel to travel instead of
    a map. A reduction over a token axis is done in groups of tokens where their count divides.
    """
    layout = Layout(graph)
    separable = {f'aten.{name}' for name in SEPARABLE}

    def change(builder: Builder, op: Op, moved) -> Ref | None:
        if op.target.startswith(('aten.adaptive_avg_pool', 'aten.adaptive_max_pool')):
            return _global_pool(builder, op, moved, graph, layout)
        if op.target not in separable or not isinstance(op.args[0], Ref):
            return None
        axis = layout.axes[op.args[0].value]
        view = OpView(op, graph, layout.axes)
        dims = reduced_dims(view)
        if axis is None or axis not in dims or op.kwargs.get('dtype') is not None:
            return None
        if [d for d in dims if d != axis and view.first.shape[d] > 1]:
            return _in_two_steps(builder, op, moved, graph, axis, dims)
        return _in_groups(builder, op, moved, graph, axis, dims)
    return rewrite(graph, change)


def _reduce(builder: Builder, target: str, x: Ref, dims: list[int], keep: bool, name: str,
            dtype: str) -> Ref:
    """Append one reduction and work out its shape; the sum of small integers is a large one."""
    value = builder.values[x.value]
    shape = [1 if d in dims else n for d, n in enumerate(value.shape) if keep or d not in dims]
    return builder.add(target, (x, dims, keep), name=name, shape=shape, dtype=dtype)


def _keeps(op: Op) -> bool:
    return bool(op.kwargs.get('keepdim', op.args[2] if len(op.args) > 2 else False))


def _in_two_steps(builder, op: Op, moved, graph: Graph, axis: int, dims: list[int]) -> Ref:
    value = graph.values[op.output]
    name, dtype = value.name, value.dtype
    inner = _reduce(builder, op.target, moved(op.args[0]), [d for d in dims if d != axis], True,
                    f'{name}.rows', dtype)
    outer = _reduce(builder, op.target, inner, [axis], True, name, dtype)
    if _keeps(op):
        return outer
    return builder.add('aten.reshape.default', (outer, list(value.shape)), name=name,
                       shape=value.shape, dtype=dtype)


def _in_groups(builder, op: Op, moved, graph: Graph, axis: int, dims: list[int]) -> Ref | None:
    """Reduce groups of about the square root of the row count, then the groups."""
    source = graph.values[op.args[0].value]
    rows = source.shape[axis]
    groups = next((g for g in range(int(rows ** 0.5), 1, -1) if rows % g == 0), 1)
    if groups == 1:
        return None
    value = graph.values[op.output]
    shape = [*source.shape[:axis], groups, rows // groups, *source.shape[axis + 1:]]
    grouped = builder.add('aten.reshape.default', (moved(op.args[0]), shape),
                          name=f'{value.name}.groups', shape=shape, dtype=source.dtype)
    inner = _reduce(builder, op.target, grouped, [axis + 1], False, f'{value.name}.rows',
                    value.dtype)
    return _reduce(builder, op.target, inner, dims, _keeps(op), value.name, value.dtype)


def _global_pool(builder, op: Op, moved, graph: Graph, layout: Layout) -> Ref | None:
    """Turn an adaptive pool to one element into a reduction in two steps."""
    source = op.args[0]
    places = int(op.target.split('pool')[1][0])
    size = op.args[1] if isinstance(op.args[1], (list, tuple)) else [op.args[1]] * places
    if not isinstance(source, Ref) or list(size) != [1] * places or op.item not in (None, 0):
        return None
    axis = layout.axes[source.value]
    shape = graph.values[source.value].shape
    if axis is None or axis < len(shape) - places:
        return None
    target = 'aten.mean.dim' if 'avg' in op.target else 'aten.amax.default'
    dims = list(range(len(shape) - places, len(shape)))
    value, x = graph.values[op.output], moved(source)
    if places > 1:
        x = _reduce(builder, target, x, [d for d in dims if d != axis], True,
                    f'{value.name}.rows', value.dtype)
    return _reduce(builder, target, x, [axis], True, value.name, value.dtype)
