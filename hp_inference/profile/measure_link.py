# SPDX-License-Identifier: Apache-2.0
"""Measure what travelling costs a host: how well and fast values compress, what a chunk takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import queue
from statistics import median
import time

import torch

from hp_inference.graph.ir import Op
from hp_inference.graph.layout import Layout
from hp_inference.link.codecs import decode_into, SliceEncoder
from hp_inference.link.outbox import Outbox, SentSlice
from hp_inference.link.wire import Chunk, CHUNK_BYTES, CODEC_CODES, Head, SliceSpec, to_wire
from hp_inference.profile.device import CodecSpeed, digits
from hp_inference.profile.walk import Held, Walk
from hp_inference.runtime.slices import slice_spec
from hp_inference.split.program import Send

# Of each value so many bytes from the middle are encoded.
SAMPLE_BYTES = 8 * CHUNK_BYTES
# How many slices of one chunk, tiny and full ones, are sent to see what a chunk costs.
SLICES = 100
HEAD = Head(session=1, frame=1, table_digest=bytes(32), plan_index=0)


@dataclass(frozen=True)
class LinkCosts:
    """What a DeviceProfile holds under the same names."""

    codecs: dict[str, CodecSpeed]
    ratios: dict[str, tuple[float, ...]]
    message_s: float
    byte_s: float


def link_costs(walk: Walk, image: torch.Tensor,
               progress: Callable[[str, int, int], None] = lambda what, done, of: None
               ) -> LinkCosts:
    """
    Measure every codec on the values of an image, and what a chunk costs without them.

    A codec that is for none of the values (JPEG and an image of five channels) is left out.
    """
    for codec in CODEC_CODES:  # the first time makes contexts and tables
        CodecBench(codec, walk.layout).add(0, image)
    benches = [CodecBench(codec, walk.layout) for codec in CODEC_CODES]

    def visit(op: Op, held: Held) -> torch.Tensor:
        made = walk.compute(op, held)
        for bench in benches:
            bench.add(op.output, made)
        progress('codecs, values', op.output, len(walk.layout.graph.ops))
        return made
    for bench in benches:
        bench.add(0, image)
    walk.go(image, visit)
    used = [bench for bench in benches if bench.tried]
    return LinkCosts({bench.codec: bench.speed() for bench in used},
                     {bench.codec: tuple(bench.ratios) for bench in used}, *chunk_costs())


class CodecBench:
    """One codec on middle rows of one value after the other; ``ratios``: encoded / raw of each."""

    def __init__(self, codec: str, layout: Layout):
        self.codec, self.ratios = codec, []
        self._layout = layout
        # Raw bytes and seconds of the chunks that it was tried on, and of those it was used for.
        self._encoded, self._decoded = [0, 0.0], [0, 0.0]

    @property
    def tried(self) -> bool:
        """Whether anything could be encoded at all."""
        return self._encoded[0] > 0

    def add(self, value: int, tensor: torch.Tensor) -> None:
        """Encode and decode the next value; what the codec can't take has ratio 1."""
        rows, axis = self._layout.rows[value], self._layout.axes[value]
        nbytes = self._layout.graph.values[value].nbytes
        count = max(1, min(rows, rows * SAMPLE_BYTES // max(1, nbytes)))
        begin = (rows - count) // 2
        try:
            spec = slice_spec(self._layout, Send(value, begin, begin + count, self.codec))
        except ValueError:  # JPEG is for the image alone
            self.ratios.append(1.0)
            return
        if axis is not None:
            tensor = tensor.narrow(axis, begin, count)
        self.ratios.append(digits(self._carry(tensor, spec)))

    def speed(self) -> CodecSpeed:
        """Return how fast one thread was where the codec was tried."""
        # What it never paid to encode is never decoded either.
        return CodecSpeed(*(digits(nbytes / seconds) for nbytes, seconds in (
            self._encoded, self._decoded if self._decoded[0] else self._encoded)))

    def _carry(self, tensor: torch.Tensor, spec: SliceSpec) -> float:
        """Encode and decode a slice chunk by chunk; return encoded / raw bytes."""
        wire, encoder, encoded = memoryview(to_wire(tensor, spec)), SliceEncoder(spec), 0
        for index in range(spec.chunk_count):
            begin, end = spec.chunk_range(index)
            begun = time.thread_time()
            codec, payload = encoder.encode(wire[begin:end])
            done = time.thread_time()
            encoded += len(payload)
            if codec == self.codec or index == 0:
                self._encoded[0] += end - begin
                self._encoded[1] += done - begun
            if codec == self.codec:
                received = memoryview(bytearray(end - begin))
                begun = time.thread_time()
                decode_into(payload, codec, received, spec)
                self._decoded[0] += end - begin
                self._decoded[1] += time.thread_time() - begun
        return encoded / spec.nbytes if encoded else 1.0


def copy_chunk(chunk: Chunk) -> None:
    """Do with a chunk what any link has to do: copy its payload into a message."""
    replace(chunk, payload=bytes(chunk.payload))


class _Measured:
    """A frame whose slices say what sending them took."""

    head = HEAD

    def __init__(self, publish: Callable[[Chunk], object], sent: Callable[[SentSlice], None]):
        self.publish, self.sent = publish, sent

    def failed(self, spec: SliceSpec, error: Exception) -> None:
        """Not expected of a copy."""
        raise error


def chunk_costs(publish: Callable[[Chunk], object] = copy_chunk) -> tuple[float, float]:
    """
    Return the seconds that a sender needs per chunk and per byte, besides its codec.

    ``publish`` takes each chunk, like that of an OutgoingFrame.
    """
    sent: queue.SimpleQueue[SentSlice] = queue.SimpleQueue()
    outbox = Outbox('chunk costs')
    frame = _Measured(publish, sent.put)
    seconds: dict[int, list[float]] = {1: [], CHUNK_BYTES: []}
    for _ in range(SLICES):
        for nbytes, series in seconds.items():
            spec = SliceSpec(0, 0, 1, (nbytes,), None, torch.uint8)
            outbox.send(torch.zeros(nbytes, dtype=torch.uint8), spec, frame)
            done = sent.get()
            series.append(done.end_s - done.start_s)
    outbox.close()
    tiny, full = map(median, seconds.values())
    return digits(tiny), digits(max(0.0, full - tiny) / CHUNK_BYTES)
