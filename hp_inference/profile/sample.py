# SPDX-License-Identifier: Apache-2.0
"""A stand-in for a camera's image where none is given."""

from __future__ import annotations

import numpy as np
import torch

# How steeply the amplitude falls with the frequency, and what of a channel's contrast it has in
# common with the others: such that JPEG and zstd save what they save on photographs (7 to 9 times,
# 5 to 9 %).
SLOPE, COMMON = 1.4, 0.97
MEAN, CONTRAST = 118.0, 56.0


def sample_image(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """
    Return an image with the statistics of photographs, uint8 ``shape`` (1, C, H, W), channels_last.

    Noise whose amplitude falls with the frequency, as that of natural images does (Field 1987):
    codecs find in it about what they find in a photograph. Plain noise can't be compressed.
    """
    _, channels, height, width = shape
    draw = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = np.inf  # the mean is set below
    planes = np.fft.irfft2(np.fft.rfft2(draw.standard_normal((channels + 1, height, width)))
                           / frequency ** SLOPE, s=(height, width))
    planes /= planes.std((1, 2), keepdims=True) + 1e-12
    mixed = COMMON * planes[:1] + np.sqrt(1 - COMMON ** 2) * planes[1:]
    pixels = np.clip(MEAN + CONTRAST * mixed, 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels)[None].contiguous(memory_format=torch.channels_last)
