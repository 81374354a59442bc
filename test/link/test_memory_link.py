# SPDX-License-Identifier: Apache-2.0
"""Two sides in one process, with an honest and with a hostile line between them."""

from dataclasses import replace
import random
import time

import pytest
from simulated_time import SimulatedTime
import torch
from waits import WAIT_S

from hp_inference.link import memory_link
from hp_inference.link.errors import BadChunk, DeadlinePassed
from hp_inference.link.inbox import Inbox
from hp_inference.link.memory_link import MemoryLink
from hp_inference.link.wire import Head, SliceSpec

HEAD = Head(session=7, frame=3, table_digest=bytes(range(32)), plan_index=2)
UP = SliceSpec(1, 0, 30, (1, 16, 30, 100), 2, torch.float32, 'zstd')
DOWN = SliceSpec(2, 5, 9, (1, 4, 64), 1, torch.float16, 'zstd')


def channels_last(shape):
    return torch.randn(shape).relu().contiguous(memory_format=torch.channels_last)


def send(side, spec, rows):
    side.open_frame(HEAD, Inbox([])).send(spec, rows)


def exchange(tap=None):
    """Send a slice each way; return the link, both inboxes and both tensors."""
    server, robot = Inbox([UP], HEAD), Inbox([DOWN], HEAD)
    up, down = channels_last(UP.shape), torch.randn(DOWN.shape).half()
    with MemoryLink(server.put, robot.put, tap=tap) as link:
        send(link.robot, UP, up)
        send(link.server, DOWN, down)
        assert link.close(WAIT_S)
    return link, (server, up), (robot, down)


def test_rows_arrive_on_the_other_side_in_both_directions():
    link, (server, up), (robot, down) = exchange()
    assert torch.equal(server.get(1, 0, 30, 0), up)
    assert torch.equal(robot.get(2, 5, 9, 0), down)
    assert link.sent_bytes == server.received_bytes + robot.received_bytes
    assert link.refused == []


def test_what_is_sent_does_not_change_with_the_senders_memory():
    arrived = []
    sent = torch.full((1, 60), 1, dtype=torch.uint8)
    spec = SliceSpec(1, 0, 1, (1, 60), None, torch.uint8)
    with MemoryLink(arrived.append, arrived.append) as link:
        send(link.robot, spec, sent)
        assert link.close(WAIT_S)
    sent.fill_(2)
    assert bytes(arrived[0].payload) == b'\x01' * 60


def test_duplicated_and_reordered_chunks_still_give_the_rows():
    held = []

    def shuffle(chunk):
        held.append(chunk)
        if chunk.chunk_index < chunk.chunk_count - 1:
            return []
        return random.Random(0).sample(held * 2, 2 * len(held))

    server = Inbox([UP], HEAD)
    up = channels_last(UP.shape)
    with MemoryLink(server.put, lambda _: None, tap=shuffle) as link:
        send(link.robot, UP, up)
        assert link.close(WAIT_S)
    assert torch.equal(server.get(1, 0, 30, 0), up)
    assert server.duplicates == UP.chunk_count


def test_a_dropped_chunk_ends_in_a_deadline_and_not_in_a_wrong_slice():
    _, (server, _), (robot, down) = exchange(
        tap=lambda chunk: [] if chunk.value_id == 1 and chunk.chunk_index == 2 else [chunk])
    with pytest.raises(DeadlinePassed, match='3 of 4 chunks'):
        server.get(1, 0, 30, time.monotonic() + 0.02)
    assert torch.equal(robot.get(2, 5, 9, 0), down)


def test_a_damaged_chunk_is_refused_and_the_rest_still_arrives():
    def damage(chunk):
        if (chunk.value_id, chunk.chunk_index) != (1, 1):
            return [chunk]
        broken = bytes(byte ^ 0x55 for byte in chunk.payload)
        return [replace(chunk, payload=broken), replace(chunk, frame=2), chunk]

    link, (server, up), _ = exchange(tap=damage)
    assert torch.equal(server.get(1, 0, 30, 0), up)
    assert [type(error) for error in link.refused] == [BadChunk, BadChunk]
    assert 'frame 2, expected 3' in str(link.refused[1])


def test_bytes_leave_at_the_given_rate(monkeypatch):
    arrivals, clock = [], SimulatedTime()
    monkeypatch.setattr(memory_link, 'time', clock)
    spec = SliceSpec(1, 0, 5, (5, 60_000), 0, torch.uint8)
    rows = torch.randint(0, 256, (5, 60_000)).to(torch.uint8)
    with MemoryLink(lambda _: arrivals.append(clock.now - 1000.0), lambda _: None,
                    mbit_s=24) as link:
        send(link.robot, spec, rows)
        assert link.close(WAIT_S)
    assert arrivals == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])


@pytest.mark.parametrize('rate', [0, -1, float('nan')])
def test_a_rate_that_never_ends_is_refused(rate):
    with pytest.raises(ValueError, match='expected more than 0, or None'):
        MemoryLink(lambda _: None, lambda _: None, mbit_s=rate)
