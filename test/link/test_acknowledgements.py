# SPDX-License-Identifier: Apache-2.0
"""When an acknowledgement is due, what it says, and which ones are refused."""

import math
import time

from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.link.acknowledgements import Ack, Acknowledger, BadAck

CHUNK = 60_000


def took(acks, seq, arrived_s, nbytes=CHUNK, last=False, session=1):
    return acks.took(session, seq, nbytes, 100.0 + arrived_s, arrived_s, last)


def test_the_first_arrival_is_reported_at_once_and_says_all_of_it():
    ack = Acknowledger(9).took(1, 5, 1234, 0.5, 77.0, False)
    assert (ack.session, ack.receiver) == (1, 9)
    assert (*ack.seq, *ack.payload_bytes, *ack.sent_s, *ack.arrived_s) == (
        5, 1234, 0.5, 77.0)


def test_full_chunks_are_reported_two_by_two_on_a_fast_link():
    acks = Acknowledger(9)
    got = [took(acks, seq, 10 + seq * 0.001) for seq in range(1, 8)]
    assert [ack and tuple(ack.seq) for ack in got] == [
        (1,), None, (2, 3), None, (4, 5), None, (6, 7)]


def test_small_chunks_are_reported_eight_by_eight_or_after_ten_milliseconds():
    acks = Acknowledger(9)
    took(acks, 1, 10.0, 100)
    got = [took(acks, seq, 10 + seq * 0.001, 100) for seq in range(2, 10)]
    assert got[:-1] == [None] * 7 and tuple(got[-1].seq) == tuple(range(2, 10))
    assert took(acks, 10, 10.012, 100) is None
    assert tuple(took(acks, 11, 10.0195, 100).seq) == (10, 11)


def test_on_a_slow_link_every_chunk_is_reported_as_it_comes():
    acks = Acknowledger(9)
    assert all(took(acks, seq, 10 + seq * 0.048) for seq in range(1, 9))


def test_the_last_chunk_of_a_slice_is_reported_at_once():
    acks = Acknowledger(9)
    took(acks, 1, 10.0)
    assert took(acks, 2, 10.001, 10, last=True).seq == (2,)


def test_sessions_are_gathered_apart_and_the_oldest_of_many_is_forgotten():
    acks = Acknowledger(9)
    for session in (1, 2):
        assert took(acks, 1, 10.0, session=session).session == session
        assert took(acks, 2, 10.001, session=session) is None
    assert took(acks, 3, 10.002, session=1).seq == (2, 3)
    for session in range(3, 9):
        took(acks, 1, 10.003, session=session)
    assert took(acks, 3, 10.004, session=2).seq == (3,)


def test_a_clock_that_is_set_back_holds_up_nothing():
    acks = Acknowledger(9)
    took(acks, 1, 1000.0)
    assert took(acks, 2, 10.0).seq == (2,)


@pytest.mark.parametrize('wrong', [{'seq': 0}, {'sent_s': math.nan}, {'arrived_s': math.inf}])
def test_what_cannot_be_is_not_noted(wrong):
    right = {'session': 1, 'seq': 1, 'payload_bytes': 1, 'sent_s': 0.0, 'arrived_s': 0.0,
             'last': True}
    assert Acknowledger(9).took(**{**right, **wrong}) is None
    assert Acknowledger(9).took(**right) is not None


@pytest.mark.parametrize('clock', [time.monotonic, time.time], ids=['monotonic', 'system'])
def test_held_is_the_time_since_the_arrival_by_either_clock(clock):
    ack = took(Acknowledger(9), 1, clock() - 0.25)
    assert 0.25 <= ack.held_s < 0.5
    assert took(Acknowledger(9), 1, clock() + 5).held_s == 0.0
    assert took(Acknowledger(9), 1, -5e9).held_s == 0.0


def test_every_receiver_draws_a_number_of_its_own():
    assert took(Acknowledger(), 1, 0.0).receiver != took(Acknowledger(), 1, 0.0).receiver


@given(st.lists(st.tuples(st.floats(0, 0.05), st.integers(0, CHUNK), st.booleans()), max_size=60))
def test_each_arrival_is_in_one_ack_and_none_waits_behind_more_than_a_full_chunk(arrivals):
    acks, now, reported, waiting = Acknowledger(9), 10.0, [], []
    for seq, (apart, nbytes, last) in enumerate(arrivals, 1):
        now += apart
        waiting.append((seq, nbytes))
        ack = took(acks, seq, now, nbytes, last)
        if ack:
            assert list(zip(ack.seq, ack.payload_bytes)) == waiting
            reported += ack.seq
            waiting = []
        assert sum(nbytes for _, nbytes in waiting) <= CHUNK and len(waiting) < 8
    assert reported == list(range(1, len(reported) + 1))


RIGHT = {'session': 1, 'receiver': 2, 'seq': (1, 2), 'payload_bytes': (3, 4),
         'sent_s': (0.0, -5.0), 'arrived_s': (1e9, 0.0), 'held_s': 0.0}


@pytest.mark.parametrize(('field', 'value'), [
    ('seq', (1,)), ('payload_bytes', ()), ('sent_s', (math.nan, 0.0)), ('held_s', math.nan),
    ('arrived_s', (0.0, math.inf)), ('held_s', -0.1), ('seq', (0, 1)), ('payload_bytes', (1, -1)),
])
def test_a_ack_that_contradicts_itself_is_refused_with_what_was_expected(field, value):
    Ack(**RIGHT)
    with pytest.raises(BadAck, match='expected'):
        Ack(**{**RIGHT, field: value})


@pytest.mark.parametrize('count', [0, 65])
def test_a_ack_has_1_to_64_entries(count):
    entries = {name: (1,) * count for name in ('seq', 'payload_bytes', 'sent_s', 'arrived_s')}
    with pytest.raises(BadAck, match='1 to 64'):
        Ack(1, 2, **entries, held_s=0.0)
