# SPDX-License-Identifier: Apache-2.0
"""Robots take turns at the places to compute: none too many at once, none left out."""

from collections import Counter
import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from simulated_time import SimulatedTime
from waits import until, WAIT_S

from hp_inference.runtime import fair_queue
from hp_inference.runtime.fair_queue import FairQueue, Turn


def turn(line, unwanted=lambda: False, wait_s=WAIT_S) -> Turn:
    return Turn(line, unwanted, wait_s)


class Queued:
    """Frames that wait in line, each on a thread, in the order in which they were made."""

    def __init__(self, turns):
        self.turns, self.threads, self.order = turns, [], []
        self.held = {}

    def add(self, name, line, **options) -> None:
        """Have one more frame wait and return once it does."""
        def wait():
            taken = turn(line, **options)
            if taken.enter():
                self.held[name] = taken
                self.order.append(name)
            else:
                self.order.append(f'not {name}')
        count = len(line.waiting)
        self.threads.append(threading.Thread(target=wait))
        self.threads[-1].start()
        until(lambda: len(line.waiting) > count)

    def let_all(self, first: Turn) -> list:
        """Give back the place, and each that is got after it; return the order."""
        first.leave()
        for place in range(len(self.threads)):
            until(lambda: len(self.order) > place)
            taken = self.held.pop(self.order[place], None)
            if taken:
                taken.leave()
        for thread in self.threads:
            thread.join(WAIT_S)
        return self.order


@pytest.fixture
def clock(monkeypatch):
    """Return the time by which turns go; it passes while one waits."""
    clock = SimulatedTime()
    monkeypatch.setattr(fair_queue, 'time', clock)
    monkeypatch.setattr(fair_queue, 'threading', clock)
    return clock


def test_a_place_that_is_free_is_had_at_once(clock):
    line = FairQueue().line()
    first = turn(line)
    assert first.enter() and first.waited_s == 0.0
    assert first.enter()  # it has it
    second = turn(line, wait_s=0.02)
    assert not second.enter()
    assert second.waited_s == pytest.approx(0.02)
    first.leave()
    first.leave()  # which gives back no more than there was
    second = turn(line)
    assert second.enter() and not turn(line, wait_s=0.0).enter()


def test_a_place_that_is_free_is_had_after_the_time_too():
    late = turn(FairQueue().line(), wait_s=-1.0)
    assert late.enter()


def test_robots_take_turns_however_many_frames_one_of_them_has():
    turns = FairQueue()
    flood, one, other = turns.line(), turns.line(), turns.line()
    first, queue = turn(flood), Queued(turns)
    assert first.enter()
    for i in range(4):
        queue.add(f'flood {i}', flood)
    for i in range(2):
        queue.add(f'one {i}', one)
    queue.add('other 0', other)
    assert queue.let_all(first) == ['one 0', 'other 0', 'flood 0', 'one 1', 'flood 1', 'flood 2',
                                    'flood 3']
    assert turns.busy_s > 0 and not turns._lines and turns._taken == 0


def test_who_comes_while_another_computes_is_next_although_that_has_more_in_line():
    turns = FairQueue()
    flood, other = turns.line(), turns.line()
    first, queue = turn(flood), Queued(turns)
    assert first.enter()
    for i in range(3):
        queue.add(f'flood {i}', flood)
    first.leave()
    until(lambda: queue.order == ['flood 0'])
    queue.add('other', other)
    assert queue.let_all(first) == ['flood 0', 'other', 'flood 1', 'flood 2']


def test_as_many_compute_at_once_as_there_are_places():
    turns = FairQueue(2)
    line, other = turns.line(), turns.line()
    assert turn(line).enter() and turn(line).enter()  # while nobody else wants any
    assert not turn(other, wait_s=0.01).enter()
    with pytest.raises(ValueError, match='there are 0 places to compute, expected at least 1'):
        FairQueue(0)


def test_a_frame_that_is_given_up_leaves_the_line_when_it_is_woken():
    turns = FairQueue()
    line, other = turns.line(), turns.line()
    first, queue, unwanted = turn(other), Queued(turns), []
    assert first.enter()
    queue.add('given up', line, unwanted=lambda: bool(unwanted))
    queue.add('wanted', line)
    line.wake()
    unwanted.append(True)
    line.wake()
    until(lambda: queue.order == ['not given up'])
    assert queue.let_all(first) == ['not given up', 'wanted']


def test_a_line_that_nobody_waits_in_any_more_does_not_take_a_place():
    turns = FairQueue()
    line, other = turns.line(), turns.line()
    first, queue = turn(other), Queued(turns)
    assert first.enter()
    queue.add('late', line, wait_s=0.02)
    until(lambda: queue.order == ['not late'])
    assert not turns._lines
    first.leave()
    assert turns._taken == 0 and turn(other).enter()


def test_the_account_holds_the_time_in_which_places_are_taken(clock):
    turns = FairQueue(2)
    assert turns.busy_s == 0.0
    taken = [turn(turns.line()) for _ in range(2)]
    for each in taken:
        assert each.enter()
    clock.sleep(0.05)
    assert turns.busy_s == pytest.approx(0.1)
    for each in taken:
        each.leave()
    clock.sleep(0.02)
    assert turns.busy_s == pytest.approx(0.1)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_all_get_their_turn_and_never_more_at_once_than_there_are_places(places, frames):
    turns, lock = FairQueue(places), threading.Lock()
    inside, most, done = 0, 0, Counter()

    def compute(line, robot):
        nonlocal inside, most
        taken = turn(line)
        for _ in range(3):
            assert taken.enter()
            with lock:
                inside += 1
                most = max(most, inside)
                done[robot] += 1
            time.sleep(0.0005)
            with lock:
                inside -= 1
            taken.leave()
    threads = []
    for robot, count in enumerate(frames):
        line = turns.line()
        threads += [threading.Thread(target=compute, args=(line, robot)) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert done == {robot: 3 * count for robot, count in enumerate(frames)}
    assert 1 <= most <= places and not turns._lines and turns._taken == 0
