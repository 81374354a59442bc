# SPDX-License-Identifier: Apache-2.0
"""Small nets, real ones, and devices whose times are made up: what the planner's tests judge."""

from __future__ import annotations

from collections.abc import Callable
import functools
import random

from nets import Net
import torch

from hp_inference.graph.capture import as_image_model, capture
from hp_inference.graph.ir import Ref
from hp_inference.graph.layout import Layout
from hp_inference.graph.models import load_model
from hp_inference.graph.torchvision_shim import import_torchvision
from hp_inference.link.wire import CODEC_CODES
from hp_inference.profile.device import CodecSpeed, DeviceProfile, OperatorTime
from hp_inference.runtime.meters import Power
from hp_planner.timeline.setting import LinkModel, Setting

POWER = Power(4.0, 6.0, 14.0)  # waiting, communicating, computing


def _residual(net: Net) -> Ref:
    x = net.relu(net.conv(net.x))
    return net.conv(net.relu(net.add(net.conv(net.relu(net.conv(x))), x)))


def _downsampling(net: Net) -> Ref:
    """Halve the rows in a residual block: a 1x1 convolution of stride 2 beside two of 3x3."""
    x = net.conv(net.x)
    y = net.conv(net.relu(net.conv(x, 3, 2)))
    return net.relu(net.add(y, net.conv(x, 1, 2, 0)))


def _branches(net: Net) -> Ref:
    """Put branches that read one, three and five rows side by side."""
    x = net.relu(net.conv(net.x))
    ways = [net.conv(x, 1, 1, 0), net.conv(x, 3), net.conv(net.max_pool(x, 1), 5, 1, 2)]
    return net.conv(net.op('cat.default', ways, 1), 1, 1, 0)


def _reordered(net: Net) -> Ref:
    """Shift rows down and back, and turn the image upside down: rows come from anywhere."""
    x = net.op('roll.default', net.conv(net.x), [5], [2])
    x = net.op('roll.default', net.relu(net.conv(x)), [-5], [2])
    return net.add(x, net.op('flip.default', x, [2]))


def _u_shaped(net: Net) -> Ref:
    """Go down by pooling and up again, and join it with what was there before."""
    x = net.relu(net.conv(net.x))
    deep = net.conv(net.op('avg_pool2d.default', x, [2, 1], [2, 1]))
    return net.conv(net.op('cat.default', [
        x, net.op('upsample_nearest2d.vec', deep, None, [2.0, 1.0])], 1))


NETS: dict[str, Callable[[Net], Ref]] = {
    'chain': lambda net: net.conv(net.conv(net.relu(net.conv(net.x)), 3, 2)),
    'residual': _residual,
    'downsampling': _downsampling,
    'classes': lambda net: net.linear(net.max_pool(net.relu(net.conv(net.x)))),
    'branches': _branches,
    'reordered': _reordered,
    'u_shaped': _u_shaped,
    'gated': lambda net: net.conv(net.squeeze_excite(net.conv(net.x))),
    'attending': lambda net: net.attend(net.conv(net.x)),
}


@functools.cache
def tiny(name: str, height: int = 16) -> Layout:
    """Return the layout of one of NETS for images of ``height`` rows (an even number), 0.4 Mbit."""
    net = Net(height, 50_000 // 3 // height, 3, dtype=torch.float32)
    return net.layout(NETS[name](net))


@functools.cache
def real(name: str, height: int = 64, width: int = 64) -> Layout:
    """Return the layout of a model by its name, such as 'torchvision:resnet18'."""
    return layout_of(load_model(name), (1, 3, height, width), name)


@functools.cache
def small_swin() -> Layout:
    """Return the layout of a Swin transformer of two stages: windows of 7, shifted and merged."""
    import_torchvision()
    from torchvision.models import SwinTransformer
    return layout_of(SwinTransformer([4, 4], 24, [2, 1], [2, 4], [7, 7]), (1, 3, 97, 64), 'swin')


def layout_of(module: torch.nn.Module, shape: tuple[int, ...], name: str = 'module') -> Layout:
    """Return the layout of a module for images of a shape [1, C, H, W]; takes a second or more."""
    return Layout(capture(as_image_model(module.eval(), shape), shape, name))


def profile_of(layout: Layout, seconds: float | dict[int, float] = 1.0, fixed: float = 0.0,
               **changes) -> DeviceProfile:
    """
    Return a device on which an operator takes ``seconds``, nothing else anything.

    ``seconds``: of a whole operator, one for all, or by value (0 where it is not named). One row
    takes ``fixed`` of it at least, the rest is proportional to the rows. ``changes``: fields of
    the profile, such as codecs, ratios, message_s, byte_s.
    """
    graph, operators = layout.graph, []
    for op, rows in zip(graph.ops, layout.rows[1:]):
        whole = seconds.get(op.output, 0.0) if isinstance(seconds, dict) else seconds
        counts = (1, rows) if rows > 1 else (1,)
        operators.append(OperatorTime(op.target, counts, tuple(
            whole * (fixed + (1 - fixed) * count / rows) for count in counts)))
    fields = {
        'model': graph.model, 'model_digest': graph.digest, 'device': 'cpu', 'host': 'here',
        'versions': {}, 'threads': 1, 'date': '2026-01-31T12:00:00',
        'operators': tuple(operators),
        'whole_s': sum(time.seconds[-1] for time in operators) or 1.0, 'scale': 1.0,
        'codecs': {}, 'ratios': {}, 'message_s': 0.0, 'byte_s': 0.0,
        'value_bytes': tuple(value.nbytes for value in graph.values), 'weight_bytes': 0,
        'power': POWER}
    return DeviceProfile(**{**fields, **changes})


def drawn_profile(layout: Layout, seed: int, whole_s: float) -> DeviceProfile:
    """Return a device whose operators take random times, ``whole_s`` together; codecs as well."""
    draw = random.Random(seed)
    work = {v: draw.choice((0.1, 1.0, 3.0)) * draw.random() for v in range(1, len(layout.rows))}
    times = {v: whole_s * part / sum(work.values()) for v, part in work.items()}
    shrinks = {'none': (1.0, 1.0), 'zstd': (0.6, 1.0), 'shuffle_zstd': (0.4, 0.9),
               'float16_shuffle_zstd': (0.2, 0.45), 'uint8_zstd': (0.1, 0.25), 'jpeg': (0.1, 0.2)}
    assert set(shrinks) == set(CODEC_CODES)
    codecs = {name: CodecSpeed(draw.uniform(2e8, 2e9), draw.uniform(2e8, 2e9))
              for name in shrinks}
    ratios = {name: tuple(draw.uniform(*shrinks[name]) for _ in layout.rows) for name in shrinks}
    return profile_of(layout, times, draw.uniform(0, 0.3), codecs=codecs, ratios=ratios,
                      message_s=draw.uniform(0, 1e-4), byte_s=draw.uniform(0, 1e-9))


def setting_of(layout: Layout, robot: DeviceProfile | None = None,
               server: DeviceProfile | None = None, **link) -> Setting:
    """Return a setting; by default operators take 1 s and the link costs its bytes alone."""
    free = {'duplex': 'full', 'message_s': 0.0, 'byte_s': 0.0, 'round_trip_s': 0.0}
    return Setting(layout, robot or profile_of(layout), server or profile_of(layout),
                   LinkModel(**{**free, **link}))


def drawn_setting(layout: Layout, seed: int, duplex: str = 'half') -> Setting:
    """
    Return a setting of which everything is drawn; the server is some 10 times as fast.

    The robot takes about as long as the image at 10 Mbit/s: from there up, offloading pays.
    """
    draw = random.Random(seed)
    robot_s = layout.graph.input.nbytes / 1.25e6 * draw.uniform(0.5, 3)
    return Setting(layout, drawn_profile(layout, seed, robot_s),
                   drawn_profile(layout, seed + 1, robot_s / draw.uniform(3, 30)),
                   LinkModel(duplex, robot_s * draw.uniform(0, 0.02), 0.0,
                             robot_s * draw.uniform(0, 0.05)))
