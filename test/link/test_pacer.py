# SPDX-License-Identifier: Apache-2.0
"""The pacer in real time: what blocks a sender, what frees it, and a link that is only made up."""

from contextlib import contextmanager
import threading
import time
from types import SimpleNamespace

import pytest

from hp_inference.link.bandwidth import Estimator
from hp_inference.link.pacer import EmulatedLink, Pacer
from hp_inference.link.receipts import Receipt, Receipts

CHUNK = 60_000
MBIT = 1e6 / 8
SOON_S = 0.25


def chunk(nbytes=CHUNK, session=1):
    return SimpleNamespace(session=session, payload=bytes(nbytes), seq=0, sent_s=0.0)


def receipt(*seq, session=1):
    now = time.monotonic()
    return Receipt(session, 2, seq, [CHUNK] * len(seq), [now] * len(seq), [now] * len(seq), 0.0)


def fill(pacer):
    """Admit chunks until one would have to wait; return how many went."""
    for count in range(100):
        if not pacer.admit(chunk(), lambda: pacer.in_flight_bytes >= 3 * CHUNK):
            return count
    raise AssertionError('there is no end')


@contextmanager
def waiting(pacer, unwanted=lambda: False):
    """Have a thread wait for its chunk; yields what becomes of it."""
    outcome = SimpleNamespace(admitted=None, chunk=chunk(), at_s=0.0)

    def run():
        outcome.admitted = pacer.admit(outcome.chunk, lambda: closed or unwanted())
        outcome.at_s = time.monotonic()
    closed = False
    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.02)
    outcome.join = thread.join
    try:
        yield outcome
    finally:
        closed = True
        pacer.wake()
        thread.join(5)
        assert not thread.is_alive()


def test_chunks_are_numbered_and_stamped_and_bounded():
    pacer = Pacer()
    first = chunk()
    before = time.monotonic()
    assert pacer.admit(first, lambda: False)
    assert first.seq == 1 and before <= first.sent_s <= time.monotonic()
    assert fill(pacer) == 2
    assert pacer.in_flight_bytes == 3 * CHUNK and not pacer.stalled


def test_a_chunk_that_is_unwanted_gets_no_number():
    pacer = Pacer()
    unwanted = chunk()
    assert not pacer.admit(unwanted, lambda: True)
    assert unwanted.seq == 0 and pacer.in_flight_bytes == 0


def test_a_receipt_lets_the_next_chunk_go():
    pacer = Pacer()
    fill(pacer)
    with waiting(pacer) as outcome:
        assert outcome.admitted is None
        pacer.on_receipt(receipt(1, session=5))
        pacer.on_receipt(receipt(77))
        pacer.on_receipt(receipt(1))
        outcome.join(SOON_S)
        assert outcome.admitted and outcome.chunk.seq == 4


def test_a_receiver_that_is_new_lets_the_next_chunk_go():
    pacer = Pacer()
    fill(pacer)
    with waiting(pacer) as outcome:
        pacer.reset()
        outcome.join(SOON_S)
        assert outcome.admitted and pacer.in_flight_bytes == CHUNK


def test_wake_has_a_chunk_ask_whether_it_is_still_wanted():
    pacer, unwanted = Pacer(), threading.Event()
    fill(pacer)
    with waiting(pacer, unwanted.is_set) as outcome:
        pacer.wake()
        assert outcome.admitted is None
        unwanted.set()
        pacer.wake()
        outcome.join(SOON_S)
        assert outcome.admitted is False


def test_without_receipts_it_stalls_after_a_second_and_a_chunk_tries_again():
    pacer = Pacer()
    fill(pacer)
    began = time.monotonic()
    count = 0
    while time.monotonic() < began + 1.3:
        end = began + 1.3
        timer = threading.Timer(end - time.monotonic(), pacer.wake)
        timer.start()
        count += pacer.admit(chunk(), lambda: time.monotonic() >= end)
        timer.cancel()
        timer.join()
    assert pacer.stalled and 2 <= count <= 5
    pacer.on_receipt(receipt(3 + count))
    assert not pacer.stalled and pacer.in_flight_bytes == 0


def test_many_threads_that_meddle_do_not_break_it():
    pacer, done = Pacer(), threading.Event()

    def meddle(step):
        while not done.is_set():
            step()
            time.sleep(0.0005)
    steps = [pacer.wake, lambda: pacer.on_receipt(receipt(*range(1, 60))),
             lambda: setattr(pacer, 'limit_mbit_s', 1000.0 - pacer.limit_mbit_s),
             lambda: pacer.stalled, pacer.reset]
    threads = [threading.Thread(target=meddle, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    numbers = []
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        one = chunk()
        assert pacer.admit(one, lambda: False)
        numbers.append(one.seq)
    done.set()
    for thread in threads:
        thread.join()
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 10


# A link that is only made up

@pytest.mark.parametrize('mbit_s', [-1.0, float('nan'), float('inf')])
def test_a_limit_that_is_none_is_refused(mbit_s):
    with pytest.raises(ValueError, match='expected'):
        Pacer(mbit_s)
    pacer = Pacer(5.0)
    with pytest.raises(ValueError, match='expected'):
        pacer.limit_mbit_s = mbit_s
    assert pacer.limit_mbit_s == 5.0


def send_for(pacer, seconds, estimator=None):
    """Send to a receiver on this machine all the time; return the bytes that went."""
    receipts, total, end = Receipts(2), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        one = chunk()
        assert pacer.admit(one, lambda: False)
        total += CHUNK
        if back := receipts.took(1, one.seq, CHUNK, one.sent_s, time.monotonic(), False):
            pacer.on_receipt(back)
            if estimator:
                estimator.add(back, time.monotonic())
    return total


def test_a_limit_is_kept_and_used_and_looks_like_a_link_of_that_rate():
    pacer, estimator = Pacer(40.0), Estimator()
    assert send_for(pacer, 0.6, estimator) / 0.6 == pytest.approx(40 * MBIT, rel=0.2)
    assert estimator.estimate(time.monotonic()).bytes_per_s == pytest.approx(40 * MBIT, rel=0.2)
    pacer.limit_mbit_s = 10.0
    assert send_for(pacer, 0.7, estimator) / 0.7 < 13 * MBIT
    assert estimator.estimate(time.monotonic()).bytes_per_s == pytest.approx(10 * MBIT, rel=0.2)


def test_the_first_chunk_after_a_pause_takes_its_time_too():
    pacer = Pacer(10.0)
    began = time.monotonic()
    assert pacer.admit(chunk(), lambda: False)
    assert time.monotonic() - began > 0.9 * CHUNK / (10 * MBIT)


def test_a_chunk_that_stands_still_goes_as_soon_as_the_limit_is_raised():
    pacer = Pacer(0.001)
    with waiting(pacer) as outcome:
        time.sleep(0.1)
        assert outcome.admitted is None
        raised_s = time.monotonic()
        pacer.limit_mbit_s = 100.0
        outcome.join(1)
        assert outcome.admitted and outcome.at_s - raised_s < SOON_S


def test_a_chunk_that_stands_still_can_be_given_up():
    pacer, unwanted = Pacer(0.001), threading.Event()
    with waiting(pacer, unwanted.is_set) as outcome:
        unwanted.set()
        pacer.wake()
        outcome.join(SOON_S)
        assert outcome.admitted is False and pacer.in_flight_bytes == 0


def test_an_emulated_link_takes_the_time_that_its_rates_take():
    link = EmulatedLink()
    link.mbit_s = 8.0
    link.begin(1_000_000, 10.0)
    assert link.wait_s(10.0) == pytest.approx(1.0)
    link.mbit_s = 4.0
    assert link.wait_s(10.5) == pytest.approx(1.0)
    link.mbit_s = 0.0
    assert link.wait_s(10.6) == 0.0


def test_a_late_sender_loses_nothing_and_a_paused_one_gains_nothing():
    link = EmulatedLink()
    link.mbit_s = 8.0
    link.begin(100_000, 0.0)
    assert link.wait_s(0.103) == 0.0
    link.begin(100_000, 0.104)
    assert link.queued_s == 0.0
    assert link.wait_s(0.104) == pytest.approx(0.096)
    assert link.wait_s(0.2) == 0.0
    link.begin(100_000, 0.5)
    assert link.queued_s == 0.5 and link.wait_s(0.5) == pytest.approx(0.1)
