# SPDX-License-Identifier: Apache-2.0
"""Reductions: row by row where they leave the row axis alone, else whole."""

from __future__ import annotations

from hp_inference.graph.table import along, OpView, register, Rule

# These are the same taken in two steps, first within rows and then over them.
SEPARABLE = ('mean.dim', 'sum.dim_IntList', 'amax.default', 'amin.default')


def reduced_dims(op: OpView) -> list[int]:
    """Return the dimensions that the operator reduces over; all where none are named."""
    dims = op.arg('dim')
    size = len(op.first.shape)
    if dims is None or dims == []:
        return list(range(size))
    return [d % size for d in ([dims] if isinstance(dims, int) else dims)]


@register(*SEPARABLE, 'var.correction', 'std.correction', 'var.dim', 'std.dim', 'prod.dim_int',
          'logsumexp.default', 'argmax.default', 'argmin.default', 'any.dim', 'any.dims',
          'all.dim', 'all.dims', 'max.dim', 'min.dim', 'linalg_vector_norm.default',
          'norm.ScalarOpt_dim', 'topk.default', 'sort.default', 'median.dim', 'kthvalue.default',
          'count_nonzero.default', 'count_nonzero.dim_IntList', 'aminmax.default',
          'var_mean.dim', 'var_mean.correction', 'std_mean.dim', 'std_mean.correction')
def reduction(op: OpView) -> Rule | None:
    """Leave the row axis alone, shifted where reduced dimensions before it go."""
    axis = op.first.axis if op.first else None
    dims = reduced_dims(op)
    if axis is None or axis in dims:
        return None
    keeps = len(op.shape) == len(op.first.shape)
    return along(op, axis if keeps else axis - sum(d < axis for d in dims))
