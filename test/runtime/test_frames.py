# SPDX-License-Identifier: Apache-2.0
"""What both sides say of a frame: slices, its link, its time line, its report."""

import math

from engine_pair import small_net, table
import pytest
import torch

from hp_inference.link.chunks import chunk_slice
from hp_inference.link.errors import BadChunk
from hp_inference.link.outbox import SentSlice
from hp_inference.link.wire import Head
from hp_inference.runtime.executor import Trace
from hp_inference.runtime.frames import (
    compute_spans,
    FrameReport,
    FrameResult,
    inbox_for,
    link_spans,
    OK,
    ROBOT,
    server_spans,
    slice_spec,
    Span,
)
from hp_inference.split.program import Receive, Send

HEAD = Head(1, 2, bytes(32), 0)


@pytest.fixture(scope='module')
def layout():
    return small_net()


@pytest.fixture(scope='module')
def program(layout):
    """Return the server's program under layer:3, which receives value 3, sends 4 and 7."""
    return table(layout, 'layer:3').programs[0][1]


def test_a_slice_has_the_shape_axis_and_dtype_of_its_rows(layout):
    spec = slice_spec(layout, Send(3, 4, 9, 'zstd'))
    assert (spec.value_id, spec.row_begin, spec.row_end) == (3, 4, 9)
    assert (spec.shape, spec.axis, spec.dtype) == ((1, 2, 5, 240), 2, torch.float64)
    assert spec.codec == 'zstd'
    spec = slice_spec(layout, Receive(7, 0, 1, 'none'))
    assert (spec.shape, spec.axis) == ((1, 3), None)
    assert slice_spec(layout, Send(0, 0, 40, 'none')).dtype == torch.uint8


def test_an_inbox_takes_what_the_program_receives_and_nothing_else(layout, program):
    inbox = inbox_for(layout, program, HEAD)
    spec = slice_spec(layout, program.receives[0])
    rows = torch.ones(spec.shape, dtype=spec.dtype)
    with pytest.raises(BadChunk, match='value 4 .* not to come'):
        other = slice_spec(layout, program.sends[0])
        inbox.put(next(chunk_slice(torch.ones(other.shape, dtype=other.dtype), other, HEAD)))
    with pytest.raises(BadChunk, match='frame 3, expected 2'):
        inbox.put(next(chunk_slice(rows, spec, Head(1, 3, bytes(32), 0))))
    for chunk in chunk_slice(rows, spec, HEAD):
        assert inbox.put(chunk)
    assert inbox.complete
    assert torch.equal(inbox.get(3, 0, 40), rows)


def test_pieces_of_computing_close_together_are_one_span():
    trace = Trace(computing=[(10.0, 10.5), (10.5001, 11.0), (12.0, 12.25)])
    assert compute_spans('server', trace, 10.0) == [
        Span('server', 'compute', 0.0, 1.0), Span('server', 'compute', 2.0, 0.25)]
    assert compute_spans('robot', Trace(), 10.0) == []


def test_what_travelled_is_drawn_from_its_start_to_its_end(layout, program):
    inbox = inbox_for(layout, program)
    spec = slice_spec(layout, program.receives[0])
    for chunk in chunk_slice(torch.ones(spec.shape, dtype=spec.dtype), spec, HEAD):
        inbox.put(chunk)
    (_, begun, done), = inbox.arrivals
    sent = [SentSlice(slice_spec(layout, program.sends[0]), HEAD, begun + 1, begun + 3, 10, 5)]
    assert link_spans(sent, inbox, begun) == [
        Span('uplink', 'value 4 rows [0, 20)', pytest.approx(1.0), pytest.approx(2.0)),
        Span('downlink', 'value 3 rows [0, 40)', 0.0, done - begun)]


@pytest.mark.parametrize('total_s, start_s', [
    (2.0, 4.0),   # the middle of the 6 s between first chunk and last rows
    (6.0, 2.0), (60.0, 2.0)])  # never before the first chunk
def test_the_servers_time_is_drawn_in_the_middle_of_what_is_known(layout, total_s, start_s):
    report = FrameReport(1, 2, OK, total_s=total_s, spans=[Span('server', 'compute', 0.5, 1.0)])
    sent = [SentSlice(None, HEAD, 102.0, 103.0, 10, 5)]

    class Arrived:
        arrivals = [(None, 104.0, 105.0), (None, 104.0, 108.0)]
    assert server_spans(report, sent, Arrived, 100.0) == [
        Span('server', 'compute', start_s + 0.5, 1.0)]


@pytest.mark.parametrize('figures, sane', [
    ({}, True), ({'compute_s': 1e9}, True), ({'compute_s': math.nan}, False),
    ({'wait_s': -1e-9}, False), ({'total_s': math.inf}, False)])
def test_a_report_is_sane_when_its_figures_are_durations(figures, sane):
    assert FrameReport(1, 2, OK, **figures).sane is sane


def test_a_result_is_a_fallback_when_there_is_a_reason():
    result = FrameResult('tag', 0, {}, 'uniform:0.5', 0, bytes(32), ROBOT, '')
    assert not result.fallback
    result.fallback_reason = 'no server has been heard of'
    assert result.fallback
