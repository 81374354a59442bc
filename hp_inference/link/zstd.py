# SPDX-License-Identifier: Apache-2.0
"""One zstd frame per chunk, of a size that is known beforehand and with a checksum."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

import zstandard

from hp_inference.link.errors import BadChunk

LEVEL = 1

_MAX_WINDOW = 1 << 17  # enough for a chunk; a frame that wants more memory is refused
_contexts = threading.local()


def compress(content: Any) -> bytes:
    """Return any contiguous buffer as a frame."""
    return _context('compressor', _new_compressor).compress(content)


def check(frame: memoryview, content_bytes: int) -> None:
    """Raise BadChunk unless a frame claims to hold ``content_bytes``; decodes nothing."""
    limit = content_bytes + content_bytes // 256 + 128  # zstd's own worst case, and a checksum
    if frame.nbytes > limit:
        raise BadChunk(f'zstd payload has {frame.nbytes} bytes, expected at most {limit} '
                       f'for {content_bytes} raw bytes')
    try:
        header = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as error:
        raise BadChunk(f'zstd payload of {frame.nbytes} bytes has no valid frame header: '
                       f'{error}') from error
    if header.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise BadChunk(f'zstd payload declares no size, expected {content_bytes} bytes')
    if header.content_size != content_bytes:
        raise BadChunk(f'zstd payload declares {header.content_size} bytes, '
                       f'expected {content_bytes}')
    if not header.has_checksum:
        raise BadChunk('zstd payload has no checksum, expected one; '
                       'the sender must write frames with a checksum')


def decompress(frame: memoryview, content_bytes: int) -> bytes:
    """Return the content of a frame that ``check`` has passed; raises BadChunk."""
    try:
        content = _context('decompressor', _new_decompressor).decompress(
            frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise BadChunk(f'zstd payload of {frame.nbytes} bytes is damaged: {error}; '
                       f'expected one whole frame of {content_bytes} bytes') from error
    if len(content) != content_bytes:
        raise BadChunk(f'zstd payload holds {len(content)} bytes, expected {content_bytes}')
    return content


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
