# SPDX-License-Identifier: Apache-2.0
"""Encoding and, above all, decoding of what an unknown sender wrote."""

from array import array
import threading

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import torch
from waits import WAIT_S
import zstandard

from hp_inference.link.codecs import check_payload, decode_into, encode, SliceEncoder
from hp_inference.link.errors import BadChunk
from hp_inference.link.wire import CHUNK_BYTES, CODEC_CODES, DTYPE_CODES, SliceSpec


def spec_of(codec, dtype=torch.uint8, size=CHUNK_BYTES):
    """Return a slice of ``size`` bytes; the codecs look at its dtype alone."""
    return SliceSpec(1, 0, 1, (1, size // dtype.itemsize), None, dtype, codec)


EXACT = ['none', 'zstd', 'shuffle_zstd']
WHOLE = [codec for codec in CODEC_CODES if codec != 'jpeg']  # that carry elements of any dtype
ZSTD = spec_of('zstd')
RAW = np.repeat(np.arange(3_000, dtype=np.uint16), 2).tobytes()
PACKED = bytes(encode(RAW, ZSTD))
NOISE = np.random.default_rng(0).integers(0, 256, CHUNK_BYTES, np.uint8).tobytes()


def decode(payload, spec, size, codec=None):
    """Decode between two guards, which must stay as they are; return the decoded bytes."""
    frame = bytearray(b'\xaa' * (size + 32))
    try:
        decode_into(payload, codec or spec.codec, memoryview(frame)[16:16 + size], spec)
    finally:
        assert frame[:16] == frame[-16:] == b'\xaa' * 16
    return bytes(frame[16:16 + size])


raw_bytes = st.binary(max_size=3_000) | st.binary(max_size=30).map(lambda piece: piece * 500)


@given(raw_bytes, st.sampled_from(EXACT), st.sampled_from(list(DTYPE_CODES)))
@drawn(60, 200, anew=True)
def test_what_is_encoded_exactly_decodes_to_the_same_bytes(raw, codec, dtype):
    raw = raw[:len(raw) // dtype.itemsize * dtype.itemsize]
    spec = spec_of(codec, dtype)
    payload = encode(raw, spec)
    used = codec if raw else 'none'  # nothing is gained by packing nothing
    assert decode(payload, spec, len(raw), used) == raw


@given(raw_bytes, st.sampled_from(['float16_shuffle_zstd', 'uint8_zstd']),
       st.sampled_from([dtype for dtype in DTYPE_CODES
                        if dtype not in (torch.float32, torch.float64)]))
@drawn(40, 100, anew=True)
def test_a_lossy_codec_rounds_nothing_but_float32_and_float64(raw, codec, dtype):
    raw = raw[:len(raw) // dtype.itemsize * dtype.itemsize]
    spec = spec_of(codec, dtype)
    used, payload = SliceEncoder(spec).encode(raw)
    assert decode(payload, spec, len(raw), used) == raw


@pytest.mark.parametrize('codec', CODEC_CODES)
@pytest.mark.parametrize('wrap', [bytes, bytearray, memoryview, lambda raw: array('B', raw),
                                  lambda raw: np.frombuffer(raw, np.uint8)])
def test_any_bytes_like_object_is_taken(wrap, codec):
    shape = (1, 3, 40, 100) if codec == 'jpeg' else (1, 1, 40, 75)
    dtype = torch.uint8 if codec == 'jpeg' else torch.float32
    spec = SliceSpec(0, 0, 40, shape, 2, dtype, codec)
    floats = np.linspace(0, 1, len(RAW) // 4, dtype=np.float32)
    raw = RAW if codec == 'jpeg' else floats.tobytes()
    payload = bytes(encode(wrap(raw), spec))
    assert payload == bytes(encode(raw, spec))
    assert decode(wrap(payload), spec, len(raw)) == decode(payload, spec, len(raw))


def test_only_the_codec_of_the_slice_and_none_are_taken():
    for spec, text in ((ZSTD, "codec is 'shuffle_zstd', expected zstd or none under this plan"),
                       (spec_of('none'), "codec is 'shuffle_zstd', expected none under this")):
        with pytest.raises(BadChunk, match=text):
            decode(PACKED, spec, len(RAW), 'shuffle_zstd')
    assert decode(RAW, ZSTD, len(RAW), 'none') == RAW


def test_bytes_of_equal_significance_lie_side_by_side():
    raw = bytes(range(12))
    payload = encode(raw, spec_of('shuffle_zstd', torch.float32))
    assert zstandard.decompress(payload) == bytes([0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11])


def test_shuffled_floats_compress_better():
    raw = np.linspace(1, 2, 15_000, dtype=np.float32).tobytes()
    assert len(encode(raw, spec_of('shuffle_zstd', torch.float32))) \
        < len(encode(raw, spec_of('zstd', torch.float32))) / 1.2


@pytest.mark.parametrize('size', [0, len(RAW) - 1, len(RAW) + 1])
def test_another_size_than_expected_is_refused_before_decoding(size):
    for codec, payload, verb in (('none', RAW, 'has'), ('zstd', PACKED, 'declares')):
        with pytest.raises(BadChunk) as refusal:
            check_payload(payload, codec, size, ZSTD)
        if size == 0 and codec == 'zstd':
            assert f'has {len(PACKED)} bytes, expected at most 128' in str(refusal.value)
        else:
            assert f'{verb} {len(RAW)} bytes, expected {size}' in str(refusal.value)
        with pytest.raises(BadChunk):
            decode(payload, ZSTD, size, codec)


def test_a_bomb_that_declares_its_size_is_refused_by_its_header():
    bomb = bytes(encode(bytes(100_000_000), ZSTD))
    assert len(bomb) < CHUNK_BYTES
    with pytest.raises(BadChunk, match='declares 100000000 bytes, expected 60000'):
        check_payload(bomb, 'zstd', CHUNK_BYTES, ZSTD)


@pytest.mark.parametrize('content', [50_000, 1_000])
def test_a_frame_that_lies_about_its_size_writes_nothing_past_the_end(content):
    """The header says 5,000 bytes, the blocks hold another number."""
    frame = bytearray(encode(bytes(content), ZSTD))
    assert int.from_bytes(frame[5:7], 'little') + 256 == content  # the two-byte size field
    frame[5:7] = (5_000 - 256).to_bytes(2, 'little')
    check_payload(frame, 'zstd', 5_000, ZSTD)
    with pytest.raises(BadChunk, match='is damaged: .* expected one whole frame of 5000 bytes'):
        decode(frame, ZSTD, 5_000)


def test_a_frame_without_declared_size_is_refused():
    frame = zstandard.ZstdCompressor(write_content_size=False, write_checksum=True).compress(RAW)
    with pytest.raises(BadChunk, match=f'declares no size, expected {len(RAW)} bytes'):
        decode(frame, ZSTD, len(RAW))


def test_a_frame_without_checksum_is_refused():
    frame = zstandard.ZstdCompressor(write_checksum=False).compress(RAW)
    with pytest.raises(BadChunk, match='has no checksum'):
        decode(frame, ZSTD, len(RAW))


@pytest.mark.parametrize('tail', [b'x', bytes(encode(b'x', ZSTD))])
def test_bytes_after_the_frame_are_refused(tail):
    with pytest.raises(BadChunk, match='is damaged: .*unused data'):
        decode(PACKED + tail, ZSTD, len(RAW))


@pytest.mark.parametrize('length', [0, 3, 6, len(PACKED) // 2, len(PACKED) - 1])
def test_a_truncated_frame_is_refused(length):
    with pytest.raises(BadChunk, match='no valid frame header|is damaged'):
        decode(PACKED[:length], ZSTD, len(RAW))


def test_a_skippable_frame_is_refused():
    frame = b'\x50\x2a\x4d\x18' + (64).to_bytes(4, 'little') + bytes(64)
    with pytest.raises(BadChunk, match='zstd payload'):
        decode(frame, ZSTD, 64)


def test_a_payload_larger_than_any_encoding_is_refused():
    payload = bytes(encode(NOISE, ZSTD))
    check_payload(payload, 'zstd', len(NOISE), ZSTD)  # incompressible data still fits the bound
    with pytest.raises(BadChunk, match='has 61000 bytes, expected at most 60362'):
        check_payload(payload.ljust(61_000), 'zstd', len(NOISE), ZSTD)


@given(st.integers(0, 8 * len(PACKED) - 1))
@drawn(100, 300, anew=True)
def test_one_flipped_bit_never_gives_wrong_data(bit):
    """A bit may be one that zstd ignores; then the data must still be right."""
    damaged = bytearray(PACKED)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        assert decode(damaged, ZSTD, len(RAW)) == RAW
    except BadChunk:
        pass


@given(st.binary(max_size=2_000), st.integers(0, 5_000), st.sampled_from(WHOLE[1:]),
       st.sampled_from([torch.uint8, torch.float32, torch.float64]))
@drawn(100, 300, anew=True)
def test_arbitrary_bytes_raise_nothing_but_bad_chunk(tail, elements, codec, dtype):
    for payload in (tail, b'\x28\xb5\x2f\xfd' + tail):
        try:
            decode(payload, spec_of(codec, dtype), elements * dtype.itemsize)
        except BadChunk:
            pass


@given(st.binary(min_size=1, max_size=500), st.sampled_from(WHOLE[1:]),
       st.sampled_from([torch.uint8, torch.float32, torch.float64]))
@drawn(60, 200, anew=True)
def test_a_good_frame_of_any_content_decodes_or_is_refused(content, codec, dtype):
    """The sender may have compressed whatever it likes."""
    head = 8 if codec == 'uint8_zstd' and dtype.is_floating_point else 0
    width = {'float16_shuffle_zstd': 2, 'uint8_zstd': 1}.get(codec, dtype.itemsize) \
        if dtype.is_floating_point else 1
    count = max(0, len(content) - head) // width
    content = (content + bytes(8))[:head + count * width]
    spec = spec_of(codec, dtype)
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(content)
    try:
        decode(frame, spec, count * dtype.itemsize)
    except BadChunk as refusal:
        assert codec == 'uint8_zstd' and 'expected finite numbers' in str(refusal)


@pytest.mark.parametrize('codec', ['shuffle_zstd', 'float16_shuffle_zstd', 'uint8_zstd'])
def test_a_bomb_is_refused_by_its_header_under_every_codec(codec):
    spec = spec_of(codec, torch.float32)
    bomb = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(100_000_000))
    expected = {'shuffle_zstd': 60000, 'float16_shuffle_zstd': 30000, 'uint8_zstd': 15008}[codec]
    with pytest.raises(BadChunk, match=f'declares 100000000 bytes, expected {expected}'):
        check_payload(bomb, codec, CHUNK_BYTES, spec)


def test_a_slice_that_does_not_shrink_travels_uncompressed():
    encoder = SliceEncoder(ZSTD)
    assert encoder.encode(NOISE) == ('none', NOISE)
    codec, payload = encoder.encode(RAW)  # the first chunk has decided for all
    assert codec == 'none' and payload is RAW


def test_a_slice_that_shrinks_is_compressed_but_never_grown():
    encoder = SliceEncoder(ZSTD)
    assert encoder.encode(RAW) == ('zstd', PACKED)
    assert encoder.encode(NOISE) == ('none', NOISE)
    assert encoder.encode(RAW) == ('zstd', PACKED)


@pytest.mark.parametrize('noise_share, codec', [(0.86, 'zstd'), (0.95, 'none')])
def test_compression_is_kept_from_a_ratio_of_one_point_one(noise_share, codec):
    noisy = int(CHUNK_BYTES * noise_share)
    assert SliceEncoder(ZSTD).encode(NOISE[:noisy] + bytes(CHUNK_BYTES - noisy))[0] == codec


def test_threads_encode_and_decode_independently():
    wrong = []

    def work(seed):
        raw = np.random.default_rng(seed).integers(0, 4, 40_000, np.uint8).tobytes()
        for _ in range(20):
            if decode(encode(raw, ZSTD), ZSTD, len(raw)) != raw:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert not wrong and not any(thread.is_alive() for thread in threads)
