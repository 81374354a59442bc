# SPDX-License-Identifier: Apache-2.0
"""
Whole rows of the image as JPEG.

The head of such a file (its size, its tables) follows from the plan: it does not travel, and what
a sender says can't change it. The payload is the CRC-32 of the whole file, and the file after its
head. A JPEG has no checksum of its own.
"""

from __future__ import annotations

from functools import lru_cache
import io
import zlib

import numpy as np
from PIL import Image

from hp_inference.link.errors import BadChunk

QUALITY = 90
CRC_BYTES = 4
_SUBSAMPLING = 2  # colour halved both ways, as JPEG files usually have it
_START_OF_FRAME, _START_OF_SCAN = 0xC0, 0xDA


def encode(pixels: np.ndarray) -> bytes | None:
    """
    Return the payload for uint8 [rows, width, 1 or 3].

    None when this Pillow writes another head than for an image of no content: nobody could tell it.
    """
    file, head = _file(pixels), head_of(*pixels.shape)
    if not file.startswith(head):
        return None
    return zlib.crc32(file).to_bytes(CRC_BYTES, 'little') + file[len(head):]


def check(payload: memoryview, raw_bytes: int) -> None:
    """Raise BadChunk for a payload that is too short or too long to be one; decodes nothing."""
    if not CRC_BYTES < payload.nbytes < raw_bytes:
        raise BadChunk(f'JPEG payload has {payload.nbytes} bytes, expected more than {CRC_BYTES} '
                       f'and fewer than the {raw_bytes} of the pixels')


def decode(payload: memoryview, out: np.ndarray) -> None:
    """
    Decode a payload that ``check`` has passed to uint8 [rows, width, 1 or 3]; raises BadChunk.

    How many pixels are decoded depends on ``out`` alone.
    """
    file = head_of(*out.shape) + bytes(payload[CRC_BYTES:])
    if zlib.crc32(file) != int.from_bytes(payload[:CRC_BYTES], 'little'):
        raise BadChunk(f'JPEG payload of {payload.nbytes} bytes is damaged: its checksum is '
                       'wrong, or the two sides write other JPEG tables; if it stays so, install '
                       'the same Pillow on both')
    try:
        with Image.open(io.BytesIO(file), formats=('JPEG',)) as image:
            image.load()
            out[...] = np.asarray(image).reshape(out.shape)
    except Exception as error:  # Pillow raises almost anything for what is no JPEG
        raise BadChunk(f'JPEG payload of {payload.nbytes} bytes does not decode: '
                       f'{error or type(error).__name__}') from error


@lru_cache(maxsize=256)
def head_of(rows: int, width: int, channels: int) -> bytes:
    """Return the head of a JPEG file of this size, up to where its pixels begin."""
    head = bytearray(_file(np.zeros((1, 1, channels), np.uint8)))
    place = 2
    while head[place + 1] != _START_OF_SCAN:
        if head[place + 1] == _START_OF_FRAME:
            head[place + 5:place + 9] = rows.to_bytes(2, 'big') + width.to_bytes(2, 'big')
        place += 2 + int.from_bytes(head[place + 2:place + 4], 'big')
    return bytes(head[:place + 2 + int.from_bytes(head[place + 2:place + 4], 'big')])


def _file(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    image.save(file, 'JPEG', quality=QUALITY, subsampling=_SUBSAMPLING)
    return file.getvalue()
