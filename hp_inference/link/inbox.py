# SPDX-License-Identifier: Apache-2.0
"""Where the rows of one frame arrive on one side, and where its executor waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
import threading
import time
from zlib import crc32

import numpy as np
import torch

from hp_inference.link.codecs import as_bytes, check_payload, decode_into
from hp_inference.link.errors import Aborted, BadChunk, DeadlinePassed
from hp_inference.link.wire import (
    Chunk,
    code_codec,
    code_dtype,
    dtype_code,
    from_wire,
    Head,
    SliceSpec,
    VERSION,
)

_MISSING, _DECODING, _RECEIVED = range(3)
_NAMED_AT_MOST = 8  # slices in an error message


class _Slot:
    """The place of one slice: its buffer, once it has one, and the state of each chunk."""

    def __init__(self, spec: SliceSpec):
        self.spec = spec
        self.dtype = dtype_code(spec.dtype)
        self.states = bytearray(spec.chunk_count)
        self.received = 0
        self.buffer: np.ndarray | None = None
        self.begun_s = self.done_s = 0.0

    @property
    def complete(self) -> bool:
        return self.received == len(self.states)


class Inbox:
    """
    Receives the slices that the plan says must come for one frame to one side.

    Nothing is allocated or decoded on the word of the sender: a chunk is compared with the plan
    first, and a slice's buffer has the size that the plan gives it. With ``head``, chunks of
    another frame, session, plan or table are refused too; without, the caller has sorted them.
    Any number of threads may put and get. Raises ValueError when the same rows are given twice.
    """

    def __init__(self, specs: Iterable[SliceSpec], head: Head | None = None):
        self._head = head
        self._slots: dict[tuple[int, int, int], _Slot] = {}
        for spec in specs:
            if spec.key in self._slots:
                raise ValueError(f'{spec} is to be received twice; each slice travels once')
            self._slots[spec.key] = _Slot(spec)
        self._incomplete = len(self._slots)
        self._abort_reason: str | None = None
        self.arrived_s = time.monotonic()  # the last chunk, or that there was none yet
        self._duplicates = 0
        self._received_bytes = 0
        self._allocated_bytes = 0
        self._lock = threading.Lock()
        # Two conditions, so that the many waiting for rows are not woken by every chunk.
        self._arrived = threading.Condition(self._lock)
        self._decoded = threading.Condition(self._lock)

    @property
    def complete(self) -> bool:
        """Whether all slices are there."""
        return self._incomplete == 0

    @property
    def duplicates(self) -> int:
        """How many chunks came again after they had been received."""
        return self._duplicates

    @property
    def received_bytes(self) -> int:
        """Encoded payload bytes of all received chunks."""
        return self._received_bytes

    @property
    def allocated_bytes(self) -> int:
        """Bytes of all slice buffers so far."""
        return self._allocated_bytes

    @property
    def arrivals(self) -> list[tuple[SliceSpec, float, float]]:
        """The complete slices, each with the time.monotonic() of its first and last chunk."""
        return [(slot.spec, slot.begun_s, slot.done_s)
                for slot in self._slots.values() if slot.complete]

    def put(self, chunk: Chunk) -> bool:
        """
        Take a chunk in; return False if it was not needed (it came twice, or after an abort).

        Raises BadChunk, saying what is wrong and what was expected, when it is not what the plan
        says or does not decode. The chunk then counts as missing, so that a good one can follow.
        """
        slot, codec, payload = self._validate(chunk)
        states, index = slot.states, chunk.chunk_index
        with self._lock:
            # The same chunk in another thread may still turn out to be damaged: await that.
            while states[index] == _DECODING:
                self._decoded.wait()
            if self._abort_reason is not None:
                return False
            if states[index] == _RECEIVED:
                self._duplicates += 1
                return False
            if slot.buffer is None:
                slot.buffer = torch.empty(slot.spec.nbytes, dtype=torch.uint8).numpy()
                slot.begun_s = time.monotonic()
                self._allocated_bytes += slot.spec.nbytes
            states[index] = _DECODING
        state = _MISSING
        try:
            _decode(slot, index, codec, payload)
            state = _RECEIVED
        finally:
            with self._lock:
                states[index] = state
                self._decoded.notify_all()
                if state == _RECEIVED:
                    self._count(slot, payload.nbytes)
        return True

    def get(self, value_id: int, row_begin: int, row_end: int,
            deadline: float | None = None) -> torch.Tensor:
        """
        Wait until a slice is complete and return it; later calls share its memory.

        ``deadline`` is a time of ``time.monotonic()``; None waits for ever. Raises DeadlinePassed,
        Aborted once the frame is given up, ValueError for rows that are not to come at all.
        """
        slot = self._slots.get((value_id, row_begin, row_end))
        if slot is None:
            raise ValueError(self._unexpected(value_id, row_begin, row_end))
        with self._arrived:
            timeout = None if deadline is None else deadline - time.monotonic()
            self._arrived.wait_for(
                lambda: slot.complete or self._abort_reason is not None, timeout)
            if self._abort_reason is not None:
                raise Aborted(self._abort_reason)
            if not slot.complete:
                raise DeadlinePassed(
                    value_id, row_begin, row_end, slot.received, len(slot.states))
        return from_wire(slot.buffer, slot.spec)

    def check(self) -> None:
        """Raise Aborted when the frame has been given up."""
        if self._abort_reason is not None:
            raise Aborted(self._abort_reason)

    def abort(self, reason: str) -> None:
        """Give the frame up: everybody who waits or comes to wait gets Aborted(reason)."""
        with self._lock:
            if self._abort_reason is None:
                self._abort_reason = reason
            self._arrived.notify_all()

    def _validate(self, chunk: Chunk) -> tuple[_Slot, str, memoryview]:
        """Return slot, codec and payload of a chunk that agrees with the plan, else raise."""
        if chunk.version != VERSION:
            raise BadChunk(f'chunk has version {chunk.version}, expected {VERSION}; '
                           f'both sides must run the same release')
        if self._head is not None and chunk.head != self._head:
            self._validate_head(chunk)
        slot = self._slots.get((chunk.value_id, chunk.row_begin, chunk.row_end))
        if slot is None:
            raise BadChunk(self._unexpected(chunk.value_id, chunk.row_begin, chunk.row_end))
        spec = slot.spec
        if chunk.dtype != slot.dtype:
            raise BadChunk(f'{spec}: dtype is {_dtype_name(chunk.dtype)}, expected {spec.dtype}')
        if chunk.chunk_count != spec.chunk_count:
            raise BadChunk(f'{spec}: chunk_count is {chunk.chunk_count}, '
                           f'expected {spec.chunk_count}')
        index = chunk.chunk_index
        if not (isinstance(index, int) and 0 <= index < spec.chunk_count):
            raise BadChunk(f'{spec}: chunk_index is {index}, '
                           f'expected 0 to {spec.chunk_count - 1}')
        where = f'{spec} chunk {index}'
        begin, end = spec.chunk_range(index)
        if chunk.raw_bytes != end - begin:
            raise BadChunk(f'{where}: raw_bytes is {chunk.raw_bytes}, expected {end - begin}')
        try:
            codec = code_codec(chunk.codec)
            payload = as_bytes(chunk.payload)
            check_payload(payload, codec, end - begin, spec)
        except (BadChunk, TypeError, ValueError) as error:
            raise BadChunk(f'{where}: {error}') from error
        if chunk.scale != 1 or chunk.zero_point != 0:
            raise BadChunk(f'{where}: scale is {chunk.scale} and zero_point {chunk.zero_point}, '
                           'expected 1 and 0')
        # Last, as it reads all of the payload, whose size is known to be no more than it may be.
        if (crc := crc32(payload)) != chunk.crc:
            raise BadChunk(f'{where}: the payload is damaged, its CRC-32 is {crc}, the sender says '
                           f'{chunk.crc}')
        return slot, codec, payload

    def _validate_head(self, chunk: Chunk) -> None:
        for field in fields(Head):
            got, expected = getattr(chunk, field.name), getattr(self._head, field.name)
            if got != expected:
                raise BadChunk(
                    f'chunk has {field.name} {_shown(got)}, expected {_shown(expected)}')

    def _unexpected(self, value_id: int, row_begin: int, row_end: int) -> str:
        """Say that these rows are not to come, and which are: of the same value, if any."""
        all_specs = [slot.spec for slot in self._slots.values()]
        specs = [spec for spec in all_specs if spec.value_id == value_id] or all_specs
        named = ', '.join(str(spec) for spec in specs[:_NAMED_AT_MOST])
        more = f' and {len(specs) - _NAMED_AT_MOST} more' if len(specs) > _NAMED_AT_MOST else ''
        return (f'value {value_id} rows [{row_begin}, {row_end}) are not to come under this plan; '
                f'expected {named or "nothing"}{more}')

    def _count(self, slot: _Slot, payload_bytes: int) -> None:
        """Book a received chunk; the lock is held."""
        slot.received += 1
        self._received_bytes += payload_bytes
        self.arrived_s = time.monotonic()
        if slot.complete:
            slot.done_s = self.arrived_s
            self._incomplete -= 1
            self._arrived.notify_all()


def _decode(slot: _Slot, index: int, codec: str, payload: memoryview) -> None:
    """Decode a chunk to its place. Raises BadChunk, leaving undefined bytes there."""
    begin, end = slot.spec.chunk_range(index)
    window = slot.buffer[begin:end]
    try:
        decode_into(payload, codec, memoryview(window), slot.spec)
    except BadChunk as error:
        raise BadChunk(f'{slot.spec} chunk {index}: {error}') from error
    # Any other byte in a bool tensor is undefined behaviour for those who read it.
    if slot.spec.dtype is torch.bool and (window > 1).any():
        raise BadChunk(f'{slot.spec} chunk {index}: a bool has the value {window.max()}, '
                       f'expected 0 or 1')


def _dtype_name(code: int) -> str:
    try:
        return str(code_dtype(code))
    except ValueError:
        return f'the unknown code {code}'


def _shown(value: object) -> str:
    return bytes(value).hex()[:16] if isinstance(value, (bytes, bytearray)) else str(value)
