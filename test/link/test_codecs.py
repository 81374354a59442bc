# SPDX-License-Identifier: Apache-2.0
"""Encoding and, above all, decoding of what an unknown sender wrote."""

from array import array
import threading

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import zstandard

from hp_inference.link.codecs import check_payload, decode_into, encode, SliceEncoder
from hp_inference.link.errors import BadChunk
from hp_inference.link.wire import CHUNK_BYTES, CODEC_CODES

RESERVED = sorted(set(CODEC_CODES) - {'none', 'zstd'})
RAW = np.repeat(np.arange(3_000, dtype=np.uint16), 2).tobytes()
PACKED = bytes(encode(RAW, 'zstd'))
NOISE = np.random.default_rng(0).integers(0, 256, CHUNK_BYTES, np.uint8).tobytes()


def decode(payload, codec, size):
    """Decode between two guards, which must stay as they are; return the decoded bytes."""
    frame = bytearray(b'\xaa' * (size + 32))
    try:
        decode_into(payload, codec, memoryview(frame)[16:16 + size])
    finally:
        assert frame[:16] == frame[-16:] == b'\xaa' * 16
    return bytes(frame[16:16 + size])


@given(st.binary(max_size=3_000) | st.binary(max_size=30).map(lambda piece: piece * 500),
       st.sampled_from(['none', 'zstd']))
@settings(deadline=None)
def test_what_is_encoded_decodes_to_the_same_bytes(raw, codec):
    assert decode(encode(raw, codec), codec, len(raw)) == raw


@pytest.mark.parametrize('wrap', [bytes, bytearray, memoryview, lambda raw: array('B', raw),
                                  lambda raw: np.frombuffer(raw, np.uint8)])
@pytest.mark.parametrize('codec', ['none', 'zstd'])
def test_any_bytes_like_object_is_taken(wrap, codec):
    payload = bytes(encode(wrap(RAW), codec))
    assert decode(wrap(payload), codec, len(RAW)) == RAW


@pytest.mark.parametrize('codec', RESERVED)
def test_a_reserved_codec_is_refused_by_name(codec):
    text = f"codec '{codec}' is reserved and not implemented; expected one of none, zstd"
    with pytest.raises(ValueError, match=text):
        encode(RAW, codec)
    with pytest.raises(ValueError, match=text):
        SliceEncoder(codec)
    with pytest.raises(BadChunk, match=text):
        decode(PACKED, codec, len(RAW))


def test_an_unknown_codec_is_refused_by_name():
    with pytest.raises(ValueError, match="codec 'lz4' is unknown"):
        encode(RAW, 'lz4')
    with pytest.raises(BadChunk, match="codec 'lz4' is unknown"):
        decode(PACKED, 'lz4', len(RAW))


@pytest.mark.parametrize('size', [0, len(RAW) - 1, len(RAW) + 1])
def test_another_size_than_expected_is_refused_before_decoding(size):
    for codec, payload, verb in (('none', RAW, 'has'), ('zstd', PACKED, 'declares')):
        with pytest.raises(BadChunk) as refusal:
            check_payload(payload, codec, size)
        if size == 0 and codec == 'zstd':
            assert f'has {len(PACKED)} bytes, expected at most 128' in str(refusal.value)
        else:
            assert f'{verb} {len(RAW)} bytes, expected {size}' in str(refusal.value)
        with pytest.raises(BadChunk):
            decode(payload, codec, size)


def test_a_bomb_that_declares_its_size_is_refused_by_its_header():
    bomb = bytes(encode(bytes(100_000_000), 'zstd'))
    assert len(bomb) < CHUNK_BYTES
    with pytest.raises(BadChunk, match='declares 100000000 bytes, expected 60000'):
        check_payload(bomb, 'zstd', CHUNK_BYTES)


@pytest.mark.parametrize('content', [50_000, 1_000])
def test_a_frame_that_lies_about_its_size_writes_nothing_past_the_end(content):
    """The header says 5,000 bytes, the blocks hold another number."""
    frame = bytearray(encode(bytes(content), 'zstd'))
    assert int.from_bytes(frame[5:7], 'little') + 256 == content  # the two-byte size field
    frame[5:7] = (5_000 - 256).to_bytes(2, 'little')
    check_payload(frame, 'zstd', 5_000)
    with pytest.raises(BadChunk, match='is damaged: .* expected one whole frame of 5000 bytes'):
        decode(frame, 'zstd', 5_000)


def test_a_frame_without_declared_size_is_refused():
    frame = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress(RAW)
    with pytest.raises(BadChunk, match=f'declares no size, expected {len(RAW)} bytes'):
        decode(frame, 'zstd', len(RAW))


def test_a_frame_without_checksum_is_refused():
    frame = zstandard.ZstdCompressor(write_checksum=False).compress(RAW)
    with pytest.raises(BadChunk, match='has no checksum'):
        decode(frame, 'zstd', len(RAW))


@pytest.mark.parametrize('tail', [b'x', bytes(encode(b'x', 'zstd'))])
def test_bytes_after_the_frame_are_refused(tail):
    with pytest.raises(BadChunk, match='is damaged: .*unused data'):
        decode(PACKED + tail, 'zstd', len(RAW))


@pytest.mark.parametrize('length', [0, 3, 6, len(PACKED) // 2, len(PACKED) - 1])
def test_a_truncated_frame_is_refused(length):
    with pytest.raises(BadChunk, match='no valid frame header|is damaged'):
        decode(PACKED[:length], 'zstd', len(RAW))


def test_a_skippable_frame_is_refused():
    frame = b'\x50\x2a\x4d\x18' + (64).to_bytes(4, 'little') + bytes(64)
    with pytest.raises(BadChunk, match='zstd payload'):
        decode(frame, 'zstd', 64)


def test_a_payload_larger_than_any_encoding_is_refused():
    payload = bytes(encode(NOISE, 'zstd'))
    check_payload(payload, 'zstd', len(NOISE))  # incompressible data still fits the bound
    with pytest.raises(BadChunk, match='has 61000 bytes, expected at most 60362'):
        check_payload(payload.ljust(61_000), 'zstd', len(NOISE))


@given(st.integers(0, 8 * len(PACKED) - 1))
@settings(deadline=None, max_examples=300)
def test_one_flipped_bit_never_gives_wrong_data(bit):
    """A bit may be one that zstd ignores; then the data must still be right."""
    damaged = bytearray(PACKED)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        assert decode(damaged, 'zstd', len(RAW)) == RAW
    except BadChunk:
        pass


@given(st.binary(max_size=2_000), st.integers(0, 5_000))
@settings(deadline=None)
def test_arbitrary_bytes_raise_nothing_but_bad_chunk(tail, size):
    for payload in (tail, b'\x28\xb5\x2f\xfd' + tail):
        try:
            decode(payload, 'zstd', size)
        except BadChunk:
            pass


def test_a_slice_that_does_not_shrink_travels_uncompressed():
    encoder = SliceEncoder('zstd')
    assert encoder.encode(NOISE) == ('none', NOISE)
    codec, payload = encoder.encode(RAW)  # the first chunk has decided for all
    assert codec == 'none' and payload is RAW


def test_a_slice_that_shrinks_is_compressed_but_never_grown():
    encoder = SliceEncoder('zstd')
    assert encoder.encode(RAW) == ('zstd', PACKED)
    assert encoder.encode(NOISE) == ('none', NOISE)
    assert encoder.encode(RAW) == ('zstd', PACKED)


@pytest.mark.parametrize('noise_share, codec', [(0.86, 'zstd'), (0.95, 'none')])
def test_compression_is_kept_from_a_ratio_of_one_point_one(noise_share, codec):
    noisy = int(CHUNK_BYTES * noise_share)
    assert SliceEncoder('zstd').encode(NOISE[:noisy] + bytes(CHUNK_BYTES - noisy))[0] == codec


def test_threads_encode_and_decode_independently():
    wrong = []

    def work(seed):
        raw = np.random.default_rng(seed).integers(0, 4, 40_000, np.uint8).tobytes()
        for _ in range(20):
            if decode(encode(raw, 'zstd'), 'zstd', len(raw)) != raw:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads)
