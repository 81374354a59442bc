# SPDX-License-Identifier: Apache-2.0
"""Runs on one machine at the same time, each in a ROS domain of its own."""

import os
from pathlib import Path
import socket
import subprocess
import sys

import own_domain
import pytest

SCRIPT = Path(own_domain.__file__)
SHOW = 'import os, sys; print(os.environ["ROS_DOMAIN_ID"], flush=True); sys.stdin.read()'


class Run:
    """A command that the script runs, until ``end``."""

    def __init__(self, folder):
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), sys.executable, '-c', SHOW], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, 'TMPDIR': str(folder), 'ROS_DOMAIN_ID': '7'})
        self.domain = int(self.process.stdout.readline())

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start(tmp_path):
    runs = []

    def start():
        runs.append(Run(tmp_path))
        return runs[-1]
    yield start
    for run in runs:
        run.end()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Return a function that takes domains for this process, until the test is over."""
    monkeypatch.setenv('ROS_DOMAIN_ID', '')
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', '')
    monkeypatch.setattr(own_domain, '_kept', [])
    yield lambda: own_domain.take(tmp_path)
    for lock in own_domain._kept:
        os.close(lock)


def test_this_run_has_a_domain_that_a_lock_keeps(monkeypatch, request):
    path = Path(own_domain.tempfile.gettempdir())
    path /= f'hp_inference_ros_domain_{os.environ["ROS_DOMAIN_ID"]}.lock'
    assert own_domain._lock(path) is None
    assert os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'


def test_runs_at_the_same_time_have_domains_of_their_own(start):
    domains = [start().domain for _ in range(5)]
    assert len(set(domains)) == 5 and set(domains) <= set(own_domain.DOMAINS)


def test_processes_that_would_choose_the_same_one_do_not_get_it(here, monkeypatch):
    monkeypatch.setattr(os, 'getpid', lambda: 1234)
    domains = [here() for _ in range(4)]
    assert len(set(domains)) == 4 and os.environ['ROS_DOMAIN_ID'] == str(domains[-1])


def test_a_domain_is_free_again_when_its_run_was_killed(start, here, monkeypatch):
    run = start()
    monkeypatch.setattr(own_domain, 'DOMAINS', range(run.domain, run.domain + 1))
    with pytest.raises(RuntimeError, match='are in use on this machine'):
        here()
    run.end()
    assert here() == run.domain


def test_a_domain_in_which_nodes_talk_without_a_lock_is_passed_over(here, monkeypatch):
    free = here()
    monkeypatch.setattr(own_domain, '_kept', [])
    monkeypatch.setattr(own_domain, 'DOMAINS', range(free, free + 1))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as node:
        node.bind(('', 7400 + 250 * free))
        with pytest.raises(RuntimeError):
            own_domain.take(Path('/nowhere'))
        with pytest.raises(RuntimeError):
            here()
