# SPDX-License-Identifier: Apache-2.0
"""Power by state, by a meter that sees what is going on."""

import time

import pytest

from hp_inference.profile.power import measure_power
from hp_inference.runtime.meters import MeterFailed, SampledMeter


def test_power_is_measured_by_state():
    watts = [5.0]

    def compute():
        watts[0] = 15.0
        time.sleep(0.01)
    power = measure_power(SampledMeter('a meter', lambda: watts[0]), compute, 0.05, 0.2)
    assert (power.waiting_w, power.communicating_w, power.computing_w) == pytest.approx((5, 5, 15))
    assert 'a meter' in power.source
    assert 'communicating taken as waiting' in power.source


def test_a_meter_that_fails_is_told():
    def fail():
        raise OSError('gone')
    with pytest.raises(MeterFailed, match='a meter failed: gone'):
        measure_power(SampledMeter('a meter', fail), lambda: None, 0.0, 0.01)
