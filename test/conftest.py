# SPDX-License-Identifier: Apache-2.0
"""What holds for every test, however pytest is started."""

import importlib
import os

import pytest

# A ROS domain of its own for every run, and no talk beyond this host: a robot on the same network
# must not hear the tests. One thread for each of the processes that share the machine's cores; it
# counts only if set before PyTorch is imported.
os.environ['ROS_DOMAIN_ID'] = str(os.getpid() % 100 + 1)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ['OMP_NUM_THREADS'] = '1'

collect_ignore = []
try:
    importlib.import_module('hp_inference.nodes')
    no_ros = None
except ImportError as error:
    no_ros = str(error)
    collect_ignore.append('nodes')


def pytest_addoption(parser):
    parser.addoption('--traces', help='folder with recorded Wi-Fi traces, wifi_*.csv')


def pytest_report_header():
    return f'without the tests that need ROS 2: {no_ros}' if no_ros else None


def pytest_collection_modifyitems(items):
    for item in items:
        if 'nodes' in item.path.relative_to(os.path.dirname(__file__)).parts:
            item.add_marker('ros')
        if no_ros and item.get_closest_marker('ros'):
            item.add_marker(pytest.mark.skip(reason=no_ros))
