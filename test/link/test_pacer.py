# SPDX-License-Identifier: Apache-2.0
"""The pacer in simulated time: what blocks a sender, what frees it, and a link only made up."""

import threading
from types import SimpleNamespace

import pytest
from simulated_time import SimulatedTime
from waits import WAIT_S

from hp_inference.link import pacer as pacer_module
from hp_inference.link.acknowledgements import Ack, Acknowledger
from hp_inference.link.bandwidth import Estimator
from hp_inference.link.pacer import EmulatedLink, Pacer

CHUNK = 60_000
MBIT = 1e6 / 8


@pytest.fixture
def clock(monkeypatch):
    """Return the time by which the pacer goes; it passes while a chunk waits."""
    clock = SimulatedTime()
    monkeypatch.setattr(pacer_module, 'time', clock)
    monkeypatch.setattr(pacer_module, 'threading', clock)
    return clock


def chunk(nbytes=CHUNK, session=1):
    return SimpleNamespace(session=session, payload=bytes(nbytes), seq=0, sent_s=0.0)


def ack(*seq, session=1):
    now = 1000.0
    return Ack(session, 2, seq, [CHUNK] * len(seq), [now] * len(seq), [now] * len(seq), 0.0)


def fill(pacer):
    """Admit chunks until one would have to wait; return how many went."""
    for count in range(100):
        if not pacer.admit(chunk(), lambda: pacer.in_flight_bytes >= 3 * CHUNK):
            return count
    raise AssertionError('there is no end')


def never():
    return False


def test_chunks_are_numbered_and_stamped_and_bounded(clock):
    pacer = Pacer()
    first = chunk()
    assert pacer.admit(first, never)
    assert first.seq == 1 and first.sent_s == clock.now == 1000.0
    assert fill(pacer) == 2
    assert pacer.in_flight_bytes == 3 * CHUNK and not pacer.stalled


def test_a_chunk_that_is_unwanted_gets_no_number(clock):
    pacer = Pacer()
    unwanted = chunk()
    assert not pacer.admit(unwanted, lambda: True)
    assert unwanted.seq == 0 and pacer.in_flight_bytes == 0


def test_a_ack_lets_the_next_chunk_go_at_once_and_a_foreign_one_does_not(clock):
    pacer = Pacer()
    fill(pacer)
    clock.after(0.01, lambda: pacer.on_ack(ack(1, session=5)))
    clock.after(0.02, lambda: pacer.on_ack(ack(77)))
    clock.after(0.03, lambda: pacer.on_ack(ack(1)))
    held = chunk()
    assert pacer.admit(held, never)
    assert held.seq == 4 and held.sent_s == pytest.approx(1000.03)


def test_a_receiver_that_is_new_lets_the_next_chunk_go_at_once(clock):
    pacer = Pacer()
    fill(pacer)
    clock.after(0.03, pacer.reset)
    assert pacer.admit(chunk(), never)
    assert clock.now == pytest.approx(1000.03) and pacer.in_flight_bytes == CHUNK


def test_wake_has_a_chunk_ask_whether_it_is_still_wanted(clock):
    pacer, asked, unwanted = Pacer(), [], []
    fill(pacer)
    clock.after(0.01, pacer.wake)
    clock.after(0.02, lambda: unwanted.append(True))
    clock.after(0.03, pacer.wake)
    assert pacer.admit(chunk(), lambda: asked.append(clock.now) or unwanted) is False
    assert asked == pytest.approx([1000.0, 1000.01, 1000.03])


def test_a_thread_that_waits_is_woken_by_a_ack():
    pacer, waits = Pacer(), threading.Event()
    fill(pacer)
    pacer._window.wait_s = lambda nbytes, now: 1e5 if pacer.in_flight_bytes > 2 * CHUNK else 0.0
    held, came = chunk(), []
    # It is asked with the lock held, which the ack needs, too: it comes when the chunk waits.
    thread = threading.Thread(
        target=lambda: came.append(pacer.admit(held, lambda: waits.set() or False)), daemon=True)
    thread.start()
    assert waits.wait(WAIT_S)
    pacer.on_ack(ack(1))
    thread.join(WAIT_S)
    assert came == [True] and held.seq == 4


def test_without_acks_it_stalls_after_a_second_and_a_chunk_tries_again(clock):
    pacer, went = Pacer(), []
    fill(pacer)
    clock.after(0.99, lambda: went.append(pacer.stalled))
    clock.after(1.3, pacer.wake)
    while clock.now < 1001.3:
        one = chunk()
        if pacer.admit(one, lambda: clock.now >= 1001.3):
            went.append(one.sent_s - 1000.0)
    assert pacer.stalled and 2 <= len(went) - 1 <= 5
    assert went[-2:] == [False, pytest.approx(1.0)]  # and the others before, ever more seldom
    assert all(later > 1.9 * earlier for earlier, later in zip(went[:-2], went[1:-2]))
    pacer.on_ack(ack(2 + len(went)))
    assert not pacer.stalled and pacer.in_flight_bytes == 0


def test_many_threads_that_meddle_do_not_break_it():
    pacer, done = Pacer(), threading.Event()

    def meddle(step):
        while not done.wait(0.0005):
            step()
    steps = [pacer.wake, lambda: pacer.on_ack(ack(*range(1, 60))),
             lambda: setattr(pacer, 'limit_mbit_s', 1000.0 - pacer.limit_mbit_s),
             lambda: pacer.stalled, pacer.reset]
    threads = [threading.Thread(target=meddle, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    numbers = []
    try:
        for _ in range(300):
            one = chunk()
            assert pacer.admit(one, never)
            numbers.append(one.seq)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert numbers == list(range(1, 301))


# A link that is only made up

@pytest.mark.parametrize('mbit_s', [-1.0, float('nan'), float('inf')])
def test_a_limit_that_is_none_is_refused(mbit_s):
    with pytest.raises(ValueError, match='expected'):
        Pacer(mbit_s)
    pacer = Pacer(5.0)
    with pytest.raises(ValueError, match='expected'):
        pacer.limit_mbit_s = mbit_s
    assert pacer.limit_mbit_s == 5.0


def send_for(pacer, clock, seconds, estimator):
    """Send to a receiver on this machine all the time; return the rate [bytes/s]."""
    acks, total, began = Acknowledger(2), 0, clock.now
    while clock.now < began + seconds:
        one = chunk()
        assert pacer.admit(one, never)
        total += CHUNK
        clock.sleep(0.0005)  # what publishing takes
        if back := acks.took(1, one.seq, CHUNK, one.sent_s, clock.now, False):
            pacer.on_ack(back)
            estimator.add(back, clock.now)
    return total / (clock.now - began)


def test_a_limit_is_kept_and_used_and_looks_like_a_link_of_that_rate(clock):
    pacer, estimator = Pacer(40.0), Estimator()
    assert send_for(pacer, clock, 0.6, estimator) == pytest.approx(40 * MBIT, rel=0.05)
    assert estimator.estimate(clock.now).bytes_per_s == pytest.approx(40 * MBIT, rel=0.05)
    pacer.limit_mbit_s = 10.0
    assert send_for(pacer, clock, 0.7, estimator) == pytest.approx(10 * MBIT, rel=0.05)
    assert estimator.estimate(clock.now).bytes_per_s == pytest.approx(10 * MBIT, rel=0.05)


def test_the_first_chunk_after_a_pause_takes_its_time_too(clock):
    pacer = Pacer(10.0)
    for _ in range(2):
        began = clock.now
        assert pacer.admit(chunk(), never)
        assert clock.now - began == pytest.approx(CHUNK / (10 * MBIT))
        clock.sleep(3.0)


def test_a_chunk_that_stands_still_goes_as_soon_as_the_limit_is_raised(clock):
    pacer = Pacer(0.001)
    clock.after(0.1, lambda: setattr(pacer, 'limit_mbit_s', 100.0))
    assert pacer.admit(chunk(), never)
    assert 0.1 < clock.now - 1000.0 < 0.1 + 1.1 * CHUNK / (100 * MBIT)


def test_a_chunk_that_stands_still_can_be_given_up(clock):
    pacer, unwanted = Pacer(0.001), []
    clock.after(0.1, lambda: unwanted.append(True))
    clock.after(0.1, pacer.wake)
    assert pacer.admit(chunk(), lambda: unwanted) is False
    assert clock.now == pytest.approx(1000.1) and pacer.in_flight_bytes == 0


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
