# SPDX-License-Identifier: Apache-2.0
"""What travels: the codes of dtypes and codecs, chunks, slices and the order of their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
import math

import numpy as np
import torch

VERSION = 3
"""Version of the chunk format. Both sides must speak the same one."""

CHUNK_BYTES = 60_000
"""Most raw bytes in one chunk; a multiple of 16, so that no element is torn apart."""

JPEG_ROWS = 16
"""Rows of a JPEG's blocks when its colour is halved both ways: chunks hold a multiple of these."""

DTYPE_CODES = {
    torch.bool: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.int16: 4,
    torch.int32: 5,
    torch.int64: 6,
    torch.float16: 7,
    torch.bfloat16: 8,
    torch.float32: 9,
    torch.float64: 10,
    torch.complex64: 11,
    torch.complex128: 12,
}
_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}

CODEC_CODES = {
    'none': 0,
    'zstd': 1,
    'shuffle_zstd': 2,
    'float16_shuffle_zstd': 3,
    'uint8_zstd': 4,
    'jpeg': 5,
}
_CODECS = {code: name for name, code in CODEC_CODES.items()}


def dtype_code(dtype: torch.dtype) -> int:
    """Return the wire code of a dtype. Raises ValueError for one that has none."""
    if dtype not in DTYPE_CODES:
        known = ', '.join(str(known) for known in DTYPE_CODES)
        raise ValueError(f'{dtype} cannot travel; dtypes that can: {known}')
    return DTYPE_CODES[dtype]


def code_dtype(code: int) -> torch.dtype:
    """Return the dtype of a wire code. Raises ValueError for an unknown code."""
    if code not in _DTYPES:
        raise ValueError(f'{code} is no dtype code; codes are 1 to {max(_DTYPES)}')
    return _DTYPES[code]


def codec_code(name: str) -> int:
    """Return the wire code of a codec. Raises ValueError for an unknown name."""
    if name not in CODEC_CODES:
        raise ValueError(f'{name!r} is no codec; codecs: {", ".join(CODEC_CODES)}')
    return CODEC_CODES[name]


def code_codec(code: int) -> str:
    """Return the codec of a wire code. Raises ValueError for an unknown code."""
    if code not in _CODECS:
        raise ValueError(f'{code} is no codec code; codes are 0 to {max(_CODECS)}')
    return _CODECS[code]


def chunk_bytes(codec: str, row_bytes: int) -> int:
    """
    Return how many raw bytes of a slice go into each of its chunks; the last may hold fewer.

    Both sides, and who predicts them, cut by this rule. A JPEG holds whole rows, so there it
    depends on the bytes of a row, which must not be more than CHUNK_BYTES.
    """
    if codec != 'jpeg':
        return CHUNK_BYTES
    rows = CHUNK_BYTES // row_bytes
    return (rows // JPEG_ROWS * JPEG_ROWS or rows) * row_bytes


@dataclass(frozen=True, slots=True)
class Head:
    """Which frame of which session, under which plan of which plan table, a chunk belongs to."""

    session: int
    frame: int
    table_digest: bytes
    plan_index: int


@dataclass(slots=True, kw_only=True)
class Chunk:
    """
    One piece of a slice, as it travels; the ROS message TensorChunk holds the same fields.

    ``raw_bytes`` is the size of the decoded piece, ``payload`` the encoded bytes. ``scale`` and
    ``zero_point`` are 1 and 0: what a codec needs to know is in its payload. Who sends it numbers
    it (``seq``, from 1 on) and notes when, on its monotonic clock (``sent_s``). ``crc`` is the
    CRC-32 of the payload, as of zlib: not every codec would notice a damage.
    """

    version: int = VERSION
    session: int
    frame: int
    table_digest: bytes
    plan_index: int
    value_id: int
    row_begin: int
    row_end: int
    chunk_index: int
    chunk_count: int
    dtype: int
    codec: int
    scale: float = 1.0
    zero_point: int = 0
    seq: int = 0
    sent_s: float = 0.0
    raw_bytes: int
    crc: int
    payload: bytes | bytearray | memoryview

    @property
    def head(self) -> Head:
        """Return the part that is the same for all chunks of a frame."""
        return Head(self.session, self.frame, self.table_digest, self.plan_index)


@dataclass(frozen=True)
class SliceSpec:
    """
    A block of rows of one value, as both sides know it from the plan.

    ``shape`` is the shape of the slice itself, ``axis`` its row axis. A value without rows has
    ``axis`` None and the row interval [0, 1). Each chunk travels under ``codec`` or, where that
    does not pay, under 'none'. Raises ValueError when this does not fit together.
    """

    value_id: int
    row_begin: int
    row_end: int
    shape: tuple[int, ...]
    axis: int | None
    dtype: torch.dtype
    codec: str = 'none'

    def __post_init__(self):
        """Refuse a slice that cannot exist."""
        dtype_code(self.dtype)
        codec_code(self.codec)
        if not 0 <= self.row_begin < self.row_end:
            raise ValueError(f'{self}: expected 0 <= first row < end of rows')
        if self.axis is None and (self.row_begin, self.row_end) != (0, 1):
            raise ValueError(f'{self}: a value without a row axis is one row, [0, 1)')
        if self.axis is not None and not 0 <= self.axis < len(self.shape):
            raise ValueError(f'{self}: axis {self.axis} is not in the shape {self.shape}')
        if any(size < 0 for size in self.shape):
            raise ValueError(f'{self}: shape {self.shape} has a negative size')
        if self.codec == 'jpeg':
            self._check_pixels()

    def __str__(self) -> str:
        """Name the rows as error messages do."""
        return f'value {self.value_id} rows [{self.row_begin}, {self.row_end})'

    @cached_property
    def key(self) -> tuple[int, int, int]:
        """Which rows of which value these are; a side sends or receives them once a frame."""
        return self.value_id, self.row_begin, self.row_end

    @cached_property
    def nbytes(self) -> int:
        """Raw bytes of the slice."""
        return math.prod(self.shape) * self.dtype.itemsize

    @cached_property
    def row_bytes(self) -> int:
        """Raw bytes of one row."""
        return self.nbytes // (self.row_end - self.row_begin)

    @cached_property
    def chunk_bytes(self) -> int:
        """Raw bytes of every chunk but the last, which may be smaller."""
        return chunk_bytes(self.codec, self.row_bytes)

    @cached_property
    def chunk_count(self) -> int:
        """Return how many chunks the slice travels in: at least 1, even if it is empty."""
        return max(1, -(-self.nbytes // self.chunk_bytes))

    @cached_property
    def wire_order(self) -> tuple[int, ...]:
        """
        Return the dimensions in the order of the wire, slowest first.

        Rows come first, so that rows [a, b) are one run of bytes. Images (4-D, rows on axis 2 or
        whole) keep their channels last, as they lie in memory. Dimensions of size 1 in front of
        the rows stay there: the bytes are the same, and the received tensor has the usual strides.
        """
        image = len(self.shape) == 4 and self.axis in (None, 2)
        order = [0, 2, 3, 1] if image else list(range(len(self.shape)))
        if self.axis is not None:
            before = order[:order.index(self.axis)]
            if any(self.shape[dim] != 1 for dim in before):
                order.remove(self.axis)
                order.insert(0, self.axis)
        return tuple(order)

    def chunk_range(self, index: int) -> tuple[int, int]:
        """Return the byte range [begin, end) of one chunk in the slice's wire bytes."""
        if not 0 <= index < self.chunk_count:
            raise IndexError(f'{self} has chunks 0 to {self.chunk_count - 1}, not {index}')
        begin = index * self.chunk_bytes
        return begin, min(begin + self.chunk_bytes, self.nbytes)

    def check(self, tensor: torch.Tensor) -> None:
        """Raise ValueError when a tensor is not of this slice's shape and dtype."""
        if tuple(tensor.shape) != self.shape or tensor.dtype != self.dtype:
            raise ValueError(f'{self}: got {tuple(tensor.shape)} {tensor.dtype}, '
                             f'expected {self.shape} {self.dtype}')

    def _check_pixels(self) -> None:
        """Refuse what is not rows of an image that a JPEG can hold."""
        image = self.dtype is torch.uint8 and self.axis == 2 and len(self.shape) == 4 and (
            self.shape[0] == 1 and self.shape[1] in (1, 3)
            and self.shape[2] == self.row_end - self.row_begin and self.shape[3] > 0)
        if not image:
            raise ValueError(f'{self}: {self.shape} {self.dtype} can not travel as JPEG, only '
                             'torch.uint8 (1, 1 or 3, rows, width) with its rows on axis 2')
        if self.row_bytes > CHUNK_BYTES:
            raise ValueError(f'{self}: a row has {self.row_bytes} bytes, more than the '
                             f'{CHUNK_BYTES} of a chunk: it can not travel as JPEG')


def to_wire(tensor: torch.Tensor, spec: SliceSpec) -> np.ndarray:
    """
    Return the bytes of a slice in wire order, as a 1-D uint8 array.

    Shares memory with the tensor where that already has this order (a channels_last image, also a
    narrowed one), else copies once; a tensor on another device comes to the CPU first. Raises
    ValueError when shape or dtype differ from the spec.
    """
    spec.check(tensor)
    ordered = tensor.detach().resolve_conj().cpu().permute(spec.wire_order).contiguous()
    # A tensor with dimensions of size 1 may have odd strides there, which view() would refuse.
    flat = ordered.as_strided((ordered.numel(),), (1,))
    return flat.view(torch.uint8).numpy()


def from_wire(buffer: bytearray | memoryview | np.ndarray, spec: SliceSpec) -> torch.Tensor:
    """
    Return a slice as a tensor that shares memory with its wire bytes.

    The buffer must be writable and hold exactly the slice's bytes; ValueError otherwise. An image
    (see ``wire_order``) of batch 1 comes out channels_last.
    """
    view = memoryview(buffer)
    if view.readonly or view.nbytes != spec.nbytes:
        raise ValueError(f'{spec}: got {"a read-only" if view.readonly else "a"} buffer of '
                         f'{view.nbytes} bytes, expected a writable one of {spec.nbytes}')
    if spec.nbytes:
        flat = torch.frombuffer(buffer, dtype=spec.dtype)
    else:
        flat = torch.empty(0, dtype=spec.dtype)
    order = spec.wire_order
    ordered = flat.view([spec.shape[dim] for dim in order])
    return ordered.permute([order.index(dim) for dim in range(len(order))])
