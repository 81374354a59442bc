# SPDX-License-Identifier: Apache-2.0
"""Several robots at one server: turns, shared executors, nobody in another's way."""

from contextlib import contextmanager
import threading
import time

from engine_pair import engine_threads, table, WRONG
import pytest
from waits import until, WAIT_S

from hp_inference.link.errors import Aborted
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.executor_cache import ExecutorCache
from hp_inference.runtime.fair_queue import FairQueue, Turn
from hp_inference.runtime.frames import ABORTED, OK, REFUSED
from hp_inference.runtime.server import ServerEngine
from hp_inference.split.shares import SERVER

# Several robots

@contextmanager
def all_places_taken(queue):
    """Keep the only place to compute, as another robot's frame does."""
    held = Turn(queue.line(), lambda: False, 0.0)
    assert held.enter()
    try:
        yield
    finally:
        held.leave()


def test_robots_take_turns_whatever_one_of_them_asks_for(robot):
    queue, ended = FairQueue(), []
    flood, other = robot(queue=queue, max_sessions=6), robot(queue=queue)
    for name, side in (('flood', flood), ('other', other)):
        side.engine._report = lambda report, name=name: ended.append(name)
    with all_places_taken(queue):
        for frame in range(6):
            flood.give(flood.uplink(frame))
        until(lambda: len(flood.engine._line.waiting) == 6)
        for frame in range(2):
            other.give(other.uplink(frame))
        until(lambda: len(other.engine._line.waiting) == 2)
    flood.settled()
    other.settled()
    assert sorted(ended[:4]) == ['flood', 'flood', 'other', 'other'] and 'other' not in ended[4:]


def test_only_as_many_frames_compute_at_once_as_there_are_places(robot, monkeypatch):
    queue, lock, done = FairQueue(), threading.Lock(), ServerEngine._report_done
    sides, inside, most = [robot(queue=queue) for _ in range(3)], 0, 0

    def watched(self, session):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.005)
        with lock:
            inside -= 1
        done(self, session)
    monkeypatch.setattr(ServerEngine, '_report_done', watched)
    for side in sides:
        for frame in range(4):
            side.give(side.uplink(frame))
    for side in sides:
        side.settled()
        assert side.engine.frames[OK] == 4
    assert most == 1 and queue._taken == 0


def test_a_robot_that_keeps_its_rows_back_keeps_nobody_from_computing(robot):
    queue = FairQueue()
    hanging, other = robot(queue=queue, session_timeout_s=WAIT_S), robot(queue=queue)
    streams = [hanging.uplink(frame, 2) for frame in range(4)]
    for stream in streams:
        hanging.give(stream[:-1])
    until(lambda: not hanging.engine._queue)
    for frame in range(3):
        other.answer(frame)
    assert hanging.engine.in_flight == 4
    hanging.engine.stop()
    hanging.settled()
    assert hanging.engine.frames[ABORTED] == 4


def test_a_frame_whose_turn_does_not_come_in_time_is_given_up(robot):
    queue = FairQueue()
    side = robot(queue=queue, session_timeout_s=0.1)
    with all_places_taken(queue):
        side.give(side.uplink(0))
        until(lambda: side.reports)
    assert side.ends() == [(0, ABORTED)]
    assert side.reports[0].text.startswith('its turn to compute did not come: after ')
    until(lambda: side.engine.computed.frames)
    assert 0.05 <= side.engine.computed.turn_wait_s < WAIT_S
    side.engine.session_timeout_s = WAIT_S
    side.answer(1)


@pytest.mark.parametrize('way', ['closing', 'bad chunk', 'too many'])
def test_a_frame_that_is_given_up_while_it_waits_for_its_turn_ends_at_once(robot, way):
    queue = FairQueue()
    side = robot(queue=queue, max_sessions=1, session_timeout_s=2 * WAIT_S)
    with all_places_taken(queue):
        side.give(side.uplink(0))
        until(lambda: side.engine._line.waiting)
        if way == 'closing':
            side.engine.close()
            until(lambda: not any('frames' in name for name in engine_threads()))
        elif way == 'bad chunk':
            side.give([WRONG['value'][0](side.uplink(0)[0])])
        else:
            side.give(side.uplink(1)[:1])
        until(lambda: side.reports)
        assert side.ends() == [(0, REFUSED if way == 'bad chunk' else ABORTED)]


def test_a_table_that_is_prepared_while_the_engine_is_stopped_is_given_up(robot, layout,
                                                                         monkeypatch):
    side, warmed = robot(), []
    monkeypatch.setattr(Executor, 'warm_up', lambda self: warmed.append(side.engine.stop()))
    with pytest.raises(Aborted, match='the server is stopping'):
        side.engine.use(table(layout, 'uniform:0.11', 'uniform:0.12', 'uniform:0.13'))
    assert len(warmed) == 1


def test_robots_with_the_same_plans_share_their_executors(robot, layout):
    cache = ExecutorCache(layout, SERVER)
    sides = [robot(cache=cache) for _ in range(3)]
    held = {id(executor) for side in sides for executor in side.engine._tables[side.table.digest]}
    assert len(held) == 3  # one for each plan
    streams = [side.uplink(0) for side in sides]
    for place in range(3):
        for side, stream in zip(sides, streams):
            side.give(stream[place:place + 1])
    for side in sides:
        side.settled()
        assert side.engine.frames[OK] == 1
        side.answer(1)


def test_what_one_robot_does_wrong_does_not_touch_the_frames_of_another(robot, layout):
    queue, cache = FairQueue(), ExecutorCache(layout, SERVER)
    bad, good = (robot(queue=queue, cache=cache, session_timeout_s=3.0) for _ in range(2))
    frame = 0

    def answered():
        nonlocal frame
        frame += 1
        good.answer(frame, frame % 3 and 1)
    for number, (tamper, _) in enumerate(WRONG.values()):
        first, *rest = bad.uplink(number)
        bad.give([first, tamper(rest[0])])
        answered()
    bad.give(bad.uplink(100)[:2])  # it dies in the middle of a frame ...
    answered()
    bad.give(bad.uplink(0, session=8)[:1])  # ... comes back, and dies again
    answered()
    bad.answer(1, session=9)
    until(lambda: not bad.engine.in_flight)
    answered()
    assert good.engine.frames == {OK: frame, REFUSED: 0, ABORTED: 0}
    assert good.engine.stray_chunks == 0 and not queue._lines and queue._taken == 0
