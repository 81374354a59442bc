# SPDX-License-Identifier: Apache-2.0
"""A small U-Net for segmentation: a model of one's own, named ``examples/unet.py:unet``."""

import torch
from torch import nn
import torch.nn.functional as F


def _convolutions(channels: int, features: int) -> nn.Sequential:
    layers = []
    for given in (channels, features):
        layers += [nn.Conv2d(given, features, 3, padding=1, bias=False),
                   nn.BatchNorm2d(features), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """
    Halve the image again and again, then double it, each time beside the map of its size.

    Takes images [1, 3, H, W] of any size from 8 on, returns scores [1, classes, H, W].
    """

    def __init__(self, classes: int = 5, features: tuple[int, ...] = (12, 24, 48, 64)):
        super().__init__()
        self.down = nn.ModuleList(_convolutions(given, made)
                                  for given, made in zip((3, *features), features))
        self.up = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2)
                                for low, high in zip(features[:0:-1], features[-2::-1]))
        self.join = nn.ModuleList(_convolutions(2 * high, high) for high in features[-2::-1])
        self.head = nn.Conv2d(features[0], classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scores of every pixel."""
        skips = []
        for i, convolutions in enumerate(self.down):
            x = convolutions(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        skips.pop()
        for up, join in zip(self.up, self.join):
            skip, x = skips.pop(), up(x)
            # An odd size was halved downwards: one row or column is missing.
            x = F.pad(x, (0, skip.shape[3] - x.shape[3], 0, skip.shape[2] - x.shape[2]))
            x = join(torch.cat([skip, x], 1))
        return self.head(x)


def unet() -> nn.Module:
    """Return the network; ``hp`` calls this function."""
    return UNet()
