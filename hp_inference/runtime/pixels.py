# SPDX-License-Identifier: Apache-2.0
"""Camera bytes to the model's uint8 input: decode JPEG and PNG, match channels and size."""

from __future__ import annotations

import io
import threading

import numpy as np
from PIL import Image, ImageFile
import torch

from hp_inference.runtime.image_file import BadImage, check_size, missing_png_rows, needed

__all__ = ['BadImage', 'check_size', 'decode', 'fit', 'MAX_PIXELS', 'RESIZE']

#: Width times height above which an image is refused before it is decoded: what the larger cameras
#: of robots have, and about 0.3 GB while it is decoded. Pillow has limits of its own: above
#: 89,478,485 it warns, above 178,956,970 it refuses, whatever is allowed here.
MAX_PIXELS = 20_000_000

_whole_files_alone = threading.Lock()

RESIZE = {
    # Pillow's bilinear averages over the source area when it shrinks, so nothing is skipped.
    'bilinear': Image.Resampling.BILINEAR,
    'nearest': Image.Resampling.NEAREST,
    'none': None,
}


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """
    Decode a JPEG or PNG file held in memory.

    Returns uint8, [H, W, 3] RGB or [H, W] gray. Of 16-bit samples the high byte is kept, alpha is
    dropped, palettes become RGB, an orientation tag is ignored (the rows are those of the sensor).
    ``max_pixels`` bounds width times height, read from the header before anything is decoded, and
    nothing but header, tables and samples is looked at. Raises BadImage for data that is empty,
    truncated, corrupt, too large, too costly or of another format. What is missing in the middle
    of a JPEG can't be told from its pixels.
    """
    data = bytes(data)
    if not data:
        raise BadImage('the compressed image is empty, expected a JPEG or PNG file')
    kept = needed(data, max_pixels)
    try:
        with Image.open(io.BytesIO(kept), formats=('JPEG', 'PNG')) as image:
            check_size(*image.size, max_pixels)
            # In one piece: a decoder that is fed in pieces begins again where one is too short.
            image.decodermaxblock = len(kept)
            _load(image)
            # Pillow takes a stream that ends early for black rows.
            if image.format == 'PNG' and _may_lack_rows(image) and missing_png_rows(kept):
                raise BadImage(f'the compressed image ({len(data)} bytes) is truncated or corrupt: '
                               'its last rows are missing')
            return _samples(image)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f'the compressed image is refused: {error}') from None
    except MemoryError:
        raise BadImage(f'there is no memory for the compressed image ({len(data)} bytes)') from None
    except Exception as error:
        # Damaged files make the decoders raise almost anything (OSError, SyntaxError, struct.error,
        # zlib.error, ...); whatever it is, the image is at fault and the caller must live on.
        raise BadImage(f'the compressed image ({len(data)} bytes) is truncated or corrupt: '
                       f'{error or type(error).__name__}') from error


def _load(image: ImageFile.ImageFile) -> None:
    """Decode, cut-off data being an error even if another package asked Pillow to overlook it."""
    with _whole_files_alone:
        asked, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
        try:
            image.load()
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = asked


def _may_lack_rows(image: Image.Image) -> bool:
    """Return whether the last row shows nothing of having been decoded."""
    last = image.crop((0, image.height - 1, *image.size))
    return 'interlace' in image.info or not any(last.tobytes())


def fit(pixels: np.ndarray, channels: int, height: int, width: int,
        resize: str = 'bilinear') -> torch.Tensor:
    """
    Bring pixels to the model's input.

    ``pixels`` is uint8, [H, W] gray or [H, W, 3] RGB; it is not changed and not kept.
    Returns uint8 [1, channels, height, width], channels_last in memory. Gray is repeated for a
    three-channel model, colour becomes luminance (ITU-R 601) for a one-channel model. ``resize``
    is 'bilinear', 'nearest' or 'none'. Raises BadImage for pixels that cannot be brought there,
    with 'none' for every other size.
    """
    if resize not in RESIZE:
        raise ValueError(f"resize is '{resize}', expected one of {', '.join(RESIZE)}")
    if channels not in (1, 3):
        raise BadImage(f'the model takes {channels} channels: an image can only fill 1 or 3')
    if pixels.dtype != np.uint8 or not (
            pixels.ndim == 2 or pixels.ndim == 3 and pixels.shape[2] == 3):
        raise BadImage(f'the pixels are {pixels.dtype} {list(pixels.shape)}, '
                       'expected uint8 [H, W] or [H, W, 3]')
    size = pixels.shape[1], pixels.shape[0]
    check_size(*size, max_pixels=pixels.size)
    if size != (width, height):
        if RESIZE[resize] is None:
            raise BadImage(f'the image is {size[0]}x{size[1]} (width x height), expected '
                           f"{width}x{height}: resize is 'none', so send that size or set resize "
                           "to 'bilinear' or 'nearest'")
        image = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(image.resize((width, height), RESIZE[resize]))
    if channels == 1 and pixels.ndim == 3:
        pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert('L'))
    # A copy of its own: the frame outlives the message that the pixels may point into.
    samples = np.empty((height, width, channels), np.uint8)
    samples[...] = pixels if pixels.ndim == 3 else pixels[:, :, None]
    return torch.from_numpy(samples).unsqueeze(0).permute(0, 3, 1, 2)


def _samples(image: Image.Image) -> np.ndarray:
    """Return a decoded image as uint8 [H, W] or [H, W, 3]."""
    if image.mode.startswith('I'):
        # Only 16-bit gray PNG gets here ('I;16', 'I' in older Pillow); Pillow's own conversion
        # clips at 255 instead of scaling. 16-bit colour has been reduced on loading.
        return (np.asarray(image) >> 8).astype(np.uint8)
    if image.mode in ('L', 'LA', '1'):
        return np.array(image.convert('L'))
    if image.mode == 'P':
        # By way of RGBA, because Pillow warns about a palette with transparency otherwise.
        image = image.convert('RGBA')
    return np.array(image.convert('RGB'))
