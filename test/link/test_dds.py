# SPDX-License-Identifier: Apache-2.0
"""The Fast DDS settings are selected for those who have chosen nothing, and are well formed."""

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hp_inference.link import dds

FAST = 'rmw_fastrtps_cpp'
SPACE = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('rmw', [FAST, 'rmw_fastrtps_dynamic_cpp'])
def test_fast_dds_gets_tcp_in_the_variables_of_both_its_versions(rmw):
    chosen = dds.environment({'ROS_DISTRO': 'jazzy'}, rmw)
    assert set(chosen) == {'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'}
    assert {Path(path).name for path in chosen.values()} == {'fastdds_tcp.xml'}
    assert all(Path(path).is_file() for path in chosen.values())


def test_a_fast_dds_without_large_data_gets_udp():
    chosen = dds.environment({'ROS_DISTRO': 'humble'}, FAST)
    assert {Path(path).name for path in chosen.values()} == {'fastdds_udp.xml'}


@pytest.mark.parametrize('rmw', ['rmw_cyclonedds_cpp', 'rmw_zenoh_cpp', ''])
def test_another_middleware_gets_nothing(rmw):
    assert dds.environment({}, rmw) == {}


@pytest.mark.parametrize('name', dds.CHOICES)
@pytest.mark.parametrize('value', ['mine', ''])
def test_who_has_chosen_is_left_alone(name, value):
    assert dds.environment({name: value}, FAST) == {}


@pytest.mark.parametrize('name', dds.FILES_READ)
def test_a_profile_in_the_working_directory_is_a_choice(elsewhere, name):
    (elsewhere / name).write_text('<profiles/>')
    assert dds.environment({}, FAST) == {}


@pytest.mark.parametrize('environ', [
    {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}, {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'off'},
    {'ROS_LOCALHOST_ONLY': '1'}])
def test_nodes_of_one_host_open_no_port_to_others(environ):
    assert dds.environment(environ, FAST) == {}


def test_the_installed_file_is_found_where_there_is_no_checkout(elsewhere, monkeypatch):
    installed = elsewhere / 'share' / 'hp_inference' / 'config' / 'dds'
    installed.mkdir(parents=True)
    (installed / dds.TCP).write_text('<dds/>')
    monkeypatch.setattr(dds, '__file__', str(elsewhere / 'lib' / 'hp_inference' / 'link' / 'x.py'))
    environ = {'AMENT_PREFIX_PATH': f'/nowhere:{elsewhere}'}
    assert dds.settings_file(environ) == installed / dds.TCP
    assert dds.environment({}, FAST) == {}


@pytest.mark.parametrize('name', [dds.TCP, dds.UDP])
def test_a_file_has_one_default_profile_for_participants(name):
    root = ElementTree.parse(dds.settings_file({}, name)).getroot()
    profiles = root.findall(f'.//{SPACE}participant')
    assert [profile.get('is_default_profile') for profile in profiles] == ['true']
    assert profiles[0].find(f'.//{SPACE}leaseDuration/{SPACE}sec') is not None


def test_a_message_of_a_chunk_fits_into_one_of_tcp():
    root = ElementTree.parse(dds.settings_file({}, dds.TCP)).getroot()
    transports = root.find(f'.//{SPACE}builtinTransports')
    assert transports.text == 'LARGE_DATA'
    assert transports.attrib == {'max_msg_size': '100KB', 'sockets_size': '4MB'}


def test_the_transports_take_the_policy_that_stands_before_them():
    root = ElementTree.parse(dds.settings_file({}, dds.TCP)).getroot()
    settings = [one.tag.removeprefix(SPACE) for one in root.find(f'.//{SPACE}rtps')]
    assert settings.index('builtin_transports_reception_threads') < \
        settings.index('builtinTransports')
    policy = root.find(f'.//{SPACE}scheduling_policy')
    assert int(policy.text) == getattr(os, 'SCHED_BATCH', 3)


def test_discovery_does_not_depend_on_tcp():
    root = ElementTree.parse(dds.settings_file({}, dds.TCP)).getroot()
    assert root.find(f'.//{SPACE}metatrafficUnicastLocatorList/{SPACE}locator/{SPACE}udpv4') \
        is not None


def test_a_message_of_udp_fits_into_one_packet():
    root = ElementTree.parse(dds.settings_file({}, dds.UDP)).getroot()
    sizes = {one.find(f'{SPACE}type').text: one.find(f'{SPACE}maxMessageSize')
             for one in root.iter(f'{SPACE}transport_descriptor')}
    assert int(sizes['UDPv4'].text) + 28 <= 1500
