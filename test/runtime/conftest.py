# SPDX-License-Identifier: Apache-2.0
"""Engines for the tests, closed at their end."""

from engine_pair import engine_threads, Pair, small_net, table
import pytest
from server_rig import Robot
from simulated_time import SimulatedTime
from waits import until

from hp_inference.runtime import liveness

SPLIT = ('full_offload', 'uniform:0.5')


@pytest.fixture(scope='module')
def layout():
    return small_net()


@pytest.fixture
def liveness_clock(monkeypatch):
    """Return the clock by which a robot takes its server for gone or slow; it stands still."""
    clock = SimulatedTime()
    monkeypatch.setattr(liveness, 'time', clock)
    return clock


@pytest.fixture
def pair(layout, liveness_clock):
    """Return a function that makes a pair of engines under some plans."""
    made = []

    def make(*plans, **options):
        made.append(Pair(layout, table(layout, *(plans or SPLIT)), **options))
        return made[-1]
    yield make
    for each in made:
        each.close()
    until(lambda: not engine_threads(), what='the end of the threads')


@pytest.fixture
def robot(layout):
    """Return a function that makes an engine and the robot that it serves."""
    made = []

    def make(**options):
        made.append(Robot(layout, **options))
        return made[-1]
    yield make
    for each in made:
        each.close()
    until(lambda: not engine_threads(), what='the end of the threads')
