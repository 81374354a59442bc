# SPDX-License-Identifier: Apache-2.0
"""
The container of a JPEG or PNG file, looked through before anything is decoded.

A small file can ask for a lot: many scans over many pixels, compressed comments that unpack to
gigabytes, thousands of segments that a decoder joins again and again. What the pixels need is
kept, everything else is left out unread, and what would cost more than an image of that size may
is refused. All of it takes time in proportion to the bytes, and little of that.
"""

from __future__ import annotations

import re
import struct
import zlib

#: Scans of a JPEG, which each go over all pixels; progressive ones have about 10.
MOST_SCANS = 20
#: Segments of a JPEG, chunks of a PNG. 1000 segments hold 64 MB, as many chunks of 8 kB 512 MB.
MOST_SEGMENTS, MOST_CHUNKS = 1000, 65_536
#: Bytes that the pixels may take: no encoder needs as many for each of them (16 bits, alpha).
BYTES_PER_PIXEL, SPARE_BYTES = 10, 256 << 10

_PNG = b'\x89PNG\r\n\x1a\n'
_SOI, _EOI, _SOS, _DHT = 0xD8, 0xD9, 0xDA, 0xC4
# Of JPEG's ways to code the ones that cameras use: baseline, extended and progressive, Huffman.
_FRAMES = {0xC0, 0xC1, 0xC2}
_OTHER_FRAMES = set(range(0xC3, 0xD0)) - {_DHT, 0xC8, 0xCC}
# Tables, restart interval, and the two notes that say which colours the samples are.
_KEPT_SEGMENTS = _FRAMES | {_SOS, _DHT, 0xDB, 0xDD, 0xE0, 0xEE}
# Within a scan 0xFF stands before 0 (it is data) and 0xD0 to 0xD7 (restarts).
_END_OF_SCAN = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')
_FILL = re.compile(rb'\xff+')
# Channels of PNG's colour types, and the passes of an interlaced one: first column and row, steps.
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
           (0, 1, 1, 2))
_PIECE = 1 << 20


class BadImage(ValueError):
    """An image that cannot be used; the message says why and what was expected."""


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise BadImage when an image has no pixels or more than ``max_pixels``."""
    if width <= 0 or height <= 0:
        raise BadImage(f'the image is {width}x{height} (width x height): it has no pixels')
    if width * height > max_pixels:
        raise BadImage(f'the image is {width}x{height} (width x height), {width * height} pixels: '
                       f'at most {max_pixels} are allowed (max_pixels)')


def needed(data: bytes, max_pixels: int) -> bytes:
    """
    Return of a JPEG or PNG file what its pixels need, as a file again.

    Raises BadImage for another format, for an image that is larger or costs more than it may, and
    for a file that is cut short.
    """
    if data.startswith(b'\xff\xd8\xff'):
        kept, pixels = _jpeg(data, max_pixels)
    elif data.startswith(_PNG):
        kept, pixels = _png(data, max_pixels)
    else:
        raise BadImage(f'the compressed image ({len(data)} bytes, beginning {data[:8]!r}) '
                       'is neither JPEG nor PNG, or its header is damaged')
    if len(kept) > BYTES_PER_PIXEL * pixels + SPARE_BYTES:
        raise BadImage(f'the compressed image has {len(kept)} bytes for {pixels} pixels: at most '
                       f'{BYTES_PER_PIXEL} a pixel and {SPARE_BYTES} more are allowed')
    return kept


def _broken(data: bytes, why: str) -> BadImage:
    return BadImage(f'the compressed image ({len(data)} bytes) is truncated or corrupt: {why}')


def _jpeg(data: bytes, max_pixels: int) -> tuple[bytes, int]:
    """Return a JPEG without notes, and how many pixels it has."""
    kept, place, pixels, scans = [b'\xff\xd8'], 2, 0, 0
    for _ in range(MOST_SEGMENTS):
        fill = _FILL.match(data, place)
        if not fill or fill.end() == len(data):
            raise _broken(data, f'it has no marker at byte {place}, or no end')
        marker, place = data[fill.end()], fill.end() + 1
        if marker == _EOI:
            if not scans:
                raise _broken(data, 'it has no scan')
            return b''.join([*kept, b'\xff\xd9']), pixels
        end = place + int.from_bytes(data[place:place + 2], 'big')
        if end < place + 2 or end > len(data):
            raise _broken(data, f'the segment at byte {place} goes beyond its end')
        if marker in _OTHER_FRAMES or marker in _FRAMES and pixels:
            raise BadImage(f'the JPEG has a frame 0xFF{marker:02X}: expected one frame, baseline '
                           'or progressive with Huffman coding')
        if marker in _FRAMES:
            if end < place + 7:
                raise _broken(data, 'its header is too short')
            height, width = struct.unpack_from('>HH', data, place + 3)
            check_size(width, height, max_pixels)
            pixels = width * height
        elif marker == _SOS:
            if not pixels:
                raise _broken(data, 'a scan comes before the header')
            scans += 1
            if scans > MOST_SCANS:
                raise BadImage(f'the JPEG goes over its {pixels} pixels in more than {MOST_SCANS} '
                               'scans: that many are allowed')
            found = _END_OF_SCAN.search(data, end)
            if not found:
                raise _broken(data, 'its last scan has no end')
            end = found.start()
        if marker in _KEPT_SEGMENTS:
            kept += b'\xff', data[place - 1:end]
        place = end
    raise BadImage(f'the JPEG has more than {MOST_SEGMENTS} segments')


def _png(data: bytes, max_pixels: int) -> tuple[bytes, int]:
    """Return a PNG without notes and further frames, and how many pixels it has."""
    chunks: dict[bytes, list[bytes]] = {b'IHDR': [], b'PLTE': [], b'IDAT': []}
    place, pixels = len(_PNG), 0
    for _ in range(MOST_CHUNKS):
        size, kind = int.from_bytes(data[place:place + 4], 'big'), data[place + 4:place + 8]
        begin, end = place + 8, place + 12 + size
        if end > len(data):
            raise _broken(data, f'the chunk at byte {place} goes beyond its end')
        body = data[begin:end - 4]
        if kind in chunks or kind == b'IEND':
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(data[end - 4:end], 'big'):
                raise _broken(data, f'the check sum of the chunk at byte {place} is wrong')
        if kind == b'IHDR' and size >= 8:
            width, height = struct.unpack_from('>II', body)
            check_size(width, height, max_pixels)
            pixels = width * height
        if not pixels:
            raise _broken(data, 'it does not begin with its header')
        if kind == b'IEND':
            return _PNG + b''.join(_chunk(name, b''.join(bodies)) for name, bodies in (
                *chunks.items(), (b'IEND', [])) if bodies or name == b'IEND'), pixels
        if kind in chunks:
            if chunks[kind] and kind != b'IDAT':
                raise _broken(data, f'it has two chunks {kind.decode()}')
            chunks[kind].append(body)
        place = end
    raise BadImage(f'the PNG has more than {MOST_CHUNKS} chunks')


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack('>I', len(body)) + kind + body + struct.pack(
        '>I', zlib.crc32(body, zlib.crc32(kind)))


def missing_png_rows(kept: bytes) -> bool:
    """Return whether the pixels of a PNG from ``needed`` end early, though all of it is there."""
    width, height, bits, colour, _, _, interlaced = struct.unpack_from('>IIBBBBB', kept, 16)
    parts = [(-(-(width - left) // across), -(-(height - top) // down))
             for left, top, across, down in (_PASSES if interlaced else ((0, 0, 1, 1),))]
    # A row has a byte for its filter in front; a pass of no width has no rows.
    expected = sum(rows * (1 + -(-columns * bits * _CHANNELS[colour] // 8))
                   for columns, rows in parts if columns > 0 and rows > 0)
    place = kept.index(b'IDAT')
    size = int.from_bytes(kept[place - 4:place], 'big')
    stream, rest, seen = zlib.decompressobj(), kept[place + 4:place + 4 + size], 0
    while seen < expected:
        piece = stream.decompress(rest, _PIECE)
        if not piece:
            return True
        seen, rest = seen + len(piece), stream.unconsumed_tail
    return False
