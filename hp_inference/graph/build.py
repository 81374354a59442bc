# SPDX-License-Identifier: Apache-2.0
"""Putting a graph together, operator by operator; what nothing reads is left out at the end."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hp_inference.graph.ir import Const, Graph, leaves, Op, Ref, substitute, Value


class Builder:
    """Collects values and operators in order; ``finish`` numbers what the outputs need."""

    def __init__(self, model: str, image: Value, constants: dict[str, torch.Tensor]):
        self.model = model
        self.values = [image]
        self.ops: list[Op] = []
        self.constants = dict(constants)
        self.recipes: dict[str, tuple] = {}

    def add(self, target: str, args, kwargs=None, *, name: str, shape, dtype: str,
            item: int | None = None) -> Ref:
        """Append an operator and return its value."""
        value = Value(len(self.values), name, tuple(shape), dtype)
        self.values.append(value)
        self.ops.append(Op(target, tuple(args), dict(kwargs or {}), value.id, item))
        return Ref(value.id)

    def constant(self, name: str, tensor: torch.Tensor, recipe: tuple = ()) -> Const:
        """Add a constant under a name of its own; ``recipe`` says of which others it was made."""
        unique, number = name, 0
        while unique in self.constants:
            number += 1
            unique = f'{name}_{number}'
        self.constants[unique] = tensor.detach()
        if recipe:
            self.recipes[unique] = recipe
        return Const(unique)

    def finish(self, outputs: dict[str, Ref], digest: str = '') -> Graph:
        """Return the graph of the operators that the outputs need, numbered in order."""
        wanted = {ref.value for ref in outputs.values()}
        kept: list[Op] = []
        for op in reversed(self.ops):
            if op.output in wanted:
                wanted.update(op.refs)
                kept.append(op)
        kept.reverse()
        number = {0: 0, **{op.output: i + 1 for i, op in enumerate(kept)}}

        def renumber(leaf):
            return Ref(number[leaf.value]) if isinstance(leaf, Ref) else leaf
        ops = [Op(op.target, substitute(op.args, renumber), substitute(op.kwargs, renumber),
                  number[op.output], op.item) for op in kept]
        values = [self.values[0]]
        for op in kept:
            old = self.values[op.output]
            values.append(Value(number[op.output], old.name, old.shape, old.dtype))
        used = {leaf.name for op in ops for leaf in leaves((op.args, op.kwargs))
                if isinstance(leaf, Const)}
        constants = {name: self.constants[name] for name in self.constants if name in used}
        return Graph(self.model, values, ops,
                     {name: number[ref.value] for name, ref in outputs.items()},
                     constants, digest)


def rewrite(graph: Graph, change: Callable[[Builder, Op, Callable], Ref | None]) -> Graph:
    """
    Return the graph with some operators replaced.

    ``change(builder, op, moved)`` returns the value that stands for the operator's output, or None
    to keep the operator; ``moved`` translates old arguments into those of the new graph.
    """
    builder = Builder(graph.model, graph.values[0], graph.constants)
    stands: dict[int, Ref] = {0: Ref(0)}

    def moved(item):
        return substitute(item, lambda leaf: stands[leaf.value]
                          if isinstance(leaf, Ref) else leaf)
    for op in graph.ops:
        ref = change(builder, op, moved)
        if ref is None:
            old = graph.values[op.output]
            ref = builder.add(op.target, moved(op.args), moved(op.kwargs), name=old.name,
                              shape=old.shape, dtype=old.dtype, item=op.item)
        stands[op.output] = ref
    return builder.finish({name: stands[v] for name, v in graph.outputs.items()}, graph.digest)
