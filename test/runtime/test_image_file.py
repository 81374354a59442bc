# SPDX-License-Identifier: Apache-2.0
"""What a camera's JPEG or PNG may cost: looked through and refused before anything is decoded."""

import io
import re
import struct
import time
import zlib

import numpy as np
from PIL import Image, ImageFile
import pytest

from hp_inference.runtime import pixels
from hp_inference.runtime.image_file import BadImage, MOST_SCANS, needed
from hp_inference.runtime.pixels import decode, MAX_PIXELS

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
# Far more than any of it takes, far less than what it took: this machine may be busy.
SECONDS = 3.0


def file_of(kind, image=NOISE, **options):
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def segment(marker, body=b''):
    return b'\xff' + bytes([marker]) + struct.pack('>H', len(body) + 2) + body


def with_scans(jpeg, count):
    """Return a progressive JPEG whose last scan is there so often that it has ``count``."""
    starts = [found.start() for found in re.finditer(rb'\xff\xda', jpeg)]
    last = jpeg[starts[-1]:-2]
    return jpeg[:-2] + last * (count - len(starts)) + b'\xff\xd9'


def after_start(jpeg, *segments):
    return jpeg[:2] + b''.join(segments) + jpeg[2:]


def chunk(kind, body=b''):
    return struct.pack('>I', len(body)) + kind + body + struct.pack(
        '>I', zlib.crc32(kind + body))


def png(*more, image=NOISE, rows=None, interlaced=0, end=True):
    """Return a PNG, of which some rows may be missing, with more chunks before its samples."""
    height, width, _ = image.shape
    raw = b''.join(b'\0' + row.tobytes() for row in image[:rows])
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack(
        '>IIBBBBB', width, height, 8, 2, 0, 0, interlaced)) + b''.join(more)
        + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND') * end)


@pytest.fixture
def never_decoded(monkeypatch):
    """Make it an error that Pillow is given the file at all."""
    def opened(*_, **__):
        raise AssertionError('the file was given to the decoder')
    monkeypatch.setattr(pixels.Image, 'open', opened)


def cpu_s(work):
    begun = time.process_time()
    work()
    return time.process_time() - begun


def test_a_jpeg_of_hundreds_of_scans_is_refused_before_it_is_decoded(never_decoded):
    large = file_of('JPEG', Image.new('RGB', (3000, 3000)), progressive=True)
    attack = with_scans(large, 310)
    assert len(attack) < 400_000
    with pytest.raises(BadImage, match=f'in more than {MOST_SCANS} scans'):
        decode(attack)


def test_a_progressive_jpeg_as_cameras_write_it_is_decoded():
    data = file_of('JPEG', progressive=True, quality=95)
    assert 5 < data.count(b'\xff\xda') <= MOST_SCANS
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))
    assert decode(with_scans(data, MOST_SCANS)).shape == NOISE.shape
    with pytest.raises(BadImage, match='scans'):
        decode(with_scans(data, MOST_SCANS + 1))


@pytest.mark.parametrize('progressive', [False, True])
def test_scans_and_pixels_are_bounded_by_default(never_decoded, progressive):
    assert MAX_PIXELS <= 20_000_000
    data = bytearray(file_of('JPEG', progressive=progressive))
    place = re.search(b'\xff\xc2' if progressive else b'\xff\xc0', data).start()
    data[place + 5:place + 9] = struct.pack('>HH', 7000, 7000)
    with pytest.raises(BadImage, match='49000000 pixels: at most'):
        decode(bytes(data))


@pytest.mark.parametrize('marker', [0xC3, 0xC5, 0xC9, 0xCA, 0xCF])
def test_frames_that_no_camera_writes_are_refused(never_decoded, marker):
    data = file_of('JPEG').replace(b'\xff\xc0', bytes([0xFF, marker]))
    with pytest.raises(BadImage, match=f'a frame 0xFF{marker:02X}'):
        decode(data)


def test_a_second_header_is_refused(never_decoded):
    data = file_of('JPEG')
    header = data[data.index(b'\xff\xc0'):][:19]
    with pytest.raises(BadImage, match='expected one frame'):
        decode(data.replace(header, header * 2))


@pytest.mark.parametrize('attack', [
    lambda: after_start(file_of('JPEG'), segment(0xE1, b'Exif\0\0' + bytes(65_527)) * 900),
    lambda: after_start(file_of('JPEG'), segment(0xFE) * 2_000_000),
    lambda: after_start(file_of('JPEG'), b'\xff' * 20_000_000),
    lambda: file_of('JPEG')[:-2] + b'\xff' * 20_000_000 + b'\xd9',
    lambda: file_of('JPEG')[:-2] + b'\xff\0' * 10_000_000 + b'\xff\xd9',
    lambda: file_of('JPEG')[:-2] + b'\xff\xd0' * 10_000_000 + b'\xff\xd9',
    lambda: file_of('JPEG')[:-2] + b'\xff\xda' * 5_000_000,
    lambda: png(chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(20 << 20))) * 20),
    lambda: png(chunk(b'iCCP', b'a\0\0' + zlib.compress(bytes(20 << 20)))),
    lambda: png(chunk(b'iTXt', b'a\0\1\0\0\0' + zlib.compress(bytes(1 << 20))) * 5000),
    lambda: png(chunk(b'tEXt') * 1_000_000),
    lambda: png(chunk(b'IDAT') * 1_000_000),
    lambda: png(image=np.zeros((1, 1, 3), np.uint8))[:33] + chunk(
        b'IDAT', zlib.compress(bytes(60 << 20))) + chunk(b'IEND'),
], ids=['exif', 'comments', 'fill', 'fill in a scan', 'stuffed', 'restarts', 'empty scans',
        'compressed text', 'profile', 'texts', 'many texts', 'many pieces', 'more rows'])
def test_what_is_around_the_pixels_costs_next_to_nothing(attack):
    data = attack()

    def look():
        try:
            assert decode(data).shape[2] == 3
        except BadImage:
            pass
    assert cpu_s(look) < SECONDS


def test_only_what_pixels_need_is_kept():
    exif = Image.Exif()
    exif[0x010F] = 'maker'
    plain = needed(file_of('JPEG'), MAX_PIXELS)
    noted = file_of('JPEG', exif=exif, comment=b'said', icc_profile=bytes(70_000))
    assert needed(noted, MAX_PIXELS) == plain
    assert needed(file_of('JPEG') + b'appended', MAX_PIXELS) == plain
    assert needed(png(chunk(b'acTL', bytes(8)), chunk(b'eXIf', b'x')), MAX_PIXELS) == png()
    assert needed(png(end=True) + chunk(b'fdAT', b'x'), MAX_PIXELS) == png()


def test_several_pictures_in_one_file_are_the_first():
    first, second = Image.fromarray(NOISE), Image.new('RGB', (40, 24))
    data = file_of('MPO', first, save_all=True, append_images=[second])
    np.testing.assert_array_equal(
        decode(data), np.asarray(Image.open(io.BytesIO(data)).convert('RGB')))
    moving = file_of('PNG', first, save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(moving), NOISE)


def test_more_bytes_than_pixels_can_need_are_refused(never_decoded):
    data = file_of('JPEG', NOISE[:8, :8])
    with pytest.raises(BadImage, match='bytes for 64 pixels: at most 10 a pixel'):
        decode(data[:-2] + bytes(500_000) + b'\xff\xd9')


@pytest.fixture(params=[False, True], ids=['strict', 'lenient'])
def pillow(request, monkeypatch):
    """Let Pillow be as it is, or as another package in the process may have set it."""
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', request.param)


@pytest.mark.parametrize('data', [
    file_of('JPEG'), file_of('JPEG', progressive=True), file_of('PNG'), png()],
    ids=['baseline', 'progressive', 'png', 'one piece'])
def test_a_file_cut_short_anywhere_is_refused(pillow, data):
    for size in [*range(1, len(data), max(1, len(data) // 150)), len(data) - 2, len(data) - 1]:
        with pytest.raises(BadImage):
            decode(data[:size])


@pytest.mark.parametrize('rows', [0, 1, 12, 23])
def test_a_png_whose_stream_ends_early_is_refused(pillow, rows):
    with pytest.raises(BadImage, match='its last rows are missing|truncated'):
        decode(png(rows=rows))


def test_a_png_whose_stream_is_cut_is_refused(pillow):
    whole = png()
    body = whole[whole.index(b'IDAT') + 4:-16]
    cut = whole[:33] + chunk(b'IDAT', body[:-200]) + chunk(b'IEND')
    with pytest.raises(BadImage, match='truncated'):
        decode(cut)


@pytest.mark.parametrize('shape', [(5, 7), (1, 7), (2, 1), (8, 8), (1, 1), (3, 2)])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', '1'])
def test_a_black_png_is_no_cut_one(shape, mode):
    black = np.zeros((*shape, 3), np.uint8)
    image = Image.fromarray(black).convert(mode)
    assert not decode(file_of('PNG', image)).any()


def interlaced(image, passes=7):
    """Return an interlaced PNG of RGB pixels, or the first of its passes."""
    height, width, _ = image.shape
    starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)][:passes]
    raw = b''.join(b'\0' + row.tobytes() for x, y, right, down in starts
                   if x < width for row in image[y::down, x::right])
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack(
        '>IIBBBBB', width, height, 8, 2, 0, 0, 1)) + chunk(b'IDAT', zlib.compress(raw))
        + chunk(b'IEND'))


@pytest.mark.parametrize('shape', [(24, 40), (1, 9), (9, 1), (5, 5), (2, 2)])
def test_an_interlaced_png_is_whole_or_refused(shape):
    image = NOISE[:shape[0], :shape[1]]
    np.testing.assert_array_equal(decode(interlaced(image)), image)
    with pytest.raises(BadImage):
        decode(interlaced(image, passes=5))


def test_what_pillow_may_overlook_for_others_stays_as_they_set_it(monkeypatch):
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    decode(file_of('JPEG'))
    with pytest.raises(BadImage):
        decode(file_of('JPEG')[:-200] + b'\xff')
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_an_image_for_which_there_is_no_memory_is_a_bad_image(monkeypatch):
    def full(image):
        raise MemoryError
    monkeypatch.setattr(pixels, '_samples', full)
    with pytest.raises(BadImage, match='there is no memory for the compressed image'):
        decode(file_of('JPEG'))


def test_a_damaged_check_sum_is_refused():
    data = bytearray(png())
    data[60] ^= 1
    with pytest.raises(BadImage, match='check sum'):
        decode(bytes(data))
