# SPDX-License-Identifier: Apache-2.0
"""The server's engine and chunks that are wrong, come twice, late or not at all."""

from dataclasses import replace
import time
import weakref

from engine_pair import WRONG
import pytest
from server_rig import ROBOT_SESSION, stuck
from simulated_time import SimulatedTime
from waits import until, WAIT_S

from hp_inference.link import inbox
from hp_inference.link.inbox import Inbox
from hp_inference.link.wire import VERSION
from hp_inference.runtime import server_io
from hp_inference.runtime.frames import ABORTED, inbox_for, OK, REFUSED
from hp_inference.runtime.server import KEPT_OVER

# Chunks that are refused

@pytest.mark.parametrize('wrong, message', [
    ({'version': 1}, f'chunk has version 1, expected {VERSION}: run the same release on both '
                     'sides'),
    ({'table_digest': b'\7' * 32}, 'the frame runs under plan table 070707070707, this server '
                                   'holds '),
    ({'table_digest': b''}, 'the frame runs under plan table , this server holds '),
    ({'plan_index': 3}, 'the frame runs under plan 3, its table has plans 0 to 2'),
    ({'plan_index': 65535}, 'the frame runs under plan 65535, its table has plans 0 to 2')])
def test_a_first_chunk_with_a_wrong_head_begins_nothing(robot, monkeypatch, wrong, message):
    side = robot()
    monkeypatch.setattr('hp_inference.runtime.server.inbox_for', None)  # not even an inbox
    side.give(replace(chunk, **wrong) for chunk in side.uplink(0))
    assert side.ends() == [(0, REFUSED)] and side.reports[0].text.startswith(message)
    assert not side.engine._sessions and not side.engine._queue
    side.give(side.uplink(0))  # too late to mend it
    assert (len(side.reports), side.engine.stray_chunks) == (1, 5)
    assert side.engine.frames == {OK: 0, REFUSED: 1, ABORTED: 0}
    monkeypatch.undo()
    side.answer(1)


@pytest.mark.parametrize('wrong', WRONG)
@pytest.mark.parametrize('place', ['first', 'later'])
def test_a_frame_with_a_wrong_chunk_is_refused_once_and_the_chunk_named(robot, wrong, place):
    side = robot(session_timeout_s=2 * WAIT_S)
    tamper, message = WRONG[wrong]
    good = side.uplink(0)
    if place == 'later':
        side.give(good[:1])
    session = side.engine._sessions.get((ROBOT_SESSION, 0))
    before = session.inbox.allocated_bytes if session else 0
    side.give([tamper(good[1])] * 3)
    until(lambda: side.reports)
    side.settled()
    assert side.ends() == [(0, REFUSED)]
    assert message in side.reports[0].text
    if session:
        assert session.inbox.allocated_bytes == before
    side.give(good)
    side.settled()
    assert side.ends() == [(0, REFUSED)] and not side.chunks
    assert side.engine.frames == {OK: 0, REFUSED: 1, ABORTED: 0}
    side.answer(1)


def test_a_frame_that_is_refused_while_it_is_computed_is_not_reported_as_done(robot, monkeypatch):
    side = robot()
    tamper, message = WRONG['value']
    chunk, send = side.uplink(0, 1)[0], side.link.outbox.send

    def tampered(*args):
        side.give([tamper(chunk)])
        send(*args)
    monkeypatch.setattr(side.link.outbox, 'send', tampered)  # of the rows before the last
    side.give([chunk])
    side.settled()
    assert side.ends() == [(0, REFUSED)] and message in side.reports[0].text


@pytest.mark.parametrize('wrong', sorted(set(WRONG) - {'version', 'table', 'plan', 'damaged'}))
def test_a_first_chunk_with_a_wrong_body_has_nothing_allocated(robot, monkeypatch, wrong):
    side = robot()
    with stuck(monkeypatch):  # so that the session is still there to be looked at
        side.give([WRONG[wrong][0](side.uplink(0)[0])])
        assert side.engine._sessions[ROBOT_SESSION, 0].inbox.allocated_bytes == 0


def test_a_wrong_chunk_after_the_end_of_its_frame_changes_nothing(robot):
    side = robot()
    side.answer(0)
    tamper, _ = WRONG['value']
    side.give([tamper(chunk) for chunk in side.uplink(0)])
    assert side.engine.stray_chunks == 3
    side.engine._refuse((ROBOT_SESSION, 0), 'a chunk that was looked at while its frame ended')
    assert side.ends() == [(0, OK)] and side.engine.frames[REFUSED] == 0


# Chunks that come twice, late or not at all

def test_a_chunk_that_comes_twice_is_counted_and_does_no_harm(robot):
    side = robot()
    chunks = side.uplink(0)
    side.give([chunks[0], chunks[0], chunks[1], chunks[0], chunks[2]])
    side.settled()
    assert side.ends() == [(0, OK)] and side.engine.stray_chunks == 2


def test_a_past_frame_that_comes_again_is_counted_and_never_answered(robot):
    side = robot()
    side.answer(0)
    answered = len(side.chunks)
    side.give(side.uplink(0))
    side.answer(1)  # nor is it in line before the next
    assert len(side.chunks) == 2 * answered and side.ends() == [(0, OK), (1, OK)]
    assert side.engine.stray_chunks == 3


def test_a_false_frame_number_does_not_end_the_frames_to_come(robot):
    side = robot()
    strange = side.uplink(0)[0]
    side.engine.session_timeout_s = 0.05
    side.give([replace(strange, frame=2 ** 64 - 1),
               replace(strange, frame=2 ** 64 - 2, plan_index=9)])
    until(lambda: len(side.reports) == 2)
    side.engine.session_timeout_s = WAIT_S
    side.answer(0)


def test_what_is_remembered_of_past_frames_is_bounded(robot):
    side = robot()
    strange = replace(side.uplink(0)[0], plan_index=9)
    side.give(replace(strange, frame=frame) for frame in range(KEPT_OVER + 50))
    assert len(side.engine._over) == KEPT_OVER
    assert side.engine.frames[REFUSED] == KEPT_OVER + 50


def test_a_frame_whose_rows_stay_out_is_given_up_and_the_rows_named(robot, monkeypatch):
    side = robot(session_timeout_s=0.1)
    with stuck(monkeypatch):
        side.give(side.uplink(0)[:2])
        begun = time.monotonic()
    until(lambda: side.reports)
    assert time.monotonic() - begun >= 0.1
    assert side.ends() == [(0, ABORTED)]
    assert side.reports[0].text.startswith(
        'deadline passed: value 3 rows [0, 40) are missing: 2 of 3 chunks came in time')
    report = side.reports[0]  # a busy machine may begin late, and then waits for less
    assert report.wait_s >= 0.09 - report.spans[0].start_s
    side.engine.session_timeout_s = WAIT_S
    side.give(side.uplink(0)[2:])  # the last comes after all
    assert side.engine.stray_chunks == 1
    side.answer(1)


def test_rows_that_come_slowly_are_waited_for_as_long_as_they_come(robot, monkeypatch):
    clock, get, looked = SimulatedTime(), Inbox.get, []
    for module in (server_io, inbox):
        monkeypatch.setattr(module, 'time', clock)

    def counted(*args, **kwargs):
        looked.append(clock.now)
        return get(*args, **kwargs)
    monkeypatch.setattr(Inbox, 'get', counted)
    side = robot(session_timeout_s=0.2)
    chunks = side.uplink(0)
    side.give(chunks[:1])
    until(lambda: len(looked) > 1)  # it waits since 0.0
    clock.sleep(0.15)
    side.give(chunks[1:2])
    clock.sleep(0.15)  # now for longer than the timeout
    until(lambda: looked[-2:] == [clock.now] * 2 or side.reports)
    side.give(chunks[2:])
    side.settled()
    assert side.ends() == [(0, OK)]


def test_computing_for_longer_than_the_timeout_is_no_reason_to_give_up(robot, monkeypatch):
    side = robot(session_timeout_s=0.01)
    with stuck(monkeypatch) as go_on:
        side.give(side.uplink(0))
        time.sleep(0.03)
        go_on.set()
    side.settled()
    assert side.ends() == [(0, OK)]


def test_of_too_many_frames_the_oldest_is_given_up_and_stays_so(robot):
    side = robot(max_sessions=2)
    streams = [side.uplink(frame) for frame in range(4)]
    for place in range(3):  # interleaved: a late chunk of a frame that went must begin nothing
        side.give(stream[place] for stream in streams)
    side.settled()
    assert sorted(side.ends()) == [(0, ABORTED), (1, ABORTED), (2, OK), (3, OK)]
    texts = [report.text for report in side.reports if report.status == ABORTED]
    assert sorted(texts) == [f'frame {frame} came while 2 were in flight; the oldest is given up'
                             for frame in (2, 3)]
    assert side.engine.stray_chunks == 4


def test_a_flood_of_frames_is_bounded_while_all_threads_are_busy(robot, monkeypatch):
    side = robot(max_sessions=2)
    inboxes = []
    make = inbox_for

    def watched(*args):
        inboxes.append(weakref.ref(inbox := make(*args)))
        return inbox
    monkeypatch.setattr('hp_inference.runtime.server.inbox_for', watched)
    chunks = side.uplink(0)[:1]
    with stuck(monkeypatch):
        for frame in range(40):
            side.give(replace(chunk, frame=frame) for chunk in chunks)
            if frame == 1:
                until(lambda: not side.engine._queue)  # both threads are busy from now on
        assert len(inboxes) == 40
        assert sum(ref() is not None for ref in inboxes) <= 4
        assert len(side.engine._queue) <= 2
        assert len(side.reports) == 36  # all but those two and the newest two
    side.engine.close()
    assert sorted(side.ends()) == [(frame, ABORTED) for frame in range(40)]
