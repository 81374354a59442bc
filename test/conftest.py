# SPDX-License-Identifier: Apache-2.0
"""What holds for every test, however pytest is started."""

import gc
import importlib
import os
from pathlib import Path

import hypothesis
import own_domain
import pytest

# A ROS domain of its own for every run, and no talk beyond this host: a robot on the same network
# must not hear the tests. One thread for each of the processes that share the machine's cores; it
# counts only if set before PyTorch is imported.
own_domain.take()
os.environ['OMP_NUM_THREADS'] = '1'

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile(
    'any machine', deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile('any machine')

collect_ignore = []
try:
    importlib.import_module('hp_inference.nodes')
    no_ros = None
except ImportError as error:
    no_ros = str(error)
    collect_ignore.append('nodes')


def pytest_addoption(parser):
    parser.addoption('--traces', help='folder with recorded Wi-Fi traces, wifi_*.csv')
    parser.addoption('--summary', type=Path, help='file to which a run adds how it went, short')


@pytest.fixture(autouse=True, scope='module')
def quick_captures():
    """
    Leave what is there out of the looks for what may go: PyTorch, which stays, and what it imports.

    A capture makes and drops so much that a third of its time would go into them.
    """
    gc.collect()
    gc.freeze()


def pytest_report_header():
    return f'without the tests that need ROS 2: {no_ros}' if no_ros else None


def pytest_collection_modifyitems(items):
    for item in items:
        if 'nodes' in item.path.relative_to(os.path.dirname(__file__)).parts:
            item.add_marker('ros')
        if no_ros and item.get_closest_marker('ros'):
            item.add_marker(pytest.mark.skip(reason=no_ros))


def pytest_terminal_summary(terminalreporter, config):
    """Say on a line how many tests came out how, and name those that failed, one a line."""
    if config.option.summary is None or hasattr(config, 'workerinput'):  # one of several processes
        return
    came_out = {kind: terminalreporter.stats.get(kind, ())
                for kind in ('passed', 'failed', 'error', 'skipped', 'xfailed', 'xpassed')}
    counts = ', '.join(f'{len(reports)} {kind}' for kind, reports in came_out.items() if reports)
    with open(config.option.summary, 'a', encoding='utf-8') as file:
        file.write(f'{counts or "no test ran"}\n')
        for report in (*came_out['failed'], *came_out['error']):
            file.write(f'    {report.nodeid}\n')
