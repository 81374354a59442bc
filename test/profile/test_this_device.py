# SPDX-License-Identifier: Apache-2.0
"""Profiling on request: what is measured belongs to the model, and it ends when it is told to."""

from nets import Net
import pytest

from hp_inference.profile import this_device as module
from hp_inference.profile.device import DeviceProfile
from hp_inference.profile.this_device import profile_this_device
from hp_inference.runtime.meters import NO_POWER, SampledMeter


@pytest.fixture(scope='module')
def layout():
    net = Net(8)
    return net.layout(net.relu(net.conv(net.x)))


@pytest.fixture
def quick(monkeypatch):
    """Measure for a moment, on a machine without a meter."""
    real = module.profile
    monkeypatch.setattr(module, 'profile',
                        lambda *args, **named: real(*args, seconds=1e-3, **named))
    monkeypatch.setattr(module, 'find_meter', lambda device: None)
    return monkeypatch


def test_the_profile_is_of_the_model_and_survives_as_text(layout, quick):
    told = []
    made = profile_this_device(layout, lambda *progress: told.append(progress))
    made.check(layout)
    assert DeviceProfile.loads(made.dumps()) == made
    assert made.power == NO_POWER
    assert told and all(0 <= done <= of for _, done, of in told)


def test_with_a_meter_the_power_is_measured(layout, quick):
    quick.setattr(module, 'find_meter', lambda device: SampledMeter('a meter', lambda: 7.5))
    measure = module.measure_power
    quick.setattr(module, 'measure_power',
                  lambda meter, compute: measure(meter, compute, settle_s=0.0, state_s=0.02))
    power = profile_this_device(layout, lambda *_: None).power
    assert (power.waiting_w, power.computing_w) == (7.5, 7.5) and 'a meter' in power.source


def test_a_meter_that_fails_is_no_reason_to_fail(layout, quick):
    def fail(*_):
        raise OSError('gone')
    quick.setattr(module, 'find_meter', lambda device: SampledMeter('a meter', fail))
    quick.setattr(module, 'measure_power', fail)
    assert profile_this_device(layout, lambda *_: None).power == NO_POWER


@pytest.mark.parametrize('metered', [False, True])
def test_it_ends_with_what_its_progress_raises(layout, quick, metered):
    class Enough(Exception):
        pass

    def progress(*_):
        raise Enough
    if metered:
        quick.setattr(module, 'find_meter', lambda device: SampledMeter('a meter', lambda: 1.0))
        quick.setattr(module, 'measure_power', lambda meter, compute: compute())
    with pytest.raises(Enough):
        profile_this_device(layout, progress)
