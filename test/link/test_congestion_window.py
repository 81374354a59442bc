# SPDX-License-Identifier: Apache-2.0
"""How much is in flight over simulated links."""

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
import pytest
from simulated_link import CHUNK, Link, MBIT, RECEIVER, Sender, SESSION

from hp_inference.link.acknowledgements import Ack
from hp_inference.link.congestion_window import CongestionWindow


def ack(*seq, session=SESSION, receiver=RECEIVER, now=0.0):
    count = len(seq)
    return Ack(session, receiver, seq, [CHUNK] * count, [now] * count, [now] * count, 0.0)


def sent(window, count, now=0.0):
    return [window.sent(SESSION, CHUNK, now) for _ in range(count)]


@pytest.mark.parametrize('late_s', [0.001, 0.008])
@pytest.mark.parametrize('mbit_s', [3, 10, 50, 100, 300])
def test_the_link_is_used_fully_and_what_is_queued_is_little(mbit_s, late_s):
    link = Link(lambda now: mbit_s, late_s=late_s)
    sender = Sender(link)
    seconds = 4.0 if mbit_s > 5 else 10.0
    link.run(seconds)
    assert link.goodput(1.0, seconds) > 0.93 * mbit_s
    most = 0.025 + 0.005 + (0.06 if late_s > 0.005 else 0.03)
    assert sender.most_in_flight(1.0, seconds) <= max(2 * CHUNK, mbit_s * MBIT * most) + 2 * CHUNK


@pytest.mark.parametrize('chunk', [7_000, 20_000])
def test_small_chunks_use_it_fully_too(chunk):
    link = Link(lambda now: 50)
    Sender(link, chunk=chunk)
    link.run(3.0)
    assert link.goodput(1.0, 3.0) > 0.93 * 50


def test_after_the_rate_has_dropped_little_is_queued_and_soon_even_less():
    link = Link(lambda now: 100 if now < 3.0 else 10)
    sender = Sender(link)
    link.run(6.0)
    seconds = 1 / (10 * MBIT)
    assert sender.most_in_flight(3.0, 6.0) * seconds < 0.45
    assert sender.most_in_flight(4.0, 6.0) * seconds < 0.15
    assert link.goodput(3.0, 6.0) > 0.93 * 10


def test_a_rate_that_rises_is_used_within_a_second():
    link = Link(lambda now: 10 if now < 3.0 else 100)
    Sender(link)
    link.run(6.0)
    assert link.goodput(4.0, 6.0) > 0.93 * 100


def test_lost_acks_cost_little():
    link = Link(lambda now: 100, lost=0.05)
    Sender(link)
    link.run(4.0)
    assert link.goodput(1.0, 4.0) > 0.93 * 100


@pytest.mark.parametrize('seconds', [1.5, 5.0])
def test_little_is_sent_into_a_blackout_and_after_it_all_goes_on(seconds):
    link = Link(lambda now: 0.0 if 2.0 <= now < 2.0 + seconds else 100)
    sender = Sender(link)
    link.run(1.99)
    before = len(sender.in_flight)
    assert not sender.window.stalled(1.99)
    link.run(2.0 + seconds)
    assert sender.window.stalled(2.0 + seconds)
    assert (len(sender.in_flight) - before) * CHUNK < 800_000
    link.run(6.0 + seconds)
    assert not sender.window.stalled(link.now)
    assert link.goodput(3.0 + seconds, 6.0 + seconds) > 0.9 * 100


def test_without_any_ack_chunks_go_ever_more_seldom():
    link = Link(lambda now: 0.0)
    sender = Sender(link)
    link.run(30.0)
    assert 5 <= len(sender.in_flight) <= 20
    assert len([now for now, _ in sender.in_flight if now > 15.0]) <= 3


@drawn(4, 10, anew=True)
@given(st.lists(st.tuples(st.floats(0.2, 2.0), st.sampled_from([0.0, 1.0, 10.0, 100.0, 300.0])),
                min_size=1, max_size=4), st.floats(0.0, 0.5), st.integers(0, 99))
def test_it_never_gets_stuck_and_always_recovers(steps, lost, seed):
    ends, end = [], 0.0
    for seconds, rate in steps:
        end += seconds
        ends.append((end, rate))

    def rate(now):
        return next((rate for end, rate in ends if now < end), 50.0)
    link = Link(rate, lost=lost, seed=seed)
    sender = Sender(link)
    link.run(end)
    link.lost = 0.0
    link.run(end + 13.0)
    assert link.goodput(end + 10.0, end + 13.0) > 0.9 * 50
    assert sender.window.in_flight_bytes >= 0


def test_numbers_count_up_from_1_and_a_ack_stands_for_all_before_it():
    window = CongestionWindow()
    assert sent(window, 3) == [1, 2, 3]
    assert window.in_flight_bytes == 3 * CHUNK
    assert window.on_ack(ack(2), 0.1)
    assert window.in_flight_bytes == CHUNK
    assert not window.on_ack(ack(1), 0.2)
    assert window.on_ack(ack(3, 3, 2), 0.3)
    assert window.in_flight_bytes == 0


@pytest.mark.parametrize('foreign', [
    ack(1, session=8), ack(4), ack(2 ** 32 - 1, 5)], ids=['session', 'next', 'far'])
def test_a_ack_of_others_changes_nothing(foreign):
    window = CongestionWindow()
    sent(window, 3)
    assert not window.on_ack(foreign, 0.1)
    assert window.in_flight_bytes == 3 * CHUNK


def test_a_ack_of_another_receiver_counts_as_it_has_the_chunk_all_the_same():
    window = CongestionWindow()
    sent(window, 3)
    window.on_ack(ack(1), 0.1)
    assert window.on_ack(ack(3, receiver=77), 0.2)
    assert window.in_flight_bytes == 0


def test_what_counted_as_lost_may_arrive_after_all():
    window = CongestionWindow()
    numbers = sent(window, 3)
    assert window.wait_s(CHUNK, 1.5) == 0.0 and window.in_flight_bytes == 0
    assert window.stalled(1.5)
    assert window.on_ack(ack(*numbers), 1.6)
    assert not window.stalled(1.6) and window.in_flight_bytes == 0


def test_after_a_reset_nothing_is_in_flight_and_numbers_go_on():
    window = CongestionWindow()
    sent(window, 3)
    window.reset(0.1)
    assert window.in_flight_bytes == 0 and not window.stalled(5.0)
    assert sent(window, 1, 0.1) == [4]
    assert not window.on_ack(ack(3), 0.2)


def test_chunks_of_no_bytes_are_counted_too():
    window = CongestionWindow()
    window.sent(SESSION, 0, 0.0)
    assert window.in_flight_bytes > 0
    window.on_ack(ack(1), 0.1)
    assert window.in_flight_bytes == 0
