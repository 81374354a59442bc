# SPDX-License-Identifier: Apache-2.0
"""Tests of the way between messages and the plain objects of the core."""

from array import array
from dataclasses import fields, replace
import math

import numpy as np
import pytest
import torch

pytest.importorskip('rclpy')
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from hp_inference.link.errors import BadChunk  # noqa: E402
from hp_inference.link.wire import (  # noqa: E402
    Chunk,
    CODEC_CODES,
    DTYPE_CODES,
    VERSION,
)
from hp_inference.nodes import convert  # noqa: E402
from hp_inference.nodes.convert import (  # noqa: E402
    BadMessage,
    chunk_from_msg,
    chunk_to_msg,
    digest_from_msg,
    digest_to_msg,
    span_from_msg,
    span_to_msg,
    tensor_from_msg,
    tensor_to_msg,
)
from hp_msgs.msg import NamedTensor, Span, TensorChunk  # noqa: E402

pytestmark = pytest.mark.ros
DIGEST = bytes(range(32))
CHUNK = Chunk(
    session=2 ** 64 - 1, frame=2 ** 40, table_digest=DIGEST, plan_index=65535, value_id=2 ** 32 - 1,
    row_begin=7, row_end=2 ** 32 - 2, chunk_index=3, chunk_count=4, dtype=9, codec=1, raw_bytes=12,
    crc=0xfedcba98, payload=bytes([1, 2, 255]))


def through_the_wire(msg):
    """Serialise and read back, so that fields have the types that a receiver sees."""
    return deserialize_message(serialize_message(msg), type(msg))


def as_dict(chunk):
    return {field.name: getattr(chunk, field.name) for field in fields(chunk)} | {
        'payload': bytes(chunk.payload)}


def test_a_chunk_survives_the_way_with_its_header():
    header = Header(frame_id='camera')
    header.stamp.sec = 12
    msg = through_the_wire(chunk_to_msg(CHUNK, header))
    assert msg.header == header
    chunk = chunk_from_msg(msg)
    assert as_dict(chunk) == as_dict(CHUNK)
    assert chunk.head == CHUNK.head and hash(chunk.head) == hash(CHUNK.head)


def test_a_quantised_chunk_keeps_scale_and_zero_point():
    chunk = replace(CHUNK, scale=0.5, zero_point=128, codec=4)
    back = chunk_from_msg(through_the_wire(chunk_to_msg(chunk)))
    assert (back.scale, back.zero_point) == (0.5, 128)
    assert type(back.zero_point) is int


@pytest.mark.parametrize('payload', [
    b'abc', bytearray(b'abc'), memoryview(b'abc'), np.frombuffer(b'abc', np.uint8), b''])
def test_any_payload_goes_out_as_the_array_that_rclpy_copies_fast(payload):
    msg = chunk_to_msg(replace(CHUNK, payload=payload))
    assert type(msg.payload) is array and msg.payload.typecode == 'B'
    assert msg.payload.tobytes() == bytes(payload)
    assert bytes(chunk_from_msg(through_the_wire(msg)).payload) == bytes(payload)


def test_a_payload_of_wider_elements_goes_out_as_their_bytes():
    values = np.arange(3, dtype=np.float32)
    msg = chunk_to_msg(replace(CHUNK, payload=memoryview(values)))
    assert msg.payload.tobytes() == values.tobytes()


def test_a_payload_comes_in_without_a_copy():
    msg = through_the_wire(chunk_to_msg(CHUNK))
    chunk = chunk_from_msg(msg)
    msg.payload[0] = 99
    assert chunk.payload[0] == 99
    address = msg.payload.buffer_info()[0]
    assert np.frombuffer(chunk.payload, np.uint8).ctypes.data == address


def test_fields_that_contradict_the_plan_pass_to_the_receiver_that_knows_it():
    msg = through_the_wire(TensorChunk(version=200, dtype=77, codec=78, row_begin=9, row_end=3))
    chunk = chunk_from_msg(msg)
    assert (chunk.version, chunk.dtype, chunk.codec) == (200, 77, 78)
    assert (chunk.row_begin, chunk.row_end, bytes(chunk.payload)) == (9, 3, b'')


@pytest.mark.parametrize(('scale', 'zero_point'), [
    (math.nan, 0), (math.inf, 0), (1.0, math.nan), (1.0, -math.inf), (1.0, 0.5)])
def test_numbers_that_no_quantisation_has_are_refused(scale, zero_point):
    msg = through_the_wire(chunk_to_msg(CHUNK))
    msg.scale, msg.zero_point = scale, float(zero_point)
    with pytest.raises(BadChunk, match=r'chunk 3 of value 4294967295 in frame 1099511627776: '
                                       r'scale is .* and zero_point .*, expected a finite and a w'):
        chunk_from_msg(msg)


class Raw:
    """A message whose fields hold anything, as no generated class would let them."""

    def __init__(self, msg, **changes):
        self.__dict__.update(
            {name: getattr(msg, name) for name in msg.get_fields_and_field_types()})
        self.__dict__.update(changes)


@pytest.mark.parametrize(('changes', 'message'), [
    ({'table_digest': np.zeros(31, np.uint8)}, 'the digest has 31 bytes, expected 32'),
    ({'table_digest': ['x']}, r"the digest is \['x'\], expected 32 bytes"),
    ({'table_digest': None}, 'the digest is None, expected 32 bytes'),
    ({'payload': None}, 'the payload is a NoneType, expected bytes'),
    ({'payload': [1, 2]}, 'the payload is a list, expected bytes'),
])
def test_garbage_in_a_chunk_is_a_bad_chunk(changes, message):
    with pytest.raises(BadChunk, match=f'chunk 3 of value .*: {message}'):
        chunk_from_msg(Raw(chunk_to_msg(CHUNK), **changes))


@pytest.mark.parametrize('size', [0, 31, 33])
def test_a_digest_has_32_bytes(size):
    with pytest.raises(BadMessage, match=f'{size} bytes, expected 32'):
        digest_to_msg(bytes(size))
    with pytest.raises(BadMessage, match=f'has {size} bytes, expected 32'):
        digest_from_msg(np.zeros(size, np.uint8))
    with pytest.raises(BadMessage, match=f'{size} bytes, expected 32'):
        chunk_to_msg(replace(CHUNK, table_digest=bytes(size)))


@pytest.mark.parametrize('dtype', list(DTYPE_CODES), ids=str)
@pytest.mark.parametrize('shape', [(2, 3, 4), (1, 1000), (), (0, 3)])
def test_a_tensor_of_any_dtype_and_shape_survives_the_way(dtype, shape):
    tensor = (torch.rand(shape) * 100 > 50) if dtype is torch.bool else \
        (torch.rand(shape) * 100).to(dtype)
    msg = through_the_wire(tensor_to_msg('logits', tensor))
    assert msg.name == 'logits'
    back = tensor_from_msg(msg)
    assert back.dtype == dtype and back.shape == tensor.shape
    assert torch.equal(back, tensor)


@pytest.mark.parametrize('tensor', [
    torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
    torch.rand(1, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    torch.rand(4, 4)[:, ::2],
    torch.rand(3, requires_grad=True),
    torch.rand(1).expand(5),
])
def test_elements_travel_in_c_order_whatever_the_memory_layout(tensor):
    msg = tensor_to_msg('x', tensor)
    assert list(msg.shape) == list(tensor.shape)
    assert msg.data.tobytes() == tensor.detach().numpy().tobytes()
    assert type(msg.data) is array
    assert torch.equal(tensor_from_msg(msg), tensor.detach())


def test_a_numpy_array_goes_out_too():
    values = np.arange(6, dtype=np.int64).reshape(2, 3)
    assert tensor_from_msg(tensor_to_msg('x', values)).tolist() == values.tolist()


def test_a_dtype_without_a_code_is_refused_on_the_way_out():
    with pytest.raises(ValueError, match='torch.uint16 cannot travel; dtypes that can: torch.b'):
        tensor_to_msg('x', torch.zeros(2, dtype=torch.uint16))


@pytest.mark.parametrize(('fields_', 'message'), [
    ({'dtype': 0}, "tensor 'x': 0 is no dtype code"),
    ({'dtype': 255}, "tensor 'x': 255 is no dtype code"),
    ({'shape': [2, 2]}, r"'x' has 12 bytes of data, expected 16: shape \[2, 2\] of torch.float32"),
    ({'shape': []}, r"'x' has 12 bytes of data, expected 4: shape \[\] of torch.float32"),
    ({'shape': [0]}, r"'x' has 12 bytes of data, expected 0"),
    ({'shape': [2 ** 32 - 1] * 3}, r"'x' has 12 bytes of data, expected 316912649"),
    ({'data': array('B', bytes(11))}, "'x' has 11 bytes of data, expected 12"),
    ({'data': array('B')}, "'x' has 0 bytes of data, expected 12"),
    ({'dtype': 1, 'shape': [12], 'data': array('B', [2] * 12)}, "'x' is bool and has bytes other"),
])
def test_a_tensor_message_that_contradicts_itself_is_refused(fields_, message):
    good = {'name': 'x', 'dtype': 9, 'shape': [3], 'data': array('B', bytes(12))}
    assert tensor_from_msg(NamedTensor(**good)).tolist() == [0, 0, 0]
    with pytest.raises(BadMessage, match=message):
        tensor_from_msg(through_the_wire(NamedTensor(**(good | fields_))))


def test_spans_survive_the_way():
    for lane in ('robot', 'uplink', 'server', 'downlink'):
        msg = through_the_wire(span_to_msg(lane, 'conv2d [0, 56)', 1, 0.25))
        assert span_from_msg(msg) == (lane, 'conv2d [0, 56)', 1.0, 0.25)


def test_an_unknown_lane_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'radio' is no lane, expected one of robot, uplink, s"):
        span_to_msg('radio', '', 0, 0)
    with pytest.raises(BadMessage, match="span 'x' is in lane 4, expected 0 to 3"):
        span_from_msg(Span(lane=4, label='x'))


@pytest.mark.parametrize(('start', 'duration'), [
    (math.nan, 1.0), (math.inf, 1.0), (0.0, math.nan), (0.0, math.inf), (0.0, -0.5)])
def test_times_that_no_clock_shows_are_refused(start, duration):
    with pytest.raises(BadMessage, match="span 'x' starts at .* expected finite times and no neg"):
        span_from_msg(Span(lane=0, label='x', start_s=start, duration_s=duration))


def test_the_constants_of_the_messages_are_those_of_the_core():
    constants = {name: value for cls in (TensorChunk, Span)
                 for name in dir(type(cls)) if name.isupper()
                 for value in [getattr(cls, name)]}
    assert constants['VERSION'] == VERSION
    assert {name[6:].lower(): code for name, code in constants.items()
            if name.startswith('DTYPE_')} == {
        str(dtype).removeprefix('torch.'): code for dtype, code in DTYPE_CODES.items()}
    assert {name[6:].lower(): code for name, code in constants.items()
            if name.startswith('CODEC_')} == CODEC_CODES
    assert {name[5:].lower(): code for name, code in constants.items()
            if name.startswith('LANE_')} == convert.LANES
