# SPDX-License-Identifier: Apache-2.0
"""Photographs that installed packages carry, as a camera would send them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
import importlib.util
import io
from pathlib import Path

from demo_nodes import DemoError
import numpy as np
from PIL import Image as Picture
from PIL import ImageOps
from sensor_msgs.msg import CompressedImage, Image

# Package, file in it, and how it is sent: 'file' as it is, else raw in this encoding.
SOURCES = (
    ('sklearn', 'datasets/images/china.jpg', 'file'),
    ('skimage', 'data/coffee.png', 'rgb8'),
    ('sklearn', 'datasets/images/flower.jpg', 'bgr8'),
    ('skimage', 'data/chelsea.png', 'file'),
    ('skimage', 'data/motorcycle_left.png', 'rgb8'),
    ('skimage', 'data/rocket.jpg', 'file'),
    ('skimage', 'data/astronaut.png', 'bgr8'),
)
RAW_SIZE = 640, 480


@dataclass(frozen=True)
class Photo:
    """
    A photograph and the message that carries it.

    ``pixels`` is what the message holds, uint8 [H, W, 3] RGB, read without this package's code.
    """

    name: str
    pixels: np.ndarray
    message: Image | CompressedImage

    @property
    def way(self) -> str:
        """How it is sent: the raw encoding or the file format."""
        return self.message.encoding if isinstance(self.message, Image) else self.message.format


def find_photos() -> list[Photo]:
    """Return the photographs that are there, at least one; raises DemoError."""
    photos = []
    for package, path, way in SOURCES:
        # Found, not imported: only their data are of interest.
        spec = importlib.util.find_spec(package)
        file = Path(spec.origin).parent / path if spec else None
        if file and file.is_file():
            photos.append(_as_file(file) if way == 'file' else _as_raw(file, way))
    if not photos:
        raise DemoError('no photographs were found: install scikit-learn and scikit-image, whose '
                        'packages carry some (requirements/demo.txt; make setup does it)')
    return photos


def _as_file(file: Path) -> Photo:
    data = file.read_bytes()
    with Picture.open(io.BytesIO(data)) as picture:
        kind, pixels = picture.format.lower(), np.asarray(picture.convert('RGB'))
    return Photo(file.stem, pixels, CompressedImage(format=kind, data=array('B', data)))


def _as_raw(file: Path, encoding: str) -> Photo:
    with Picture.open(file) as picture:
        pixels = np.asarray(ImageOps.fit(picture.convert('RGB'), RAW_SIZE))
    sent = pixels if encoding == 'rgb8' else pixels[:, :, ::-1]
    height, width, _ = pixels.shape
    return Photo(file.stem, pixels, Image(
        height=height, width=width, encoding=encoding, step=3 * width,
        data=array('B', sent.tobytes())))
