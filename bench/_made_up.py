# SPDX-License-Identifier: Apache-2.0
"""Devices made up, not measured: times follow from the operations and bytes of an operator."""

from __future__ import annotations

from hp_inference.graph.ir import Const, leaves, Op
from hp_inference.graph.layout import Layout
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.profile.device import CodecSpeed, DeviceProfile, OperatorTime
from hp_inference.runtime.meters import Power
from hp_planner.timeline.setting import LinkModel, Setting

# Of a robot's board and of a server some 10 times as fast: operations and bytes per second, and
# seconds per operator however few its rows.
ROBOT, SERVER = (0.26e12, 20e9, 2e-5), (2.6e12, 200e9, 1e-5)
# Of an operator's time, what its first row takes besides its part.
FIXED = 0.05
POWER = Power(4.7, 4.9, 13.0)
SPEEDS = {'none': CodecSpeed(8e9, 8e9), 'zstd': CodecSpeed(5e8, 1.2e9),
          'shuffle_zstd': CodecSpeed(4e8, 9e8)}
# Encoded / raw bytes of the image, of what an activation made sparse, and of the rest.
RATIOS = {'none': (1.0, 1.0, 1.0), 'zstd': (0.65, 0.5, 0.92), 'shuffle_zstd': (0.65, 0.5, 0.8)}
SPARSE = ('relu', 'hardtanh', 'max_pool')


def made_up_setting(name: str, height: int = 224, width: int = 224) -> Setting:
    """Return a torchvision model on the two devices; capturing it takes seconds."""
    _, layout = open_model(ModelSpec(f'torchvision:{name}', (1, 3, height, width)))
    return Setting(layout, made_up(layout, *ROBOT), made_up(layout, *SERVER), LinkModel())


def made_up(layout: Layout, operations_per_s: float, bytes_per_s: float,
            fixed_s: float) -> DeviceProfile:
    """Return the profile of a device of these speeds."""
    graph, times, codecs = layout.graph, [], []
    codecs.append('image')
    for op, rows in zip(graph.ops, layout.rows[1:]):
        value = graph.values[op.output]
        whole = operations(layout, op) / operations_per_s + value.nbytes / bytes_per_s
        counts = (1, rows) if rows > 1 else (1,)
        times.append(OperatorTime(op.target, counts, tuple(
            fixed_s + whole * (FIXED + (1 - FIXED) * count / rows) for count in counts)))
        codecs.append('sparse' if any(word in op.target for word in SPARSE) else 'dense')
    kinds = ('image', 'sparse', 'dense')
    return DeviceProfile(
        graph.model, graph.digest, 'made up', 'nowhere', {}, 1, '2026-01-01', tuple(times),
        sum(time.seconds[-1] for time in times), 1.0, SPEEDS,
        {name: tuple(by_kind[kinds.index(kind)] for kind in codecs)
         for name, by_kind in RATIOS.items()},
        1e-5, 1e-10, tuple(value.nbytes for value in graph.values), 0, POWER)


def operations(layout: Layout, op: Op) -> float:
    """Return multiplications and additions of an operator that has weights, 0 for others."""
    sizes = [layout.graph.constants[leaf.name].numel() for leaf in leaves((op.args, op.kwargs))
             if isinstance(leaf, Const)]
    if not any(word in op.target for word in ('conv', 'linear', 'addmm')) or not sizes:
        return 0.0
    shape = layout.graph.values[op.output].shape
    outputs = 1
    for size in shape:
        outputs *= size
    # Each weight serves every place of the output once, in all channels (the last axis of linear).
    channels = shape[1] if 'conv' in op.target else shape[-1]
    return 2.0 * max(sizes) * outputs / channels
