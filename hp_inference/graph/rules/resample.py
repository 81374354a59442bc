# SPDX-License-Identifier: Apache-2.0
"""Operators whose output rows are picked or mixed from input rows by a fixed list."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

from hp_inference.graph.ir import Const
from hp_inference.graph.rows import Rows
from hp_inference.graph.rules.window import padded, reading, row_place
from hp_inference.graph.table import along, Block, OpView, register, Rule


def place_in(need: Rows, row: int) -> int:
    """Return where an input row lies in the tensor that joins the intervals of ``need``."""
    before = 0
    for begin, end in need:
        if row < end:
            return before + row - begin
        before += end - begin
    raise IndexError(f'row {row} is not among the rows {need}')


def pick(axis: int, sources: Sequence[int], rest: Callable | None = None) -> Rule:
    """
    Return the rule for "output row j is input row sources[j]" of the only tensor argument.

    ``rest`` is what the operator does besides, within each row.
    """
    def block(a: int, b: int) -> Block:
        wanted = sources[a:b]
        need = Rows((row, row + 1) for row in wanted)
        places = [place_in(need, row) for row in wanted]
        index = None if places == list(range(need.count)) else torch.tensor(places)

        def run(x):
            x = rest(x) if rest else x
            return x if index is None else x.index_select(axis, index.to(x.device))
        return Block((need,), run)
    return Rule(axis, block, view=rest is None)


def along_dims(op: OpView, axis: int) -> tuple[list[int], list[int]]:
    """Return the positions in ``dims`` that are the row axis, and those that are not."""
    dims = op.arg('dims')
    dims = [d % len(op.first.shape) for d in ([dims] if isinstance(dims, int) else dims)]
    return ([i for i, d in enumerate(dims) if d == axis],
            [i for i, d in enumerate(dims) if d != axis])


@register('roll.default')
def roll(op: OpView) -> Rule | None:
    """Output row j is input row (j - shift) mod rows: two intervals where it wraps."""
    axis = op.first.axis
    if axis is None or not op.arg('dims'):
        return None
    ours, others = along_dims(op, axis)
    shifts = op.arg('shifts')
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = op.arg('dims')
    dims = [dims] if isinstance(dims, int) else list(dims)
    rows = op.first.rows
    shift = sum(shifts[i] for i in ours)
    rest = None
    if others:
        rest = op.call(shifts=[shifts[i] for i in others], dims=[dims[i] for i in others])
    return pick(axis, [(j - shift) % rows for j in range(rows)], rest)


@register('flip.default')
def flip(op: OpView) -> Rule | None:
    """Output row j is input row (rows - 1 - j)."""
    axis = op.first.axis
    if axis is None:
        return None
    ours, others = along_dims(op, axis)
    rows = op.first.rows
    rest = op.call(dims=[op.arg('dims')[i] for i in others]) if others else None
    sources = list(range(rows))
    return pick(axis, sources[::-1] if len(ours) % 2 else sources, rest)


@register('index.Tensor')
def index(op: OpView) -> Rule | None:
    """Go by rows along one constant list of rows, or along a list in another dimension."""
    picks = [(dim, item) for dim, item in enumerate(op.arg('indices')) if item is not None]
    if op.first is None or op.first.axis is None or len(picks) != 1 or len(op.inputs) != 1:
        return None
    dim, item = picks[0]
    table = op.graph.constants[item.name] if isinstance(item, Const) else None
    if table is None or table.dim() != 1 or table.dtype is torch.bool:
        return None
    if dim != op.first.axis:
        return along(op, op.first.axis)
    return pick(dim, [int(row) % op.first.rows for row in table])


@register('index_select.default')
def index_select(op: OpView) -> Rule | None:
    """Like index.Tensor with one list."""
    table = op.constant('index')
    if op.first is None or op.first.axis is None or table is None:
        return None
    dim = op.arg('dim') % len(op.first.shape)
    if dim != op.first.axis:
        return along(op, op.first.axis)
    return pick(dim, [int(row) % op.first.rows for row in table.reshape(-1)])


@register('repeat.default', 'tile.default')
def repeat(op: OpView) -> Rule | None:
    """Output row j is input row j mod rows."""
    if op.first.axis is None:
        return None
    name = 'repeats' if 'repeats' in op.names else 'dims'
    times = [1] * (len(op.shape) - len(op.arg(name))) + list(op.arg(name))
    axis, rows = op.first.axis + len(op.shape) - len(op.first.shape), op.first.rows
    sources = [j % rows for j in range(op.shape[axis])]
    times[axis] = 1
    return pick(axis, sources, op.call(**{name: times}))


@register('pad.default', 'constant_pad_nd.default', 'reflection_pad1d.default',
          'reflection_pad2d.default', 'replication_pad1d.default', 'replication_pad2d.default')
def pad(op: OpView) -> Rule | None:
    """Zero rows are made where they are wanted; mirrored or repeated rows are picked."""
    axis = op.first.axis
    if axis is None:
        return None
    widths = list(op.arg('pad' if 'pad' in op.names else 'padding'))
    place = 2 * (len(op.first.shape) - 1 - axis)
    top, bottom = (widths[place:place + 2] + [0, 0])[:2]
    if place < len(widths):
        widths[place] = widths[place + 1] = 0
    mode = op.arg('mode') if 'mode' in op.names else op.op.target.split('.')[1].split('_')[0]
    rest = None
    if any(widths):
        rest = op.call(**{'pad' if 'pad' in op.names else 'padding': widths})
    if mode == 'constant':
        return _constant_pad(op, axis, top, rest)
    if mode == 'circular' and min(top, bottom) < 0 < max(top, bottom):
        return None  # PyTorch overwrites rows while it wraps them: its answer is its own
    # Padding the row numbers tells the sources, for any mode and with cropping besides.
    mode = {'reflection': 'reflect', 'replication': 'replicate'}.get(mode, mode)
    numbers = torch.arange(op.first.rows, dtype=torch.float64).reshape(1, -1)
    return pick(axis, F.pad(numbers, (top, bottom), mode).long()[0].tolist(), rest)


def _constant_pad(op: OpView, axis: int, top: int, rest: Callable | None) -> Rule:
    value, rows = op.arg('value') or 0.0, op.first.rows

    def block(a: int, b: int) -> Block:
        lo, hi = min(max(a - top, 0), rows), min(max(b - top, 0), rows)
        if lo >= hi:  # nothing but padding
            shape = (*op.shape[:axis], b - a, *op.shape[axis + 1:])
            return Block((Rows(),), lambda x: torch.full(
                shape, value, dtype=op.dtype, device=op.graph.device))
        above, below = max(top - a, 0), max(b - top - rows, 0)

        def run(x):
            x = rest(x) if rest else x
            return padded(x, axis, above, below, value) if above or below else x
        return Block((Rows.of(lo, hi),), run)
    return Rule(axis, block, view=rest is None)


@register('upsample_nearest2d.vec', 'upsample_nearest2d.default', '_upsample_nearest_exact2d.vec',
          'upsample_bilinear2d.vec', 'upsample_bilinear2d.default', 'upsample_bicubic2d.vec',
          '_upsample_bilinear2d_aa.vec', '_upsample_bicubic2d_aa.vec')
def upsample(op: OpView) -> Rule | None:
    """
    Each output row mixes a few input rows with fixed weights.

    The operator itself tells them: applied to the unit vectors of the input rows it returns its
    weight matrix, for any mode, scale and corner convention, in its own arithmetic.
    """
    axis = 2
    if op.first is None or op.first.axis not in (2, None) or not op.dtype.is_floating_point:
        return None
    if '_aa.' in op.op.target and op.shape[3] == 1:
        return None  # PyTorch's kernel misreads columns of one element, as does the unsplit model
    rows, out_rows = op.first.shape[2], op.shape[2]
    units = torch.eye(rows, dtype=op.dtype).reshape(1, rows, rows, 1).repeat(1, 1, 1, 2)
    within = _along(op, 2)(units)[0, :, :, 0].T  # [out_rows, rows]
    taps = max(1, int((within != 0).sum(1).max()))
    sources = within.abs().topk(taps, dim=1).indices.sort(dim=1).values
    weights = within.gather(1, sources)
    reach = [(int(s[w != 0].min()), int(s[w != 0].max()) + 1) if bool((w != 0).any()) else (0, 1)
             for s, w in zip(sources, weights)]
    across = _along(op, 3)

    def block(a: int, b: int) -> Block:
        lo = min(first for first, _ in reach[a:b])
        hi = max(last for _, last in reach[a:b])
        need, take = reading(op, axis, lo, hi)
        if (a, b) == (0, out_rows) and need == op.first.all:
            return Block((need,), op.call())
        index = (sources[a:b] - lo).clamp(0, hi - lo - 1)
        mix = weights[a:b].reshape(b - a, taps, 1)

        def run(x):
            x = across(take(x))
            parts = (x.index_select(axis, index[:, t].to(x.device)) for t in range(taps))
            if taps == 1:
                return next(parts)
            return sum(part * mix[:, t].to(x.device) for t, part in enumerate(parts))
        return Block((need,), run)

    return Rule(axis, block)


def _along(op: OpView, dim: int) -> Callable:
    """
    Return the operator applied along one dimension alone, the other keeping its size.

    The scale factors it was given are kept, since the weights follow from the factor and not from
    the sizes.
    """
    name = op.op.target.split('.')[1]
    function = getattr(torch.ops.aten, name).default
    if op.op.target.endswith('.vec'):
        factors = op.arg('scale_factors') or (None, None)
    else:
        factors = (op.arg('scales_h'), op.arg('scales_w'))
    corners = (op.arg('align_corners'),) if 'align_corners' in op.names else ()
    if dim == 2:
        return lambda x: function(x, [op.shape[2], x.shape[3]], *corners, factors[0], None)
    return lambda x: function(x, [x.shape[2], op.shape[3]], *corners, None, factors[1])


@register('pixel_shuffle.default')
def pixel_shuffle(op: OpView) -> Rule | None:
    """Input row i makes output rows i*r to (i+1)*r."""
    factor, axis = op.arg('upscale_factor'), op.first.axis
    if axis is None or axis != len(op.first.shape) - 2:
        return None
    shuffle = op.call()

    def block(a: int, b: int) -> Block:
        lo, hi = a // factor, -(-b // factor)
        return Block((Rows.of(lo, hi),),
                     lambda x: shuffle(x).narrow(axis, a - lo * factor, b - a))
    return Rule(axis, block)


@register('pixel_unshuffle.default')
def pixel_unshuffle(op: OpView) -> Rule | None:
    """Output row i is made of input rows i*r to (i+1)*r."""
    factor, axis = op.arg('downscale_factor'), op.first.axis
    if axis is None or axis != len(op.first.shape) - 2:
        return None
    run = op.call()
    return Rule(axis, lambda a, b: Block((Rows.of(a * factor, b * factor),), run))


@register('adaptive_avg_pool1d.default', 'adaptive_avg_pool2d.default',
          'adaptive_max_pool1d.default', 'adaptive_max_pool2d.default')
def adaptive_pool(op: OpView) -> Rule | None:
    """Output row i pools input rows floor(i*H/n) to ceil((i+1)*H/n); n = 1 is left whole."""
    places = int(op.op.target.split('pool')[1][0])
    if op.op.item not in (None, 0):
        return None  # indices count from the top of the whole value
    place = row_place(op, places)
    if place is None:
        return along(op, op.first.axis)
    axis = len(op.first.shape) - places + place
    rows, out_rows = op.first.shape[axis], op.shape[axis]
    if out_rows == 1 or op.first.axis is None:
        return None
    size = list(op.arg('output_size'))

    def one(lo: int, count: int, out_count: int) -> Callable:
        wanted = list(size)
        wanted[place] = out_count
        pool = op.call(output_size=wanted)
        return lambda x, base: pool(x.narrow(axis, lo - base, count))

    def block(a: int, b: int) -> Block:
        lo, hi = a * rows // out_rows, -(-b * rows // out_rows)
        if rows % out_rows == 0:
            run = one(lo, hi - lo, b - a)
            return Block((Rows.of(lo, hi),), lambda x: run(x, lo))
        # Windows of unequal height: each row is a pool of its own.
        pools = [one(i * rows // out_rows, -(-(i + 1) * rows // out_rows) - i * rows // out_rows,
                     1) for i in range(a, b)]
        return Block((Rows.of(lo, hi),), lambda x: torch.cat([p(x, lo) for p in pools], axis))

    return Rule(axis, block)
