# SPDX-License-Identifier: Apache-2.0
"""sensor_msgs images to pixels: uint8 [H, W] gray or [H, W, 3] RGB."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from hp_inference.runtime.pixels import BadImage, check_size, decode, MAX_PIXELS
from hp_inference.text import line, NAME


class Encoding(NamedTuple):
    """How the samples of one pixel lie in a sensor_msgs/Image."""

    sample: str              # NumPy type of one sample, little endian
    samples: int             # samples per pixel
    rgb: tuple[int, ...]     # which samples are red, green and blue; () for gray
    colour_model: bool       # whether a colour model may take it
    bridge: str = ''         # what cv_bridge makes of it, '' where it has no conversion of ours


ENCODINGS = {
    'rgb8': Encoding('<u1', 3, (0, 1, 2), True, 'rgb8'),
    'bgr8': Encoding('<u1', 3, (2, 1, 0), True, 'rgb8'),
    'rgba8': Encoding('<u1', 4, (0, 1, 2), True, 'rgb8'),
    'bgra8': Encoding('<u1', 4, (2, 1, 0), True, 'rgb8'),
    '8UC3': Encoding('<u1', 3, (2, 1, 0), True),
    'mono8': Encoding('<u1', 1, (), True, 'mono8'),
    '8UC1': Encoding('<u1', 1, (), True),
    'mono16': Encoding('<u2', 1, (), True),
    # Measurements (depth, thermal), not brightness: a model trained on colour has no use for them.
    '16UC1': Encoding('<u2', 1, (), False),
    '32FC1': Encoding('<f4', 1, (), False),
}


def from_image(msg: Image, channels: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """
    Return the pixels of an uncompressed image for a model with that many input channels.

    The result is uint8, [H, W] gray or [H, W, 3] RGB, and may point into the message. Of 16-bit
    samples the high byte is kept; 32FC1 must lie in [0, 1] and becomes round(255 x). Raises
    BadImage naming what is wrong and what was expected.
    """
    encoding = _check(msg, channels, max_pixels)
    # cv_bridge takes the row length for a whole number of pixels, which padding may break.
    if BRIDGE and encoding.bridge and msg.step % encoding.samples == 0:
        return BRIDGE.imgmsg_to_cv2(msg, encoding.bridge)
    return _convert(msg, encoding)


def from_compressed(msg: CompressedImage, channels: int,
                    max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """
    Return the pixels of a JPEG or PNG image, as from_image does.

    Raises BadImage naming what is wrong and what was expected; the message carries the format
    that the sender declared, which often explains it.
    """
    # image_transport writes 'ENCODING; jpeg compressed ...'; a plain 'jpeg' is as common.
    encoding = msg.format.split(';')[0].strip()
    if encoding in ENCODINGS:
        _check_colour(encoding, channels)
    try:
        return decode(msg.data, max_pixels)
    except BadImage as error:
        raise BadImage(f"{error} (declared format '{line(msg.format, NAME)}')") from error


def _check(msg: Image, channels: int, max_pixels: int) -> Encoding:
    """Return the encoding of a message whose fields agree with each other and with the model."""
    if msg.encoding not in ENCODINGS:
        raise BadImage(f"the image encoding '{line(msg.encoding, NAME)}' is unknown, "
                       f"accepted are {', '.join(ENCODINGS)}")
    _check_colour(msg.encoding, channels)
    check_size(msg.width, msg.height, max_pixels)
    encoding = ENCODINGS[msg.encoding]
    row = msg.width * encoding.samples * np.dtype(encoding.sample).itemsize
    if msg.step < row:
        raise BadImage(f'the image step is {msg.step} bytes, expected at least {row}: '
                       f'{msg.width} pixels of {msg.encoding}')
    if len(msg.data) != msg.height * msg.step:
        raise BadImage(f'the image data is {len(msg.data)} bytes, expected '
                       f'{msg.height * msg.step}: height {msg.height} x step {msg.step}')
    return encoding


def _check_colour(name: str, channels: int) -> None:
    if channels != 1 and not ENCODINGS[name].colour_model:
        accepted = ', '.join(key for key, value in ENCODINGS.items() if value.colour_model)
        raise BadImage(f"the image encoding '{name}' cannot be used: the model takes {channels} "
                       f'channels (colour), expected one of {accepted}')


def _convert(msg: Image, encoding: Encoding) -> np.ndarray:
    sample = np.dtype(encoding.sample).newbyteorder('>' if msg.is_bigendian else '<')
    row = msg.width * encoding.samples * sample.itemsize
    data = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)[:, :row]
    if encoding.rgb:
        data = data.reshape(msg.height, msg.width, encoding.samples)
        if data.shape[2] == 3 and encoding.rgb == (0, 1, 2):
            return data
        pixels = np.empty((msg.height, msg.width, 3), np.uint8)
        for target, source in enumerate(encoding.rgb):  # four times faster than a reversed view
            pixels[:, :, target] = data[:, :, source]
        return pixels
    if sample.kind == 'f':
        return _from_unit_interval(np.ascontiguousarray(data).view(sample))
    return data[:, (0 if msg.is_bigendian else sample.itemsize - 1)::sample.itemsize]


def _from_unit_interval(values: np.ndarray) -> np.ndarray:
    strange = values.size - np.count_nonzero(np.isfinite(values))
    if strange:
        raise BadImage(f'{strange} of {values.size} values of the 32FC1 image are NaN or infinite, '
                       'expected finite values from 0 to 1')
    low, high = values.min(), values.max()
    if low < 0 or high > 1:
        raise BadImage(f'the values of the 32FC1 image go from {low:g} to {high:g}, '
                       'expected 0 to 1')
    return np.rint(values * 255).astype(np.uint8)


def _working_bridge():
    """
    Return a CvBridge of ROS 2, or None where there is none.

    The package cv-bridge on PyPI is ROS 1's: depending on what else is installed it fails on
    import, on NumPy 2 or only when it converts, so one pixel has to come out right.
    """
    try:
        from cv_bridge import CvBridge
        bridge = CvBridge()
        pixel = Image(height=1, width=1, encoding='bgr8', step=3, data=[1, 2, 3])
        works = np.asarray(bridge.imgmsg_to_cv2(pixel, 'rgb8')).tolist() == [[[3, 2, 1]]]
    except Exception:
        return None
    return bridge if works else None


BRIDGE = _working_bridge()
