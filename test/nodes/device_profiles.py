# SPDX-License-Identifier: Apache-2.0
"""Made-up device profiles of captured models."""

from hp_inference.profile.device import CodecSpeed, DeviceProfile, OperatorTime
from hp_inference.runtime.meters import Power
from hp_inference.split.codecs import EXACT_CODECS


def profile_of(layout, whole_s: float, host: str = 'robot') -> DeviceProfile:
    """Return a profile in which every operator takes the same time, shared among its rows."""
    graph, each = layout.graph, whole_s / len(layout.graph.ops)
    values = len(graph.values)
    return DeviceProfile(
        graph.model, graph.digest, 'cpu', host, {}, 1, '2026-01-31T12:00:00',
        tuple(OperatorTime(op.target, tuple(sorted({1, rows})),
                           tuple(each * n / rows for n in sorted({1, rows})))
              for op, rows in zip(graph.ops, layout.rows[1:])),
        whole_s, 1.0, {name: CodecSpeed(1e9, 1e9) for name in EXACT_CODECS},
        {name: (0.9,) * values for name in EXACT_CODECS}, 1e-5, 1e-10,
        tuple(value.nbytes for value in graph.values), 1000, Power(5.0, 6.0, 14.0))
