# SPDX-License-Identifier: Apache-2.0
"""A setting is a model on two devices that were measured with it, and a link that makes sense."""

from dataclasses import replace

import pytest
from settings import POWER, profile_of, setting_of, tiny

from hp_inference.profile.device import ProfileError
from hp_inference.runtime.meters import Power
from hp_planner.timeline.setting import bytes_per_s, LinkModel, Prediction, Setting, SettingError

LAYOUT = tiny('chain')


@pytest.mark.parametrize('name', ['message_s', 'byte_s', 'round_trip_s'])
@pytest.mark.parametrize('number', [-1, float('nan'), float('inf'), '1', None])
def test_a_link_costs_a_finite_time(name, number):
    with pytest.raises(SettingError, match=f'{name} is {number!r}, expected seconds'):
        LinkModel(**{name: number})


def test_a_link_is_half_or_full_duplex():
    assert LinkModel().duplex == 'half'
    with pytest.raises(SettingError, match="'simplex', expected 'half' or 'full'"):
        LinkModel('simplex')


def test_the_power_is_that_of_the_robots_profile_unless_another_is_given():
    robot, server = profile_of(LAYOUT), profile_of(LAYOUT, power=Power(50, 50, 300))
    assert Setting(LAYOUT, robot, server).power == POWER
    assert Setting(LAYOUT, robot, server, power=Power(1, 2, 3)).power == Power(1, 2, 3)


@pytest.mark.parametrize('side', ['robot', 'server'])
@pytest.mark.parametrize(('change', 'text'), [
    (lambda profile: replace(profile, model_digest='f' * 64), 'with digest ffffffffffff'),
    (lambda profile: profile_of(tiny('residual'), model_digest=profile.model_digest),
     'has 9 operators, expected 5'),
    (lambda profile: replace(profile, value_bytes=(1, *profile.value_bytes[1:])),
     'for an image of 1 bytes')])
def test_both_profiles_must_be_of_the_model(side, change, text):
    with pytest.raises(ProfileError, match=text):
        setting_of(LAYOUT, **{side: change(profile_of(LAYOUT))})


def test_a_rate_in_bytes():
    assert bytes_per_s(8) == 1e6
    assert bytes_per_s(0) == 0
    for wrong in (-1, float('nan'), float('inf'), '8', None):
        with pytest.raises(SettingError, match=f'a bandwidth is {wrong!r}, expected Mbit/s'):
            bytes_per_s(wrong)


@pytest.mark.parametrize(('busy', 'frames'), [((0.5, 0.1, 0.2), 2), ((0.1, 0.25, 0.2), 4),
                                              ((0.1, 0.1, 0.2), 5)])
def test_the_slowest_of_robot_server_and_radio_limits_the_throughput(busy, frames):
    assert Prediction(1, 1, *busy, 0, 0, 0, 0).throughput == frames
