# SPDX-License-Identifier: Apache-2.0
"""Encode and decode the bytes of one chunk; a decoder trusts nothing that the payload says."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

import zstandard

from hp_inference.link.errors import BadChunk
from hp_inference.link.wire import CODEC_CODES

Buffer = Any  # bytes, bytearray, memoryview, array or ndarray: what memoryview() takes

LEVEL = 1
MIN_RATIO = 1.1
"""Compressing less than this costs more time than it saves on the air."""

_MAX_WINDOW = 1 << 17  # enough for a chunk; a frame that wants more memory is refused
_contexts = threading.local()


def check_codec(codec: str) -> None:
    """Raise ValueError for a codec that is unknown or reserved."""
    if codec not in _ENCODERS:
        raise ValueError(_no_codec(codec))


def as_bytes(buffer: Buffer) -> memoryview:
    """Return any contiguous buffer as a flat view of bytes, without a copy."""
    view = memoryview(buffer)
    return view.cast('B') if view.nbytes else memoryview(b'')  # an empty view cannot be cast


def encode(raw: Buffer, codec: str) -> Buffer:
    """
    Return the payload for the raw bytes of one chunk; 'none' returns ``raw`` itself.

    Raises ValueError for a codec that is unknown or reserved.
    """
    check_codec(codec)
    return _ENCODERS[codec](raw)


def check_payload(payload: Buffer, codec: str, raw_bytes: int) -> None:
    """
    Raise BadChunk unless a payload claims to decode to exactly ``raw_bytes``.

    Reads sizes and the head of the payload only: nothing is allocated or decoded.
    """
    if codec not in _CHECKS:
        raise BadChunk(_no_codec(codec))
    _CHECKS[codec](memoryview(payload), raw_bytes)


def decode_into(payload: Buffer, codec: str, out: memoryview) -> None:
    """
    Decode a payload into ``out``, which it must fill exactly.

    Raises BadChunk for anything else; ``out`` may then hold part of the data. Never allocates or
    writes more than ``len(out)`` bytes.
    """
    check_payload(payload, codec, out.nbytes)
    if codec == 'none':
        out[:] = as_bytes(payload)
        return
    try:
        raw = _context('decompressor', _new_decompressor).decompress(
            payload, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadChunk(f'zstd payload of {memoryview(payload).nbytes} bytes is damaged: {error}; '
                       f'expected one whole frame of {out.nbytes} bytes') from error
    if len(raw) != out.nbytes:
        raise BadChunk(f'zstd payload holds {len(raw)} bytes, expected {out.nbytes}')
    out[:] = raw


class SliceEncoder:
    """
    Encodes the chunks of one slice in order, compressing only where that pays.

    If the first chunk shrinks by less than MIN_RATIO, it and the rest travel uncompressed; so does
    any later chunk that would grow.
    """

    def __init__(self, codec: str):
        check_codec(codec)
        self._codec = codec
        self._first = True

    def encode(self, raw: Buffer) -> tuple[str, Buffer]:
        """Return the codec that was used for this chunk, and its payload."""
        payload = encode(raw, self._codec)
        if self._codec == 'none':
            return 'none', payload
        if self._first and len(raw) < MIN_RATIO * len(payload):
            self._codec = 'none'
        self._first = False
        if self._codec == 'none' or len(payload) >= len(raw):
            return 'none', raw
        return self._codec, payload


def _zstd(raw: Buffer) -> bytes:
    return _context('compressor', _new_compressor).compress(raw)


def _check_none(payload: memoryview, raw_bytes: int) -> None:
    if payload.nbytes != raw_bytes:
        raise BadChunk(f'uncompressed payload has {payload.nbytes} bytes, expected {raw_bytes}')


def _check_zstd(payload: memoryview, raw_bytes: int) -> None:
    limit = raw_bytes + raw_bytes // 256 + 128  # zstd's own worst case for a chunk, and a checksum
    if payload.nbytes > limit:
        raise BadChunk(f'zstd payload has {payload.nbytes} bytes, expected at most {limit} '
                       f'for {raw_bytes} raw bytes')
    try:
        frame = zstandard.get_frame_parameters(payload)
    except zstandard.ZstdError as error:
        raise BadChunk(f'zstd payload of {payload.nbytes} bytes has no valid frame header: '
                       f'{error}') from error
    if frame.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise BadChunk(f'zstd payload declares no size, expected {raw_bytes} bytes')
    if frame.content_size != raw_bytes:
        raise BadChunk(f'zstd payload declares {frame.content_size} bytes, expected {raw_bytes}')
    if not frame.has_checksum:
        raise BadChunk('zstd payload has no checksum, expected one; '
                       'the sender must write frames with a checksum')


def _new_compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=LEVEL, write_checksum=True, write_content_size=True)


def _new_decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)


def _context(name: str, make: Callable[[], Any]) -> Any:
    """Return this thread's own (de)compressor: one is not safe to share between threads."""
    context = getattr(_contexts, name, None)
    if context is None:
        context = make()
        setattr(_contexts, name, context)
    return context


def _no_codec(codec: str) -> str:
    known = 'reserved and not implemented' if codec in CODEC_CODES else 'unknown'
    return f'codec {codec!r} is {known}; expected one of {", ".join(_ENCODERS)}'


_ENCODERS: dict[str, Callable[[Buffer], Buffer]] = {'none': lambda raw: raw, 'zstd': _zstd}
_CHECKS: dict[str, Callable[[memoryview, int], None]] = {
    'none': _check_none, 'zstd': _check_zstd}
