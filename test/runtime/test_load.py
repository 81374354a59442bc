# SPDX-License-Identifier: Apache-2.0
"""The load of a server is that of the last period, worked out from counts."""

import mmap
from types import SimpleNamespace

import pytest

from hp_inference.runtime import load as module
from hp_inference.runtime import memory
from hp_inference.runtime.load import Load, LoadMeter, resident_bytes
from hp_inference.runtime.server import Computed


def counting():
    """Return an engine that has counted nothing yet."""
    return SimpleNamespace(computed=Computed(), chunks=0, in_flight=0)


@pytest.fixture
def server(monkeypatch):
    """Return two engines, their places to compute, a clock and a meter of their load."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module, 'time', SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(module, 'resident_bytes', lambda: 5)
    turns, engines = SimpleNamespace(places=2, busy_s=7.0), [counting(), counting()]
    return turns, engines, clock, LoadMeter(turns, engines)


def test_an_idle_server_has_no_load(server):
    _, _, clock, meter = server
    assert meter.read() == Load(memory_bytes=5)  # though no time has passed
    clock.now += 0.5
    assert meter.read() == Load(memory_bytes=5)


def test_the_load_is_of_the_last_period_only(server):
    turns, (one, two), clock, meter = server
    clock.now += 0.5
    turns.busy_s += 0.6
    one.computed, one.chunks, one.in_flight = Computed(3, 0.3, 0.03), 9, 1
    two.computed, two.chunks, two.in_flight = Computed(1, 0.1, 0.05), 2, 2
    load = meter.read()
    assert load.busy == pytest.approx(0.6) and load.frames_per_s == pytest.approx(8.0)
    assert load.turn_wait_s == pytest.approx(0.1) and load.compute_s == pytest.approx(0.02)
    assert (load.frames_in_flight, load.robots, load.memory_bytes) == (3, 2, 5)
    clock.now += 1.0
    two.chunks += 1  # a chunk is enough to be there
    one.in_flight, two.in_flight = 0, 0
    assert meter.read() == Load(robots=1, memory_bytes=5)


def test_while_no_frame_ends_what_held_before_counts(server):
    turns, (one, _), clock, meter = server
    clock.now += 0.5
    one.computed, one.in_flight = Computed(2, 0.4, 0.2), 1
    assert meter.read().turn_wait_s == pytest.approx(0.2)
    clock.now += 0.5
    turns.busy_s += 2.0  # as two clocks read one after the other may have it
    load = meter.read()
    assert (load.turn_wait_s, load.compute_s) == (pytest.approx(0.2), pytest.approx(0.1))
    assert load.busy == 1.0 and load.frames_per_s == 0.0


def test_the_memory_is_that_of_this_process(monkeypatch):
    held = resident_bytes()
    assert 20e6 < held < 1e11
    more = mmap.mmap(-1, 64 << 20)  # not of what this process has kept of earlier tests
    for page in range(0, len(more), mmap.PAGESIZE):
        more[page] = 1
    assert resident_bytes() - held > 48e6
    monkeypatch.setattr(memory.Path, 'exists', lambda self: False)
    assert resident_bytes() > held
