# SPDX-License-Identifier: Apache-2.0
"""Random damage to valid chunks: nothing but BadChunk, and never a wrong slice."""

from dataclasses import fields, replace

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
import torch

from hp_inference.link.chunks import chunk_slice
from hp_inference.link.errors import BadChunk
from hp_inference.link.inbox import Inbox
from hp_inference.link.wire import Chunk, CODEC_CODES, Head, SliceSpec

HEAD = Head(session=7, frame=3, table_digest=bytes(range(32)), plan_index=2)
# No two chunks have the same size, so that each header field decides something.
SPECS = [
    SliceSpec(1, 0, 5, (1, 8, 5, 401), 2, torch.float32, 'zstd'),
    SliceSpec(1, 5, 9, (1, 8, 4, 31), 2, torch.float32, 'zstd'),
    SliceSpec(2, 0, 1, (1, 77), None, torch.int64, 'shuffle_zstd'),
    SliceSpec(3, 0, 3, (1, 3, 19), 1, torch.bool, 'zstd'),
    SliceSpec(4, 0, 2, (1, 8, 2, 403), 2, torch.float32, 'float16_shuffle_zstd'),
    SliceSpec(5, 0, 2, (1, 8, 2, 405), 2, torch.float64, 'uint8_zstd'),
    SliceSpec(0, 8, 28, (1, 3, 20, 31), 2, torch.uint8, 'jpeg'),
]
TENSORS = [torch.randn(SPECS[0].shape).relu(), torch.randn(SPECS[1].shape),
           torch.arange(77).reshape(1, 77), torch.rand(1, 3, 19) > 0.5,
           torch.randn(SPECS[4].shape).relu(), torch.randn(SPECS[5].shape).double(),
           torch.arange(20, dtype=torch.uint8)[:, None].expand(1, 3, 20, 31)]
EXACT = [(tensor, replace(spec, codec='none')) for tensor, spec in zip(TENSORS[:4], SPECS)]
CHUNKS = [chunk for tensor, spec in (*EXACT, *zip(TENSORS, SPECS))
          for chunk in chunk_slice(tensor, spec, HEAD)]
ENCODED = [chunk for chunk in CHUNKS if chunk.codec]
assert {chunk.codec for chunk in CHUNKS} == set(CODEC_CODES.values())
HEADER = [field.name for field in fields(Chunk) if field.name != 'payload']

numbers = st.integers(-2, 12) | st.integers(-2 ** 70, 2 ** 70) | st.floats()


@st.composite
def headers_changed(draw):
    chunk = draw(st.sampled_from(CHUNKS))
    names = draw(st.lists(st.sampled_from(HEADER), min_size=1, max_size=3, unique=True))
    values = {name: draw(st.binary(max_size=40) if name == 'table_digest' else numbers)
              for name in names}
    return replace(chunk, **values)


@st.composite
def payloads_changed(draw):
    """Damage a payload that has a checksum; for uncompressed bytes only the size is known."""
    chunk = draw(st.sampled_from(ENCODED))
    payload = bytearray(chunk.payload)
    begin = draw(st.integers(0, len(payload)))
    end = begin + draw(st.integers(0, 20))
    payload[begin:end] = draw(st.binary(max_size=20))
    return replace(chunk, payload=bytes(payload))


@st.composite
def mixed_up(draw):
    """Put the payload and codec of one chunk under the header of another."""
    chunk, donor = draw(st.tuples(st.sampled_from(CHUNKS), st.sampled_from(CHUNKS)))
    return replace(chunk, payload=donor.payload, codec=donor.codec)


def put_all(inbox, chunks):
    for chunk in chunks:
        try:
            inbox.put(chunk)
        except BadChunk as refusal:
            assert len(str(refusal)) > 20


def slices(inbox):
    return [inbox.get(spec.value_id, spec.row_begin, spec.row_end) for spec in SPECS]


def undamaged():
    """Return what arrives when nothing happens on the way; the lossless slices as they were."""
    inbox = Inbox(SPECS, HEAD)
    for chunk in CHUNKS:
        inbox.put(chunk)
    assert all(map(torch.equal, slices(inbox)[:4], TENSORS))
    return slices(inbox)


WANTED = undamaged()


def check_slices(inbox):
    assert all(map(torch.equal, slices(inbox), WANTED))


mutants = headers_changed() | payloads_changed() | mixed_up()


@given(st.lists(mutants, min_size=1, max_size=8))
@drawn(100, 300, anew=True)
def test_damage_before_the_good_chunks_cannot_spoil_the_result(damaged):
    inbox = Inbox(SPECS, HEAD)
    put_all(inbox, damaged)
    assert inbox.allocated_bytes <= sum(spec.nbytes for spec in SPECS)
    for chunk in CHUNKS:
        inbox.put(chunk)
    assert inbox.complete
    check_slices(inbox)


@given(st.lists(mutants, min_size=1, max_size=8))
@drawn(50, 150, anew=True)
def test_damage_after_completion_changes_nothing(damaged):
    inbox = Inbox(SPECS, HEAD)
    for chunk in CHUNKS:
        inbox.put(chunk)
    received = inbox.received_bytes
    put_all(inbox, damaged)
    assert inbox.received_bytes == received
    check_slices(inbox)
