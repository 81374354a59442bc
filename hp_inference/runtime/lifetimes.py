# SPDX-License-Identifier: Apache-2.0
"""How long a Program needs each value: what is dropped when, and what may be written over."""

from __future__ import annotations

import torch

from hp_inference.graph.layout import Layout
from hp_inference.split.program import Compute, Program


class Lifetimes:
    """
    Where in a Program each value is used for the last time.

    ``drops[i]``: the values that nobody uses after step i. ``kept``: values that stay, the outputs.
    ``written_over``: for a value that is computed into the memory of another, that other one.
    """

    def __init__(self, layout: Layout, program: Program, kept: set[int]):
        self._layout, self._program, self._kept = layout, program, kept
        last_use: dict[int, int] = {}
        self._reads: dict[int, int] = {}
        # Not to be written over: the image, the outputs, and what the link may still read (what is
        # sent) or has written (what is received).
        self._pinned = kept | {0}
        for i, step in enumerate(program.steps):
            last_use[step.value] = i
            if isinstance(step, Compute):
                for value in set(layout.graph.ops[step.value - 1].refs):
                    last_use[value] = i
                    self._reads[value] = self._reads.get(value, 0) + 1
            else:
                self._pinned.add(step.value)
        ends: list[list[int]] = [[] for _ in program.steps]
        for value, last in last_use.items():
            if value not in kept:
                ends[last].append(value)
        self.drops = [tuple(values) for values in ends]
        self.written_over: dict[int, int] = {}

    def read_once(self, value: int) -> bool:
        """Return whether only one step reads a value, and nothing needs its memory afterwards."""
        return value not in self._pinned and self._reads[value] == 1

    def peak_bytes(self) -> int:
        """
        Return the most that the values held at once take, image and arrivals included.

        A view counts as if it were a copy; what an operator uses within itself does not count.
        """
        sizes = {0: self._nbytes(0)} if 0 in self._program.held else {}
        held = peak = sum(sizes.values())
        for step, drops in zip(self._program.steps, self.drops):
            value = step.value
            if value not in sizes and value in self.written_over:
                sizes[value] = sizes.pop(self.written_over[value])
            elif value not in sizes:
                sizes[value] = self._nbytes(value)
                held += sizes[value]
                peak = max(peak, held)
            held -= sum(sizes.pop(gone, 0) for gone in drops)
        return peak

    def _nbytes(self, value: int) -> int:
        shape = self._layout.slice_shape(value, *self._program.held[value])
        size = getattr(torch, self._layout.graph.values[value].dtype).itemsize
        for extent in shape:
            size *= extent
        return size
