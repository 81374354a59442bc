# SPDX-License-Identifier: Apache-2.0
"""A measured profile fits its model, adds up to the whole frame, and grows with the rows."""

import time

from hypothesis import given
from hypothesis import strategies as st
from nets import Net, random_image, random_net
import pytest
import torch

from hp_inference.profile import measure
from hp_inference.profile.device import DeviceProfile
from hp_inference.profile.measure import (
    frame_seconds,
    OperatorBench,
    profile,
    row_counts,
    thread_time,
    wall_time,
)
from hp_inference.runtime.meters import Power
from hp_inference.split.plan import robot_only
from hp_inference.split.program import compile_plan, Compute

POWER = Power(4.7, 5.2, 14.0)


def convolutions(height=64, width=64, channels=24):
    """Return a net of operators that take far longer than calling them does."""
    net = Net(height, width, channels, dtype=torch.float32)
    x = net.relu(net.conv(net.x, channels=channels))
    return net.layout(net.linear(net.conv(x, channels=channels)))


@pytest.fixture(scope='module')
def layout():
    return convolutions()


@pytest.fixture(scope='module')
def measured(layout):
    return profile(layout, power=POWER, seconds=0.5)


@given(st.integers(1, 3000))
def test_row_counts_are_one_the_quarters_and_all(rows):
    counts = row_counts(rows)
    assert list(counts) == sorted(set(counts)) and 1 <= len(counts) <= 5
    assert (counts[0], counts[-1]) == (1, rows)
    if rows % 4 == 0:
        assert {rows // 4, rows // 2, 3 * rows // 4} <= set(counts)


def test_small_values_are_measured_at_fewer_counts():
    assert [row_counts(n) for n in (1, 2, 3, 7)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4, 6, 7)]


def test_a_profile_is_of_its_model(layout, measured):
    measured.check(layout)
    assert measured.model_digest == layout.graph.digest
    assert [operator.rows for operator in measured.operators] == [
        row_counts(rows) for rows in layout.rows[1:]]
    assert measured.weight_bytes == sum(w.nbytes for w in layout.graph.constants.values())
    assert measured.versions['torch'] == torch.__version__
    assert (measured.device, measured.threads, measured.power) == (
        'cpu', torch.get_num_threads(), POWER)


def test_whole_operators_add_up_to_the_whole_frame(layout, measured):
    total = sum(measured.seconds(v, rows) for v, rows in enumerate(layout.rows))
    assert total == pytest.approx(measured.whole_s, rel=1e-4)


def test_a_program_of_fewer_rows_adds_up_to_its_frame_as_well():
    net = Net(40, 40, 8, dtype=torch.float32)
    wide = net.conv(net.x, channels=8)
    layout = net.layout(net.op('slice.Tensor', wide, 2, 5, 15))
    made = profile(layout, seconds=0.05)
    steps = compile_plan(layout, robot_only(layout))[0].steps
    assert (steps[1].value, steps[1].end - steps[1].begin) == (wide.value, 10)
    assert sum(made.seconds(step.value, step.end - step.begin) for step in steps
               if isinstance(step, Compute)) == pytest.approx(made.whole_s, rel=1e-4)


def test_a_part_takes_less_time_than_the_whole():
    net = Net(64, 64, 32, dtype=torch.float32)  # so much that calling it does not show
    convolution = net.conv(net.x, channels=32)
    layout = net.layout(convolution)
    for seconds in (0.5, 2.0, 8.0):  # what else the machine does may hide it in a short profile
        measured = profile(layout, seconds=seconds)
        quarter, half, whole = (measured.seconds(convolution.value, n) for n in (16, 32, 64))
        if quarter < half < whole and quarter < 0.6 * whole:
            return
    raise AssertionError(f'a quarter takes {quarter} s, half {half} s, the whole {whole} s')


def test_a_profile_survives_its_file(measured, tmp_path):
    measured.save(tmp_path / 'p.json')
    assert DeviceProfile.load(tmp_path / 'p.json') == measured


def test_every_codec_has_a_speed_and_a_ratio_for_every_value(layout, measured):
    # The image has 24 channels: no JPEG.
    assert set(measured.codecs) == set(measured.ratios) == {
        'none', 'zstd', 'shuffle_zstd', 'float16_shuffle_zstd', 'uint8_zstd'}
    assert set(measured.ratios['none']) == {1.0}
    assert all(0 < ratio <= 1 for ratios in measured.ratios.values() for ratio in ratios)
    relu = next(v for v, op in enumerate(layout.graph.ops, 1) if 'relu' in op.target)
    assert measured.ratios['zstd'][relu] < measured.ratios['zstd'][relu - 1]
    assert measured.ratios['float16_shuffle_zstd'][relu] < 0.5


@pytest.mark.parametrize('seed', range(6))
def test_any_net_can_be_measured(seed):
    layout = random_net(seed, dtype=torch.float32)
    made = profile(layout, random_image(layout), seconds=0.01)
    made.check(layout)
    assert all(seconds > 0 for operator in made.operators for seconds in operator.seconds)


def test_every_row_count_is_seen_equally_often(layout):
    bench = OperatorBench(layout, random_image(layout), wall_time)
    for _ in range(20):
        bench.round()
    for samples, rows in zip(bench._samples, layout.rows[1:]):
        assert {len(each) for each in samples.values()} <= ({4} if rows > 1 else {20})


def test_the_median_is_taken_and_the_spread_is_told(layout):
    ticks = iter(range(10 ** 6))

    def timer(run):
        return run(), [1.0, 5.0, 2.0, 3.0, 100.0][next(ticks) // len(layout.graph.ops)]
    bench = OperatorBench(layout, random_image(layout), timer)
    for _ in range(5):
        bench.round()
    linear = bench.times()[-1]  # whole: the same row count in every round
    assert linear.seconds == (3.0,)
    assert linear.spread == pytest.approx((5 - 2) / 3, abs=1e-3)


def test_a_thread_is_not_charged_for_what_it_does_not_compute():
    made, seconds = thread_time(lambda: time.sleep(0.05) or 'made')
    assert made == 'made'
    assert seconds < 0.02 < wall_time(lambda: time.sleep(0.05))[1]


def test_progress_goes_up_to_the_end(layout, monkeypatch):
    monkeypatch.setattr(measure, 'MOST_ROUNDS', 20)
    seen = {}
    profile(layout, seconds=10.0,
            progress=lambda what, done, of: seen.setdefault(what, []).append((done, of)))
    for what, steps in seen.items():
        assert steps == sorted(steps), what
        assert steps[-1][0] == steps[-1][1] > 0, what
    assert len(seen) == 2


def test_a_frame_takes_what_was_computed_and_what_a_quota_adds_but_not_what_others_took():
    quiet, noisy = [(1.0, 1.0)] * 5, [(3.0, 1.1), (2.0, 1.0), (5.0, 1.2)]
    assert frame_seconds([*quiet, *noisy]) == pytest.approx(1.0)
    assert frame_seconds([(2.0, 1.0)] * 8) == pytest.approx(2.0)
    assert frame_seconds([0.9, 1.0, 7.0]) == 1.0
