# SPDX-License-Identifier: Apache-2.0
"""A model's operators one after the other, whole and in parts, as an Executor computes them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hp_inference.graph.ir import Op
from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows

Held = dict[int, torch.Tensor]
Visit = Callable[[Op, Held], torch.Tensor]


class Piece:
    """
    Rows [begin, end) of an operator's value.

    ``over``: the value that it is computed into the memory of, None for memory of its own.
    """

    def __init__(self, layout: Layout, op: Op, begin: int, end: int, over: int | None = None):
        self.whole = (begin, end) == (0, layout.rows[op.output])
        self._block = layout.rules[op.output].block(begin, end)
        self._over = None if over is None else op.refs.index(over)
        self._takes = []  # argument, its row axis, the rows that a side holds, of those the needed
        for ref, need in zip(op.refs, self._block.needs):
            low, high = (0, layout.rows[ref]) if self.whole else need.hull
            self._takes.append((ref, layout.axes[ref], low, high,
                                Rows((a - low, b - low) for a, b in need)))

    def inputs(self, held: Held) -> list[torch.Tensor]:
        """
        Return of each argument the rows that a side holds.

        For a part these are copies: newly made, as in a frame, and not missed when written over.
        """
        if self.whole:
            return [held[ref] for ref, *_ in self._takes]
        return [held[ref] if axis is None else held[ref].narrow(axis, low, high - low).clone()
                for ref, axis, low, high, _ in self._takes]

    def run(self, tensors: list[torch.Tensor]) -> torch.Tensor:
        """Compute the rows from ``inputs``."""
        arguments = [_taken(tensor, axis, need)
                     for tensor, (_, axis, _, _, need) in zip(tensors, self._takes)]
        if self._over is None:
            return self._block.run(*arguments)
        return self._block.out(*arguments, out=tensors[self._over])


def _taken(tensor: torch.Tensor, axis: int | None, need: Rows) -> torch.Tensor | None:
    """Return the needed rows in one tensor; None where none are."""
    if not need:
        return None
    if axis is None or need.intervals == ((0, tensor.shape[axis]),):
        return tensor
    parts = [tensor.narrow(axis, begin, end - begin) for begin, end in need]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


class Walk:
    """
    A way through a graph from the image to the outputs, to be gone any number of times.

    A value is dropped once nobody reads it any more. ``over[v]``: see Piece.
    """

    def __init__(self, layout: Layout):
        self.layout, graph = layout, layout.graph
        kept, readers = {0, *graph.outputs.values()}, graph.consumers()
        self._gone: list[list[int]] = [[] for _ in graph.values]
        for value, ops in enumerate(readers):
            if value not in kept:
                self._gone[max([value, *(op.output for op in ops)])].append(value)
        self.over: list[int | None] = [None]
        self._whole: list[Piece | None] = [None]
        for op in graph.ops:
            can = layout.rules[op.output].block(0, layout.rows[op.output]).out is not None
            over = [ref for ref in op.refs if can and ref not in kept
                    and len(readers[ref]) == 1 and not layout.rules[ref].view]
            self.over.append(over[0] if over else None)
            self._whole.append(self.piece(op, layout.rows[op.output]))

    def piece(self, op: Op, rows: int) -> Piece:
        """Return so many rows from the middle of an operator's value."""
        begin = (self.layout.rows[op.output] - rows) // 2
        return Piece(self.layout, op, begin, begin + rows, self.over[op.output])

    def go(self, image: torch.Tensor, visit: Visit) -> None:
        """Visit every operator with the values that it may read; it returns its own, whole."""
        held = {0: image}
        for op in self.layout.graph.ops:
            held[op.output] = visit(op, held)
            for gone in self._gone[op.output]:
                del held[gone]

    def compute(self, op: Op, held: Held) -> torch.Tensor:
        """Return an operator's value, whole."""
        piece = self._whole[op.output]
        return piece.run(piece.inputs(held))
