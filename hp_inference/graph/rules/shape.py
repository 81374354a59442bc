# SPDX-License-Identifier: Apache-2.0
"""Operators that move, cut or join elements without changing them."""

from __future__ import annotations

from math import prod

import torch

from hp_inference.graph.ir import Const, Ref
from hp_inference.graph.rows import Rows
from hp_inference.graph.rules.resample import pick
from hp_inference.graph.table import along, Block, GLOBAL, LOCAL, OpView, PARTIAL, register, Rule


@register('reshape.default', 'flatten.using_ints', 'unflatten.int')
def view(op: OpView) -> Rule | None:
    """
    Rows survive where the row axis stays the outermost of the dimensions it is merged with.

    Then input row i covers the flat elements [i*inner, (i+1)*inner) behind the dimensions
    before it, and output row j those of its own inner size.
    """
    source, axis = op.first.shape, op.first.axis
    if axis is None:
        return None
    outer, inner = prod(source[:axis]), prod(source[axis + 1:])
    places = [e for e in range(len(op.shape)) if prod(op.shape[:e]) == outer]
    # Of several places take the first that is more than a dimension of one element.
    target = next((e for e in places if op.shape[e] > 1), places[0] if places else None)
    if target is None or prod(source) == 0:
        return None
    head, tail = op.shape[:target], op.shape[target + 1:]
    out_inner = prod(tail)

    def block(a: int, b: int) -> Block:
        lo, hi = a * out_inner // inner, -(-b * out_inner // inner)
        shape = (*head, b - a, *tail)
        skip, count = a * out_inner - lo * inner, (b - a) * out_inner
        if count == (hi - lo) * inner:
            return Block((Rows.of(lo, hi),), lambda x: x.reshape(shape))
        flat = (*head, (hi - lo) * inner)
        return Block((Rows.of(lo, hi),),
                     lambda x: x.reshape(flat).narrow(target, skip, count).reshape(shape))
    return Rule(target, block, view=True)


@register('permute.default')
def permute(op: OpView) -> Rule | None:
    """Follow the row axis to its new place."""
    axis = op.first.axis
    dims = [d % len(op.shape) for d in op.arg('dims')]
    return along(op, None if axis is None else dims.index(axis), view=True)


@register('transpose.int', 't.default')
def transpose(op: OpView) -> Rule | None:
    """Follow the row axis to its new place."""
    axis, size = op.first.axis, len(op.shape)
    if axis is None or size < 2:
        return along(op, axis, view=True)
    first, second = (0, 1) if op.op.target == 'aten.t.default' else (
        op.arg('dim0') % size, op.arg('dim1') % size)
    return along(op, {first: second, second: first}.get(axis, axis), view=True)


@register('unsqueeze.default')
def unsqueeze(op: OpView) -> Rule | None:
    """Shift the row axis behind a new dimension."""
    axis = op.first.axis
    dim = op.arg('dim') % len(op.shape)
    return along(op, None if axis is None else axis + (dim <= axis), view=True)


@register('squeeze.dim', 'squeeze.dims', 'squeeze.default')
def squeeze(op: OpView) -> Rule | None:
    """Shift the row axis before what goes; a row axis of one row that goes leaves a whole value."""
    axis, shape = op.first.axis, op.first.shape
    if axis is None:
        return None
    dims = op.arg('dim') if 'dim' in op.names else list(range(len(shape)))
    dims = [d % len(shape) for d in ([dims] if isinstance(dims, int) else dims)]
    gone = [d for d in dims if shape[d] == 1]
    if axis in gone:
        return None
    # squeeze.default on a slice of one row would take the row axis along: name the dimensions.
    run = torch.ops.aten.squeeze.dims
    return Rule(axis - sum(d < axis for d in gone),
                lambda a, b: Block((Rows.of(a, b),), lambda x: run(x, gone)), view=True)


@register('expand.default')
def expand(op: OpView) -> Rule | None:
    """Repeat along dimensions of one element; the row axis keeps its rows."""
    shift = len(op.shape) - len(op.first.shape)
    if op.first.axis is None or op.shape[op.first.axis + shift] != op.first.rows:
        return None
    axis = op.first.axis + shift
    size = list(op.shape)
    size[axis] = -1
    return along(op, axis, view=True, size=size)


@register('slice.Tensor')
def slice_(op: OpView) -> Rule | None:
    """Pick every step-th row, or cut within rows."""
    axis, size = op.first.axis, op.first.shape
    dim = op.arg('dim') % len(size)
    if axis is None:
        return None
    if dim != axis:
        return along(op, axis, view=True)
    sources = range(size[dim])[slice(op.arg('start'), op.arg('end'), op.arg('step'))]
    step = sources.step

    def block(a: int, b: int) -> Block:
        lo, hi = sources[a], sources[b - 1] + 1
        if step == 1:
            return Block((Rows.of(lo, hi),), lambda x: x)
        # Asking for the rows between as well keeps the slice one interval, without copies.
        index = (slice(None),) * axis + (slice(None, None, step),)
        return Block((Rows.of(lo, hi),), lambda x: x[index])
    return Rule(axis, block, view=True)


@register('select.int')
def select(op: OpView) -> Rule | None:
    """Drop a dimension; picking one row yields a whole value that needs just that row."""
    axis, size = op.first.axis, op.first.shape
    dim = op.arg('dim') % len(size)
    if axis is None:
        return None
    if dim != axis:
        return along(op, axis - (dim < axis), view=True)
    row = op.arg('index') % size[dim]
    return Rule(None, lambda a, b: Block((Rows.of(row, row + 1),), lambda x: x.select(dim, 0)),
                GLOBAL, view=True)


@register('channel_shuffle.default', 'native_channel_shuffle.default')
def within_rows(op: OpView) -> Rule | None:
    """Leave the row axis alone (operators over channels)."""
    return along(op, op.first.axis if op.first.axis != 1 else None)


@register('cat.default', 'concat.default')
def cat(op: OpView) -> Rule | None:
    """Join along another dimension row by row, or append rows to rows."""
    dim = op.arg('dim') % len(op.shape)
    parts = [op.graph.constants[p.name].shape if isinstance(p, Const)
             else op.graph.values[p.value].shape for p in op.arg('tensors')]
    if any(len(shape) != len(op.shape) for shape in parts):
        return None  # legacy empty operands
    axes = [operand.axis for operand in op.inputs if operand.axis is not None]
    if not axes:
        return None
    if dim != axes[0]:
        return _cat_within(op, axes[0], dim)
    return _cat_rows(op, dim, [shape[dim] for shape in parts])


def _operands(op: OpView) -> list:
    """Return per operand of a cat either its constant tensor or its place among the inputs."""
    count, operands = 0, []
    for part in op.arg('tensors'):
        if isinstance(part, Const):
            operands.append(op.graph.constants[part.name])
        else:
            operands.append(count)
            count += 1
    return operands


def _cat_within(op: OpView, axis: int, dim: int) -> Rule:
    by_rows = [operand.axis == axis for operand in op.inputs]

    def block(a: int, b: int) -> Block:
        needs = tuple(Rows.of(a, b) if rowwise else operand.all
                      for rowwise, operand in zip(by_rows, op.inputs))
        operands = [part if isinstance(part, int) else part.narrow(axis, a, b - a)
                    for part in _operands(op)]

        def run(*tensors):
            cut = [t if rowwise else t.narrow(axis, a, b - a)
                   for t, rowwise in zip(tensors, by_rows)]
            return torch.cat([cut[p] if isinstance(p, int) else p for p in operands], dim)
        return Block(needs, run)
    return Rule(axis, block, LOCAL if all(by_rows) else PARTIAL)


def _cat_rows(op: OpView, dim: int, sizes: list[int]) -> Rule:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]

    def block(a: int, b: int) -> Block:
        needs, pieces = [], []  # a piece: (constant or input number, first row, rows)
        for part, start, size in zip(_operands(op), starts, sizes):
            lo, hi = max(a - start, 0), min(b - start, size)
            if isinstance(part, int):
                operand = op.inputs[part]
                rowwise = operand.axis == dim
                needs.append(Rows() if lo >= hi
                             else Rows.of(lo, hi) if rowwise else operand.all)
                if lo < hi:
                    pieces.append((part, 0 if rowwise else lo, hi - lo))
            elif lo < hi:
                pieces.append((part.narrow(dim, lo, hi - lo), 0, hi - lo))

        def run(*tensors):
            return torch.cat([(tensors[p] if isinstance(p, int) else p).narrow(dim, lo, count)
                              for p, lo, count in pieces], dim)
        return Block(tuple(needs), run)
    return Rule(dim, block, LOCAL if all(o.axis == dim for o in op.inputs) else PARTIAL)


@register('stack.default')
def stack(op: OpView) -> Rule | None:
    """Join row by row along a new dimension."""
    parts = op.arg('tensors')
    if not all(isinstance(part, Ref) for part in parts) or len(
            {operand.axis for operand in op.inputs}) != 1 or op.inputs[0].axis is None:
        return None
    axis = op.inputs[0].axis
    run = op.call()
    return Rule(axis + (op.arg('dim') % len(op.shape) <= axis),
                lambda a, b: Block((Rows.of(a, b),) * len(parts), run))


@register('repeat_interleave.self_int')
def repeat_interleave(op: OpView) -> Rule | None:
    """Output row j is input row j // repeats."""
    axis, dim = op.first.axis, op.arg('dim')
    if axis is None or dim is None:
        return None
    if dim % len(op.shape) != axis:
        return along(op, axis)
    return pick(axis, [j // op.arg('repeats') for j in range(op.shape[axis])])

