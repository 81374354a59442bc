# SPDX-License-Identifier: Apache-2.0
"""The server's engine, given chunks by hand: one end for each frame, whatever comes."""

from dataclasses import replace
import gc
import logging
from pathlib import Path
import sys
import threading
import weakref

from engine_pair import engine_threads, table
import pytest
from server_rig import ROBOT_SESSION
import torch
from waits import until, WAIT_S

from hp_inference.runtime.executor import Executor
from hp_inference.runtime.frames import ABORTED, inbox_for, OK, REFUSED
from hp_inference.runtime.server import KEPT_TABLES

# Frames that are served

@pytest.mark.parametrize('order', ['as sent', 'backwards'])
def test_a_frame_is_computed_whatever_the_order_of_its_chunks(robot, order):
    side = robot()
    chunks = side.uplink(0)
    assert len(chunks) == 3
    side.give(chunks if order == 'as sent' else chunks[::-1])
    until(lambda: side.reports)
    side.settled()
    report = side.reports[0]
    assert (report.session, report.frame, report.status, report.text) == (ROBOT_SESSION, 0, OK, '')
    assert 0 < report.compute_s <= report.total_s and 0 <= report.wait_s <= report.total_s
    assert report.received_bytes == sum(len(chunk.payload) for chunk in chunks)
    assert {span.lane for span in report.spans} == {'server'}
    assert side.engine.frames == {OK: 1, REFUSED: 0, ABORTED: 0}


def test_the_report_goes_before_the_last_rows(robot):
    side = robot()
    order = []
    side.engine._report = lambda report: order.append(report.status)
    side.link.carry = lambda chunk, tag: order.append(chunk.value_id)
    side.give(side.uplink(0))
    until(lambda: 7 in order)
    assert order.index(OK) < order.index(7)


def test_frames_of_several_plans_and_sessions_are_in_flight_at_once(robot):
    side = robot()
    kinds = [(0, 0, 1), (1, 1, 1), (0, 1, 2), (5, 0, 2)]
    streams = [side.uplink(*kind) for kind in kinds]
    for place in range(3):
        side.give(stream[place] for stream in streams if place < len(stream))
    side.settled()
    assert sorted(side.ends()) == [(0, OK), (0, OK), (1, OK), (5, OK)]
    assert side.engine.frames[OK] == 4


def test_a_frame_before_the_newest_may_still_begin(robot):
    side = robot()
    side.answer(5)
    side.answer(4)


def test_tables_that_came_before_stay_accepted_and_the_oldest_go(robot, layout):
    side = robot()
    first = side.uplink(0)
    newer = [table(layout, f'uniform:{share}') for share in (0.1, 0.2, 0.3, 0.4)]
    for each in newer[:KEPT_TABLES - 1]:
        side.engine.use(each)
    side.give(first[:1])
    side.engine.use(newer[-1])  # which is one too many, while the frame is in flight
    side.give(first[1:])
    side.settled()
    assert side.ends() == [(0, OK)]
    side.give(side.uplink(1))
    assert side.reports[-1].status == REFUSED
    held = ', '.join(each.digest.hex()[:12] for each in newer)
    assert side.reports[-1].text == (
        f'the frame runs under plan table {side.table.digest.hex()[:12]}, this server holds {held}')
    side.engine.use(side.table)
    side.answer(2)


def test_tables_may_come_while_frames_run(robot, layout):
    side = robot()
    tables = [table(layout, f'uniform:{share}') for share in (0.1, 0.2, 0.3, 0.4, 0.6)]
    done = threading.Event()

    def change():
        while not done.is_set():
            for each in tables:
                side.engine.use(each)
            side.engine.use(side.table)
    changer = threading.Thread(target=change)
    changer.start()
    try:
        for frame in range(60):
            side.give(side.uplink(frame, 1))
            side.settled()
    finally:
        done.set()
        changer.join()
    statuses = [status for _, status in side.ends()]
    assert len(statuses) == 60 and set(statuses) <= {OK, REFUSED}
    side.answer(60)  # its table came last


# Failures and the end

def test_a_program_that_fails_is_reported_and_the_next_frame_comes(robot, monkeypatch, caplog):
    side = robot()
    chunks = side.uplink(0)
    with monkeypatch.context() as patch:
        patch.setattr(Executor, 'run', lambda *args, **kwargs: 1 / 0)
        side.give(chunks)
        until(lambda: side.reports)
    assert side.ends() == [(0, ABORTED)]
    assert side.reports[0].text == 'the server failed: ZeroDivisionError: division by zero'
    assert 'frame 0 failed' in caplog.text
    side.answer(1)


def test_a_report_that_can_not_be_sent_is_logged_and_frames_go_on(robot, caplog):
    side = robot()
    side.engine._report = lambda report: 1 / 0
    with caplog.at_level(logging.ERROR):
        side.give([replace(side.uplink(0)[0], version=9)])
        side.give(side.uplink(1))
        until(lambda: side.engine.frames[OK])
        side.settled()
    assert 'the report of frame 0 failed' in caplog.text
    assert 'the report of frame 1 failed' in caplog.text
    assert side.chunks
    side.engine._report = side.reports.append
    side.answer(2)


def test_rows_that_can_not_be_sent_are_reported(robot):
    side = robot()
    carry, side.link.carry = side.link.carry, lambda chunk, tag: 1 / 0
    side.give(side.uplink(0))
    until(lambda: len(side.reports) == 3)
    assert {report.text for report in side.reports} == {
        '', 'sending value 4 rows [0, 20) failed: ZeroDivisionError: division by zero',
        'sending value 7 rows [0, 1) failed: ZeroDivisionError: division by zero'}
    side.settled()
    side.link.carry = carry
    side.answer(1)


def test_rows_of_a_frame_that_is_given_up_are_not_sent(robot):
    side = robot()
    hold, sent = threading.Event(), []
    side.link.carry = lambda chunk, tag: sent.append(chunk.frame) or hold.wait(WAIT_S)
    try:
        side.give(side.uplink(0, 1))
        until(lambda: sent)  # the link is busy
        side.engine.session_timeout_s = 0.2
        side.give(side.uplink(1, 2))  # rows of it wait to be sent, and it for rows of the robot
        until(lambda: (1, ABORTED) in side.ends())
    finally:
        hold.set()
    side.settled()
    assert set(sent) == {0}


def test_close_in_the_middle_of_frames_says_so_and_ends_at_once(robot):
    side = robot(max_sessions=3, session_timeout_s=10 * WAIT_S)
    for frame in range(3):
        side.give(side.uplink(frame)[:1])
    closer = threading.Thread(target=side.engine.close)
    closer.start()
    closer.join(WAIT_S)
    assert not closer.is_alive()
    until(lambda: not engine_threads())
    assert sorted(side.ends()) == [(frame, ABORTED) for frame in range(3)]
    assert {report.text for report in side.reports} == {'the server is stopping'}
    side.give(side.uplink(3))
    assert len(side.reports) == 3 and side.engine.stray_chunks == 3
    side.engine.close()  # once more does no harm


def test_frames_that_are_over_leave_nothing_in_memory(robot, monkeypatch):
    side = robot()
    buffers = []

    def tensors():
        gc.collect()
        return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    def frames(first):
        for frame in range(first, first + 4):
            side.answer(frame)
        side.engine.session_timeout_s = 0.05
        side.give(side.uplink(first + 4)[:2])
        until(lambda: side.reports[-1].status == ABORTED)
        side.engine.session_timeout_s = WAIT_S
        side.settled()
    frames(0)
    before = tensors()
    make = inbox_for

    def watched(*args):
        buffers.append(weakref.ref(inbox := make(*args)))
        return inbox
    monkeypatch.setattr('hp_inference.runtime.server.inbox_for', watched)
    frames(10)
    assert len(buffers) == 5
    until(lambda: all(ref() is None for ref in buffers))  # without the help of the collector
    assert tensors() <= before


# What it tells of itself

def test_rows_go_as_the_pacer_lets_them_and_a_robot_that_starts_anew_has_nothing_in_flight(robot):
    class Pacing:
        def __init__(self):
            self.did = []

        def admit(self, chunk, unwanted):
            self.did.append((chunk.session, chunk.frame))
            chunk.seq, chunk.sent_s = len(self.did), 1.5
            return True

        def reset(self):
            self.did.append('reset')

        def wake(self):
            pass
    pacer = Pacing()
    side = robot(pacer=pacer)
    side.answer(0)
    side.answer(1)
    side.answer(0, session=8)
    assert pacer.did == ['reset', *[(7, 0)] * 3, *[(7, 1)] * 3, 'reset', *[(8, 0)] * 3]
    assert [chunk.seq for chunk in side.chunks] == [2, 3, 4, 5, 6, 7, 9, 10, 11]


def test_it_counts_what_it_computed(robot):
    side = robot()
    for frame in range(3):
        side.answer(frame)
    computed = side.engine.computed
    assert computed.frames == 3 and side.engine.chunks == 9 and side.engine.in_flight == 0
    assert computed.compute_s >= sum(report.compute_s for report in side.reports) > 0
    assert 0 <= computed.turn_wait_s < WAIT_S


@pytest.mark.skipif(sys.platform != 'linux', reason='threads have names of their own on Linux')
def test_the_threads_that_compute_can_be_told_apart_from_outside(robot):
    side = robot(max_sessions=3)

    def named():
        names = [path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')]
        return names.count('server frames')
    until(lambda: named() == 3)
    side.engine.close()
    until(lambda: named() == 0)
