# SPDX-License-Identifier: Apache-2.0
"""Joules per frame: from watts by state, from a meter, and from the one after the other."""

import logging
import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.runtime.energy import FrameEnergy
from hp_inference.runtime.meters import NO_POWER, Power, SampledMeter

POWER = Power(5.0, 6.0, 15.0)


class Broken(SampledMeter):
    """A meter of 10 W that fails from when it is told to."""

    def __init__(self):
        self.gone = False
        super().__init__('the broken meter', self.read)

    def read(self):
        if self.gone:
            raise OSError('no such device')
        return 10.0


@pytest.fixture
def metered():
    """Return how to make a FrameEnergy that is closed at the end."""
    made = []

    def make(power, meter):
        made.append(FrameEnergy(power, meter))
        return made[-1]
    yield make
    for energy in made:
        energy.close()


def test_a_frame_costs_watts_by_state_times_the_time_in_it():
    now = time.monotonic()
    assert FrameEnergy(POWER, None).frame(now, now + 1.0, 0.5, 0.25) == pytest.approx(
        0.5 * 15 + 0.25 * 6 + 0.25 * 5)


def test_states_that_overlap_by_rounding_take_no_more_than_the_frame():
    now = time.monotonic()
    energy = FrameEnergy(POWER, None)
    assert energy.frame(now, now + 1.0, 1.1, 0.2) == pytest.approx(15)
    assert energy.frame(now + 1, now + 2.0, 0.5, 0.6) == pytest.approx(7.5 + 3)
    assert energy.frame(now + 2, now + 2, 0.1, 0.1) == 0


def test_the_total_counts_waiting_between_frames():
    energy = FrameEnergy(POWER, None)
    begin = energy._from_s
    assert energy.total_j == 0
    first = energy.frame(begin, begin + 1, 0.5, 0.25)
    assert energy.total_j == pytest.approx(first)
    second = energy.frame(begin + 11, begin + 12, 1.0, 0.0)
    assert energy.total_j == pytest.approx(first + 10 * 5 + second)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8))
def test_the_total_is_every_second_once_even_where_frames_overlap(drawn):
    energy = FrameEnergy(POWER, None)
    begin, end, computed, sent = energy._from_s, 0.0, 0.0, 0.0
    start = begin
    for gap, length, compute, radio in drawn:
        begin += gap * 0.5  # often before the end of the last one
        end = max(end, begin + length)
        compute_s, radio_s = compute * (end - begin) / 2, radio * (end - begin) / 2
        energy.frame(begin, end, compute_s, radio_s)
        computed, sent = computed + compute_s, sent + radio_s
    assert energy.total_j == pytest.approx(
        5 * (end - start) + 10 * computed + 1 * sent, abs=1e-6)


@pytest.mark.parametrize('power', [None, NO_POWER])
def test_nobody_knows_without_watts_and_meter(power):
    energy = FrameEnergy(power, None)
    now = time.monotonic()
    assert energy.frame(now, now + 1, 0.5, 0.1) == 0 == energy.total_j
    assert energy.source == 'unknown'


def test_a_meter_says_it_whatever_the_watts_by_state(metered):
    start = time.monotonic()
    energy = metered(POWER, SampledMeter('a meter', lambda: 10.0))
    begin = time.monotonic()
    time.sleep(0.2)
    middle = time.monotonic()
    time.sleep(0.1)
    end = time.monotonic()
    assert energy.frame(begin, middle, 0.0, 0.0) == pytest.approx(10 * (middle - begin), rel=0.01)
    assert energy.frame(middle, end, 0.1, 0.0) == pytest.approx(10 * (end - middle), rel=0.01)
    assert 10 * (end - begin) <= energy.total_j * 1.001 <= 10.02 * (end - start)
    assert energy.source == 'a meter'


def test_a_meter_that_fails_leaves_the_rest_to_the_watts_and_is_told_once(metered, caplog):
    meter = Broken()
    energy = metered(POWER, meter)
    begin = time.monotonic()
    time.sleep(0.05)
    middle = time.monotonic()
    assert energy.frame(begin, middle, 0.0, 0.0) == pytest.approx(10 * (middle - begin))
    measured = energy.total_j
    meter.gone = True
    with caplog.at_level(logging.WARNING):
        for second in range(3):
            assert energy.frame(middle + second, middle + second + 1, 1.0, 0.0) == 15
    assert [record.getMessage() for record in caplog.records] == [
        'the meter the broken meter failed: no such device; the energy of frames is now watts by '
        'state, given']
    assert energy.total_j == pytest.approx(measured + 45)
    assert energy.source == 'watts by state, given'


def test_a_meter_that_never_worked_and_no_watts_leave_it_unknown(caplog):
    meter = Broken()
    meter.gone = True
    energy = FrameEnergy(None, meter)
    assert energy.source == 'unknown'
    assert 'no such device' in caplog.text
    assert energy.frame(0.0, 1.0, 1.0, 0.0) == 0
