# SPDX-License-Identifier: Apache-2.0
"""Runs a Program: everything that can be decided before a frame is decided when it is prepared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import time
from typing import Protocol

import torch

from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows
from hp_inference.link.wire import SliceSpec
from hp_inference.runtime.lifetimes import Lifetimes
from hp_inference.runtime.slices import SharedPixels, slice_spec
from hp_inference.split.program import Compute, Program, Receive, Send
from hp_inference.split.shares import ROBOT


class RowsIO(Protocol):
    """What a Program needs of the link for one frame."""

    def send(self, spec: SliceSpec, rows: torch.Tensor) -> None:
        """Hand rows to the link; must not wait. The rows are not written to afterwards."""

    def receive(self, spec: SliceSpec) -> torch.Tensor:
        """Wait for the rows and return them; raises what ends the frame early."""


@dataclass
class Trace:
    """
    Where the executor's time went in one frame; times of time.monotonic(), seconds.

    ``computing``: (begin, end) between waits. ``waiting``: (begin, end, value) for each Receive.
    ``begun``: when the piece of computing under way began. ``peak_bytes``: as Lifetimes has it.
    """

    computing: list[tuple[float, float]] = field(default_factory=list)
    waiting: list[tuple[float, float, int]] = field(default_factory=list)
    peak_bytes: int = 0
    begun: float = 0.0

    def mark(self) -> None:
        """Close the piece of computing under way, so that what is here covers it."""
        now = time.monotonic()
        self.computing.append((self.begun, now))
        self.begun = now

    @property
    def compute_s(self) -> float:
        """Seconds spent computing."""
        return sum((end - begin for begin, end in self.computing), 0.0)

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting for rows."""
        return sum((end - begin for begin, end, _ in self.waiting), 0.0)


Action = Callable[[list, RowsIO], None]


class _Zeros:
    """A link that brings zeros and takes anything."""

    def send(self, spec: SliceSpec, rows: torch.Tensor) -> None:
        """Forget the rows."""

    def receive(self, spec: SliceSpec) -> torch.Tensor:
        """Return zeros of the right shape and memory order."""
        zeros = torch.zeros(spec.shape, dtype=spec.dtype)
        return (zeros.contiguous(memory_format=torch.channels_last) if len(spec.shape) == 4
                else zeros)


class Executor:
    """
    One side's Program on one device, prepared once and run for any number of frames.

    An executor may run several frames at once from several threads: a frame's state is its own.
    """

    def __init__(self, layout: Layout, program: Program):
        self.layout = layout
        self.program = program
        self.outputs = layout.graph.outputs if program.side == ROBOT else {}
        self._shared_pixels = SharedPixels(layout, program)
        # Its place, behind the values, where the image as it came is not what is computed on.
        self._raw_image = len(layout.rows)
        self._lives = Lifetimes(layout, program, set(self.outputs.values()))
        self._actions = [(self._prepare(i, step), isinstance(step, Receive), step.value)
                         for i, step in enumerate(program.steps)]
        self.peak_bytes = self._lives.peak_bytes() + self._shared_pixels.nbytes

    def run(self, io: RowsIO, image: torch.Tensor | None = None,
            trace: Trace | None = None) -> dict[str, torch.Tensor]:
        """
        Run one frame and return the model's outputs by name (nothing on the server).

        image: uint8 [1, C, H, W], best channels_last, on the robot's side; it is not written to.
        Raises ValueError for another image, and what io raises.
        """
        store: list = [None] * (self._raw_image + 1)
        if trace is not None:
            trace.begun = time.monotonic()
        if self.program.side == ROBOT and 0 in self.program.held:
            self._put_image(store, self._checked(image))
        with torch.inference_mode():
            if trace is None:
                for action, _, _ in self._actions:
                    action(store, io)
            else:
                self._run_traced(store, io, trace)
            return {name: store[value] if value in self.program.held else self._maker(value)()
                    for name, value in self.outputs.items()}

    def warm_up(self) -> None:
        """Run once on zeros, so that weights are packed and kernels chosen before a frame waits."""
        image = self.layout.graph.input
        self.run(_Zeros(), torch.zeros(image.shape, dtype=torch.uint8).contiguous(
            memory_format=torch.channels_last))

    def _checked(self, image: torch.Tensor | None) -> torch.Tensor:
        """Return the rows of the image that the program uses; refuse what is not the image."""
        expected = self.layout.graph.input.shape
        if image is None or image.dtype != torch.uint8 or tuple(image.shape) != expected:
            got = 'none' if image is None else f'{image.dtype} {list(image.shape)}'
            raise ValueError(f'the image is {got}, expected torch.uint8 {list(expected)}')
        low, high = self.program.held[0]
        return image.narrow(2, low, high - low)

    def _put_image(self, store: list, rows: torch.Tensor) -> None:
        if self._shared_pixels.chunks:
            store[self._raw_image] = rows
            rows = self._shared_pixels.of(rows, self.program.held[0][0])
        store[0] = rows.to(self.layout.graph.device)

    def _run_traced(self, store: list, io: RowsIO, trace: Trace) -> None:
        trace.peak_bytes = max(trace.peak_bytes, self.peak_bytes)
        for action, waits, value in self._actions:
            if not waits:
                action(store, io)
                continue
            trace.mark()
            before = trace.begun
            try:
                action(store, io)
            finally:
                trace.begun = time.monotonic()
                trace.waiting.append((before, trace.begun, value))
        if self.layout.graph.device.type == 'cuda':
            torch.cuda.synchronize(self.layout.graph.device)
        trace.mark()

    def _prepare(self, i: int, step) -> Action:
        if isinstance(step, Compute):
            return self._compute(i, step)
        low, _ = self.program.held[step.value]
        axis, drops = self.layout.axes[step.value], self._lives.drops[i]
        begin, count, spec = step.begin - low, step.end - step.begin, slice_spec(self.layout, step)
        if isinstance(step, Send):
            shared = step.value == 0 and self._shared_pixels.chunks
            source = self._raw_image if shared else step.value

            def send(store, io):
                rows = store[source]
                io.send(spec, rows if axis is None else rows.narrow(axis, begin, count))
                for value in drops:
                    store[value] = None
            return send
        put = self._putter(step.value, step.begin, step.end)

        def receive(store, io):
            put(store, io.receive(spec).to(self.layout.graph.device))
            for value in drops:
                store[value] = None
        return receive

    def _compute(self, i: int, step: Compute) -> Action:
        op, rule = self.layout.graph.ops[step.value - 1], self.layout.rules[step.value]
        block = rule.block(step.begin, step.end)
        takes = [self._taker(ref, need) for ref, need in zip(op.refs, block.needs)]
        drops, run, value = self._lives.drops[i], block.run, step.value
        whole = self.program.held[value] == (step.begin, step.end)
        over = self._overwritable(op, block) if whole else None
        if over is not None:
            out = block.out
            self._lives.written_over[value] = over

            def action(store, io):
                store[value] = out(*[store[ref] for ref in op.refs], out=store[over])
                for gone in drops:
                    store[gone] = None
            return action
        if whole and len(op.refs) == 1 and takes[0] is None:
            source = op.refs[0]

            def action(store, io):
                store[value] = run(store[source])
                for gone in drops:
                    store[gone] = None
            return action
        inputs = [(ref, take) for ref, take in zip(op.refs, takes)]
        if block.out is not None and not whole and self._rows_are_dense(value):
            return self._compute_into(step, inputs, block.out, drops)
        put = self._putter(value, step.begin, step.end)

        def action(store, io):
            put(store, run(*[store[ref] if take is None else take(store[ref])
                             for ref, take in inputs]))
            for gone in drops:
                store[gone] = None
        return action

    def _compute_into(self, step: Compute, inputs: list, out: Callable, drops) -> Action:
        """Return the action that writes a part of a value straight into its rows."""
        value, axis = step.value, self.layout.axes[step.value]
        offset, count = step.begin - self.program.held[value][0], step.end - step.begin
        make = self._maker(value)

        def action(store, io):
            if store[value] is None:
                store[value] = make()
            out(*[store[ref] if take is None else take(store[ref]) for ref, take in inputs],
                out=store[value].narrow(axis, offset, count))
            for gone in drops:
                store[gone] = None
        return action

    def _taker(self, value: int, need: Rows) -> Callable | None:
        """Return how to take the needed rows out of what is held; None: just as it is held."""
        low, high = self.program.held.get(value, (0, 0))
        axis = self.layout.axes[value]
        if not need:
            return lambda held: None
        if axis is None or need.intervals == ((low, high),):
            return None
        parts = [(begin - low, end - begin) for begin, end in need]
        if len(parts) == 1:
            begin, count = parts[0]
            return lambda held: held.narrow(axis, begin, count)
        return lambda held: torch.cat([held.narrow(axis, b, n) for b, n in parts], axis)

    def _maker(self, value: int) -> Callable[[], torch.Tensor]:
        """Return what allocates the rows that are held of a value."""
        shape = self.layout.slice_shape(value, *self.program.held.get(value, (0, 0)))
        dtype, device = getattr(torch, self.layout.graph.values[value].dtype), \
            self.layout.graph.device
        image = len(shape) == 4 and self.layout.axes[value] == 2
        memory = torch.channels_last if image else torch.contiguous_format
        return lambda: torch.empty(shape, dtype=dtype, device=device, memory_format=memory)

    def _rows_are_dense(self, value: int) -> bool:
        """Tell whether an interval of the rows of an allocated value is one piece of memory."""
        shape, axis = self.layout.graph.values[value].shape, self.layout.axes[value]
        before = shape[:1] if len(shape) == 4 and axis == 2 else shape[:axis]
        return all(extent == 1 for extent in before)

    def _putter(self, value: int, begin: int, end: int) -> Callable:
        """Return how to store rows [begin, end): as they are when they are all that is held."""
        low, high = self.program.held[value]
        if (low, high) == (begin, end):
            def adopt(store, rows):
                store[value] = rows
            return adopt
        axis, make = self.layout.axes[value], self._maker(value)

        def copy(store, rows):
            if store[value] is None:
                store[value] = make()
            store[value].narrow(axis, begin - low, end - begin).copy_(rows)
        return copy

    def _overwritable(self, op, block) -> int | None:
        """
        Return an input that the result may overwrite, None when there is none.

        It must be whole, be read by nothing else, also not through memory that it shares, not be
        the link's, and have been made by an operator that made new memory.
        """
        if block.out is None:
            return None
        for ref in op.refs:
            if (self._lives.read_once(ref) and not self.layout.rules[ref].view
                    and all(self._taker(r, n) is None for r, n in zip(op.refs, block.needs))):
                return ref
        return None
