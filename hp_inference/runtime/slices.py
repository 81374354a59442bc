# SPDX-License-Identifier: Apache-2.0
"""What the slices of a Program look like, and the image once rows of it have travelled as JPEG."""

from __future__ import annotations

import torch

from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows
from hp_inference.link.codecs import as_received
from hp_inference.link.wire import from_wire, SliceSpec, to_wire
from hp_inference.split.program import Compute, Program, Receive, Send
from hp_inference.split.row_rules import needs_of


def slice_spec(layout: Layout, step: Send | Receive) -> SliceSpec:
    """Return what a slice that travels looks like."""
    return SliceSpec(step.value, step.begin, step.end,
                     layout.slice_shape(step.value, step.begin, step.end),
                     layout.axes[step.value],
                     getattr(torch, layout.graph.values[step.value].dtype), step.codec)


class SharedPixels:
    """
    Rows of the image that go to the server as JPEG and that the robot computes on as well.

    Both sides must compute on the same pixels, those that come out of the JPEG. ``chunks`` are the
    chunks of such rows, as slices of one chunk each; ``nbytes`` is what a frame needs for them.
    """

    def __init__(self, layout: Layout, program: Program):
        sends = [send for send in program.sends if send.codec == 'jpeg']
        read = _rows_read(layout, program) if sends else Rows()
        self.chunks: list[SliceSpec] = []
        for send in sends:
            spec = slice_spec(layout, send)
            step = spec.chunk_bytes // spec.row_bytes
            for begin in range(send.begin, send.end, step):
                end = min(begin + step, send.end)
                if read & Rows.of(begin, end):
                    self.chunks.append(slice_spec(layout, Send(0, begin, end, 'jpeg')))
        self.nbytes = 0
        if self.chunks:
            low, high = program.held[0]
            self.nbytes = (high - low) * self.chunks[0].row_bytes

    def of(self, rows: torch.Tensor, first: int) -> torch.Tensor:
        """
        Return image rows with those that travel as the server will have them.

        rows: uint8 [1, C, rows, W], from row ``first`` of the image on; not written to. What the
        link sends is encoded once more, from the same pixels to the same bytes.
        """
        shared = rows.clone(memory_format=torch.channels_last)
        for spec in self.chunks:
            begin, count = spec.row_begin - first, spec.row_end - spec.row_begin
            raw = memoryview(to_wire(rows.narrow(2, begin, count), spec))
            shared.narrow(2, begin, count).copy_(from_wire(as_received(raw, spec), spec))
        return shared


def _rows_read(layout: Layout, program: Program) -> Rows:
    """Return the rows of the image that a Program computes on."""
    read = Rows()
    for step in program.steps:
        if isinstance(step, Compute) and 0 in layout.graph.ops[step.value - 1].refs:
            read = read | needs_of(layout, step.value, Rows.of(step.begin, step.end))[0]
    return read
