# SPDX-License-Identifier: Apache-2.0
"""The robot's engine and chunks and reports that are not what they should be."""

from dataclasses import replace
import logging
import math
import threading
import time

from deadlines import pass_when
from engine_pair import once, WRONG
import pytest
from waits import until, WAIT_S

from hp_inference.runtime.frames import ABORTED, FrameReport, OK, REFUSED, ROBOT, Span

SPLIT = ('full_offload', 'uniform:0.5')


# Chunks and reports that are not what they should be

@pytest.mark.parametrize('wrong', WRONG)
@pytest.mark.parametrize('plan', SPLIT)
def test_a_wrong_chunk_ends_the_wait_for_the_server_and_is_named(pair, plan, wrong):
    sides = pair(plan)
    tamper, message = WRONG[wrong]
    allocated = []

    def deliver(chunk):
        inbox = sides.robot._current._inbox
        before = inbox.allocated_bytes
        sides.robot.on_chunk(tamper(chunk))
        allocated.append(inbox.allocated_bytes - before)
        return [chunk]
    sides.down = once(deliver)
    begun = time.monotonic()
    result = sides.ask()
    assert time.monotonic() - begun < WAIT_S / 2, 'the robot waited for its deadline'
    assert result.fallback_reason.startswith('the server sent a bad chunk: ')
    assert message in result.fallback_reason
    assert result.computed_on == ROBOT and result.late == 1
    # A chunk whose damage shows only when it is decoded has its place by then, of the plan's size.
    assert allocated[0] == 0 or wrong == 'damaged'
    assert not sides.ask(1).fallback


def test_a_chunk_that_comes_twice_is_counted_and_does_no_harm(pair):
    sides = pair('uniform:0.5')
    sides.up = sides.down = lambda chunk: [chunk, chunk]
    for seed in range(3):
        assert not sides.ask(seed).fallback
    until(lambda: sides.server.stray_chunks)
    assert sides.robot.counters.stray_chunks > 0


def test_chunks_of_other_frames_are_counted_and_ignored(pair):
    sides = pair('full_offload')
    kept = []

    def strangers(chunk):
        kept.append(chunk)
        return [replace(chunk, session=chunk.session ^ 1), replace(chunk, frame=chunk.frame + 1),
                chunk]
    sides.down = strangers
    assert not sides.ask().fallback
    assert sides.robot.counters.stray_chunks == 2 * len(kept)
    sides.down = lambda chunk: [*kept, chunk]  # now those are of a past frame
    before = sides.robot.counters.stray_chunks
    assert not sides.ask(1).fallback
    assert sides.robot.counters.stray_chunks >= before + len(kept)


def test_a_chunk_lost_on_its_way_to_the_robot_lets_it_finish_alone_and_names_the_rows(
        pair, monkeypatch):
    sides = pair('full_offload', deadline_s=0.02)
    sides.down = once(lambda chunk: [])
    with monkeypatch.context() as patch:
        pass_when(patch, lambda: sides.told and not sides.server.in_flight
                  and sides.server_link.outbox.idle)
        result = sides.ask()
    sides.robot.deadline_s = WAIT_S
    assert result.fallback_reason == (
        'deadline passed: value 4 rows [0, 20) are missing: 1 of 2 chunks came in time; '
        'compute these rows on this side or allow more time')
    assert (result.computed_on, result.late) == (ROBOT, 1)
    assert not sides.ask(1).fallback
    assert sides.robot.counters.late == 1


def test_a_chunk_lost_on_its_way_to_the_server_is_named_by_the_server(pair, monkeypatch):
    sides = pair('layer:3', session_timeout_s=0.02)
    sides.up = once(lambda chunk: [])
    with monkeypatch.context() as patch:
        pass_when(patch, lambda: sides.server.chunks == 2 and sides.robot_link.outbox.idle)
        result = sides.ask()
    sides.server.session_timeout_s = WAIT_S
    assert result.fallback_reason == (
        'the server gave the frame up: deadline passed: value 3 rows [0, 40) are missing: '
        '2 of 3 chunks came in time; compute these rows on this side or allow more time')
    assert not sides.ask(1).fallback


def test_after_a_late_frame_the_robot_goes_alone_until_it_may_ask_again(pair, liveness_clock):
    sides = pair('full_offload', deadline_s=0.05, retry_s=0.8)
    sides.down = lambda chunk: []
    assert 'deadline passed' in sides.ask().fallback_reason
    sides.down = lambda chunk: [chunk]
    sides.robot.deadline_s = WAIT_S
    for seed in range(2):
        result = sides.ask(seed)
        assert (result.fallback_reason, result.sent_bytes, result.late) == (
            'the server left the last frame alone', 0, 1)
        liveness_clock.sleep(0.79 - liveness_clock.now + 1000.0)
    liveness_clock.sleep(0.02)
    assert not sides.ask(2).fallback


def test_what_is_not_sent_of_a_frame_that_is_given_up_is_not_sent(pair, monkeypatch):
    sides = pair('uniform:0.5', deadline_s=0.02)
    hold, sent = threading.Event(), []
    pass_when(monkeypatch, lambda: sent)

    def slow(chunk):
        sent.append(chunk.frame)
        hold.wait(WAIT_S)
        return []
    sides.up = slow
    result = sides.ask()
    assert result.fallback and not sides.robot_link.outbox.queued_bytes
    hold.set()
    sides.robot.close()
    assert sent == [0] and result.sent_bytes > 0


def test_a_chunk_that_can_not_be_sent_ends_the_wait_at_once(pair):
    sides = pair('full_offload')
    sides.up = once(lambda chunk: 1 / 0)
    result = sides.ask()
    assert result.fallback_reason == (
        'sending value 0 rows [0, 40) failed: ZeroDivisionError: division by zero')
    sides.down = once(lambda chunk: 1 / 0)
    result = sides.ask(1)
    assert result.fallback_reason.startswith('the server gave the frame up: sending value ')
    assert result.fallback_reason.endswith('failed: ZeroDivisionError: division by zero')
    assert not sides.ask(2).fallback


@pytest.mark.parametrize('status', [REFUSED, ABORTED, 77])
def test_a_report_that_gives_the_frame_up_ends_the_wait_at_once(pair, status):
    sides = pair('full_offload')
    sides.up = once(lambda chunk: sides.robot.on_report(
        FrameReport(chunk.session, chunk.frame, status, 'no table')) or [])
    assert sides.ask().fallback_reason == 'the server gave the frame up: no table'
    assert not sides.ask(1).fallback


@pytest.mark.parametrize('wrong', [
    {'compute_s': math.nan}, {'wait_s': -1.0}, {'total_s': math.inf}, {'total_s': math.nan}])
@pytest.mark.parametrize('status', [OK, ABORTED])
def test_a_report_of_no_durations_is_ignored_and_said_so(pair, caplog, status, wrong):
    sides = pair('full_offload')
    sides.reports = lambda report: [replace(report, status=status, **wrong)]
    with caplog.at_level(logging.WARNING):
        result = sides.ask()
    assert not result.fallback
    assert result.server_compute_s == result.server_wait_s == 0
    assert all(math.isfinite(span.start_s) for span in result.spans)
    assert 'a report of frame 0 is ignored: its durations are' in caplog.text


def test_a_report_of_another_frame_or_session_is_ignored(pair):
    sides = pair('full_offload')
    sides.reports = lambda report: [
        replace(report, status=REFUSED, frame=report.frame + 1),
        replace(report, status=REFUSED, session=report.session ^ 1), report]
    assert not sides.ask().fallback
    sides.robot.on_report(FrameReport(sides.robot.session, 0, REFUSED, 'when no frame is there'))
    assert not sides.ask(1).fallback


def test_a_report_that_does_not_come_costs_a_moment_not_the_answer(pair):
    sides = pair('full_offload')
    sides.reports = lambda report: []
    result = sides.ask()
    assert not result.fallback and result.server_compute_s == 0
    assert not any(span.lane == 'server' for span in result.spans)


def test_a_report_that_comes_just_after_the_last_rows_is_waited_for(pair, monkeypatch):
    monkeypatch.setattr('hp_inference.runtime.robot_frame.REPORT_GRACE_S', WAIT_S)
    sides = pair('full_offload')
    sides.reports = lambda report: threading.Timer(
        0.1, sides.robot.on_report, [report]).start() or []
    assert sides.ask().server_compute_s > 0


def test_spans_of_a_report_stay_between_the_first_chunk_and_the_last_rows(pair):
    sides = pair('full_offload')
    sides.reports = lambda report: [replace(report, total_s=1e6, spans=[
        Span('server', 'compute', 0.0, 0.01)])]
    result = sides.ask()
    first = min(span.start_s for span in result.spans if span.lane == 'uplink')
    assert [span.start_s for span in result.spans if span.lane == 'server'] == [
        pytest.approx(first)]
