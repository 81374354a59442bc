# SPDX-License-Identifier: Apache-2.0
"""One call from a description of a model to the unsplit model and its graph's layout."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hp_inference.graph.capture import as_image_model, capture, ImageModel, Preprocessing
from hp_inference.graph.layout import Layout
from hp_inference.graph.models import load_model

DEFAULT_INPUT = (1, 3, 224, 224)


@dataclass(frozen=True)
class ModelSpec:
    """
    What both sides must agree on.

    name: see graph.models.FORMS. input: (1, C, H, W) of the uint8 image; None for the size that a
    .pt2 file was exported for, else DEFAULT_INPUT. weights: a file, or '' for weights drawn under
    ``seed``. mean, std: per channel, None for the default.
    """

    name: str
    input: tuple[int, ...] | None = None
    weights: str = ''
    seed: int = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: torch.dtype = torch.float32


def open_model(spec: ModelSpec, device: str = 'cpu') -> tuple[ImageModel, Layout]:
    """
    Return the unsplit model (on the CPU) and the layout of its graph (on ``device``).

    Raises ModelError or CaptureError.
    """
    module = load_model(spec.name, spec.weights, spec.seed, spec.dtype)
    shape = spec.input or getattr(module, 'input_shape', None) or DEFAULT_INPUT
    pre = None
    if spec.mean is not None or spec.std is not None:
        default = Preprocessing.default(shape[1] if len(shape) > 1 else 3)
        pre = Preprocessing(tuple(spec.mean or default.mean), tuple(spec.std or default.std))
    model = as_image_model(module, shape, pre, spec.dtype)
    graph = capture(model, shape, spec.name)
    return model, Layout(graph if device == 'cpu' else graph.to(device))
