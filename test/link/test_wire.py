# SPDX-License-Identifier: Apache-2.0
"""Codes, slice arithmetic and the order of bytes on the wire."""

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from hp_inference.link import wire
from hp_inference.link.wire import CHUNK_BYTES, from_wire, SliceSpec, to_wire

DTYPES = list(wire.DTYPE_CODES)


def values_of(shape, dtype):
    """Return a tensor with varied bytes, NaN patterns included where the dtype has them."""
    count = int(np.prod(shape, dtype=np.int64))
    generator = torch.Generator().manual_seed(count)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    raw = torch.randint(0, 256, (count * dtype.itemsize,), generator=generator).to(torch.uint8)
    return raw.view(dtype).reshape(shape)


def bytes_of(tensor):
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(
        torch.uint8).numpy().tobytes()


def test_codes_are_the_fixed_ones_and_map_back():
    assert [wire.dtype_code(dtype) for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64)] == list(range(1, 11))
    assert [wire.codec_code(name) for name in (
        'none', 'zstd', 'shuffle_zstd', 'float16_shuffle_zstd', 'uint8_zstd', 'jpeg')
    ] == list(range(6))
    assert all(wire.code_dtype(wire.dtype_code(dtype)) is dtype for dtype in DTYPES)
    assert all(wire.code_codec(code) == name for name, code in wire.CODEC_CODES.items())


@pytest.mark.parametrize('call, text', [
    (lambda: wire.dtype_code(torch.uint16), 'torch.uint16 cannot travel'),
    (lambda: wire.code_dtype(0), '0 is no dtype code'),
    (lambda: wire.code_dtype(13), '13 is no dtype code'),
    (lambda: wire.codec_code('lz4'), "'lz4' is no codec; codecs: none, zstd"),
    (lambda: wire.code_codec(6), '6 is no codec code'),
])
def test_an_unknown_code_is_refused_with_the_known_ones(call, text):
    with pytest.raises(ValueError, match=text):
        call()


@pytest.mark.parametrize('change, text', [
    ({'row_end': 3}, r'value 5 rows \[3, 3\): expected 0 <= first row'),
    ({'row_begin': -1}, r'rows \[-1, 7\): expected 0 <= first row'),
    ({'axis': None}, r'without a row axis is one row, \[0, 1\)'),
    ({'axis': 4}, 'axis 4 is not in the shape'),
    ({'axis': -1}, 'axis -1 is not in the shape'),
    ({'shape': (1, -3, 4, 2)}, 'negative size'),
    ({'dtype': torch.uint16}, 'cannot travel'),
])
def test_an_impossible_slice_is_refused(change, text):
    fields = {'value_id': 5, 'row_begin': 3, 'row_end': 7, 'shape': (1, 3, 4, 2), 'axis': 2,
              'dtype': torch.float32}
    with pytest.raises(ValueError, match=text):
        SliceSpec(**{**fields, **change})


@given(rows=st.integers(0, 90_000), dtype=st.sampled_from(DTYPES))
@drawn(40, 100, anew=True)
def test_chunk_ranges_tile_the_slice_at_multiples_of_eight(rows, dtype):
    spec = SliceSpec(0, 0, max(1, rows), (rows,), 0, dtype)
    ranges = [spec.chunk_range(index) for index in range(spec.chunk_count)]
    assert ranges[0][0] == 0 and ranges[-1][1] == spec.nbytes == rows * dtype.itemsize
    assert all(end == begin for (_, end), (begin, _) in zip(ranges, ranges[1:]))
    assert all(begin % 8 == 0 and end - begin <= CHUNK_BYTES for begin, end in ranges)
    assert all(end > begin for begin, end in ranges) or spec.nbytes == 0
    for outside in (-1, spec.chunk_count):
        with pytest.raises(IndexError):
            spec.chunk_range(outside)


@st.composite
def tensors_and_specs(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(1, 5), max_size=5))
    tensor = values_of(shape, dtype)
    if len(shape) == 4 and draw(st.booleans()):
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    if shape and draw(st.booleans()):
        tensor = tensor.transpose(draw(st.integers(0, len(shape) - 1)), 0)
    axis = draw(st.none() | st.integers(0, len(shape) - 1)) if shape else None
    if axis is None:
        return tensor, SliceSpec(3, 0, 1, tuple(tensor.shape), None, dtype)
    begin = draw(st.integers(0, tensor.shape[axis] - 1))
    end = draw(st.integers(begin + 1, tensor.shape[axis]))
    narrowed = tensor.narrow(axis, begin, end - begin)
    return narrowed, SliceSpec(3, begin, end, tuple(narrowed.shape), axis, dtype)


@given(tensors_and_specs())
@drawn(100, 300, anew=True)
def test_any_slice_comes_back_bit_for_bit(pair):
    tensor, spec = pair
    raw = to_wire(tensor, spec)
    assert raw.dtype == np.uint8 and raw.shape == (spec.nbytes,)
    back = from_wire(bytearray(raw), spec)
    assert back.shape == tensor.shape and back.dtype == tensor.dtype
    assert bytes_of(back) == bytes_of(tensor)


@given(tensors_and_specs())
@drawn(40, 100, anew=True)
def test_rows_are_slowest_on_the_wire(pair):
    tensor, spec = pair
    if spec.axis is None:
        return
    rows = [to_wire(row, SliceSpec(3, 0, 1, tuple(row.shape), spec.axis, spec.dtype)).tobytes()
            for row in tensor.split(1, dim=spec.axis)]
    assert to_wire(tensor, spec).tobytes() == b''.join(rows)


def test_image_rows_travel_with_channels_last():
    tensor = torch.arange(24, dtype=torch.uint8).reshape(1, 2, 3, 4)
    spec = SliceSpec(0, 0, 3, (1, 2, 3, 4), 2, torch.uint8)
    assert to_wire(tensor, spec).tolist() == tensor[0].permute(1, 2, 0).reshape(-1).tolist()


@pytest.mark.parametrize('dtype', DTYPES)
def test_a_channels_last_slice_is_sent_and_received_without_a_copy(dtype):
    whole = values_of((1, 6, 9, 5), dtype).contiguous(memory_format=torch.channels_last)
    rows = whole.narrow(2, 3, 4)
    spec = SliceSpec(1, 3, 7, (1, 6, 4, 5), 2, dtype)
    raw = to_wire(rows, spec)
    assert raw.ctypes.data == rows.data_ptr()
    buffer = np.array(raw)
    back = from_wire(buffer, spec)
    assert back.data_ptr() == buffer.ctypes.data
    assert back.stride() == torch.empty_like(
        rows, memory_format=torch.channels_last).stride()
    assert bytes_of(back) == bytes_of(rows)


def test_a_whole_image_comes_out_channels_last_for_any_batch():
    tensor = values_of((2, 3, 4, 5), torch.float32)
    spec = SliceSpec(1, 0, 1, (2, 3, 4, 5), None, torch.float32)
    back = from_wire(bytearray(to_wire(tensor, spec)), spec)
    assert back.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('shape, axis', [((1, 7, 12), 1), ((1, 7, 4, 3), 1), ((7, 12), 0)])
def test_tokens_of_batch_one_come_out_contiguous(shape, axis):
    tensor = values_of(shape, torch.float32)
    spec = SliceSpec(1, 0, 7, shape, axis, torch.float32)
    raw = to_wire(tensor, spec)
    assert raw.ctypes.data == tensor.data_ptr()
    assert from_wire(np.array(raw), spec).stride() == tensor.stride()


def test_writing_to_the_buffer_shows_in_the_tensor():
    spec = SliceSpec(1, 0, 2, (2, 2), 0, torch.uint8)
    buffer = bytearray(4)
    tensor = from_wire(buffer, spec)
    buffer[:] = b'\x01\x02\x03\x04'
    assert tensor.tolist() == [[1, 2], [3, 4]]


def test_one_element_cut_from_a_strided_tensor_travels():
    element = torch.arange(6, dtype=torch.int16).reshape(3, 2).narrow(0, 1, 1).narrow(1, 1, 1).t()
    spec = SliceSpec(1, 0, 1, (1, 1), 0, torch.int16)
    assert element.stride() == (1, 2)  # odd, but contiguous: its sizes are 1
    assert to_wire(element, spec).tolist() == [3, 0]


def test_an_empty_slice_is_one_chunk_of_nothing():
    spec = SliceSpec(1, 0, 1, (1, 0, 4), None, torch.float32)
    assert (spec.nbytes, spec.chunk_count, spec.chunk_range(0)) == (0, 1, (0, 0))
    back = from_wire(bytearray(to_wire(torch.empty(1, 0, 4), spec)), spec)
    assert back.shape == (1, 0, 4)


@pytest.mark.parametrize('tensor', [torch.zeros(2, 3), torch.zeros(3, 2, dtype=torch.float64)])
def test_a_tensor_that_is_not_the_slice_is_refused(tensor):
    spec = SliceSpec(8, 0, 3, (3, 2), 0, torch.float32)
    with pytest.raises(ValueError, match=r'value 8 rows \[0, 3\): got .* expected \(3, 2\) torch'):
        to_wire(tensor, spec)


@pytest.mark.parametrize('buffer, text', [
    (bytearray(23), 'got a buffer of 23 bytes, expected a writable one of 24'),
    (bytearray(25), 'got a buffer of 25 bytes, expected a writable one of 24'),
    (bytes(24), 'got a read-only buffer of 24 bytes'),
])
def test_a_buffer_that_cannot_hold_the_slice_is_refused(buffer, text):
    with pytest.raises(ValueError, match=text):
        from_wire(buffer, SliceSpec(8, 0, 3, (3, 2), 0, torch.float32))
