# SPDX-License-Identifier: Apache-2.0
"""Operators that make each output element from the elements at its own place."""

from __future__ import annotations

import torch

from hp_inference.graph.ir import Const
from hp_inference.graph.rows import Rows
from hp_inference.graph.table import Block, LOCAL, OpView, PARTIAL, register, Rule

UNARY = """
    abs acos acosh asin asinh atan atanh bitwise_not ceil celu cos cosh elu erf erfc erfinv exp
    exp2 expm1 floor gelu hardshrink hardsigmoid hardswish hardtanh isfinite isinf isnan
    leaky_relu log log10 log1p log2 log_sigmoid logical_not logit mish nan_to_num neg
    reciprocal relu relu6 round rsqrt selu sgn sigmoid sign silu sin sinc sinh softplus softshrink
    sqrt square tan tanh threshold trunc clamp clamp_max clamp_min _to_copy pow.Tensor_Scalar
    add.Scalar sub.Scalar rsub.Scalar mul.Scalar div.Scalar div.Scalar_mode remainder.Scalar
    fmod.Scalar floor_divide.Scalar eq.Scalar ne.Scalar lt.Scalar le.Scalar gt.Scalar ge.Scalar
    bitwise_and.Scalar bitwise_or.Scalar masked_fill.Scalar
"""
NARY = """
    add.Tensor sub.Tensor rsub.Tensor mul.Tensor div.Tensor div.Tensor_mode pow.Tensor_Tensor
    pow.Scalar maximum minimum fmax fmin max.other min.other atan2 hypot lerp.Scalar lerp.Tensor
    addcmul addcdiv where.self where.ScalarSelf where.ScalarOther clamp.Tensor clamp_max.Tensor
    clamp_min.Tensor remainder.Tensor fmod.Tensor floor_divide eq.Tensor ne.Tensor lt.Tensor
    le.Tensor gt.Tensor ge.Tensor logical_and logical_or logical_xor bitwise_and.Tensor
    bitwise_or.Tensor bitwise_xor.Tensor masked_fill.Tensor xlogy.Tensor
    logaddexp copysign.Tensor
"""


def _overloads(names: str) -> list[str]:
    return [name if '.' in name else f'{name}.default' for name in names.split()]


def output_axis(op: OpView) -> int | None:
    """Return where the row axis lands under broadcasting: the first operand's that keeps it."""
    for operand in op.inputs:
        if operand.axis is not None:
            axis = operand.axis + len(op.shape) - len(operand.shape)
            if operand.shape[operand.axis] == op.shape[axis]:
                return axis
    return None


def narrow_constants(op: OpView, axis: int, begin: int, end: int) -> dict[str, torch.Tensor]:
    """Return the constant arguments that extend along the output's row axis, cut to the rows."""
    cut = {}
    for name in op.names:
        given = op.arg(name)
        if isinstance(given, Const):
            tensor = op.graph.constants[given.name]
            dim = axis - len(op.shape) + tensor.dim()
            if dim >= 0 and tensor.shape[dim] == op.shape[axis] and tensor.shape[dim] > 1:
                cut[name] = tensor.narrow(dim, begin, end - begin)
    return cut


@register(*_overloads(UNARY), *_overloads(NARY))
def elementwise(op: OpView) -> Rule | None:
    """Row i of the output needs row i of each input that has it; others are broadcast whole."""
    axis = output_axis(op)
    return None if axis is None else broadcast(op, axis)


@register('type_as.default')
def type_as(op: OpView) -> Rule | None:
    """Convert row by row; the tensor that lends its type is not read."""
    if op.first is None or op.first.axis is None:
        return None
    rest = (Rows(),) * (len(op.inputs) - 1)
    return Rule(op.first.axis,
                lambda a, b: Block((Rows.of(a, b), *rest), lambda x, *_: x.to(op.dtype)), view=True)


def broadcast(op: OpView, axis: int) -> Rule:
    """Return the element-wise rule for an output whose row axis is known."""
    rows = op.shape[axis]
    # Per input: does it go by rows, or is it needed whole; and if whole, along which of its
    # dimensions is it to be cut to the rows (None: it is broadcast along the row axis)?
    by_rows, cuts = [], []
    for operand in op.inputs:
        dim = axis - len(op.shape) + len(operand.shape)
        spans = dim >= 0 and operand.shape[dim] == rows
        by_rows.append(spans and operand.axis == dim)
        cuts.append(dim if spans and rows > 1 and operand.axis != dim else None)
    alone = all(by_rows)
    # Writing over an input is safe only where each element is read once, at its own place.
    out_function = op.out_variant() if all(
        operand.shape == op.shape and operand.dtype == op.dtype for operand in op.inputs) else None

    def block(a: int, b: int) -> Block:
        needs = tuple(Rows.of(a, b) if rowwise else operand.all
                      for rowwise, operand in zip(by_rows, op.inputs))
        constants = narrow_constants(op, axis, a, b)
        run = op.call(**constants)
        if any(dim is not None for dim in cuts):
            whole_run = run

            def run(*tensors):
                return whole_run(*(t if dim is None else t.narrow(dim, a, b - a)
                                   for t, dim in zip(tensors, cuts)))
        elif out_function is not None:
            return Block(needs, run, op.call(out_function, **constants))
        return Block(needs, run)

    return Rule(axis, block, LOCAL if alone else PARTIAL)
