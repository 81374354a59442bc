# SPDX-License-Identifier: Apache-2.0
"""Image rows as JPEG: what travels, and what is refused."""

import io
import time
import zlib

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from PIL import Image
import pytest
import torch

from hp_inference.link import jpeg
from hp_inference.link.codecs import as_received, check_payload, decode_into, encode, SliceEncoder
from hp_inference.link.errors import BadChunk
from hp_inference.link.wire import CHUNK_BYTES, SliceSpec


def scene(rows, width, channels, seed=0):
    """Return an image with soft shapes, uint8 [rows, width, channels]."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :width]
    waves = [np.sin(x * draw.uniform(.01, .1) + y * draw.uniform(.01, .1) + draw.uniform(0, 6))
             for _ in range(channels)]
    return (128 + 100 * np.stack(waves, -1)).astype(np.uint8)


def spec_of(rows, width, channels):
    return SliceSpec(0, 0, rows, (1, channels, rows, width), 2, torch.uint8, 'jpeg')


def decode(payload, spec, size, codec='jpeg'):
    """Decode between two guards, which must stay as they are; return the decoded bytes."""
    frame = bytearray(b'\xaa' * (size + 32))
    try:
        decode_into(payload, codec, memoryview(frame)[16:16 + size], spec)
    finally:
        assert frame[:16] == frame[-16:] == b'\xaa' * 16
    return bytes(frame[16:16 + size])


PIXELS = scene(48, 160, 3)
SPEC = spec_of(*PIXELS.shape)
RAW = PIXELS.tobytes()
PAYLOAD = bytes(encode(RAW, SPEC))


@given(st.integers(8, 60), st.integers(24, 300), st.sampled_from([1, 3]), st.integers(0, 99))
@drawn(25, 60, anew=True)
def test_pixels_come_back_nearly_as_they_were(rows, width, channels, seed):
    pixels = scene(rows, width, channels, seed)
    spec = spec_of(*pixels.shape)
    used, payload = SliceEncoder(spec).encode(pixels.tobytes())
    received = np.frombuffer(decode(bytes(payload), spec, pixels.nbytes, used), np.uint8)
    error = np.abs(received.reshape(pixels.shape).astype(int) - pixels)
    assert error.mean() < 3 and error.max() < 60
    assert received.tobytes() == as_received(pixels.tobytes(), spec)


def test_the_payload_is_what_pillow_writes_without_its_head():
    head = jpeg.head_of(*PIXELS.shape)
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, 'JPEG', quality=90, subsampling='4:2:0')
    assert head + PAYLOAD[4:] == file.getvalue()
    assert len(head) > 600 and len(PAYLOAD) < len(RAW) / 8
    assert np.array_equal(
        np.frombuffer(decode(PAYLOAD, SPEC, len(RAW)), np.uint8).reshape(PIXELS.shape),
        np.asarray(Image.open(io.BytesIO(file.getvalue()))))


@pytest.mark.parametrize('shape', [(1, 1, 1), (1, 8, 3), (7, 3, 3), (89, 224, 3), (16, 20_000, 1)])
def test_the_head_of_any_size_is_that_of_a_file_of_this_size(shape):
    file = io.BytesIO()
    pixels = np.zeros(shape, np.uint8)
    Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels).save(
        file, 'JPEG', quality=90, subsampling='4:2:0')
    assert file.getvalue().startswith(jpeg.head_of(*shape))


def test_rows_that_do_not_shrink_travel_as_they_are_and_decide_nothing():
    encoder = SliceEncoder(spec_of(40, 4, 3))
    noise = np.random.default_rng(0).integers(0, 256, 24, np.uint8).tobytes()
    assert encoder.encode(noise) == ('none', noise)
    flat = bytes([200]) * 480
    assert encoder.encode(flat)[0] == 'jpeg'
    assert encoder.encode(flat)[1] == encode(flat, spec_of(40, 4, 3))


def test_another_head_than_expected_makes_rows_travel_as_they_are(monkeypatch):
    monkeypatch.setattr(jpeg, 'head_of', lambda *_: b'\xff\xd8\xff')
    monkeypatch.setattr(jpeg, '_file', lambda pixels: b'other')
    assert SliceEncoder(SPEC).encode(RAW) == ('none', RAW)


def test_other_tables_on_the_other_side_are_found():
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, 'JPEG', quality=50, subsampling='4:2:0')
    file = file.getvalue()
    payload = zlib.crc32(file).to_bytes(4, 'little') + file[len(jpeg.head_of(*PIXELS.shape)):]
    with pytest.raises(BadChunk, match='checksum is wrong, or the two sides write other JPEG'):
        decode(payload, SPEC, len(RAW))


@given(st.integers(0, 8 * len(PAYLOAD) - 1))
@drawn(60, 200, anew=True)
def test_one_flipped_bit_is_found(bit):
    damaged = bytearray(PAYLOAD)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(BadChunk, match='is damaged'):
        decode(damaged, SPEC, len(RAW))


@pytest.mark.parametrize('payload', [b'', PAYLOAD[:4], bytes(len(RAW)), bytes(len(RAW) + 1)])
def test_a_payload_of_an_impossible_length_is_refused_before_decoding(payload):
    with pytest.raises(BadChunk, match='expected more than 4 and fewer than the 23040'):
        check_payload(payload, 'jpeg', len(RAW), SPEC)


def sealed(body, spec_shape=PIXELS.shape):
    """Return a payload whose checksum is right, whatever its content."""
    return zlib.crc32(jpeg.head_of(*spec_shape) + body).to_bytes(4, 'little') + body


END = b'\xff\xd9'


@given(st.binary(min_size=1, max_size=3_000) | st.lists(
    st.binary(max_size=60) | st.integers(0, 255).map(lambda code: bytes([255, code, 0, 4, 1, 2]))
    | st.just(PAYLOAD[4:200]), min_size=1, max_size=30).map(b''.join))
@drawn(100, 300, anew=True)
def test_arbitrary_scans_decode_to_the_right_size_or_are_refused(body):
    if not body:
        return
    for payload in (sealed(body), sealed(body + END), body):
        begun = time.thread_time()
        try:
            assert len(decode(payload, SPEC, len(RAW))) == len(RAW)
        except BadChunk:
            pass
        assert time.thread_time() - begun < 5, 'none may hang'


def test_another_image_behind_the_head_can_not_change_the_size():
    """A second start of frame, for 65,500 by 65,500 pixels, where the pixels should begin."""
    large = jpeg.head_of(65_500, 65_500, 3)[2:]
    for body in (large + PAYLOAD[4:], PAYLOAD[4:-2] + large + END, large * 20 + END):
        try:
            decode(sealed(body), SPEC, len(RAW))
        except BadChunk as refusal:
            assert 'does not decode' in str(refusal)


def test_a_thousand_scans_take_no_longer_than_one():
    scan = jpeg.head_of(*PIXELS.shape)[-14:] + PAYLOAD[4:40]
    for body in (PAYLOAD[4:-2] + scan * 300 + END, scan * 300 + END):
        with pytest.raises(BadChunk, match='does not decode'):
            decode(sealed(body), SPEC, len(RAW))


@pytest.mark.parametrize('shape, dtype, axis, text', [
    ((1, 3, 4, 5), torch.float32, 2, 'can not travel as JPEG, only torch.uint8'),
    ((1, 4, 4, 5), torch.uint8, 2, 'can not travel as JPEG'),
    ((2, 3, 4, 5), torch.uint8, 2, 'can not travel as JPEG'),
    ((1, 3, 4, 5), torch.uint8, 1, 'can not travel as JPEG'),
    ((1, 3, 5, 5), torch.uint8, 2, 'can not travel as JPEG'),
    ((1, 3, 4), torch.uint8, 2, 'can not travel as JPEG'),
    ((1, 3, 4, 0), torch.uint8, 2, 'can not travel as JPEG'),
    ((1, 3, 4, 20_001), torch.uint8, 2, 'a row has 60003 bytes, more than the 60000 of a chunk')])
def test_what_is_no_rows_of_an_image_is_refused(shape, dtype, axis, text):
    with pytest.raises(ValueError, match=text):
        SliceSpec(0, 0, 4 if axis == 2 else 3, shape, axis, dtype, 'jpeg')


@given(st.integers(1, 500), st.integers(1, 20_000), st.sampled_from([1, 3]))
@drawn(40, 100, anew=True)
def test_chunks_are_whole_rows_and_tile_the_slice(rows, width, channels):
    spec = spec_of(rows, width, channels)
    ranges = [spec.chunk_range(index) for index in range(spec.chunk_count)]
    assert ranges[0][0] == 0 and ranges[-1][1] == spec.nbytes
    assert all(end == begin for (_, end), (begin, _) in zip(ranges, ranges[1:]))
    for begin, end in ranges:
        assert 0 < end - begin <= CHUNK_BYTES
        assert begin % spec.row_bytes == end % spec.row_bytes == 0
    held = (ranges[0][1] - ranges[0][0]) // spec.row_bytes
    assert held == rows or held % 16 == 0 or 16 * spec.row_bytes > CHUNK_BYTES
