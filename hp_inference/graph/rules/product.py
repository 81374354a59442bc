# SPDX-License-Identifier: Apache-2.0
"""Products and normalisations: linear, matrix product, attention, norms, softmax."""

from __future__ import annotations

from hp_inference.graph.ir import Const, Ref
from hp_inference.graph.rows import Rows
from hp_inference.graph.table import along, Block, LOCAL, OpView, PARTIAL, register, Rule


@register('linear.default')
def linear(op: OpView) -> Rule | None:
    """Every row is multiplied alone unless the product sums over the rows."""
    axis = op.first.axis if op.first else None
    return along(op, None if axis is None or axis == len(op.first.shape) - 1 else axis)


@register('batch_norm.default', '_native_batch_norm_legit_no_training.default', 'prelu.default',
          'native_batch_norm.default')
def per_channel(op: OpView) -> Rule | None:
    """Scale and shift channels by constants; rows that are channels would need them cut."""
    axis = op.first.axis if op.first else None
    return along(op, None if axis == 1 else axis)


@register('layer_norm.default', 'rms_norm.default', 'native_layer_norm.default')
def layer_norm(op: OpView) -> Rule | None:
    """Row by row where the normalised dimensions lie behind the row axis."""
    axis = op.first.axis if op.first else None
    inner = len(op.shape) - len(op.arg('normalized_shape'))
    return along(op, axis if axis is not None and axis < inner else None)


@register('softmax.int', '_softmax.default', 'log_softmax.int', '_log_softmax.default',
          'cumsum.default', 'cumprod.default', 'glu.default')
def along_other_dim(op: OpView) -> Rule | None:
    """Row by row where the operator runs along another dimension."""
    axis = op.first.axis if op.first else None
    return along(op, None if axis == op.arg('dim') % len(op.first.shape) else axis)


@register('matmul.default', 'mm.default', 'bmm.default')
def matmul(op: OpView) -> Rule | None:
    """
    Rows of the left matrix, columns of the right, or a shared batch dimension.

    The other factor is needed whole; a product that sums over the rows is global.
    """
    left, right = op.arg('self'), op.arg('other' if 'other' in op.names else 'mat2')
    shapes = [op.graph.constants[p.name].shape if isinstance(p, Const)
              else op.graph.values[p.value].shape for p in (left, right)]
    if any(len(shape) < 2 for shape in shapes):
        return None
    sides = [side for side, part in enumerate((left, right)) if isinstance(part, Ref)]
    axes: list[int | None] = []  # where each input's row axis lands in the output
    for side, operand in zip(sides, op.inputs):
        size = len(operand.shape)
        summed = size - 1 if side == 0 else size - 2
        lands = None
        if operand.axis is not None and operand.axis != summed:
            lands = operand.axis + len(op.shape) - size
            if op.shape[lands] != operand.rows:
                lands = None  # broadcast
        axes.append(lands)
    target = next((axis for axis in axes if axis is not None), None)
    if target is None:
        return None
    batch = target < len(op.shape) - 2
    # Along a batch dimension the other factor is cut too, where it is not broadcast there.
    cuts: dict[int, int] = {}
    for side, shape in enumerate(shapes):
        dim = target - len(op.shape) + len(shape)
        if batch and dim >= 0 and shape[dim] > 1:
            cuts[side] = dim
    by_rows = [axis == target for axis in axes]
    names = ('self', 'other' if 'other' in op.names else 'mat2')

    def block(a: int, b: int) -> Block:
        needs = tuple(Rows.of(a, b) if rowwise else operand.all
                      for rowwise, operand in zip(by_rows, op.inputs))
        constants = {names[side]: op.constant(names[side]).narrow(dim, a, b - a)
                     for side, dim in cuts.items() if side not in sides}
        late = [cuts.get(side) if not rowwise else None
                for side, rowwise in zip(sides, by_rows)]
        run = op.call(**constants)
        if all(dim is None for dim in late):
            return Block(needs, run)
        return Block(needs, lambda *ts: run(*(t if dim is None else t.narrow(dim, a, b - a)
                                              for t, dim in zip(ts, late))))
    return Rule(target, block, LOCAL if all(by_rows) else PARTIAL)


@register('scaled_dot_product_attention.default')
def attention(op: OpView) -> Rule | None:
    """Query rows go by rows and want all keys and values; batch or head rows want their own."""
    if not all(isinstance(op.arg(name), Ref) for name in ('query', 'key', 'value')):
        return None
    query, key, value = op.inputs[:3]
    axis, size = query.axis, len(op.shape)
    masked = op.arg('attn_mask') is not None
    if axis is None or axis == size - 1 or op.arg('is_causal') or op.arg('dropout_p') or op.arg(
            'enable_gqa') or len(op.inputs) > 3:
        return None
    if query.shape[:-1] != op.shape[:-1]:
        return None  # the query is broadcast
    if axis < size - 2 and any(len(part.shape) != size or part.axis != axis
                               or part.rows != query.rows for part in (key, value)):
        return None
    mask = op.constant('attn_mask') if masked else None

    def block(a: int, b: int) -> Block:
        cut = mask
        dim = axis - size + mask.dim() if mask is not None else -1
        if dim >= 0 and mask.shape[dim] > 1:
            cut = mask.narrow(dim, a, b - a)
        run = op.call(attn_mask=cut) if masked else op.call()
        own = Rows.of(a, b)
        if axis < size - 2:
            return Block((own, own, own), run)
        return Block((own, key.all, value.all), run)
    return Rule(axis, block, LOCAL if axis < size - 2 else PARTIAL)
