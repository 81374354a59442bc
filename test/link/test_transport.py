# SPDX-License-Identifier: Apache-2.0
"""A frame's way between two sides: what goes with its rows, and how it ends."""

import pytest
import torch
from waits import until, WAIT_S

from hp_inference.link.errors import Aborted, DeadlinePassed
from hp_inference.link.inbox import Inbox
from hp_inference.link.transport import ChunkTransport
from hp_inference.link.wire import Head, SliceSpec

HEAD = Head(1, 2, bytes(32), 0)
SPEC = SliceSpec(4, 0, 3, (3, 60_000), 0, torch.uint8)
ROWS = torch.zeros(3, 60_000, dtype=torch.uint8)


@pytest.fixture
def carried():
    return []


@pytest.fixture
def transport(carried):
    made = ChunkTransport(lambda chunk, tag: carried.append((chunk, tag)))
    yield made
    made.close(WAIT_S)


def test_chunks_go_with_head_and_tag_of_their_frame_and_are_counted(transport, carried):
    io = transport.open_frame(HEAD, Inbox([]), tag='the image')
    io.send(SPEC, ROWS)
    until(lambda: io.slices)
    assert [(chunk.head, chunk.chunk_index, tag) for chunk, tag in carried] == [
        (HEAD, index, 'the image') for index in range(3)]
    assert io.sent_bytes == 180_000
    assert [slice_.spec for slice_ in io.slices] == [SPEC]


def test_what_a_chunk_counts_is_counted_before_it_can_be_answered(transport):
    counts = []
    transport.carry = lambda chunk, tag: counts.append(io.sent_bytes)
    io = transport.open_frame(HEAD, Inbox([]))
    io.send(SPEC, ROWS)
    until(lambda: io.slices)
    assert counts == [60_000, 120_000, 180_000]


def test_nothing_is_sent_or_waited_for_once_a_frame_is_given_up(transport, carried):
    inbox = Inbox([SPEC])
    io = transport.open_frame(HEAD, inbox)
    inbox.abort('the robot is stopping')
    with pytest.raises(Aborted, match='the robot is stopping'):
        io.send(SPEC, ROWS)
    with pytest.raises(Aborted, match='the robot is stopping'):
        io.receive(SPEC)
    assert not carried and transport.outbox.idle


def test_rows_are_waited_for_until_the_frame_is_to_be_given_up(transport):
    io = transport.open_frame(HEAD, Inbox([SPEC]))
    io.give_up_s = 0.0
    with pytest.raises(DeadlinePassed, match=r'value 4 rows \[0, 3\) are missing: 0 of 3'):
        io.receive(SPEC)


def test_rows_that_can_not_be_sent_end_the_frame_or_are_told_to_who_asked(transport):
    def no_route(chunk, tag):
        raise OSError('no route')
    transport.carry, told, inbox = no_route, [], Inbox([SPEC])
    transport.open_frame(HEAD, inbox).send(SPEC, ROWS)
    transport.open_frame(HEAD, Inbox([]), unsent=told.append).send(SPEC, ROWS)
    until(lambda: told)
    reason = 'sending value 4 rows [0, 3) failed: OSError: no route'
    assert told == [reason]
    with pytest.raises(Aborted, match='no route'):
        inbox.check()


def test_who_is_started_anew_is_paced_from_the_beginning(transport):
    class Pacer:
        resets = 0

        def reset(self):
            self.resets += 1
    transport.restart()  # without a pacer there is nothing to forget
    transport.pacer = Pacer()
    transport.restart()
    assert transport.pacer.resets == 1
