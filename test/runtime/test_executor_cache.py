# SPDX-License-Identifier: Apache-2.0
"""Executors are warmed up once, shared by tables that have the same plan, and freed with them."""

import gc
import threading

from engine_pair import small_net, table
import pytest

from hp_inference.runtime.executor import Executor
from hp_inference.runtime.executor_cache import ExecutorCache
from hp_inference.split.shares import ROBOT, SERVER


@pytest.fixture(scope='module')
def layout():
    return small_net()


@pytest.fixture
def warmed(monkeypatch):
    """Return the programs that have been warmed up, in order."""
    programs, warm_up = [], Executor.warm_up

    def watched(self):
        programs.append(self.program)
        warm_up(self)
    monkeypatch.setattr(Executor, 'warm_up', watched)
    return programs


@pytest.mark.parametrize('side', [ROBOT, SERVER])
def test_every_plan_has_a_warm_executor_of_its_side(layout, warmed, side):
    plans = table(layout, 'uniform:0.5', 'full_offload', 'robot_only')
    executors = ExecutorCache(layout, side).prepare(plans)
    expected = [programs[side] for programs in plans.programs]
    assert [executor.program for executor in executors] == warmed == expected


def test_a_plan_that_comes_again_keeps_its_executor(layout, warmed):
    prepared = ExecutorCache(layout, ROBOT)
    first = prepared.prepare(table(layout, 'uniform:0.5', 'full_offload'))
    second = prepared.prepare(table(layout, 'full_offload', 'layer:3'))
    assert second[0] is first[1] and len(warmed) == 3


def test_an_executor_that_nobody_holds_is_gone(layout, warmed):
    prepared = ExecutorCache(layout, ROBOT)
    held = prepared.prepare(table(layout, 'uniform:0.5', 'full_offload'))[1:]
    gc.collect()
    prepared.prepare(table(layout, 'uniform:0.5', 'full_offload'))
    gc.collect()
    assert [program.plan for program in warmed] == ['uniform:0.5', 'full_offload', 'uniform:0.5']
    assert list(prepared._plans.values()) == held


def test_one_that_is_told_to_give_up_stops_before_the_next_plan(layout, warmed):
    def check():
        if len(warmed) == 2:
            raise KeyError
    prepared = ExecutorCache(layout, SERVER)
    plans = table(layout, 'uniform:0.5', 'layer:3', 'layer:4')
    with pytest.raises(KeyError):
        prepared.prepare(plans, check)
    assert len(warmed) == 2 and len(prepared.prepare(plans)) == 3


def test_those_that_prepare_the_same_at_once_share_it(layout, warmed):
    prepared, plans = ExecutorCache(layout, SERVER), table(layout, 'uniform:0.5', 'full_offload')
    made = []
    threads = [threading.Thread(target=lambda: made.append(prepared.prepare(plans)))
               for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(warmed) == 2 and all(each == made[0] for each in made)
