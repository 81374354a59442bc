# SPDX-License-Identifier: Apache-2.0
"""Operators that slide a window along the rows: convolution, transposed convolution, pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F

from hp_inference.graph.kernels import ConvolutionKernel
from hp_inference.graph.rows import Rows
from hp_inference.graph.table import along, Block, OpView, register, Rule

# One element copied costs about as long as this many floating-point operations of a convolution
# (a few GB/s of copying against about 100 GFLOP/s): the price of padding a slice by copying it.
COPY_FLOPS = 80


@dataclass(frozen=True)
class Window:
    """A sliding window along one axis: sizes and paddings in rows, ``rows`` is the input's."""

    size: int
    stride: int
    top: int
    bottom: int
    dilation: int
    rows: int

    def reach(self, a: int, b: int) -> tuple[int, int, int, int]:
        """
        Return what output rows [a, b) read: ``(lo, hi, above, below)``.

        Input rows [lo, hi), with ``above`` and ``below`` padding rows around them. A block that
        reads nothing but padding still names one input row, so that there is a tensor to pad.
        """
        first = a * self.stride - self.top
        last = (b - 1) * self.stride - self.top + self.dilation * (self.size - 1) + 1
        lo = min(max(first, 0), self.rows - 1)
        hi = max(min(last, self.rows), lo + 1)
        return lo, hi, lo - first, last - hi


def spatial(op: OpView, name: str, places: int) -> list[int]:
    """Return a per-dimension argument (stride, padding ...), one number repeated if need be."""
    given = op.arg(name)
    given = [given] if isinstance(given, int) else list(given)
    return given * places if len(given) == 1 else given


def row_place(op: OpView, places: int) -> int | None:
    """
    Return which spatial dimension the rows lie along.

    A whole input counts as an image too where the output has rows, so that a decoder after a
    global operator is split again. None: the rows lie along channels, or there are none.
    """
    axis, dims = op.first.axis, len(op.first.shape)
    if axis is None:
        return 0 if op.shape[dims - places] > 1 else None
    place = axis - (dims - places)
    return place if place >= 0 else None


def reading(op: OpView, axis: int, lo: int, hi: int) -> tuple[Rows, Callable]:
    """Return the rows to ask of the first input for its rows [lo, hi), and how to take them."""
    if op.first.axis is None:
        return op.first.all, lambda x: x.narrow(axis, lo, hi - lo)
    return Rows.of(lo, hi), lambda x: x


def padded(x: torch.Tensor, axis: int, above: int, below: int, value: float) -> torch.Tensor:
    """Return ``x`` with padding rows copied around it (negative counts crop)."""
    rows = above + x.shape[axis] + below
    x = F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (max(above, 0), max(below, 0)), value=value)
    # Cropped afterwards: a window in nothing but padding crops the one row that it was given.
    return x if x.shape[axis] == rows else x.narrow(axis, max(-above, 0), rows)


def by_own_padding(window: Window, above: int, below: int) -> tuple[int, int] | None:
    """
    Return ``(padding, skip)`` that let the operator pad a slice itself instead of copying it.

    Operators pad both ends alike. Padding more than wanted makes extra output rows at the ends;
    the first ``skip`` rows and what follows the wanted ones are dropped. None: not aligned, or
    windows of nothing but padding, on which oneDNN's kernels can crash where the slice is short.
    """
    pad = max(above, below)
    if above < 0 or below < 0 or (pad - above) % window.stride:
        return None
    if pad > window.dilation * (window.size - 1):
        return None
    return pad, (pad - above) // window.stride


def _same_padding(op: OpView, kernel: list[int], dilation: list[int]) -> list[tuple[int, int]]:
    if op.arg('padding') == 'valid':
        return [(0, 0)] * len(kernel)
    totals = [d * (k - 1) for k, d in zip(kernel, dilation)]
    return [(total // 2, total - total // 2) for total in totals]


@register('conv1d.default', 'conv2d.default', 'conv3d.default',
          'conv1d.padding', 'conv2d.padding', 'conv3d.padding')
def convolution(op: OpView) -> Rule | None:
    """Rows a*s - p to (b-1)*s - p + d*(k-1) of the input make rows [a, b) of the output."""
    weight = op.constant('weight')
    if weight is None or op.first is None:
        return None
    places = weight.dim() - 2
    if len(op.first.shape) != places + 2:
        return None
    if op.first.axis == 0:
        return along(op, 0)
    place = row_place(op, places)
    if place is None:
        return None
    kernel, axis = list(weight.shape[2:]), 2 + place
    stride, dilation = spatial(op, 'stride', places), spatial(op, 'dilation', places)
    if isinstance(op.arg('padding'), str):
        padding = _same_padding(op, kernel, dilation)
    else:
        padding = [(p, p) for p in spatial(op, 'padding', places)]
    window = Window(kernel[place], stride[place], *padding[place], dilation[place],
                    op.first.shape[axis])
    packer = ConvolutionKernel(weight, op.constant('bias'), stride, dilation, op.arg('groups'))
    sides = [p for p, _ in padding]
    # An uneven "same" padding across the other dimensions is left to explicit padding.
    lopsided = [i for i, (p, q) in enumerate(padding) if p != q and i != place]
    flops_per_row = 2 * prod(weight.shape) * prod(op.shape[2:]) / op.shape[axis]
    copies_per_row = COPY_FLOPS * prod(op.first.shape[1:]) / op.first.shape[axis]

    def block(a: int, b: int) -> Block:
        lo, hi, above, below = window.reach(a, b)
        need, take = reading(op, axis, lo, hi)
        own = by_own_padding(window, above, below)
        if own is not None and above != below:
            made = (hi - lo + 2 * own[0] - window.dilation * (window.size - 1) - 1)
            extra = made // window.stride + 1 - (b - a)
            if extra * flops_per_row > (hi - lo) * copies_per_row:
                own = None
        pads = list(sides)
        pads[place], skip = own or (0, 0)
        compute = packer.for_slices(pads)

        def run(x):
            x = take(x)
            if own is None:
                x = padded(x, axis, above, below, 0.0)
            for i in lopsided:
                x = padded(x, 2 + i, 0, padding[i][1] - padding[i][0], 0.0)
            y = compute(x)
            return y if y.shape[axis] == b - a else y.narrow(axis, skip, b - a)
        if own is not None and above == below and not lopsided and op.first.axis is not None:
            return Block((need,), compute)
        return Block((need,), run)

    return Rule(axis, block)


@register('conv_transpose1d.default', 'conv_transpose2d.input', 'conv_transpose3d.input')
def transposed_convolution(op: OpView) -> Rule | None:
    """Input row i adds to output rows i*s - p + d*j; the block keeps those in [a, b)."""
    weight = op.constant('weight')
    if weight is None or op.first is None:
        return None
    places = weight.dim() - 2
    if len(op.first.shape) != places + 2:
        return None
    if op.first.axis == 0:
        return along(op, 0)
    place = row_place(op, places)
    if place is None:
        return None
    axis, size = 2 + place, weight.shape[2 + place]
    stride, dilation = spatial(op, 'stride', places), spatial(op, 'dilation', places)
    padding = spatial(op, 'padding', places)
    out_padding = spatial(op, 'output_padding', places)
    s, p, d, rows = stride[place], padding[place], dilation[place], op.first.shape[axis]
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[places - 1]
    bias, groups = op.constant('bias'), op.arg('groups')

    def block(a: int, b: int) -> Block:
        first = -((d * (size - 1) - a - p) // s)  # ceil((a + p - d*(size-1)) / s)
        lo = min(max(min(first, (a + p) // s), 0), rows - 1)
        hi = max(min((b - 1 + p) // s + 1, rows), lo + 1)
        need, take = reading(op, axis, lo, hi)
        skip = a + p - lo * s
        # Rows that no window reaches hold the bias alone; output padding makes them.
        short = max(0, skip + b - a - ((hi - lo - 1) * s + d * (size - 1) + 1))
        pads, outs = list(padding), list(out_padding)
        pads[place], outs[place] = 0, short

        def run(x):
            y = function(take(x), weight, bias, stride, pads, outs, groups, dilation)
            return y.narrow(axis, skip, b - a)
        return Block((need,), run)

    return Rule(axis, block)


def _pool_window(op: OpView, places: int):
    """Return (axis, place, kernel, stride, padding, dilation, Window), None when not by rows."""
    place = row_place(op, places)
    if place is None:
        return None
    axis = len(op.first.shape) - places + place
    kernel = spatial(op, 'kernel_size', places)
    stride = spatial(op, 'stride', places) if op.arg('stride') else kernel
    padding = spatial(op, 'padding', places)
    dilation = spatial(op, 'dilation', places) if 'dilation' in op.names else [1] * places
    window = Window(kernel[place], stride[place], padding[place], padding[place],
                    dilation[place], op.first.shape[axis])
    return axis, place, kernel, stride, padding, dilation, window


def _channels_by_rows(op: OpView, places: int) -> int | None:
    """Return the row axis when it is the batch or channels, which a pool leaves alone."""
    axis = op.first.axis
    return axis if axis is not None and axis < len(op.first.shape) - places else None


@register('max_pool1d.default', 'max_pool2d.default', 'max_pool3d.default')
def max_pool(op: OpView) -> Rule | None:
    """Pad with minus infinity, so padding never wins; ceil_mode's last window reads past it."""
    places = int(op.op.target[len('aten.max_pool')])
    untouched = _channels_by_rows(op, places)
    if untouched is not None:
        return along(op, untouched)
    parts = _pool_window(op, places)
    if parts is None or not op.dtype.is_floating_point:
        return None
    axis, place, kernel, stride, padding, dilation, window = parts
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[places - 1]
    ceil = op.arg('ceil_mode')

    def block(a: int, b: int) -> Block:
        lo, hi, above, below = window.reach(a, b)
        need, take = reading(op, axis, lo, hi)
        own = by_own_padding(window, above, below)
        if own is not None and own[0] > kernel[place] // 2:
            own = None  # more than the operator accepts
        pads = list(padding)
        pads[place], skip = own or (0, 0)

        def run(x):
            x = take(x)
            if own is None:
                x = padded(x, axis, above, below, float('-inf'))
            y = function(x, kernel, stride, pads, dilation, ceil)
            return y if y.shape[axis] == b - a else y.narrow(axis, skip, b - a)
        return Block((need,), run)

    return Rule(axis, block)


@register('avg_pool1d.default', 'avg_pool2d.default', 'avg_pool3d.default')
def avg_pool(op: OpView) -> Rule | None:
    """Sum the window over zero padding and divide by what the whole operator divides by."""
    places = int(op.op.target[len('aten.avg_pool')])
    untouched = _channels_by_rows(op, places)
    if untouched is not None:
        return along(op, untouched)
    parts = _pool_window(op, places)
    if parts is None:
        return None
    axis, place, kernel, stride, padding, _, window = parts
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[places - 1]
    ceil, include_pad = op.arg('ceil_mode'), op.arg('count_include_pad')
    rows = window.rows

    def counted(j: int) -> int:
        """Return how many rows the whole operator counts in window j."""
        begin = j * window.stride - window.top
        end = min(begin + window.size, rows + window.bottom)
        return end - begin if include_pad else min(end, rows) - max(begin, 0)

    def block(a: int, b: int) -> Block:
        lo, hi, above, below = window.reach(a, b)
        need, take = reading(op, axis, lo, hi)
        pads = list(padding)
        pads[place] = 0
        override = 'divisor_override' in op.names and op.arg('divisor_override')
        # The slice as given counts window.size rows in each window; correct where it was fewer.
        counts = [counted(j) for j in range(a, b)]
        factors = None
        if not override and any(count != window.size for count in counts):
            factors = torch.tensor([window.size / count for count in counts], dtype=op.dtype)
            factors = factors.reshape(-1, *[1] * (len(op.shape) - 1 - axis))
        extra = (override,) if override else ()

        def run(x):
            x = take(x)
            if above or below:
                x = padded(x, axis, above, below, 0.0)
            y = function(x, kernel, stride, pads, ceil, include_pad, *extra)
            return y if factors is None else y * factors.to(y.device)
        return Block((need,), run)

    return Rule(axis, block)
