# SPDX-License-Identifier: Apache-2.0
"""What travelling costs, on values whose compression is known."""

import time

from nets import Net
import pytest
from simulated_time import SimulatedTime
import torch

from hp_inference.link import outbox
from hp_inference.link.codecs import MIN_RATIO
from hp_inference.link.wire import CHUNK_BYTES
from hp_inference.profile.measure_link import chunk_costs, CodecBench


@pytest.fixture(scope='module')
def layout():
    net = Net(64, 96, 3, dtype=torch.float32)
    return net.layout(net.relu(net.x))


def floats(layout, make):
    return make(layout.graph.values[1].shape).contiguous(memory_format=torch.channels_last)


def test_zeros_shrink_to_nearly_nothing(layout):
    bench = CodecBench('zstd', layout)
    bench.add(1, floats(layout, torch.zeros))
    assert 0 < bench.ratios[0] < 0.01


def test_noise_travels_as_it_is(layout):
    bench = CodecBench('zstd', layout)
    bench.add(0, torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8))
    assert bench.ratios == [1.0]
    assert bench.speed().encode_bytes_per_s > 0 < bench.speed().decode_bytes_per_s


def test_ratios_are_those_of_what_a_slice_would_send(layout):
    bench = CodecBench('uint8_zstd', layout)
    bench.add(1, floats(layout, torch.rand))
    assert bench.ratios[0] == pytest.approx(0.25, abs=0.01)
    assert bench.ratios[0] < 1 / MIN_RATIO


def test_jpeg_is_for_the_image_alone(layout):
    bench = CodecBench('jpeg', layout)
    bench.add(0, torch.full((1, 3, 64, 96), 7, dtype=torch.uint8))
    bench.add(1, floats(layout, torch.zeros))
    assert bench.ratios[0] < 0.2
    assert bench.ratios[1] == 1.0


def test_large_values_are_sampled():
    net = Net(4000, 50, 3, dtype=torch.float32)
    bench = CodecBench('zstd', net.layout(net.relu(net.x)))
    begun = time.thread_time()
    bench.add(1, torch.zeros(1, 3, 4000, 50).contiguous(memory_format=torch.channels_last))
    assert bench._encoded[0] <= 8 * CHUNK_BYTES
    assert time.thread_time() - begun < 1


def test_a_slow_publisher_makes_chunks_dear(monkeypatch):
    clock = SimulatedTime()
    monkeypatch.setattr(outbox, 'time', clock)
    costs = chunk_costs(lambda chunk: clock.sleep(0.001 + len(chunk.payload) * 5e-8))
    assert costs == pytest.approx((0.001, 5e-8), rel=0.01)


def test_a_publisher_that_only_copies_takes_microseconds():
    message_s, byte_s = chunk_costs()
    assert 0 < message_s < 0.01
    assert 0 <= byte_s < 1e-7
