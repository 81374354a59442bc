# SPDX-License-Identifier: Apache-2.0
"""What the codecs that round floats may lose, and what they must not."""

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
import pytest
import torch

from hp_inference.link.codecs import decode_into, encode, SliceEncoder
from hp_inference.link.errors import BadChunk
from hp_inference.link.wire import SliceSpec
from hp_inference.link.zstd import compress

HALF, LEVELS = 'float16_shuffle_zstd', 'uint8_zstd'
DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


def spec_of(codec, dtype, count):
    return SliceSpec(1, 0, 1, (1, count), None, dtype, codec)


def through(values, codec):
    """Return what arrives of a chunk, and the codec that it travelled under."""
    spec = spec_of(codec, DTYPES[values.dtype], values.size)
    used, payload = SliceEncoder(spec).encode(values.tobytes())
    received = bytearray(values.nbytes)
    decode_into(bytes(payload), used, memoryview(received), spec)
    return np.frombuffer(received, values.dtype), used


def floats(width, **limits):
    return arrays(np.dtype(f'f{width // 8}'), st.integers(1, 400),
                  elements=st.floats(width=width, **limits))


# Repeated, so that it is worth compressing.
any_floats = (floats(32) | floats(64)).map(lambda values: np.tile(values, 20))
finite_floats = (floats(32, allow_nan=False, allow_infinity=False)
                 | floats(64, allow_nan=False, allow_infinity=False)).map(
    lambda values: np.tile(values, 20))


@given(any_floats)
@drawn(100, 300, anew=True)
def test_float16_errs_by_half_a_bit_and_keeps_range_and_kind(values):
    received, _ = through(values, HALF)
    same = ~np.isfinite(values)
    assert np.array_equal(received[same], values[same], equal_nan=True)
    held = values[~same].clip(-65504, 65504)
    error = np.abs(received[~same] - held)
    assert (error <= np.maximum(np.abs(held) * 2.0 ** -11, 2.0 ** -25)).all()


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_what_float16_can_not_hold_becomes_its_greatest(dtype):
    values = np.array([65504, 65519, 65520, 1e6, -1e30, np.inf, -np.inf, np.nan] * 50, dtype)
    received, used = through(values, HALF)
    assert used == HALF
    assert received[:7].tolist() == [65504, 65504, 65504, 65504, -65504, np.inf, -np.inf]
    assert np.isnan(received[7])


@given(finite_floats)
@drawn(100, 300, anew=True)
def test_levels_err_by_half_a_step_of_the_chunks_range(values):
    received, used = through(values, LEVELS)
    if used == 'none':
        assert np.array_equal(received, values)
        return
    wide = values.astype(np.float64)
    # Head and result are rounded to float32, which shows where the range is a small part of them.
    rounding = 4 * 2.0 ** -24 * np.abs(wide).max() + 2.0 ** -149
    assert np.abs(received - wide).max() <= (wide.max() - wide.min()) / 255 * 0.5001 + rounding


@given(any_floats)
@drawn(60, 200, anew=True)
def test_a_chunk_with_a_number_that_has_no_level_travels_as_it_is(values):
    values[0] = np.nan
    received, used = through(values, LEVELS)
    assert used == 'none' and received.tobytes() == values.tobytes()


@pytest.mark.parametrize('values', [
    [np.inf, 1.0], [-np.inf, 1.0], [3e38, -3e38], [1e-39, 0.0], [1e-44, 0.0]])
def test_a_range_that_float32_has_no_steps_for_travels_as_it_is(values):
    values = np.array(values * 100, np.float32)
    received, used = through(values, LEVELS)
    assert used == 'none' and received.tobytes() == values.tobytes()


def test_a_chunk_of_float64_beyond_float32_travels_as_it_is():
    values = np.array([1e300, 2e300] * 100)
    assert through(values, LEVELS)[1] == 'none'


@pytest.mark.parametrize('value', [0.0, -0.0, 1.5, -65504.0, 3e38, 1e-45])
@pytest.mark.parametrize('codec', [HALF, LEVELS])
def test_a_constant_chunk_stays_constant(value, codec):
    values = np.full(15_000, value, np.float32)
    received, used = through(values, codec)
    assert used == codec
    expected = np.clip(values, -65504, 65504).astype(np.float16) if codec == HALF else values
    assert np.array_equal(received, expected.astype(np.float32))


def test_the_ends_of_a_chunk_keep_their_values():
    values = np.random.default_rng(0).uniform(-3, 5, 15_000).astype(np.float32)
    received, _ = through(values, LEVELS)
    assert received.min() == values.min()
    assert received.max() == pytest.approx(values.max(), rel=1e-6)
    assert len(np.unique(received)) == 256


def test_each_chunk_has_levels_of_its_own():
    spec = spec_of(LEVELS, torch.float32, 30_000)
    encoder = SliceEncoder(spec)
    for scale in (1, 1e6):
        values = np.linspace(0, scale, 15_000, dtype=np.float32)
        received = bytearray(values.nbytes)
        decode_into(encoder.encode(values.tobytes())[1], LEVELS, memoryview(received), spec)
        assert np.abs(np.frombuffer(received, np.float32) - values).max() <= scale / 509


def test_a_chunk_without_levels_does_not_change_how_the_next_one_travels():
    encoder = SliceEncoder(spec_of(LEVELS, torch.float32, 30_000))
    assert encoder.encode(np.full(15_000, np.nan, np.float32).tobytes())[0] == 'none'
    assert encoder.encode(np.zeros(15_000, np.float32).tobytes())[0] == LEVELS


@pytest.mark.parametrize('head', [
    (np.nan, 1), (np.inf, 1), (0, np.nan), (0, np.inf), (0, -1)])
def test_a_head_that_says_no_levels_is_refused(head):
    content = np.array(head, '<f4').tobytes() + bytes(15_000)
    spec = spec_of(LEVELS, torch.float32, 15_000)
    with pytest.raises(BadChunk, match='expected finite numbers and no negative step'):
        decode_into(compress(content), LEVELS, memoryview(bytearray(60_000)), spec)


def test_read_only_memory_is_read_without_a_warning(recwarn):
    encode(np.zeros(100, np.float32).tobytes(), spec_of(HALF, torch.float32, 100))
    assert not recwarn
