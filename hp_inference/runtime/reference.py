# SPDX-License-Identifier: Apache-2.0
"""The unsplit model's answer, and how far another answer is from it."""

from __future__ import annotations

from collections.abc import Mapping
import math

import torch

from hp_inference.graph.capture import ImageModel, named_leaves

#: The largest relative error at which an answer counts as the unsplit model's, by its float type.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def reference(model: ImageModel, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    Return what the unsplit model says of an image, by the names of the graph's outputs.

    image: uint8 [1, C, H, W]. Raises what the model raises.
    """
    with torch.inference_mode():
        return {name: leaf for name, leaf in named_leaves(model(image))
                if isinstance(leaf, torch.Tensor)}


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """
    Return how far a tensor is from the wanted one.

    Floats: ``max|got - wanted| / max|wanted|`` over the finite elements; integers: the fraction of
    elements that differ. Infinity where the shapes or types differ, and where an element that is
    NaN or infinite in one is not the same in the other.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return math.inf
    if wanted.numel() == 0:
        return 0.0
    got, wanted = got.cpu(), wanted.cpu()
    if not wanted.is_floating_point():
        return (got != wanted).double().mean().item()
    got, wanted = got.double(), wanted.double()
    finite = wanted.isfinite()
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    if not (same | (finite & got.isfinite())).all():
        return math.inf
    error = (got - wanted)[finite].abs().max().item() if finite.any() else 0.0
    scale = wanted[finite].abs().max().item() if finite.any() else 0.0
    return error / scale if scale else (math.inf if error else 0.0)


def worst_error(got: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> float:
    """Return the largest relative error of the outputs; infinity when their names differ."""
    if got.keys() != wanted.keys():
        return math.inf
    return max((relative_error(got[name], wanted[name]) for name in wanted), default=0.0)
