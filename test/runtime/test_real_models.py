# SPDX-License-Identifier: Apache-2.0
"""Real networks, split at random: the answer of the unsplit module (bench/exactness.py: all)."""

from functools import lru_cache
from pathlib import Path

from nets import random_image
import pytest
import torch

from hp_inference.graph.capture import as_image_model, capture
from hp_inference.graph.draw import draw_weights
from hp_inference.graph.layout import Layout
from hp_inference.graph.models import load_model
from hp_inference.graph.table import LOCAL
from hp_inference.graph.torchvision_shim import import_torchvision
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import ask, judge
from hp_inference.split.plan import make_plan
from hp_inference.split.program import compile_plan

UNET = f'{Path(__file__).parents[2]}/examples/unet.py:unet'
PLANS = ('robot_only', 'full_offload', 'uniform:0.5', 'random:0', 'random:1', 'random:2')


def mobilenet():
    """Return a MobileNetV3 of few blocks: gated or not, of stride 1 and 2, of both activations."""
    from torchvision.models.mobilenetv3 import InvertedResidualConfig as Block
    from torchvision.models.mobilenetv3 import MobileNetV3
    return MobileNetV3([
        Block(16, 3, 16, 16, True, 'RE', 2, 1, 1.0), Block(16, 3, 72, 24, False, 'RE', 2, 1, 1.0),
        Block(24, 5, 96, 24, True, 'HS', 1, 1, 1.0)], 64, 10)


def swin():
    """Return a Swin transformer of two stages: windows of 7, shifted and merged."""
    from torchvision.models import SwinTransformer
    return SwinTransformer([4, 4], 24, [2, 1], [2, 4], [7, 7])


def vit():
    """Return a vision transformer of two layers."""
    from torchvision.models import VisionTransformer
    return VisionTransformer(80, 16, 2, 4, 48, 96)


# One of each kind of network, of odd sizes where they may be.
QUICK = {
    'resnet18': ('torchvision:resnet18', (97, 131)),
    'unet': (UNET, (101, 75)),
    'mobilenet': (mobilenet, (97, 131)),
    'swin': (swin, (97, 131)),
    'vit': (vit, (80, 80)),
}
LONG = {
    'even unet': (UNET, (64, 64)),
    'large resnet18': ('torchvision:resnet18', (227, 301)),
    'mobilenet_v3_large': ('torchvision:mobilenet_v3_large', (227, 301)),
    'shufflenet_v2_x1_0': ('torchvision:shufflenet_v2_x1_0', (227, 301)),
    'convnext_tiny': ('torchvision:convnext_tiny', (97, 131)),
    'deeplabv3_mobilenet_v3_large': ('torchvision:deeplabv3_mobilenet_v3_large', (97, 131)),
    'keypointrcnn_resnet50_fpn.backbone': (
        'torchvision:keypointrcnn_resnet50_fpn.backbone', (97, 131)),
}


@lru_cache(maxsize=2)  # two are asked twice, one soon after the other
def opened(name, dtype):
    """Return the layout of a model and what it says of an image."""
    source, size = {**QUICK, **LONG}[name]
    shape = (1, 3, *size)
    if callable(source):
        import_torchvision()
        module = source().eval()
        draw_weights(module, 0)
        module = module.to(dtype)
    else:
        module = load_model(source, dtype=dtype)
    model = as_image_model(module, shape)
    layout = Layout(capture(model, shape, name))
    return layout, ask(model, [random_image(layout, seed=1)], dtype=dtype)[0]


def test_either_half_of_the_image_changes_the_answer_of_a_split_classifier():
    layout, _ = opened('resnet18', torch.float32)
    programs = compile_plan(layout, make_plan('uniform:0.5', layout))
    image = random_image(layout)
    before = run_both(layout, programs, image).outputs['output']
    for half in (slice(0, 48), slice(48, 97)):
        changed = image.clone()
        changed[:, :, half] = 255 - changed[:, :, half]
        after = run_both(layout, programs, changed).outputs['output']
        assert (after - before).abs().max() > 0.01 * before.abs().max()


@pytest.mark.parametrize('name', ['unet', pytest.param('even unet', marks=pytest.mark.long)])
def test_another_image_gives_another_answer(name):
    # Or an error on the way of the image would not show.
    layout, _ = opened(name, torch.float32)
    programs = compile_plan(layout, make_plan('uniform:0.5', layout))
    first, second = (run_both(layout, programs, random_image(layout, seed)).outputs['output']
                     for seed in (1, 2))
    assert (first - second).abs().max() > 0.01 * first.abs().max()
    assert {layout.kind(value) for value in range(1, len(layout.rows))} == {LOCAL}


@pytest.mark.parametrize('name, dtype', [
    *((name, torch.float32) for name in QUICK),
    pytest.param('unet', torch.float64, marks=pytest.mark.long),
    *(pytest.param(name, torch.float32, marks=pytest.mark.long) for name in LONG)])
def test_split_is_unsplit(name, dtype):
    layout, unsplit = opened(name, dtype)
    wanted = unsplit.answer
    assert layout.unsupported == {}
    for tensor in wanted.values():
        assert tensor.isfinite().all() and tensor.std() > 1e-3 * tensor.abs().max() > 0
    travelled = 0
    for plan in PLANS:
        frame = run_both(layout, compile_plan(layout, make_plan(plan, layout)), unsplit.image,
                         timeout_s=120)
        travelled += frame.sent_bytes
        assert list(frame.outputs) == list(wanted)
        assert judge(frame.outputs, unsplit).ok, plan
    assert travelled > 0
