# SPDX-License-Identifier: Apache-2.0
"""Seeded weights for a network that comes without any."""

from __future__ import annotations

import contextlib
from math import floor, log

import torch
from torch import nn

PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
            nn.ConvTranspose3d, nn.Linear)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)
# Large enough for every network of the library, small enough to cost nothing.
NOISE_PIXELS = 96


def draw_weights(module: nn.Module, seed: int) -> None:
    """
    Draw every weight anew, so that every operator shows in the answer.

    Libraries start some weights at zero or near it (heads, residual scales, biases) and others so
    small that a deep net answers with its last bias whatever the image: no error could be seen in
    that. Only uniform numbers are drawn, since they are the same bits on every machine. Batch
    norms bring their input to about unit size, as trained ones do.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, NOISE_PIXELS, NOISE_PIXELS, generator=generator) * 4 - 2

    def uniform(tensor: torch.Tensor | None, low: float, high: float) -> None:
        if tensor is not None:
            tensor.uniform_(low, high, generator=generator)
    with torch.no_grad():
        for part in module.modules():
            own = dict(part.named_parameters(recurse=False))
            if isinstance(part, PRODUCTS):
                # He's bound: the square mean of the activations stays the same through a ReLU.
                bound = (6 / part.weight[0].numel()) ** 0.5
                uniform(own.pop('weight'), -bound, bound)
                uniform(own.pop('bias', None), -0.1, 0.1)
            elif isinstance(part, NORMS):
                uniform(own.pop('weight', None), 0.25, 0.75)
                uniform(own.pop('bias', None), -0.1, 0.1)
                uniform(getattr(part, 'running_mean', None), -0.1, 0.1)
                uniform(getattr(part, 'running_var', None), 0.5, 1.5)
            for parameter in own.values():
                if bool((parameter == parameter.flatten()[0]).all()):
                    uniform(parameter, 0.1, 0.5)
        _settle_batch_norms(module, image)


def _settle_batch_norms(module: nn.Module, image: torch.Tensor) -> None:
    """
    Scale each batch norm's statistics by the power of two nearest to its input's size.

    A power of two, one per layer, so that the rounding differences between two machines do not
    show in the weights.
    """
    def settle(norm, inputs):
        size = inputs[0].square().mean().sqrt().item()
        exponent = floor(log(max(size, 1e-30), 2) + 0.5)
        norm.running_mean *= 2.0 ** exponent
        norm.running_var *= 4.0 ** exponent
    norms = [part for part in module.modules() if isinstance(part, BATCH_NORMS)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    if hooks:
        # A part of a network may take something else than an image: then they stay as drawn.
        with contextlib.suppress(Exception):
            module.eval()(image)
    for hook in hooks:
        hook.remove()
