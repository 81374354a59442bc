# SPDX-License-Identifier: Apache-2.0
"""Whether the server can be asked: what it holds, whether it lives, whether it did its share."""

import pytest

from hp_inference.runtime import liveness
from hp_inference.runtime.liveness import (
    Backoff,
    FIRST_S,
    MOST_S,
    MOST_SERVERS,
    ServerLiveness,
    SILENT_S,
)

MINE, OTHER = b'\1' * 32, b'\2' * 32
HERE, THERE = 11, 22  # servers


@pytest.fixture
def clock(monkeypatch):
    """Return the hands of the clock, to be set."""
    hands = [100.0]
    monkeypatch.setattr(liveness.time, 'monotonic', lambda: hands[0])
    return hands


@pytest.fixture
def server(clock):
    made = ServerLiveness(1.0)
    made.status(HERE, MINE)
    return made


def test_it_is_asked_only_with_a_table_that_it_holds(server):
    assert ServerLiveness(1.0).why_not(MINE) == 'no server has been heard of'
    assert server.why_not(MINE) == ''
    assert server.why_not(OTHER) == 'the server holds another plan table'
    server.status(HERE, b'', 'it has another model')
    assert server.why_not(MINE) == 'it has another model'


def test_a_newer_table_does_not_end_the_one_before(server):
    server.status(HERE, OTHER)  # as when another robot of the namespace has announced its own
    assert server.why_not(MINE) == server.why_not(OTHER) == ''
    server.load(HERE, [OTHER])
    assert server.why_not(MINE) == 'the server holds another plan table'


def test_what_the_server_said_is_replaced_by_what_it_says_next(server):
    server.status(HERE, b'', 'a lie')  # by whomever
    assert server.why_not(MINE) == 'a lie'
    server.load(HERE, [OTHER, MINE])
    assert server.why_not(MINE) == ''


def test_a_server_without_the_table_does_not_hide_one_that_holds_it(server):
    server.status(THERE, b'', 'it has another model')
    server.load(THERE, [])
    server.load(THERE, [OTHER])
    assert server.why_not(MINE) == ''


def test_any_number_of_servers_takes_no_more_memory_than_a_few(server):
    for number in range(1000):
        server.load(100 + number, [OTHER])
    assert len(server._servers) == MOST_SERVERS
    server.load(HERE, [MINE])
    assert server.why_not(MINE) == ''


def test_after_a_frame_that_it_left_alone_it_is_asked_again_a_while_later(server, clock):
    server.left_alone()
    assert server.why_not(MINE) == 'the server left the last frame alone'
    clock[0] += 1.01
    assert server.why_not(MINE) == ''


def test_the_first_time_a_sign_of_life_ends_the_time_alone_and_not_when_it_happens_again(
        server, clock):
    server.load(HERE, [MINE])
    server.left_alone()
    assert server.why_not(MINE)
    server.load(THERE, [])  # somebody else's
    assert server.why_not(MINE)
    server.load(HERE, [MINE])
    assert server.why_not(MINE) == ''
    server.left_alone()
    server.load(HERE, [MINE])
    assert server.why_not(MINE) == 'the server left the last frame alone'
    clock[0] += 1.01
    server.load(HERE, [MINE])
    assert server.why_not(MINE) == ''
    server.answered()
    server.left_alone()
    server.load(HERE, [MINE])
    assert server.why_not(MINE) == ''


def test_a_new_agreement_ends_the_time_alone_and_the_same_again_does_not(server):
    server.left_alone()
    server.left_alone()
    server.status(HERE, MINE)
    assert server.why_not(MINE)
    server.status(HERE, b'')
    server.status(HERE, MINE)
    assert server.why_not(MINE) == ''


def test_signs_of_life_are_expected_of_who_holds_the_table(server, clock):
    clock[0] += SILENT_S
    assert server.why_not(MINE) == '' and server.holds(MINE)
    clock[0] += 0.1  # it was gone before it gave the first one
    assert 'no sign of it for 1.5 s' in server.why_not(MINE) and not server.holds(MINE)
    server.load(HERE, [MINE])
    clock[0] += SILENT_S
    assert server.why_not(MINE) == ''
    clock[0] += 0.1
    assert 'no sign of it for 1.5 s' in server.why_not(MINE)
    server.left_alone()
    server.left_alone()
    server.load(HERE, [MINE])  # it is back: what it did before says nothing
    assert server.why_not(MINE) == ''


def test_what_a_new_server_says_explains_more_than_the_silence_of_the_one_before(server, clock):
    clock[0] += SILENT_S + 0.1
    server.status(THERE, b'', 'it has another model')
    assert server.why_not(MINE) == 'it has another model'
    server.load(HERE, [MINE])
    clock[0] += SILENT_S + 0.1
    assert 'no sign of it for 1.5 s' in server.why_not(MINE)


def test_a_server_that_is_gone_is_asked_again_when_one_holds_the_table(server, clock):
    server.left_alone()
    server.gone()
    assert server.why_not(MINE) == 'the server is gone'
    clock[0] += 100
    assert server.why_not(MINE) == 'the server is gone'
    server.load(THERE, [MINE])
    assert server.why_not(MINE) == ''


def test_what_was_not_heard_is_said_again_at_once_and_then_ever_more_rarely(clock):
    again, said = Backoff(), []
    while clock[0] < 160:
        if again.due:
            again.said()
            said.append(clock[0])
        clock[0] += 0.125
    waits = [after - before for before, after in zip(said, said[1:])]
    assert said[0] == 100.0
    assert waits[:5] == [FIRST_S, 2.0, 4.0, 8.0, MOST_S]
    assert set(waits[5:]) == {MOST_S}


def test_what_was_heard_is_repeated_without_waiting_long_but_not_at_any_pace(clock):
    again = Backoff()
    for _ in range(6):
        clock[0] += MOST_S
        again.said()
    again.heard()
    assert not again.due
    clock[0] += FIRST_S
    assert again.due
