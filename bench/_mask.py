# SPDX-License-Identifier: Apache-2.0
"""A segmentation network whose answer is the mask: the class of every pixel, as a byte."""

from __future__ import annotations

import torch
from torch import nn

from hp_inference.graph.models import load_model


class Mask(nn.Module):
    """Takes the highest class of every pixel."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return uint8 [1, H, W]."""
        return self.network(x)['out'].argmax(1).to(torch.uint8)


def fcn_resnet50() -> nn.Module:
    """Return fcn_resnet50 with its mask in the graph."""
    return Mask(load_model('torchvision:fcn_resnet50'))
