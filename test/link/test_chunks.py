# SPDX-License-Identifier: Apache-2.0
"""A slice becomes chunks."""

import pytest
import torch

from hp_inference.link import codecs
from hp_inference.link.chunks import chunk_slice
from hp_inference.link.wire import (
    CHUNK_BYTES,
    dtype_code,
    Head,
    SliceSpec,
    to_wire,
    VERSION,
)

HEAD = Head(session=7, frame=3, table_digest=bytes(range(32)), plan_index=2)
SPEC = SliceSpec(11, 4, 8, (1, 16, 4, 500), 2, torch.float32)


def image(fill=None):
    if fill is None:
        return torch.randn(SPEC.shape).contiguous(memory_format=torch.channels_last)
    return torch.full(SPEC.shape, fill).contiguous(memory_format=torch.channels_last)


def test_every_chunk_says_what_it_is():
    chunks = list(chunk_slice(image(1.0), SPEC, 'zstd', HEAD))
    assert [chunk.raw_bytes for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES, 8_000]
    for index, chunk in enumerate(chunks):
        assert chunk.head == HEAD and chunk.version == VERSION
        assert (chunk.value_id, chunk.row_begin, chunk.row_end) == (11, 4, 8)
        assert (chunk.chunk_index, chunk.chunk_count) == (index, 3)
        assert (chunk.dtype, chunk.codec) == (dtype_code(torch.float32), 1)
        assert (chunk.scale, chunk.zero_point) == (1.0, 0)
        assert len(chunk.payload) < chunk.raw_bytes


def test_uncompressed_payloads_are_the_memory_of_the_tensor():
    tensor = image()
    payloads = [chunk.payload for chunk in chunk_slice(tensor, SPEC, 'none', HEAD)]
    assert b''.join(payloads) == to_wire(tensor, SPEC).tobytes()
    tensor.fill_(2.0)
    assert b''.join(payloads) == to_wire(image(2.0), SPEC).tobytes()


def test_noise_names_none_in_every_chunk():
    raw = torch.randint(0, 256, SPEC.shape[:3] + (2_000,)).to(torch.uint8)
    spec = SliceSpec(11, 4, 8, tuple(raw.shape), 2, torch.uint8)
    assert [chunk.codec for chunk in chunk_slice(raw, spec, 'zstd', HEAD)] == [0, 0, 0]


def test_a_chunk_is_encoded_only_when_it_is_asked_for(monkeypatch):
    encoded = []
    real = codecs.SliceEncoder.encode

    def spy(self, raw):
        encoded.append(len(raw))
        return real(self, raw)

    monkeypatch.setattr(codecs.SliceEncoder, 'encode', spy)
    chunks = chunk_slice(image(1.0), SPEC, 'zstd', HEAD)
    assert encoded == []
    next(chunks)
    assert encoded == [CHUNK_BYTES]
    next(chunks)
    assert encoded == [CHUNK_BYTES, CHUNK_BYTES]


def test_a_reserved_codec_is_refused():
    with pytest.raises(ValueError, match="codec 'jpeg' is reserved"):
        next(chunk_slice(image(), SPEC, 'jpeg', HEAD))
