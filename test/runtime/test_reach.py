# SPDX-License-Identifier: Apache-2.0
"""Whether the server can be asked: what it holds, whether it lives, whether it did its share."""

import pytest

from hp_inference.runtime import reach
from hp_inference.runtime.reach import Reach, SILENT_S

MINE, OTHER = b'\1' * 32, b'\2' * 32


@pytest.fixture
def clock(monkeypatch):
    """Return the hands of the clock, to be set."""
    hands = [100.0]
    monkeypatch.setattr(reach.time, 'monotonic', lambda: hands[0])
    return hands


@pytest.fixture
def server(clock):
    made = Reach(1.0)
    made.holds(MINE)
    return made


def test_it_is_asked_only_with_the_table_that_it_holds(server):
    assert Reach(1.0).why_not(MINE) == 'no server has been heard of'
    assert server.why_not(MINE) == ''
    assert server.why_not(OTHER) == 'the server holds another plan table'
    server.holds(b'', 'it has another model')
    assert server.why_not(MINE) == 'it has another model'


def test_after_a_frame_that_it_left_alone_it_is_asked_again_a_while_later(server, clock):
    server.left_alone()
    assert server.why_not(MINE) == 'the server left the last frame alone'
    clock[0] += 1.01
    assert server.why_not(MINE) == ''


def test_the_first_time_a_sign_of_life_ends_the_time_alone_and_not_when_it_happens_again(
        server, clock):
    server.alive()
    server.left_alone()
    assert server.why_not(MINE)
    server.alive()
    assert server.why_not(MINE) == ''
    server.left_alone()
    server.alive()
    assert server.why_not(MINE) == 'the server left the last frame alone'
    clock[0] += 1.01
    server.alive()
    assert server.why_not(MINE) == ''
    server.answered()
    server.left_alone()
    server.alive()
    assert server.why_not(MINE) == ''


def test_a_new_agreement_ends_the_time_alone_and_the_same_again_does_not(server):
    server.left_alone()
    server.holds(MINE)
    assert server.why_not(MINE)
    server.holds(OTHER)
    server.holds(MINE)
    assert server.why_not(MINE) == ''


def test_signs_of_life_are_expected_of_who_holds_the_table(server, clock):
    clock[0] += SILENT_S
    assert server.why_not(MINE) == ''
    clock[0] += 0.1  # it was gone before it gave the first one
    assert 'no sign of it for 1.5 s' in server.why_not(MINE)
    server.alive()
    clock[0] += SILENT_S
    assert server.why_not(MINE) == ''
    clock[0] += 0.1
    assert 'no sign of it for 1.5 s' in server.why_not(MINE)
    server.left_alone()
    server.alive()  # it is back: what it did before says nothing
    assert server.why_not(MINE) == ''


def test_a_server_that_ended_owes_no_signs_of_life(server, clock):
    server.alive()
    server.holds(b'', 'the server is gone')
    clock[0] += 100
    assert server.why_not(MINE) == 'the server is gone'
    server.holds(MINE)
    assert server.why_not(MINE) == ''


def test_a_server_that_is_found_again_holds_what_it_held_until_it_says_otherwise(server, clock):
    server.left_alone()
    server.gone()
    assert server.why_not(MINE) == 'the server is gone'
    clock[0] += 100
    server.found()
    assert server.why_not(MINE) == ''
    clock[0] += SILENT_S + 0.1
    assert 'no sign of it' in server.why_not(MINE)
    server.gone()
    server.holds(b'', 'it has no table yet')  # another one, started meanwhile
    assert server.why_not(MINE) == 'it has no table yet'
    server.found()
    assert server.why_not(MINE) == 'it has no table yet'
    server.holds(MINE)
    assert server.why_not(MINE) == ''
