# SPDX-License-Identifier: Apache-2.0
"""Cut a slice into encoded chunks."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import torch

from hp_inference.link.codecs import SliceEncoder
from hp_inference.link.wire import Chunk, codec_code, dtype_code, Head, SliceSpec, to_wire


def chunk_slice(tensor: torch.Tensor, spec: SliceSpec, head: Head) -> Iterator[Chunk]:
    """
    Yield the chunks of a slice in order, each encoded only when it is asked for.

    So the first one can be on the air while the next is compressed. An uncompressed payload is a
    view of the tensor's memory where that has the wire's order: it must not change until the
    payload has been sent. Raises ValueError for a tensor that is not what ``spec`` says.
    """
    encoder = SliceEncoder(spec)
    wire = memoryview(to_wire(tensor, spec))
    for index in range(spec.chunk_count):
        begin, end = spec.chunk_range(index)
        used, payload = encoder.encode(wire[begin:end])
        yield Chunk(
            session=head.session,
            frame=head.frame,
            table_digest=head.table_digest,
            plan_index=head.plan_index,
            value_id=spec.value_id,
            row_begin=spec.row_begin,
            row_end=spec.row_end,
            chunk_index=index,
            chunk_count=spec.chunk_count,
            dtype=dtype_code(spec.dtype),
            codec=codec_code(used),
            raw_bytes=end - begin,
            crc=crc32(payload),
            payload=payload,
        )
