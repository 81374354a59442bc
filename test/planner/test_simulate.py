# SPDX-License-Identifier: Apache-2.0
"""
The clock, against times worked out by hand.

The image has 120 kB and travels in 1 s at 0.96 Mbit/s, other values (float32) in 4 s.
"""

from dataclasses import asdict, replace
import math

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
from nets import Net, random_net
import numpy as np
import pytest
from settings import drawn_setting, NETS, profile_of, setting_of, tiny
import torch

from hp_inference.profile.device import CodecSpeed
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.lifetimes import Lifetimes
from hp_inference.split.plan import full_offload, layer, Plan, random_plan, robot_only, uniform
from hp_inference.split.program import compile_plan
from hp_inference.split.shares import ROBOT, SERVER
from hp_planner.timeline.simulate import ENERGY, LATENCY, RADIO_BUSY, ROBOT_BUSY, SERVER_BUSY
from hp_planner.timeline.timeline import Population, predict, Timeline

RATE = 0.96
IMAGE, VALUE = 120_000, 480_000


def net_of(last='relu', rows=20):
    """Return image -> float32 -> a last operator, each of the size that the image has."""
    net = Net(rows, IMAGE // 2 // rows, 2, dtype=torch.float32)
    return net.layout(getattr(net, last)(net.x))


RELU, CONV = net_of(), net_of('conv')


def setting(layout=RELU, robot=None, server=None, **link):
    return setting_of(layout, profile_of(layout, **(robot or {'seconds': {1: 2.0, 2: 3.0}})),
                      profile_of(layout, **(server or {'seconds': {1: 0.5, 2: 1.0}})), **link)


def spans(where, plan, rate=RATE):
    """Return (begin, end) of what happens in each lane."""
    lanes = {'robot': [], 'server': [], 'uplink': [], 'downlink': []}
    for span in Timeline(where).lanes(plan, rate):
        lanes[span.lane].append((span.start_s, span.start_s + span.duration_s))
    return {lane: [pytest.approx(span) for span in each] for lane, each in lanes.items()}


@pytest.mark.parametrize('rate', [0, RATE, 1000])
def test_the_robot_alone_takes_the_sum_of_its_times_at_any_rate(rate):
    assert asdict(predict(setting(), robot_only(RELU), rate)) == {
        'latency_s': 5, 'energy_j': 5 * 14, 'robot_busy_s': 5, 'server_busy_s': 0,
        'radio_busy_s': 0, 'up_bytes': 0, 'down_bytes': 0,
        'robot_peak_bytes': 2 * VALUE, 'server_peak_bytes': 0}


def test_full_offload_goes_up_is_computed_and_comes_down():
    got = predict(setting(), full_offload(RELU), RATE)
    assert asdict(got) == pytest.approx({
        'latency_s': 1 + (0.5 + 1) + 4,
        'energy_j': 6 * 1 + 4 * 1.5 + 6 * 4,  # communicating, waiting, communicating
        'robot_busy_s': 0, 'server_busy_s': 1.5, 'radio_busy_s': 4,  # down, the busier way
        'up_bytes': IMAGE, 'down_bytes': VALUE,
        'robot_peak_bytes': VALUE, 'server_peak_bytes': 2 * VALUE})
    assert predict(setting(duplex='half'), full_offload(RELU), RATE).radio_busy_s == (
        pytest.approx(1 + 4))


@pytest.mark.parametrize(('link', 'radio_s', 'more_s'), [
    ({'message_s': 0.5}, 5 + 2 * 0.5, 0), ({'byte_s': 1 / IMAGE}, 2 * 5, 0),
    ({'round_trip_s': 0.2}, 5, 0.2)])
def test_a_message_costs_the_link_more_than_its_bytes(link, radio_s, more_s):
    got = predict(setting(duplex='half', **link), full_offload(RELU), RATE)
    assert got.radio_busy_s == pytest.approx(radio_s)
    assert got.latency_s == pytest.approx(radio_s + 1.5 + more_s)
    assert got.energy_j == pytest.approx(6 * radio_s + 4 * (1.5 + more_s))


@pytest.mark.parametrize(('encode_s', 'chunk_s', 'host_s', 'decode_s', 'up_s'), [
    # The image is two chunks of 0.25 s on the air each, encoded to a half.
    (0, 0, 0, 0, 0.5),
    (0.2, 0, 0, 0.1, 0.1 + 0.5 + 0.05),  # encode one, both on the air, decode one
    (2.0, 0, 0, 0.1, 2.0 + 0.25 + 0.05),  # encode both, the last on the air, decode it
    (0, 0, 0, 2.0, 0.25 + 2.0),
    (0, 0.1, 0, 0, 0.1 + 0.5),  # hand over one, both on the air
    (0, 0, 0.2, 0, 0.1 + 0.5),
    (0.2, 0.1, 0.2, 0, (0.1 + 0.1 + 0.1) * 2 + 0.25)])
def test_chunks_are_encoded_sent_and_decoded_one_behind_the_other(
        encode_s, chunk_s, host_s, decode_s, up_s):
    def speed(seconds):
        return IMAGE / seconds if seconds else 1e14
    robot = profile_of(
        RELU, 0.0, codecs={'zstd': CodecSpeed(speed(encode_s), 1e14)},
        ratios={'zstd': (0.5, 1.0, 0.0625)}, message_s=chunk_s, byte_s=host_s / (IMAGE / 2))
    server = profile_of(RELU, 0.0, codecs={'zstd': CodecSpeed(1e14, speed(decode_s))})
    got = predict(setting_of(RELU, robot, server), full_offload(RELU), RATE)
    assert (got.up_bytes, got.down_bytes) == (IMAGE / 2, VALUE / 16)
    assert got.latency_s - 0.25 == pytest.approx(up_s)


def test_both_sides_compute_while_rows_travel():
    plan, got = uniform(RELU, 0.5), spans(setting(), uniform(RELU, 0.5))
    assert got == {'robot': [(0, 1), (1, 2.5)], 'uplink': [(0, 0.5)],
                   'server': [(0.5, 0.75), (0.75, 1.25)], 'downlink': [(1.25, 3.25)]}
    # It computes for 2.5 s, whatever the radio does; the rest of the way down it listens.
    assert predict(setting(), plan, RATE).energy_j == pytest.approx(14 * 2.5 + 6 * 0.75)


def test_blocks_of_rows_are_computed_as_they_come():
    where = setting(server={'seconds': 1.0})
    assert predict(where, full_offload(RELU), RATE).latency_s == pytest.approx(1 + 2 + 4)
    assert spans(where, full_offload(RELU, blocks={0: 2})) == {
        'uplink': [(0, 0.5), (0.5, 1)], 'downlink': [(2.5, 6.5)], 'robot': [],
        'server': [(0.5, 1), (1, 1.5), (1.5, 2), (2, 2.5)]}
    assert spans(where, full_offload(RELU, blocks={0: 2, 2: 2}))['downlink'] == [
        (1.5, 3.5), (3.5, 5.5)]


def test_every_block_of_an_operator_takes_its_fixed_part():
    where = setting(server={'seconds': 1.0, 'fixed': 0.2})
    row = 0.2 + 0.8 / 20  # one row of 20; from there on the time is linear
    half = row + (1 - row) * 9 / 19
    assert predict(where, full_offload(RELU), RATE).server_busy_s == pytest.approx(2)
    assert predict(where, full_offload(RELU, blocks={0: 2}), RATE).server_busy_s == (
        pytest.approx(4 * half))


def test_one_radio_serves_whichever_message_was_ready_first():
    plan = full_offload(RELU, blocks={0: 2, 2: 2})
    free = {'seconds': 0.0}
    # Both halves of the image are ready at 0, the first half of the result at 0.5.
    full, half = (setting(server=free, duplex=duplex) for duplex in ('full', 'half'))
    for where, down in ((full, [(0.5, 2.5), (2.5, 4.5)]), (half, [(1, 3), (3, 5)])):
        assert spans(where, plan) == {'robot': [], 'uplink': [(0, 0.5), (0.5, 1)], 'downlink': down,
                                      'server': [(0.5, 0.5)] * 2 + [(1, 1)] * 2}
    in_full, in_half = predict(full, plan, RATE), predict(half, plan, RATE)
    assert (in_full.radio_busy_s, in_half.radio_busy_s) == pytest.approx((4, 5))
    # In full duplex the radio is on from 0 to 4.5 s, for a while in both directions.
    assert (in_full.energy_j, in_half.energy_j) == pytest.approx((6 * 4.5, 6 * 5))


def test_rows_at_the_boundary_are_exchanged_in_turn():
    where = {'robot': {'seconds': 2.0}, 'server': {'seconds': {1: 0.8, 2: 1.0}}}
    half = spans(setting(CONV, duplex='half', **where), uniform(CONV, 0.5))
    assert half == {
        'robot': [(0, 1), (1.1, 2.1)],  # the image in float, then the convolution
        'server': [(0.5, 0.9), (1.3, 1.8)],
        'uplink': [(0, 0.5), (1.1, 1.3)],  # row 9, ready at 1, waits for row 10 on its way down
        'downlink': [(0.9, 1.1), (1.8, 3.8)]}
    full = spans(setting(CONV, duplex='full', **where), uniform(CONV, 0.5))
    assert full['uplink'] == [(0, 0.5), (1, 1.2)]
    assert full['downlink'] == [(0.9, 1.1), (1.7, 3.7)]


def test_messages_of_a_direction_leave_in_the_order_in_which_they_are_handed_over():
    where = setting(robot={'seconds': 1.0}, server={'seconds': 0.0})
    # The halves of the image in float are ready at 0.5 and 1, and 2 s on the air each.
    assert spans(where, layer(RELU, 1, blocks={1: 2})) == {
        'robot': [(0, 0.5), (0.5, 1)], 'uplink': [(0.5, 2.5), (2.5, 4.5)],
        'server': [(2.5, 2.5), (4.5, 4.5)], 'downlink': [(4.5, 8.5)]}


def test_at_rate_0_nothing_gets_through():
    got = asdict(predict(setting(), full_offload(RELU), 0))
    assert set(got.values()) == {math.inf}


def test_what_is_no_complete_plan_costs_infinitely_much():
    gap = Plan('gap', (20, 5, 5), (20, 6, 5))
    got = Timeline(setting()).figures(Population.of([gap, robot_only(RELU)]), [RATE])
    assert np.isinf(got[0]).all() and np.isfinite(got[1]).all()


@given(st.integers(0, 10_000), st.integers(0, 10_000))
@drawn(15, 40, anew=True)
def test_peaks_are_those_of_the_programs_but_for_memory_written_over(net, seed):
    layout = random_net(net, dtype=torch.float32)
    plan = random_plan(layout, seed)
    got = predict(setting_of(layout), plan, 1)
    for side, peak, kept in ((ROBOT, got.robot_peak_bytes, set(layout.graph.outputs.values())),
                             (SERVER, got.server_peak_bytes, set())):
        program = compile_plan(layout, plan)[side]
        assert peak == Lifetimes(layout, program, kept).peak_bytes()
        assert peak >= Executor(layout, program).peak_bytes


@pytest.mark.parametrize('overlap', [0, 8])
def test_a_robot_that_computes_on_what_it_sends_as_jpeg_holds_a_copy_of_the_image(overlap):
    layout = tiny('chain', 32)
    half = tuple(rows // 2 for rows in layout.rows)
    plan = Plan('p', (layout.rows[0], *half[1:]), (layout.rows[0], *(
        max(0, rows - overlap) for rows in half[1:])), codecs={0: 'jpeg'})
    executor = Executor(layout, compile_plan(layout, plan)[ROBOT])
    plain = predict(setting_of(layout), replace(plan, codecs={}), 1).robot_peak_bytes
    assert predict(setting_of(layout), plan, 1).robot_peak_bytes >= max(
        executor.peak_bytes, plain + 1)


RATES = np.geomspace(0.05, 1000, 40)


@given(st.sampled_from(sorted(NETS)), st.integers(0, 10_000))
@drawn(10, 25, anew=True)
def test_figures_keep_to_what_no_plan_can_beat(name, seed):
    layout = tiny(name, 32)
    plans = Population.of([random_plan(layout, seed + i) for i in range(8)])
    full, half = (np.moveaxis(Timeline(drawn_setting(layout, seed, duplex)).figures(
        plans, RATES), 2, 0) for duplex in ('full', 'half'))
    for got in (full, half):
        for busy in (ROBOT_BUSY, SERVER_BUSY, RADIO_BUSY):
            assert (got[LATENCY] >= got[busy] * (1 - 1e-9)).all()
        assert (got[ENERGY] >= 4 * got[LATENCY] * (1 - 1e-9)).all()  # waiting all the time
        assert (got[ENERGY] <= 14 * got[LATENCY] * (1 + 1e-9)).all()  # computing all the time
    assert (full[LATENCY] <= half[LATENCY] * (1 + 1e-9)).all()
    # Not so in half duplex: at a higher rate another message may come first.
    assert (np.diff(full[LATENCY], axis=1) <= 1e-9 * full[LATENCY, :, 1:]).all()
