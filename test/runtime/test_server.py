# SPDX-License-Identifier: Apache-2.0
"""The server's engine, given chunks by hand: one end for each frame, whatever comes."""

from contextlib import contextmanager
from dataclasses import replace
import gc
import logging
from pathlib import Path
import sys
import threading
import time
import weakref

from engine_pair import carried, engine_threads, small_net, table, until, WAIT_S, WRONG
from nets import random_image, whole
import pytest
import torch

from hp_inference.link.chunks import chunk_slice
from hp_inference.link.errors import Aborted
from hp_inference.link.wire import Chunk, Head, VERSION
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.frames import ABORTED, inbox_for, OK, REFUSED, slice_spec
from hp_inference.runtime.prepared import Prepared
from hp_inference.runtime.server import KEPT_OVER, KEPT_TABLES, ServerEngine
from hp_inference.runtime.turns import Turn, Turns
from hp_inference.split.shares import ROBOT, SERVER

ROBOT_SESSION = 7


class Robot:
    """What a robot needs to have frames computed by hand: its chunks, and what comes back."""

    def __init__(self, layout, **options):
        self.layout, self.table = layout, table(layout, 'layer:3', 'full_offload', 'uniform:0.5')
        self.chunks: list[Chunk] = []
        self.reports = []
        self.engine = ServerEngine(layout, lambda chunk: self.chunks.append(carried(chunk)),
                                   self.reports.append, **options)
        self.engine.use(self.table)

    def uplink(self, frame, index=0, session=ROBOT_SESSION) -> list[Chunk]:
        """Return what a robot sends before it waits: 3 chunks of value 3 under plan 0."""
        program, image = self.table.programs[index][ROBOT], random_image(self.layout)
        head = Head(session, frame, self.table.digest, index)
        sent = []

        class Collect:
            def send(self, step, rows):
                sent.extend(map(carried, chunk_slice(rows, slice_spec(layout, step), head)))

            def receive(self, step):
                raise StopIteration

        layout = self.layout
        try:
            Executor(layout, program).run(Collect(), image)
        except StopIteration:
            return sent

    def give(self, chunks) -> None:
        for chunk in chunks:
            self.engine.on_chunk(chunk)

    def answer(self, frame, index=0, session=ROBOT_SESSION) -> None:
        """Have a frame computed and fail unless its rows come back right, all and once."""
        head = Head(session, frame, self.table.digest, index)
        inbox = inbox_for(self.layout, self.table.programs[index][ROBOT], head)
        self.give(self.uplink(frame, index, session))
        self.settled()
        for chunk in [chunk for chunk in self.chunks if chunk.head == head]:
            assert inbox.put(chunk), 'a chunk came twice'
        assert inbox.complete
        expected = whole(self.layout.graph, random_image(self.layout))
        for name, value in self.layout.graph.outputs.items():
            assert torch.equal(inbox.get(value, 0, self.layout.rows[value]), expected[name])
        assert [report.status for report in self.reports
                if (report.session, report.frame) == (session, frame)] == [OK]

    def settled(self) -> None:
        """Wait until no frame is in flight."""
        until(lambda: not self.engine._sessions and not self.engine._outbox.queued_bytes
              and self.engine._outbox._current is None)

    def ends(self) -> list[tuple[int, int]]:
        return [(report.frame, report.status) for report in self.reports]


@pytest.fixture(scope='module')
def layout():
    return small_net()


@pytest.fixture
def robot(layout):
    """Return a function that makes an engine and the robot that it serves."""
    made = []

    def make(**options):
        made.append(Robot(layout, **options))
        return made[-1]
    yield make
    for each in made:
        each.engine.close()
    assert not engine_threads()


@contextmanager
def stuck(monkeypatch):
    """Keep every server thread that begins a frame busy, as a long operator would."""
    run, go_on = Executor.run, threading.Event()

    def slow(self, *args, **kwargs):
        if threading.current_thread().name.startswith('server frames'):
            assert go_on.wait(WAIT_S)
        return run(self, *args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(Executor, 'run', slow)
        try:
            yield go_on
        finally:
            go_on.set()


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
    side.engine._outbox._publish = lambda chunk: order.append(chunk.value_id)
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
    chunk, send = side.uplink(0, 1)[0], side.engine._outbox.send

    def tampered(*args):
        side.give([tamper(chunk)])
        send(*args)
    monkeypatch.setattr(side.engine._outbox, 'send', tampered)  # of the rows before the last
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
    time.sleep(0.05)
    side.settled()
    assert len(side.chunks) == answered and side.ends() == [(0, OK)]
    assert side.engine.stray_chunks == 3


def test_a_false_frame_number_does_not_end_the_frames_to_come(robot):
    side = robot(session_timeout_s=0.05)
    strange = side.uplink(0)[0]
    side.give([replace(strange, frame=2 ** 64 - 1),
               replace(strange, frame=2 ** 64 - 2, plan_index=9)])
    until(lambda: len(side.reports) == 2)
    side.answer(0)


def test_what_is_remembered_of_past_frames_is_bounded(robot):
    side = robot()
    strange = replace(side.uplink(0)[0], plan_index=9)
    side.give(replace(strange, frame=frame) for frame in range(KEPT_OVER + 50))
    assert len(side.engine._over) == KEPT_OVER
    assert side.engine.frames[REFUSED] == KEPT_OVER + 50


def test_a_frame_whose_rows_stay_out_is_given_up_and_the_rows_named(robot):
    side = robot(session_timeout_s=0.1)
    begun = time.monotonic()
    side.give(side.uplink(0)[:2])
    until(lambda: side.reports)
    assert 0.1 <= time.monotonic() - begun < WAIT_S
    assert side.ends() == [(0, ABORTED)]
    assert side.reports[0].text.startswith(
        'deadline passed: value 3 rows [0, 40) are missing: 2 of 3 chunks came in time')
    report = side.reports[0]  # a busy machine may begin late, and then waits for less
    assert report.wait_s >= 0.09 - report.spans[0].start_s
    side.give(side.uplink(0)[2:])  # the last comes after all
    assert side.engine.stray_chunks == 1
    side.answer(1)


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
        side.give([replace(side.uplink(0)[0], version=3)])
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
    publish, side.engine._outbox._publish = side.engine._outbox._publish, lambda chunk: 1 / 0
    side.give(side.uplink(0))
    until(lambda: len(side.reports) == 3)
    assert {report.text for report in side.reports} == {
        '', 'sending value 4 rows [0, 20) failed: ZeroDivisionError: division by zero',
        'sending value 7 rows [0, 1) failed: ZeroDivisionError: division by zero'}
    side.settled()
    side.engine._outbox._publish = publish
    side.answer(1)


def test_rows_of_a_frame_that_is_given_up_are_not_sent(robot):
    side = robot(session_timeout_s=0.2)
    hold, sent = threading.Event(), []
    side.engine._outbox._publish = lambda chunk: sent.append(chunk.frame) or hold.wait(WAIT_S)
    try:
        side.give(side.uplink(0, 1))
        until(lambda: sent)  # the link is busy
        side.give(side.uplink(1, 2))  # rows of it wait to be sent, and it for rows of the robot
        until(lambda: (1, ABORTED) in side.ends())
    finally:
        hold.set()
    side.settled()
    assert set(sent) == {0}


def test_close_in_the_middle_of_frames_says_so_and_ends_at_once(robot):
    side = robot(max_sessions=3)
    for frame in range(3):
        side.give(side.uplink(frame)[:1])
    begun = time.monotonic()
    closer = threading.Thread(target=side.engine.close)
    closer.start()
    closer.join(WAIT_S)
    assert time.monotonic() - begun < 2.0
    assert not engine_threads()
    assert sorted(side.ends()) == [(frame, ABORTED) for frame in range(3)]
    assert {report.text for report in side.reports} == {'the server is stopping'}
    side.give(side.uplink(3))
    assert len(side.reports) == 3 and side.engine.stray_chunks == 3
    side.engine.close()  # once more does no harm


def test_frames_that_are_over_leave_nothing_in_memory(robot, monkeypatch):
    side = robot(session_timeout_s=0.05)
    buffers = []

    def tensors():
        gc.collect()
        return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    def frames(first):
        for frame in range(first, first + 4):
            side.answer(frame)
        side.give(side.uplink(first + 4)[:2])
        until(lambda: side.reports[-1].status == ABORTED)
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


# Several robots

@contextmanager
def all_places_taken(turns):
    """Keep the only place to compute, as another robot's frame does."""
    held = Turn(turns.line(), lambda: False, time.monotonic())
    assert held.enter()
    try:
        yield
    finally:
        held.leave()


def test_robots_take_turns_whatever_one_of_them_asks_for(robot):
    turns, ended = Turns(), []
    flood, other = robot(turns=turns, max_sessions=6), robot(turns=turns)
    for name, side in (('flood', flood), ('other', other)):
        side.engine._report = lambda report, name=name: ended.append(name)
    with all_places_taken(turns):
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
    turns, lock, done = Turns(), threading.Lock(), ServerEngine._report_done
    sides, inside, most = [robot(turns=turns) for _ in range(3)], 0, 0

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
    assert most == 1 and turns._taken == 0


def test_a_robot_that_keeps_its_rows_back_keeps_nobody_from_computing(robot):
    turns = Turns()
    hanging, other = robot(turns=turns, session_timeout_s=WAIT_S), robot(turns=turns)
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
    turns = Turns()
    side = robot(turns=turns, session_timeout_s=0.1)
    with all_places_taken(turns):
        side.give(side.uplink(0))
        until(lambda: side.reports)
    assert side.ends() == [(0, ABORTED)]
    assert side.reports[0].text.startswith('its turn to compute did not come: after 0.')
    until(lambda: side.engine.computed.frames)
    assert 0.05 <= side.engine.computed.turn_wait_s < WAIT_S
    side.answer(1)


@pytest.mark.parametrize('way', ['closing', 'bad chunk', 'too many'])
def test_a_frame_that_is_given_up_while_it_waits_for_its_turn_ends_at_once(robot, way):
    turns = Turns()
    side = robot(turns=turns, max_sessions=1, session_timeout_s=2 * WAIT_S)
    with all_places_taken(turns):
        side.give(side.uplink(0))
        until(lambda: side.engine._line.waiting)
        if way == 'closing':
            side.engine.close()
            assert not [name for name in engine_threads() if 'frames' in name]
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
    prepared = Prepared(layout, SERVER)
    sides = [robot(prepared=prepared) for _ in range(3)]
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
    turns, prepared = Turns(), Prepared(layout, SERVER)
    bad, good = (robot(turns=turns, prepared=prepared, session_timeout_s=0.5) for _ in range(2))
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
    assert good.engine.stray_chunks == 0 and not turns._lines and turns._taken == 0


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
