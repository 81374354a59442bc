# SPDX-License-Identifier: Apache-2.0
"""Probes over simulated links on which nothing else travels."""

import math

import pytest
from simulated_link import Link, MBIT, SESSION

from hp_inference.link.prober import HEARTBEAT_BYTES, Prober

LOOK_S = 0.05


class Monitor:
    """What the node does with a prober."""

    def __init__(self, rate, limit=lambda now: 0.0, **link):
        self.link, self._limit = Link(rate, **link), limit
        self.prober = Prober(SESSION, 0.0, period_s=0.5, most_bytes=120_000, silence_s=0.5)
        self.said, self.sent = [], []
        self._next_s = math.inf
        self.link.at(0.0, self._look)

    def mbit_s(self, begin, end):
        """Return what was said in this time."""
        return [said and said.bytes_per_s / MBIT for now, said in self.said if begin < now <= end]

    def silent(self):
        return [now for now, said in self.said if said and said.source == 'silence']

    def _look(self):
        now = self.link.now
        self.prober.limit_mbit_s = self._limit(now)
        self.prober.look(now)
        self._send()
        self.said.append((now, self.prober.estimate(now)))
        self.link.at(now + LOOK_S, self._look)

    def _send(self):
        self._next_s = math.inf
        while isinstance(probe := self.prober.next_probe(self.link.now), tuple):
            nbytes, last, seq, sent_s = probe
            self.sent.append((self.link.now, nbytes))
            self.link.send(seq, nbytes, last, self._take, sent_s=sent_s)
        if probe < math.inf:
            self._next_s = when = self.link.now + probe
            self.link.at(when, lambda: when == self._next_s and self._send())

    def _take(self, ack):
        now = self.link.now
        self.prober.on_ack(ack, now)
        self.prober.look(now)
        self._send()
        self.said.append((now, self.prober.estimate(now)))


@pytest.mark.parametrize('mbit_s', [1, 3, 10, 50, 100, 300])
def test_an_idle_link_is_known_within_a_second_and_hardly_loaded(mbit_s):
    monitor = Monitor(lambda now: mbit_s, late_s=0.001)
    monitor.link.run(5.0)
    said = monitor.mbit_s(1.0, 5.0)
    assert said == pytest.approx([mbit_s] * len(said), rel=0.05)
    share = sum(nbytes for _, nbytes in monitor.sent) / (5.0 * mbit_s * MBIT)
    assert share < (0.04 if mbit_s >= 10 else 0.3)


@pytest.mark.parametrize(('before', 'after'), [(100, 10), (10, 100), (50, 5), (5, 50)])
def test_a_step_is_followed_within_a_second_or_so(before, after):
    monitor = Monitor(lambda now: before if now < 3 else after, late_s=0.001)
    monitor.link.run(6.0)
    for begin, error in ((4.25, 0.35), (5.0, 0.05)):
        said = monitor.mbit_s(begin, 6.0)
        assert said == pytest.approx([after] * len(said), rel=error)


@pytest.mark.parametrize('seconds', [1.0, 4.0])
def test_silence_and_its_end_are_noticed_within_half_a_second(seconds):
    monitor = Monitor(lambda now: 0.0 if 2 <= now < 2 + seconds else 30, late_s=0.001)
    monitor.link.run(5.0 + seconds)
    assert 2.4 < monitor.silent()[0] < 2.8
    assert monitor.silent()[-1] < 2.3 + seconds
    said = [said for said in monitor.mbit_s(2.5 + seconds, 5.0 + seconds)]
    assert said == pytest.approx([30] * len(said), rel=0.05)


def test_a_few_lost_acks_are_not_silence():
    monitor = Monitor(lambda now: 30, late_s=0.001, lost=0.03)
    monitor.link.run(60.0)
    assert monitor.silent() == []


def test_a_slow_link_is_not_taken_for_a_silent_one():
    monitor = Monitor(lambda now: 0.5)
    monitor.link.run(10.0)
    assert monitor.silent() == []


def test_a_limit_is_what_is_measured_on_a_faster_link():
    steps = ((3.0, 100), (6.0, 20), (9.0, 0.001), (12.0, 50))
    monitor = Monitor(lambda now: 2000, late_s=0.001,
                      limit=lambda now: next((rate for end, rate in steps if now < end), 50))
    monitor.link.run(12.0)
    for begin, end, rate in ((1.0, 3.0, 100), (4.2, 6.0, 20), (7.0, 9.0, 0), (10.0, 12.0, 50)):
        said = monitor.mbit_s(begin, end)
        assert said == pytest.approx([rate] * len(said), rel=0.1, abs=0.01)


def test_without_a_period_nothing_is_probed():
    monitor = Monitor(lambda now: 30)
    monitor.prober.period_s = 0.0
    monitor.link.run(2.0)
    assert monitor.sent == [] and monitor.said[-1][1] is None


def test_without_a_period_a_link_that_was_silent_is_so_no_more_since_nothing_would_tell():
    monitor = Monitor(lambda now: 30 if now < 2 else 0.0)
    monitor.link.run(3.0)
    assert monitor.said[-1][1].source == 'silence'
    monitor.prober.period_s = 0.0
    monitor.link.run(3.2)
    assert monitor.said[-1][1] is None


def test_while_traffic_shows_the_link_only_small_probes_go():
    monitor = Monitor(lambda now: 30)
    monitor.link.run(1.0)
    for index in range(40):
        for piece in range(3):
            seq = 3 * index + piece + 1
            monitor.link.at(1.0 + index * 0.1, lambda seq=seq: monitor.link.send(
                seq, 40_000, seq % 3 == 0, monitor._take, session=99))
    monitor.link.run(5.0)
    assert {nbytes for now, nbytes in monitor.sent if now > 1.7} == {HEARTBEAT_BYTES}
    assert monitor.said[-1][1].source == 'traffic'
