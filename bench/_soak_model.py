# SPDX-License-Identifier: Apache-2.0
"""
A small model whose answers are whole numbers, so that right means equal to the last bit.

With pixels as they are (mean 0, deviation 1/255) no sum exceeds 9 million: float32 rounds none,
in whatever order it is summed.
"""

from __future__ import annotations

import torch
from torch import nn

MODEL = f'{__file__}:net'
SHAPE = (1, 3, 96, 96)
MEAN, STD = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)
IMAGES = 7


def net() -> nn.Module:
    """Return the model; uint8 pixels in [0, 255] in, [1, 4, 24, 24] out."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1),
                          nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator))
    return model


def picture(number: int) -> torch.Tensor:
    """Return one of IMAGES images, uint8 [1, 3, H, W]; smooth, as a camera's are."""
    height, width = SHAPE[2:]
    generator = torch.Generator().manual_seed(number % IMAGES)
    small = torch.randint(0, 256, (1, 3, 7, 7), generator=generator).float()
    return nn.functional.interpolate(small, (height, width), mode='bilinear').to(torch.uint8)
