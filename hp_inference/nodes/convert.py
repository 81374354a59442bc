# SPDX-License-Identifier: Apache-2.0
"""Between the messages of hp_msgs and the plain objects of the core."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
import math

import numpy as np
from std_msgs.msg import Header
import torch

from hp_inference.link.errors import BadChunk
from hp_inference.link.wire import Chunk, code_dtype, dtype_code
from hp_inference.split.table import PlanTable
from hp_inference.text import line, NAME
from hp_msgs.msg import NamedTensor, Span, TensorChunk
from hp_msgs.msg import PlanTable as PlanTableMsg

DIGEST_BYTES = 32

LANES = {
    'robot': Span.LANE_ROBOT,
    'uplink': Span.LANE_UPLINK,
    'server': Span.LANE_SERVER,
    'downlink': Span.LANE_DOWNLINK,
}
_LANE_NAMES = {code: name for name, code in LANES.items()}

#: The fields that Chunk and TensorChunk have in common and that need no conversion.
_SAME = ('version', 'session', 'frame', 'plan_index', 'value_id', 'row_begin', 'row_end',
         'chunk_index', 'chunk_count', 'dtype', 'codec', 'seq', 'sent_s', 'raw_bytes',
         'crc')


class BadMessage(ValueError):
    """A message whose fields contradict each other; the text says which and what was expected."""


def chunk_to_msg(chunk: Chunk, header: Header | None = None) -> TensorChunk:
    """Return a chunk as a message that carries the header of its image; the payload is copied."""
    return TensorChunk(
        header=header or Header(),
        table_digest=digest_to_msg(chunk.table_digest),
        scale=float(chunk.scale),
        zero_point=float(chunk.zero_point),
        payload=_octets(chunk.payload),
        **{name: getattr(chunk, name) for name in _SAME})


def chunk_from_msg(msg: TensorChunk) -> Chunk:
    """
    Return a message as a chunk whose payload is a view of the message's.

    Only what a chunk cannot hold is refused here, by BadChunk; whether it agrees with the plan is
    for the receiver to check.
    """
    where = f'chunk {msg.chunk_index} of value {msg.value_id} in frame {msg.frame}'
    if not math.isfinite(msg.scale) or not float(msg.zero_point).is_integer():
        raise BadChunk(f'{where}: scale is {msg.scale} and zero_point {msg.zero_point}, '
                       'expected a finite and a whole number')
    try:
        return Chunk(
            table_digest=digest_from_msg(msg.table_digest),
            scale=msg.scale,
            zero_point=int(msg.zero_point),
            payload=memoryview(msg.payload).cast('B'),
            **{name: getattr(msg, name) for name in _SAME})
    except BadMessage as error:
        raise BadChunk(f'{where}: {error}') from error
    except TypeError:
        raise BadChunk(f'{where}: the payload is a {type(msg.payload).__name__}, '
                       'expected bytes') from None


def digest_to_msg(digest: bytes) -> np.ndarray:
    """Return a SHA-256 digest as the value of a uint8[32] field. Raises BadMessage."""
    if len(digest) != DIGEST_BYTES:
        raise BadMessage(f'a digest of {len(digest)} bytes, expected {DIGEST_BYTES}')
    return np.frombuffer(digest, np.uint8)


def digest_from_msg(field: np.ndarray) -> bytes:
    """Return the value of a uint8[32] field as bytes. Raises BadMessage."""
    try:
        digest = bytes(field)
    except (TypeError, ValueError):
        raise BadMessage(f'the digest is {field!r}, expected {DIGEST_BYTES} bytes') from None
    if len(digest) != DIGEST_BYTES:
        raise BadMessage(f'the digest has {len(digest)} bytes, expected {DIGEST_BYTES}')
    return digest


def digests_to_msg(digests: Sequence[bytes]) -> array:
    """Return digests as the value of a field that holds several, one behind the other."""
    return _octets(b''.join(digests))


def digests_from_msg(field: array) -> list[bytes]:
    """Return the digests in a field that holds several; what is no whole one is left out."""
    octets = bytes(field)
    return [octets[at:at + DIGEST_BYTES]
            for at in range(0, len(octets) - DIGEST_BYTES + 1, DIGEST_BYTES)]


def table_to_msg(table: PlanTable) -> PlanTableMsg:
    """Return a plan table as a message."""
    graph = table.layout.graph
    return PlanTableMsg(model=graph.model, model_digest=graph.digest,
                        digest=digest_to_msg(table.digest), json=table.dumps())


def table_from_msg(msg: PlanTableMsg) -> tuple[bytes, bytes]:
    """Return a plan table of another node as JSON, not looked at, and the digest that it claims."""
    return msg.json.encode('utf-8', 'replace'), digest_from_msg(msg.digest)


def tensor_to_msg(name: str, tensor: torch.Tensor | np.ndarray) -> NamedTensor:
    """Return a tensor, of any memory layout, as a message. Raises ValueError for its dtype."""
    tensor = torch.as_tensor(tensor).detach().cpu()
    octets = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    return NamedTensor(name=name, dtype=dtype_code(tensor.dtype), shape=array('I', tensor.shape),
                       data=_octets(octets))


def tensor_from_msg(msg: NamedTensor) -> torch.Tensor:
    """
    Return the tensor of a message, sharing the message's memory.

    Raises BadMessage for an unknown dtype and for data that are not what dtype and shape say.
    """
    name = line(msg.name, NAME)
    try:
        dtype = code_dtype(msg.dtype)
    except ValueError as error:
        raise BadMessage(f"tensor '{name}': {error}") from None
    shape = tuple(int(size) for size in msg.shape)
    expected = math.prod(shape) * dtype.itemsize
    if len(msg.data) != expected:
        raise BadMessage(f"tensor '{name}' has {len(msg.data)} bytes of data, expected "
                         f'{expected}: shape {list(shape)} of {dtype}')
    if expected == 0:
        return torch.empty(shape, dtype=dtype)
    if dtype is torch.bool and np.frombuffer(msg.data, np.uint8).max() > 1:
        raise BadMessage(f"tensor '{name}' is bool and has bytes other than 0 and 1")
    return torch.frombuffer(msg.data, dtype=dtype).view(shape)


def span_to_msg(lane: str, label: str, start_s: float, duration_s: float) -> Span:
    """Return a piece of a frame's time line as a message; ``lane`` is one of LANES."""
    if lane not in LANES:
        raise ValueError(f"'{lane}' is no lane, expected one of {', '.join(LANES)}")
    return Span(lane=LANES[lane], label=label, start_s=float(start_s),
                duration_s=float(duration_s))


def span_from_msg(msg: Span) -> tuple[str, str, float, float]:
    """Return lane, label, start [s] and duration [s] of a message. Raises BadMessage."""
    label = line(msg.label, NAME)
    if msg.lane not in _LANE_NAMES:
        raise BadMessage(f"span '{label}' is in lane {msg.lane}, "
                         f'expected 0 to {max(_LANE_NAMES)}')
    if not math.isfinite(msg.start_s) or not 0 <= msg.duration_s < math.inf:
        raise BadMessage(f"span '{label}' starts at {msg.start_s} s and takes "
                         f'{msg.duration_s} s, expected finite times and no negative duration')
    return _LANE_NAMES[msg.lane], label, msg.start_s, msg.duration_s


def _octets(data: bytes | bytearray | memoryview | np.ndarray) -> array:
    """Return bytes as the only type that rclpy copies quickly (a list takes 400 times as long)."""
    octets = array('B')
    octets.frombytes(memoryview(data).cast('B'))
    return octets
