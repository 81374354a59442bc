# SPDX-License-Identifier: Apache-2.0
"""
Encode and decode the bytes of one chunk; a decoder trusts nothing that the payload says.

none, zstd and shuffle_zstd give back the same bits. float16_shuffle_zstd and uint8_zstd round
float32 and float64 and give back the same bits of all else; jpeg is for rows of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hp_inference.link import jpeg, quantise, zstd
from hp_inference.link.errors import BadChunk
from hp_inference.link.shuffle import shuffle, unshuffle
from hp_inference.link.wire import SliceSpec

Buffer = Any  # bytes, bytearray, memoryview, array or ndarray: what memoryview() takes

MIN_RATIO = 1.1
"""Compressing less than this costs more time than it saves on the air."""


def as_bytes(buffer: Buffer) -> memoryview:
    """Return any contiguous buffer as a flat view of bytes, without a copy."""
    view = memoryview(buffer)
    return view.cast('B') if view.nbytes else memoryview(b'')  # an empty view cannot be cast


def encode(raw: Buffer, spec: SliceSpec) -> Buffer | None:
    """
    Return the payload for the raw bytes of one chunk of a slice under the slice's codec.

    None when the codec has no payload for these bytes: they must travel under 'none', whose
    payload is ``raw`` itself.
    """
    view = as_bytes(raw)
    if spec.codec == 'none' or not view.nbytes:
        return raw
    return _codec(spec).encode(view, spec)


def check_payload(payload: Buffer, codec: str, raw_bytes: int, spec: SliceSpec) -> None:
    """
    Raise BadChunk unless a chunk of a slice may have this codec and size of payload.

    The codec is the slice's or 'none'; what the payload claims to decode to is ``raw_bytes``.
    Reads sizes and the head of the payload only: nothing is allocated or decoded.
    """
    if codec not in ('none', spec.codec):
        expected = 'none' if spec.codec == 'none' else f'{spec.codec} or none'
        raise BadChunk(f'codec is {codec!r}, expected {expected} under this plan')
    view = memoryview(payload)
    if codec != 'none':
        _codec(spec).check(view, raw_bytes, spec)
    elif view.nbytes != raw_bytes:
        raise BadChunk(f'uncompressed payload has {view.nbytes} bytes, expected {raw_bytes}')


def decode_into(payload: Buffer, codec: str, out: memoryview, spec: SliceSpec) -> None:
    """
    Decode a payload into ``out``, which it must fill exactly.

    Raises BadChunk for anything else; ``out`` may then hold part of the data. Allocates no more
    than a few times ``len(out)`` and writes nothing beyond it, whatever the payload says.
    """
    check_payload(payload, codec, out.nbytes, spec)
    view = as_bytes(payload)
    if codec == 'none':
        out[:] = view
    elif out.nbytes:
        _codec(spec).decode(view, out, spec)


def as_received(raw: Buffer, spec: SliceSpec) -> bytearray:
    """Return what the receiver will have of a chunk of image rows under 'jpeg'."""
    codec, payload = SliceEncoder(spec).encode(raw)
    received = bytearray(len(raw))
    decode_into(payload, codec, memoryview(received), spec)
    return received


class SliceEncoder:
    """
    Encodes the chunks of one slice in order, compressing only where that pays.

    If the first chunk shrinks by less than MIN_RATIO, it and the rest travel uncompressed; so does
    any later chunk that would grow. Image rows are encoded each chunk for itself, so that what
    becomes of a row depends on no other chunk.
    """

    def __init__(self, spec: SliceSpec):
        self._spec = spec
        self._compresses = spec.codec != 'none'
        self._undecided = spec.codec != 'jpeg'

    def encode(self, raw: Buffer) -> tuple[str, Buffer]:
        """Return the codec that was used for this chunk, and its payload."""
        payload = encode(raw, self._spec) if self._compresses else None
        if payload is None:
            return 'none', raw
        if self._undecided:
            self._compresses = len(raw) >= MIN_RATIO * len(payload)
            self._undecided = False
        if not self._compresses or len(payload) >= len(raw):
            return 'none', raw
        return self._spec.codec, payload


@dataclass(frozen=True)
class _Codec:
    """
    How chunks that are not empty are encoded and decoded.

    encode(raw, spec) returns the payload; check(payload, raw_bytes, spec) and decode(payload, out,
    spec) raise BadChunk.
    """

    encode: Callable[[memoryview, SliceSpec], Buffer | None]
    check: Callable[[memoryview, int, SliceSpec], None]
    decode: Callable[[memoryview, memoryview, SliceSpec], None]


def _compressed(encode_content: Callable[[memoryview, SliceSpec], np.ndarray | None],
                content_bytes: Callable[[int, SliceSpec], int],
                decode_content: Callable[[np.ndarray, memoryview, SliceSpec], None]) -> _Codec:
    """Return the codec that turns raw bytes into other ones and compresses those by zstd."""
    def encoded(raw, spec):
        content = encode_content(raw, spec)
        return None if content is None else zstd.compress(content)

    def check(payload, raw_bytes, spec):
        zstd.check(payload, content_bytes(raw_bytes, spec))

    def decode(payload, out, spec):
        content = zstd.decompress(payload, content_bytes(out.nbytes, spec))
        decode_content(np.frombuffer(content, np.uint8), out, spec)
    return _Codec(encoded, check, decode)


def _octets(buffer: memoryview) -> np.ndarray:
    return np.frombuffer(buffer, np.uint8)


def _copy(content: np.ndarray, out: memoryview, spec: SliceSpec) -> None:
    _octets(out)[:] = content


def _unshuffle(content: np.ndarray, out: memoryview, spec: SliceSpec) -> None:
    unshuffle(content, spec.dtype.itemsize, _octets(out))


def _from_half(content: np.ndarray, out: memoryview, spec: SliceSpec) -> None:
    halves = np.empty_like(content)
    unshuffle(content, 2, halves)
    quantise.from_half(halves, spec.dtype, out)


def _pixels(raw: memoryview, spec: SliceSpec) -> np.ndarray:
    """Return rows of the image as [rows, width, channels], as they lie in memory."""
    return _octets(raw).reshape(-1, spec.shape[3], spec.shape[1])


_CODECS = {
    'zstd': _compressed(
        lambda raw, spec: _octets(raw), lambda raw_bytes, spec: raw_bytes, _copy),
    'shuffle_zstd': _compressed(
        lambda raw, spec: shuffle(_octets(raw), spec.dtype.itemsize),
        lambda raw_bytes, spec: raw_bytes, _unshuffle),
    'float16_shuffle_zstd': _compressed(
        lambda raw, spec: shuffle(quantise.to_half(raw, spec.dtype), 2),
        lambda raw_bytes, spec: raw_bytes // spec.dtype.itemsize * 2, _from_half),
    'uint8_zstd': _compressed(
        lambda raw, spec: quantise.to_levels(raw, spec.dtype),
        lambda raw_bytes, spec: quantise.LEVELS_HEAD_BYTES + raw_bytes // spec.dtype.itemsize,
        lambda content, out, spec: quantise.from_levels(content, spec.dtype, out)),
    'jpeg': _Codec(
        lambda raw, spec: jpeg.encode(_pixels(raw, spec)),
        lambda payload, raw_bytes, spec: jpeg.check(payload, raw_bytes),
        lambda payload, out, spec: jpeg.decode(payload, _pixels(out, spec))),
}
# What these are for elements that are not quantised.
_EXACT = {'float16_shuffle_zstd': 'shuffle_zstd', 'uint8_zstd': 'zstd'}


def _codec(spec: SliceSpec) -> _Codec:
    name = spec.codec
    return _CODECS[name if spec.dtype in quantise.FLOATS else _EXACT.get(name, name)]
