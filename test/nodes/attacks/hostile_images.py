# SPDX-License-Identifier: Apache-2.0
"""Images that are meant to hurt: sizes that contradict, damaged files, little that becomes much."""

from __future__ import annotations

from array import array
from functools import cache
import io
import random
import struct
import zlib

from hostile_values import mutated, text
import numpy as np
from PIL import Image as Pillow
from sensor_msgs.msg import CompressedImage, Image

ENCODINGS = ('rgb8', 'bgr8', 'rgba8', 'bgra8', '8UC3', 'mono8', '8UC1', 'mono16', '16UC1', '32FC1',
             'yuv422', 'bayer_rggb8', '64FC4', '', 'RGB8')
SCANS = 60


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


@cache
def png(width: int, height: int, rows: int, colour: int = 2) -> bytes:
    """Return a PNG that says so many pixels and has so many rows of zeros."""
    squeeze = zlib.compressobj(9)
    line = bytes(1 + width * {0: 1, 2: 3, 6: 4}[colour])
    data = b''.join(squeeze.compress(line) for _ in range(rows)) + squeeze.flush()
    return (b'\x89PNG\r\n\x1a\n' + _chunk(b'IHDR', struct.pack(
        '>IIBBBBB', width, height, 8, colour, 0, 0, 0)) + _chunk(b'IDAT', data)
        + _chunk(b'IEND', b''))


@cache
def scans(size: int, times: int) -> bytes:
    """Return a progressive JPEG whose last scan comes so often."""
    file = io.BytesIO()
    Pillow.new('RGB', (size, size), (10, 200, 90)).save(file, 'JPEG', progressive=True)
    data = file.getvalue()
    last = data.rindex(b'\xff\xda')
    return data[:-2] + data[last:-2] * times + data[-2:]


@cache
def photograph(kind: str) -> bytes:
    """Return a file that is as it should be."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Pillow.fromarray(pixels).save(file, kind)
    return file.getvalue()


def compressed(draw: random.Random) -> CompressedImage:
    """Return a compressed image."""
    how = draw.randrange(8)
    if how == 0:
        data = png(7000, 7000, 7000)
    elif how == 1:
        data = png(draw.choice([1, 2 ** 31 - 1, 65535]), draw.choice([2 ** 31 - 1, 65535]), 0)
    elif how == 2:
        data = scans(draw.choice([500, 1500]), SCANS)
    elif how == 3:
        data = draw.randbytes(draw.randrange(2000))
    else:
        data = bytearray(photograph(draw.choice(['JPEG', 'PNG'])))
        if how < 6:
            data = data[:draw.randrange(len(data))]
        else:
            for _ in range(draw.randrange(1, 20)):
                data[draw.randrange(len(data))] = draw.randrange(256)
    return CompressedImage(format=draw.choice(['jpeg', 'png', text(draw)]),
                           data=array('B', bytes(data)))


def image(draw: random.Random) -> Image:
    """Return an image as it comes from a camera, or as no camera would give it."""
    side = draw.choice([0, 1, 2, 64, 64, 65, 2000])
    encoding = draw.choice(ENCODINGS)
    each = {'rgba8': 4, 'bgra8': 4, '32FC1': 4, 'mono8': 1, '8UC1': 1, 'mono16': 2,
            '16UC1': 2}.get(encoding, 3)
    made = Image(height=side, width=side, encoding=encoding, step=each * side,
                 data=array('B', bytes(each * side * side)))
    return mutated(draw, made, keep=('header',)) if draw.random() < 0.7 else made
