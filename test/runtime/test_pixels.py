# SPDX-License-Identifier: Apache-2.0
"""Tests of decoding and fitting camera pixels."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image
import pytest
import torch

from hp_inference.runtime.pixels import BadImage, decode, fit

COLOUR = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
GRAY = COLOUR[:, :, 0].copy()


def file_of(image, kind='PNG', **options):
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width, height, bits, colour_type, samples):
    """Return a PNG with samples of any width, which Pillow cannot write for colour."""
    def chunk(name, body):
        return struct.pack('>I', len(body)) + name + body + struct.pack(
            '>I', zlib.crc32(name + body))
    rows = samples.reshape(height, -1)
    raw = b''.join(b'\0' + row.astype('>u2' if bits == 16 else 'u1').tobytes() for row in rows)
    return (b'\x89PNG\r\n\x1a\n'
            + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, bits, colour_type, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(raw)) + chunk(b'IEND', b''))


def test_a_colour_png_decodes_to_the_pixels_it_was_made_of():
    pixels = decode(file_of(COLOUR))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, COLOUR)


def test_a_gray_png_stays_two_dimensional():
    np.testing.assert_array_equal(decode(file_of(GRAY)), GRAY)


@pytest.mark.parametrize('pixels', [COLOUR, GRAY], ids=['colour', 'gray'])
def test_a_jpeg_decodes_to_what_pillow_makes_of_it(pixels):
    data = file_of(pixels, 'JPEG', quality=90)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


def test_any_buffer_is_decoded():
    data = file_of(COLOUR)
    np.testing.assert_array_equal(decode(memoryview(bytearray(data))), COLOUR)


@pytest.mark.parametrize(('colour_type', 'samples'), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_keeps_the_high_byte_and_drops_alpha(colour_type, samples):
    values = np.random.default_rng(1).integers(0, 65536, (3, 4, samples), dtype=np.uint16)
    pixels = decode(png_of(4, 3, 16, colour_type, values))
    expected = (values >> 8).astype(np.uint8)
    if samples >= 3:
        expected = expected[:, :, :3]
    elif pixels.ndim == 3:  # Pillow reads 16-bit gray with alpha as colour
        expected = expected[:, :, [0, 0, 0]]
    else:
        expected = expected[:, :, 0]
    np.testing.assert_array_equal(pixels, expected)


def test_alpha_of_an_8_bit_png_is_dropped_and_not_blended():
    values = np.random.default_rng(2).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    values[..., 3] = 0
    np.testing.assert_array_equal(decode(file_of(values)), values[..., :3])


@pytest.mark.parametrize('transparency', [None, bytes([0, 128])], ids=['opaque', 'transparent'])
def test_a_palette_becomes_its_colours_without_a_warning(transparency):
    image = Image.new('P', (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    options = {} if transparency is None else {'transparency': transparency}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pixels = decode(file_of(image, **options))
    assert pixels.tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_one_bit_becomes_black_and_white():
    pixels = decode(file_of(Image.fromarray(np.array([[True, False]]))))
    assert pixels.tolist() == [[255, 0]]


def test_the_orientation_tag_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show
    assert decode(file_of(COLOUR, 'JPEG', exif=exif)).shape == COLOUR.shape


def test_empty_data_is_refused():
    with pytest.raises(BadImage, match='is empty, expected a JPEG or PNG file'):
        decode(b'')


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_a_truncated_file_is_refused_wherever_it_ends(kind):
    large = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = file_of(large, kind)
    for size in [1, 4, 9, 20, 40, len(data) // 2, len(data) - 40]:
        with pytest.raises(BadImage, match='truncated or corrupt|neither JPEG nor PNG'):
            decode(data[:size])


def test_damaged_bytes_never_raise_anything_but_bad_image():
    random = np.random.default_rng(4)
    refused = 0
    for data in (file_of(COLOUR), file_of(COLOUR, 'JPEG')):
        for _ in range(300):
            damaged = bytearray(data)
            for at in random.integers(0, len(data), 3):
                damaged[at] = random.integers(0, 256)
            try:
                pixels = decode(bytes(damaged), max_pixels=10_000)
                assert pixels.dtype == np.uint8
            except BadImage:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize('kind', ['BMP', 'GIF', 'TIFF', 'WEBP', 'PPM'])
def test_other_formats_are_refused_by_their_first_bytes(kind):
    with pytest.raises(BadImage, match='beginning b.* is neither JPEG nor PNG'):
        decode(file_of(COLOUR, kind))


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_a_large_image_is_refused_by_its_header_before_decoding():
    # The data behind the header is missing: only a decoder that starts on it would notice.
    data = png_of(60_000, 2_000, 8, 0, np.zeros((2_000, 1)))
    with pytest.raises(BadImage, match=r'60000x2000 .* 120000000 pixels: at most 20000000 are'):
        decode(data)


def test_the_limit_is_inclusive():
    data = file_of(COLOUR)
    assert decode(data, max_pixels=35).shape == COLOUR.shape
    with pytest.raises(BadImage, match='7x5 .* 35 pixels: at most 34 are allowed'):
        decode(data, max_pixels=34)


def test_what_pillow_itself_refuses_is_a_bad_image_too():
    data = png_of(60_000, 50_000, 8, 0, np.zeros((50_000, 1)))
    with pytest.raises(BadImage, match='3000000000 pixels'):
        decode(data, max_pixels=10 ** 12)


def test_fit_returns_the_same_pixels_channels_last():
    tensor = fit(COLOUR, 3, 5, 7)
    assert tensor.shape == (1, 3, 5, 7) and tensor.dtype == torch.uint8
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert tensor.stride() == (5 * 7 * 3, 1, 7 * 3, 3)
    np.testing.assert_array_equal(tensor[0].permute(1, 2, 0).numpy(), COLOUR)


def test_fit_copies_even_where_nothing_changes():
    pixels = COLOUR.copy()
    tensor = fit(pixels, 3, 5, 7)
    pixels[...] = 0
    np.testing.assert_array_equal(tensor[0].permute(1, 2, 0).numpy(), COLOUR)


def test_fit_takes_read_only_and_strided_pixels():
    pixels = np.frombuffer(COLOUR.tobytes(), np.uint8).reshape(COLOUR.shape)[:, ::2, ::-1]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tensor = fit(pixels, 3, 5, 4)
        fit(pixels, 3, 2, 2)
        fit(pixels, 1, 5, 4)
    np.testing.assert_array_equal(tensor[0].permute(1, 2, 0).numpy(), pixels)


def test_gray_is_repeated_for_a_colour_model():
    tensor = fit(GRAY, 3, 5, 7)
    for channel in range(3):
        np.testing.assert_array_equal(tensor[0, channel].numpy(), GRAY)


def test_colour_becomes_luminance_for_a_gray_model():
    tensor = fit(COLOUR, 1, 5, 7)
    assert tensor.shape == (1, 1, 5, 7)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    luminance = COLOUR.astype(float) @ [0.299, 0.587, 0.114]
    assert np.abs(tensor[0, 0].numpy() - luminance).max() <= 1


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('pixels', [COLOUR, GRAY], ids=['colour', 'gray'])
def test_resizing_gives_the_model_size(pixels, channels):
    tensor = fit(pixels, channels, 4, 9)
    assert tensor.shape == (1, channels, 4, 9)
    assert tensor.is_contiguous(memory_format=torch.channels_last)


def test_bilinear_averages_when_it_halves_and_nearest_picks():
    stripes = np.tile(np.array([[0], [200]], np.uint8), (4, 8))
    assert abs(fit(stripes, 1, 4, 4, 'bilinear').float().mean().item() - 100) < 1
    assert set(fit(stripes, 1, 4, 4, 'nearest').flatten().tolist()) <= {0, 200}


def test_without_resizing_only_the_model_size_passes():
    assert fit(COLOUR, 3, 5, 7, 'none').shape == (1, 3, 5, 7)
    with pytest.raises(BadImage, match="is 7x5 .* expected 224x200: resize is 'none', so send"):
        fit(COLOUR, 3, 200, 224, 'none')


def test_an_unknown_resize_names_the_known_ones():
    with pytest.raises(ValueError, match="resize is 'cubic', expected one of bilinear, nearest, n"):
        fit(COLOUR, 3, 5, 7, 'cubic')


def test_a_model_with_other_channels_is_named():
    with pytest.raises(BadImage, match='the model takes 4 channels: an image can only fill 1 or 3'):
        fit(COLOUR, 4, 5, 7)


@pytest.mark.parametrize('pixels', [
    COLOUR.astype(np.float32), COLOUR[..., :2], COLOUR[0, 0], COLOUR[None]])
def test_pixels_of_another_type_or_shape_are_refused(pixels):
    with pytest.raises(BadImage, match=r'pixels are .*, expected uint8 \[H, W\] or \[H, W, 3\]'):
        fit(pixels, 3, 5, 7)


@pytest.mark.parametrize('shape', [(0, 7, 3), (5, 0, 3), (0, 0)])
def test_pixels_without_a_pixel_are_refused(shape):
    with pytest.raises(BadImage, match='it has no pixels'):
        fit(np.zeros(shape, np.uint8), 3, 5, 7)
