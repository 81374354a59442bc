# SPDX-License-Identifier: Apache-2.0
"""A slice becomes chunks."""

from dataclasses import replace

import pytest
import torch

from hp_inference.link import codecs
from hp_inference.link.chunks import chunk_slice
from hp_inference.link.codecs import decode_into
from hp_inference.link.wire import (
    CHUNK_BYTES,
    CODEC_CODES,
    dtype_code,
    from_wire,
    Head,
    SliceSpec,
    to_wire,
    VERSION,
)

HEAD = Head(session=7, frame=3, table_digest=bytes(range(32)), plan_index=2)
SPEC = SliceSpec(11, 4, 8, (1, 16, 4, 500), 2, torch.float32, 'zstd')


def image(fill=None):
    if fill is None:
        return torch.randn(SPEC.shape).contiguous(memory_format=torch.channels_last)
    return torch.full(SPEC.shape, fill).contiguous(memory_format=torch.channels_last)


def test_every_chunk_says_what_it_is():
    chunks = list(chunk_slice(image(1.0), SPEC, HEAD))
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
    spec = replace(SPEC, codec='none')
    payloads = [chunk.payload for chunk in chunk_slice(tensor, spec, HEAD)]
    assert b''.join(payloads) == to_wire(tensor, SPEC).tobytes()
    tensor.fill_(2.0)
    assert b''.join(payloads) == to_wire(image(2.0), SPEC).tobytes()


def test_noise_names_none_in_every_chunk():
    raw = torch.randint(0, 256, SPEC.shape[:3] + (2_000,)).to(torch.uint8)
    spec = SliceSpec(11, 4, 8, tuple(raw.shape), 2, torch.uint8, 'zstd')
    assert [chunk.codec for chunk in chunk_slice(raw, spec, HEAD)] == [0, 0, 0]


def test_a_chunk_is_encoded_only_when_it_is_asked_for(monkeypatch):
    encoded = []
    real = codecs.SliceEncoder.encode

    def spy(self, raw):
        encoded.append(len(raw))
        return real(self, raw)

    monkeypatch.setattr(codecs.SliceEncoder, 'encode', spy)
    chunks = chunk_slice(image(1.0), SPEC, HEAD)
    assert encoded == []
    next(chunks)
    assert encoded == [CHUNK_BYTES]
    next(chunks)
    assert encoded == [CHUNK_BYTES, CHUNK_BYTES]


@pytest.mark.parametrize('codec', CODEC_CODES)
def test_every_chunk_says_its_codec_and_decodes_to_its_place(codec):
    shape, dtype = ((1, 3, 224, 224), torch.uint8) if codec == 'jpeg' else (SPEC.shape, SPEC.dtype)
    spec = SliceSpec(0, 0, shape[2], shape, 2, dtype, codec)
    rows = torch.arange(shape[2])[:, None].expand(shape).to(dtype)
    received = bytearray(spec.nbytes)
    for chunk in chunk_slice(rows, spec, HEAD):
        assert chunk.codec == CODEC_CODES[codec]
        begin, end = spec.chunk_range(chunk.chunk_index)
        decode_into(chunk.payload, codec, memoryview(received)[begin:end], spec)
    got, wanted = from_wire(received, spec).double(), rows.double()
    lost = {'uint8_zstd': 0.01, 'jpeg': 5}.get(codec, 0)  # few whole numbers: float16 holds them
    assert (got - wanted).abs().max() <= lost


def test_the_chunks_of_a_jpeg_hold_whole_rows():
    spec = SliceSpec(0, 10, 234, (1, 3, 224, 224), 2, torch.uint8, 'jpeg')
    chunks = list(chunk_slice(torch.zeros(spec.shape, dtype=torch.uint8), spec, HEAD))
    assert [chunk.raw_bytes for chunk in chunks] == [80 * 672, 80 * 672, 64 * 672]
