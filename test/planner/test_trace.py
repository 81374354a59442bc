# SPDX-License-Identifier: Apache-2.0
"""Inferences along a recorded bandwidth, and recordings that can't be used."""

import math
import time

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_planner.report import trace
from hp_planner.report.trace import durations, read_trace, run_trace, Sample, TraceError


def samples(*rates, step=1.0):
    return [Sample(step * place, rate) for place, rate in enumerate(rates)]


def fast_or_slow(rate):
    return 'link' if rate >= 10 else 'alone'


def cost(plan, rate):
    """Return 0.5 s and 2 J alone; over the link 2 s / rate and 1 J; nothing at 0."""
    if plan == 'alone':
        return 0.5, 2.0
    return (2 / rate, 1.0) if rate else (math.inf, math.inf)


def run(*rates, choose=fast_or_slow, step=1.0):
    return run_trace(samples(*rates, step=step), choose, cost, 3.0)


def test_on_a_steady_link_every_inference_is_alike():
    outcome = run(10, 10, 10)
    assert outcome.inferences == 15  # 3 s of 0.2 s each
    assert (outcome.mean_s, outcome.p95_s, outcome.energy_j) == pytest.approx((0.2, 0.2, 1))
    assert (outcome.switches, outcome.time_share) == (0, {'link': pytest.approx(1)})
    assert outcome.unfinished_s == pytest.approx(0, abs=1e-9)


def test_the_plan_in_force_is_that_for_the_sample_before():
    # link (its own sample), link, alone, alone: the last sample's 20 Mbit/s is never acted upon.
    outcome = run(20, 1, 1, 20)
    assert outcome.switches == 1
    # 1 s at 0.1 s; at rate 1 the link's plan takes 2 s: half done, when alone comes into force it
    # still has a second to go; then 2 alone in the last second.
    assert outcome.inferences == 10 + 1 + 2
    assert outcome.time_share == {'link': pytest.approx(0.75), 'alone': pytest.approx(0.25)}
    assert outcome.p95_s == pytest.approx(2.0)
    assert outcome.mean_s == pytest.approx((10 * 0.1 + 2 + 2 * 0.5) / 13)
    assert outcome.energy_j == pytest.approx((10 * 1 + 1 + 2 * 2) / 13)


def test_an_inference_that_outlasts_a_sample_goes_on_at_the_new_pace():
    # At rate 1 an inference takes 2 s: half of it is done, the rest takes 0.1 s at rate 10.
    outcome = run(1, 10, choose=lambda rate: 'link')
    assert outcome.inferences == 1 + 4  # 0.9 s left: 4 of 0.2 s and a half one
    assert outcome.mean_s == pytest.approx((1.1 + 4 * 0.2) / 5)
    assert outcome.p95_s == pytest.approx(1.1)
    assert outcome.unfinished_s == pytest.approx(0.1)
    assert outcome.energy_j == pytest.approx(1)


def test_without_a_link_a_transfer_stands_still_and_the_robot_waits():
    # 0.75 s into an inference of 1 s the link is gone for 2 s, then the rest takes 0.5 s.
    outcome = run_trace([Sample(0, 2), Sample(0.75, 0), Sample(2.75, 1), Sample(3.25, 1)],
                        lambda rate: 'link', cost, 3.0)
    assert outcome.inferences == 1
    assert outcome.mean_s == pytest.approx(0.75 + 2 + 0.5)
    assert outcome.energy_j == pytest.approx(1 + 2 * 3)


def test_what_does_not_need_the_link_goes_on_without_it():
    outcome = run(0, 0, 0)
    assert (outcome.inferences, outcome.mean_s, outcome.energy_j) == (6, 0.5, 2)


def test_where_nothing_ever_ends_there_are_no_figures():
    outcome = run(0, 0, 0, choose=lambda rate: 'link')
    assert (outcome.inferences, outcome.mean_s, outcome.p95_s, outcome.energy_j) == (
        0, None, None, None)
    assert outcome.unfinished_s == 3 and outcome.time_share == {'link': 1}


def test_inferences_that_end_with_a_sample_count_there():
    outcome = run_trace(samples(1, 1, 1, 1), lambda rate: 'p', lambda plan, rate: (2.0, 1.0), 0.0)
    assert (outcome.inferences, outcome.mean_s, outcome.unfinished_s) == (2, 2.0, 0)


def test_rounding_leaves_nothing_to_do_on_a_link_that_is_gone():
    # 0.6 / 0.2 and 1.4 / 0.2 are not quite whole numbers.
    for step in (0.6, 1.4, 2.2):
        outcome = run(10, 10, 10, 0, 0, choose=lambda rate: 'link', step=step)
        assert outcome.p95_s == pytest.approx(0.2)
        assert outcome.unfinished_s == pytest.approx(2 * step)


def test_rounding_keeps_no_plan_in_force_longer():
    outcome = run_trace(samples(1, 2, 3, 4, step=0.7), lambda rate: rate,
                        lambda plan, rate: (0.1, 1.0), 0.0)
    assert outcome.time_share == {1: pytest.approx(0.5), 2: pytest.approx(0.25),
                                  3: pytest.approx(0.25)}
    assert outcome.inferences == 28


def test_the_95th_percentile_is_over_inferences():
    def one_in_ten(plan, rate):
        return (0.1, 1) if rate == 10 else (1.0, 1)
    # 10 fast and 1 slow inference in 2 s: 1 of 11 is slow, more than 5 %.
    assert run_trace(samples(10, 1), lambda rate: 'p', one_in_ten, 0.0).p95_s == pytest.approx(1)
    # 30 fast and 1 slow: 3 %.
    assert run_trace(samples(10, 10, 10, 1), lambda rate: 'p', one_in_ten,
                     0.0).p95_s == pytest.approx(0.1)


RATES = st.lists(st.sampled_from([0, 0.3, 1, 9, 10, 37, 500]), min_size=2, max_size=30)


@drawn(70, 200, anew=True)
@given(RATES, st.floats(0.01, 7))
def test_time_and_inferences_agree(rates, step):
    outcome = run(*rates, step=step)
    spent = (outcome.mean_s or 0) * outcome.inferences + outcome.unfinished_s
    assert spent == pytest.approx(step * len(rates))
    assert sum(outcome.time_share.values()) == pytest.approx(1)
    if outcome.inferences:
        least = min(cost('link', rate)[0] for rate in (*rates, 4) if rate)
        assert least <= outcome.mean_s * (1 + 1e-9)
        assert outcome.p95_s >= least * (1 - 1e-9)


@given(RATES)
def test_cutting_samples_in_two_changes_nothing_for_one_plan(rates):
    one = run_trace(samples(*rates), lambda rate: 'link', cost, 3.0)
    halves = [Sample(place / 2, rates[place // 2]) for place in range(2 * len(rates))]
    two = run_trace(halves, lambda rate: 'link', cost, 3.0)
    assert abs(two.inferences - one.inferences) <= 1  # the last one, by rounding
    if one.inferences and one.inferences == two.inferences:
        assert (two.mean_s, two.energy_j) == pytest.approx((one.mean_s, one.energy_j))


def test_a_latency_that_is_none_is_refused():
    for seconds in (0, -1, math.nan):
        with pytest.raises(ValueError, match='the latency of p at 1 Mbit/s is'):
            run_trace(samples(1, 1), lambda rate: 'p', lambda plan, rate: (seconds, 1), 0.0)


def test_a_long_trace_of_short_inferences_takes_no_time():
    rates = [5 + place % 60 for place in range(2240)]
    begun = time.thread_time()
    outcome = run_trace(samples(*rates, step=0.5), fast_or_slow,
                        lambda plan, rate: (1e-6 * rate, 1.0), 3.0)
    assert outcome.inferences > 1e7
    assert time.thread_time() - begun < 1


def test_the_last_sample_holds_for_the_usual_step():
    assert durations([Sample(0, 1), Sample(1, 1), Sample(3, 1), Sample(4, 1)]) == [1, 2, 1, 1]


def written(tmp_path, text):
    path = tmp_path / 'trace.csv'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize('text', [
    'time_s,mbit_s\n0,5\n0.5,0\n', '# recorded indoors\ntime_s,mbit_s\n# half way\n0,5\n\n0.5,0',
    'mbit_s, place, time_s\r\n5,home,0\r\n0,office,0.5\r\n', '\ufefftime_s,mbit_s\n0,5\n0.5,0\n',
    '"time_s","mbit_s"\n"0","5e0"\n"0.5","0"\n'])
def test_a_trace_is_read(tmp_path, text):
    assert read_trace(written(tmp_path, text)) == [(0, 5), (0.5, 0)]


STEADY = 'time_s,mbit_s\n' + ''.join(f'{0.5 * place},8\n' for place in range(20))


@pytest.mark.parametrize('text, said', [
    ('', 'its first line names the columns [], expected time_s and mbit_s'),
    ('# nothing\n', 'names the columns []'),
    ('0,5\n0.5,5\n', "names the columns ['0', '5'], expected time_s and mbit_s"),
    ('time,rate\n0,5\n', "names the columns ['time', 'rate']"),
    ('time_s,mbit_s\n', 'it has 0 samples, expected two at least'),
    ('time_s,mbit_s\n0,5\n', 'it has 1 samples'),
    ('# x\ntime_s,mbit_s\n0,5\n1,fast\n', "line 4: mbit_s is 'fast', expected a finite number fr"),
    ('time_s,mbit_s\n0,5\nnoon,5\n', "line 3: time_s is 'noon', expected a finite number"),
    ('time_s,mbit_s\n0,5\n1,nan\n', "line 3: mbit_s is 'nan'"),
    ('time_s,mbit_s\n0,5\n1,inf\n', "line 3: mbit_s is 'inf'"),
    ('time_s,mbit_s\n0,5\ninf,5\n', "line 3: time_s is 'inf'"),
    ('time_s,mbit_s\n0,5\n1,-3\n', "line 3: mbit_s is '-3', expected a finite number from 0 to"),
    ('time_s,mbit_s\n0,5\n1\n', "line 3: mbit_s is ''"),
    ('time_s,mbit_s\n0,5\n1,\n', "line 3: mbit_s is ''"),
    ('time_s,mbit_s\n0,5\n0,5\n', 'line 3: time_s goes from 0 to 0, expected ascending times'),
    ('time_s,mbit_s\n0,5\n1,5\n10,5\n9,5\n', 'line 5: time_s goes from 10 to 9'),
    (STEADY + '14.6,8\n', 'line 22: a gap from 9.5 s to 14.6 s, the usual step is 0.5 s: fill it'),
    (b'time_s,mbit_s\n0,\xff\n', 'is not text'),
    ('time_s,mbit_s\n0,' + 'x' * 10_000, "line 2: mbit_s is 'xxxx"),
    ('x' * 10_000, 'its first line names the columns'),
])
def test_a_trace_that_can_not_be_used_says_where_and_why(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert said in str(error.value) and str(path) in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path))


def test_a_step_of_ten_usual_steps_is_no_gap_yet(tmp_path):
    assert len(read_trace(written(tmp_path, STEADY + '14.5,8\n'))) == 21


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path, monkeypatch):
    with pytest.raises(TraceError, match='trace: can not read .*gone.csv: No such file'):
        read_trace(tmp_path / 'gone.csv')
    with pytest.raises(TraceError, match='can not read .*: it is no regular file'):
        read_trace(tmp_path)
    monkeypatch.setattr(trace, 'MAX_BYTES', 10)
    with pytest.raises(TraceError, match='more than 10 bytes'):
        read_trace(written(tmp_path, STEADY))


def test_a_million_samples_are_read_and_run_through_in_seconds(tmp_path):
    # Of CPU time, many times what it takes: other programs share the caches.
    path, count = tmp_path / 'long.csv', 200_000
    path.write_text('time_s,mbit_s\n' + ''.join(
        f'{place / 10:.1f},{5 + place % 6007 / 100:.2f}\n' for place in range(count)))
    begun = time.process_time()
    long = trace.load_trace(path)
    assert long.shape == (count, 2)
    outcome = trace.follow(long, lambda rates: ['p'] * len(rates),
                           lambda plan, rates: (0.3 / rates, rates), 1.0)
    assert outcome.inferences > count
    assert time.process_time() - begun < 10


def test_a_trace_is_the_same_read_at_once_or_line_by_line(tmp_path, monkeypatch):
    text = 'time_s,mbit_s\n' + ''.join(f'{0.5 * place},{place % 7}\n' for place in range(50))
    at_once = read_trace(written(tmp_path, text))
    monkeypatch.setattr(trace, '_BLOCK', 3)
    assert read_trace(written(tmp_path, text)) == at_once
    # What Python alone takes for numbers.
    assert read_trace(written(tmp_path, text.replace('\n10.0,', '\n1_0.0,'))) == at_once


def test_running_through_in_pieces_changes_nothing(monkeypatch):
    rates = [5 + place * 7 % 60 for place in range(200)]
    whole = run(*rates, step=0.3)
    monkeypatch.setattr(trace, '_BLOCK', 7)
    assert run(*rates, step=0.3) == whole


def test_progress_is_told_to_the_end():
    told = []
    trace.follow(trace.np.array(samples(1, 2, 3), float), lambda rates: ['p'] * len(rates),
                 lambda plan, rates: (rates, rates), 0.0, lambda *done: told.append(done))
    assert told[-1] == (3, 3)


@pytest.mark.parametrize('text', [
    'time_s,mbit_s\n-1e308,5\n1e308,5\n', 'time_s,mbit_s\n0,5\n1e16,5\n'])
def test_times_beyond_any_clock_are_refused(tmp_path, text):
    with pytest.raises(TraceError, match='expected a finite number from -1e.15 to 1e.15'):
        read_trace(written(tmp_path, text))
