# SPDX-License-Identifier: Apache-2.0
"""What planner_node's parameters ask for, as the planner takes it."""

from types import SimpleNamespace

from nets import Net
import pytest
from settings import profile_of

from hp_inference.runtime.meters import NO_POWER, Power
from hp_planner.search.grid import default_grid
from hp_planner.search.objective import Objective
from hp_planner.task import Task
from hp_planner.timeline.setting import LinkModel, SettingError

DEFAULTS = {
    'objective': 'latency', 'latency_bound_ms': 0.0, 'latency_weight': 1.0, 'energy_weight': 1.0,
    'robot_bytes': 0, 'server_bytes': 0, 'link_bytes_per_s': 0.0, 'policy': 'exact',
    'search_seed': 0, 'bandwidths': (), 'link.duplex': 'half', 'link.message_s': 0.001,
    'link.byte_s': 0.0, 'link.round_trip_s': 0.002, 'power.waiting_w': 0.0,
    'power.communicating_w': 0.0, 'power.computing_w': 0.0, 'save_to': ''}


@pytest.fixture(scope='module')
def layout():
    net = Net(8)
    return net.layout(net.relu(net.conv(net.x)))


def task(**changes):
    return Task.of(SimpleNamespace(**{**DEFAULTS, **changes}))


def test_by_default_it_is_latency_without_limits_over_the_default_grid():
    made = task()
    assert made == Task(Objective(), default_grid(), 'exact', 0, LinkModel(), {}, '')


def test_every_parameter_has_its_place():
    made = task(
        objective='weighted', latency_bound_ms=250.0, latency_weight=2.0, energy_weight=3.0,
        robot_bytes=10, server_bytes=20, link_bytes_per_s=30.0, policy='lossy', search_seed=7,
        bandwidths=(20.0, 5.0, 0.0), save_to='table.json', **{
            'link.duplex': 'full', 'link.message_s': 0.1, 'link.byte_s': 0.2,
            'link.round_trip_s': 0.3})
    assert made.objective == Objective('weighted', 0.25, 2.0, 3.0, 10, 20, 30.0)
    assert made.bandwidths == [5.0, 20.0]
    assert (made.policy, made.seed, made.save_to) == ('lossy', 7, 'table.json')
    assert made.link == LinkModel('full', 0.1, 0.2, 0.3)


@pytest.mark.parametrize('changes, message', [
    ({'objective': 'energy_under_latency'}, "needs 'latency_bound_ms' above 0"),
    ({'objective': 'weighted', 'latency_weight': 0.0, 'energy_weight': 0.0},
     "needs 'latency_weight' or 'energy_weight' above 0")])
def test_parameters_that_do_not_agree_are_refused_by_name(changes, message):
    with pytest.raises(SettingError, match=message):
        task(**changes)


def test_power_is_the_profiles_but_for_what_is_given(layout):
    profile = profile_of(layout)
    assert task().setting(layout, profile, profile).power == profile.power
    made = task(**{'power.computing_w': 20.0, 'power.waiting_w': -1.0})
    assert made.setting(layout, profile, profile).power == Power(
        profile.power.waiting_w, profile.power.communicating_w, 20.0, 'parameters')


@pytest.mark.parametrize('objective', ['energy', 'energy_under_latency', 'weighted'])
def test_energy_without_a_known_power_is_refused(layout, objective):
    dark = profile_of(layout, power=NO_POWER)
    changes = {'objective': objective, 'latency_bound_ms': 100.0}
    with pytest.raises(SettingError, match="'power.waiting_w', 'power.communicating_w' and"):
        task(**changes).setting(layout, dark, dark)
    lit = task(**changes, **{'power.computing_w': 10.0}).setting(layout, dark, dark)
    assert lit.power.computing_w == 10.0
    assert task(latency_bound_ms=1.0).setting(layout, dark, dark).power.computing_w == 0.0
