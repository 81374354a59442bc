# SPDX-License-Identifier: Apache-2.0
"""The robot's engine against a server's: every image ends in the right answer or a counted drop."""

import gc
import random
import threading
import time
import weakref

from deadlines import simulate
from engine_pair import check, engine_threads, once, table
from nets import random_image
import pytest
import torch
from waits import until, WAIT_S

from hp_inference.link.outbox import Outbox
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.frames import BOTH, ROBOT, SERVER
from hp_inference.runtime.pixels import BadImage
from hp_inference.runtime.switching import Pick

PLANS = {'robot_only': ROBOT, 'full_offload': SERVER, 'uniform:0.5': BOTH, 'uniform:0.3': BOTH,
         'layer:0': SERVER, 'layer:3': BOTH, 'random:1': BOTH, 'random:4': BOTH}


# Right answers

@pytest.mark.parametrize('plan', PLANS)
def test_the_answer_is_exact_and_says_where_it_was_computed(pair, plan):
    sides = pair(plan)
    for seed in range(3):
        result = sides.ask(seed)
        assert (result.frame, result.plan, result.plan_index) == (seed, plan, 0)
        assert result.table_digest == sides.robot.table.digest
        assert not result.fallback and result.fallback_reason == ''
        assert result.computed_on == PLANS[plan]
    assert sides.robot.counters.dropped == sides.robot.counters.late == 0
    assert sides.robot.counters.stray_chunks == sides.server.stray_chunks == 0


def test_the_figures_of_a_frame_are_those_of_what_happened(pair):
    sides = pair('uniform:0.5')
    up, down = [], []
    sides.up = lambda chunk: up.append(len(chunk.payload)) or [chunk]
    sides.down = lambda chunk: down.append(len(chunk.payload)) or [chunk]
    result = sides.ask()
    assert result.sent_bytes == sum(up) > 0
    assert result.received_bytes == sum(down) > 0
    assert 0 < result.robot_compute_s + result.robot_wait_s <= result.latency_s < WAIT_S
    report, = sides.told
    assert (result.server_compute_s, result.server_wait_s) == (report.compute_s, report.wait_s)
    assert 0 < report.compute_s <= report.total_s and 0 < report.wait_s <= report.total_s
    assert 0 <= result.queue_s < result.latency_s and 0 <= result.preprocess_s < result.latency_s
    assert {span.lane for span in result.spans} >= {'robot', 'server', 'downlink'}
    for span in result.spans:
        assert -0.001 <= span.start_s <= result.latency_s and 0 <= span.duration_s


def test_a_plan_is_switched_between_two_frames_without_a_handshake(pair):
    sides = pair('uniform:0.5', 'robot_only', 'full_offload')
    for index, name in ((0, 'uniform:0.5'), (2, 'full_offload'), (1, 'robot_only'),
                        (0, 'uniform:0.5')):
        sides.robot.use(sides.robot.table, index)
        result = sides.ask(index)
        assert (result.plan, result.plan_index, result.fallback) == (name, index, False)


def test_a_switch_in_the_middle_of_a_frame_takes_effect_with_the_next(pair):
    sides = pair('full_offload', 'uniform:0.5')
    sides.up = once(lambda chunk: sides.robot.use(sides.robot.table, 1) or [chunk])
    assert [sides.ask(seed).plan for seed in range(2)] == ['full_offload', 'uniform:0.5']


def test_the_plan_is_picked_anew_for_every_frame_and_what_it_was_picked_by_is_told(pair):
    order = [Pick(1, '', 5e6, 0.25), Pick(0, ''), Pick(2, '', 1e6)]
    asked = []

    def pick(table, index):
        asked.append(index)
        return order[len(asked) - 1]
    sides = pair('uniform:0.5', 'robot_only', 'full_offload', pick=pick)
    told = [sides.ask(seed) for seed in range(3)]
    assert asked == [0, 1, 0] and sides.robot.index == 2
    assert [result.plan for result in told] == ['robot_only', 'uniform:0.5', 'full_offload']
    assert not any(result.fallback for result in told)
    assert [result.predicted_s for result in told] == [0.25, 0.0, 0.0]
    assert [result.bandwidth_bytes_per_s for result in told] == [5e6, 0.0, 1e6]


def test_what_frames_take_is_told_with_their_pick_also_where_the_robot_goes_on_alone(pair):
    told, picks = [], [Pick(0, 'first'), Pick(1, 'second'), *[Pick(0, 'third')] * 2]
    sides = pair('full_offload', 'robot_only',
                 pick=lambda table, index: picks[len(told)], took=lambda *news: told.append(news))
    results = [sides.ask(seed) for seed in range(2)]
    sides.down = lambda chunk: []
    sides.robot.deadline_s = 0.1
    results.append(sides.ask(2))
    assert results[2].fallback
    assert [(table, pick) for table, pick, _ in told] == [
        (sides.robot.table, pick) for pick in picks[:3]]
    for result, (_, _, seconds) in zip(results, told):
        assert result.robot_wait_s + result.robot_compute_s <= seconds <= result.latency_s
    sides.robot.server.gone()
    assert sides.ask(3).fallback and len(told) == 3  # the server was not asked


@pytest.mark.parametrize('failing', ['pick', 'took'])
def test_that_a_plan_can_not_be_picked_or_told_of_costs_no_answer(pair, failing):
    def fail(*_):
        raise OverflowError('cannot convert float infinity to integer')
    sides = pair('uniform:0.5', 'robot_only', **{failing: fail})
    for seed in range(3):
        result = sides.ask(seed)
        assert (result.plan, result.fallback) == ('uniform:0.5', False)
    assert sides.robot.counters.dropped == 0


def test_the_robot_begins_alone_in_time_for_its_deadline(pair, monkeypatch):
    simulate(monkeypatch, alone_s=0.1)
    sides = pair('full_offload', deadline_s=0.5)
    sides.down = lambda chunk: []
    result = sides.ask()
    assert 'deadline passed' in result.fallback_reason
    assert result.deadline_s == pytest.approx(0.5) and 0.48 < result.latency_s <= 0.5


def test_without_a_deadline_twice_what_is_predicted_is_waited_for(pair, monkeypatch):
    simulate(monkeypatch, alone_s=0.1)
    sides = pair('full_offload', deadline_s=0.0, pick=lambda table, index: Pick(0, '', 1e6, 0.15))
    sides.down = lambda chunk: []
    result = sides.ask()
    assert 'deadline passed' in result.fallback_reason
    assert result.robot_wait_s == pytest.approx(0.3)
    assert result.latency_s <= result.deadline_s


def test_a_new_table_is_followed_once_the_server_holds_it(pair, layout):
    sides = pair('uniform:0.5')
    assert not sides.ask().fallback
    newer = table(layout, 'uniform:0.3', 'full_offload')
    sides.robot.use(newer, 0)
    result = sides.ask(1)
    assert (result.plan, result.table_digest) == ('uniform:0.3', newer.digest)
    assert result.computed_on == ROBOT
    assert result.fallback_reason == 'the server holds another plan table'
    sides.agree(newer)
    result = sides.ask(2)
    assert (result.plan, result.computed_on, result.fallback) == ('uniform:0.3', BOTH, False)


def test_without_a_server_the_robot_answers_alone_and_says_why(pair):
    sides = pair('uniform:0.5', connected=False)
    assert sides.ask().fallback_reason == 'no server has been heard of'
    sides.robot.server.status(0, b'', 'the server has another model')
    result = sides.ask(1)
    assert (result.fallback_reason, result.computed_on) == ('the server has another model', ROBOT)
    assert result.sent_bytes == 0
    assert (sides.robot.counters.alone, sides.robot.counters.late) == (2, 0)


def test_the_plan_robot_only_needs_no_server(pair):
    assert not pair('robot_only', connected=False).ask().fallback


def test_an_agreement_ends_the_time_alone_at_once(pair):
    sides = pair('full_offload', retry_s=WAIT_S, deadline_s=0.1)
    sides.down = lambda chunk: []
    assert 'deadline passed' in sides.ask().fallback_reason
    assert sides.ask(1).fallback_reason == 'the server left the last frame alone'
    sides.down = lambda chunk: [chunk]
    sides.robot.deadline_s = WAIT_S
    sides.robot.server.status(0, b'')
    sides.robot.server.status(0, sides.robot.table.digest)
    assert not sides.ask(2).fallback


# Every image ends once

def test_the_newest_image_wins_and_the_others_are_counted(pair, layout):
    sides = pair()
    busy, go_on = threading.Event(), threading.Event()
    image = random_image(layout)

    def slow():
        busy.set()
        assert go_on.wait(WAIT_S)
        return image
    sides.robot.submit('first', slow)
    assert busy.wait(WAIT_S)
    for tag in range(5):
        sides.robot.submit(tag, lambda: image)
    go_on.set()
    results = [sides.results.get(timeout=WAIT_S) for _ in range(2)]
    assert [(result.tag, result.frame) for result in results] == [('first', 0), (4, 1)]
    assert sides.drops == [(tag, 'a newer image came before its turn') for tag in range(4)]
    assert results[1].dropped == sides.robot.counters.dropped == 4
    assert sides.robot.counters.refused == 0
    assert results[1].queue_s > 0


@pytest.mark.parametrize('error, reason', [
    (BadImage('the image is empty'), 'the image is empty'),
    (KeyError('step'), "KeyError: 'step'"),
    (MemoryError(), 'MemoryError: ')])
def test_an_image_that_can_not_be_prepared_is_a_drop_with_its_reason(pair, error, reason):
    sides = pair()

    def prepare():
        raise error
    sides.robot.submit('bad', prepare)
    until(lambda: sides.drops)
    assert sides.drops == [('bad', reason)]
    assert sides.robot.counters.dropped == sides.robot.counters.refused == 1
    result = sides.ask()
    assert (result.frame, result.dropped) == (0, 1)


@pytest.mark.parametrize('image', [
    None, torch.zeros(1, 2, 40, 240), torch.zeros(1, 2, 41, 240, dtype=torch.uint8)])
@pytest.mark.parametrize('plan', ['robot_only', 'full_offload'])
def test_an_image_of_another_kind_is_a_drop_that_names_both(pair, plan, image):
    sides = pair(plan)
    sides.robot.submit('bad', lambda: image)
    until(lambda: sides.drops)
    assert 'expected torch.uint8 [1, 2, 40, 240]' in sides.drops[0][1]
    assert not sides.ask().fallback


def test_an_answer_that_nobody_takes_is_a_drop(pair):
    sides = pair()
    take, sides.robot._on_result = sides.robot._on_result, lambda result: 1 / 0
    sides.robot.submit('lost', lambda: random_image(sides.layout))
    until(lambda: sides.drops)
    assert sides.drops == [('lost', 'ZeroDivisionError: division by zero')]
    sides.robot._on_result = take
    assert sides.ask().frame == 1
    until(lambda: sides.robot.counters.results == 1)
    assert sides.robot.counters.dropped == 1


def test_a_drop_whose_callback_fails_does_not_end_the_engine(pair):
    sides = pair()
    sides.robot._on_drop = lambda tag, reason: 1 / 0
    sides.robot.submit('bad', lambda: None)
    until(lambda: sides.robot.counters.dropped)
    assert not sides.ask().fallback


@pytest.mark.parametrize('side', ['robot', 'server'])
def test_a_program_that_fails_costs_one_frame_at_most(pair, monkeypatch, side):
    sides = pair('uniform:0.5', retry_s=0.0)
    run, failing = Executor.run, [getattr(sides, side)._cache]

    def fail(self, *args, **kwargs):
        if failing and self in failing[0]._plans.values():
            raise RuntimeError('out of memory')
        return run(self, *args, **kwargs)
    monkeypatch.setattr(Executor, 'run', fail)
    if side == 'robot':
        sides.robot.submit('failed', lambda: random_image(sides.layout))
        until(lambda: sides.drops)
        assert sides.drops == [('failed', 'RuntimeError: out of memory')]
        assert sides.robot_link.outbox.idle
    else:
        assert sides.ask().fallback_reason == (
            'the server gave the frame up: the server failed: RuntimeError: out of memory')
    failing.clear()
    assert not sides.ask(1).fallback


def test_in_a_storm_every_image_ends_once_and_results_keep_their_order(pair, layout):
    """Images from several threads, bad ones among them, a lossy link, plans that change."""
    sides = pair('uniform:0.5', 'full_offload', 'robot_only', 'random:4', deadline_s=0.05)
    draw, lock = random.Random(1), threading.Lock()

    def lossy(chunk):
        with lock:
            return [chunk] * draw.choice((0, *[1] * 40, 2))
    sides.up = sides.down = lossy
    images = [random_image(layout, seed) for seed in range(3)]

    def prepare(tag):
        if tag % 7 == 0:
            raise BadImage('bad')
        return images[tag % 3]

    def submit(first):
        for tag in range(first, first + 60):
            sides.robot.submit(tag, lambda tag=tag: prepare(tag))
            if tag % 2:
                until(lambda: not sides.robot._waiting, what='the turn of the newest image')
            time.sleep(0.001 * (tag % 13))
            if tag % 10 == 0:
                sides.robot.use(sides.robot.table, tag // 10 % 4)
    threads = [threading.Thread(target=submit, args=(60 * i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counters = sides.robot.counters
    until(lambda: counters.results + counters.dropped == 180)
    sides.robot.close()
    results = [sides.results.get_nowait() for _ in range(counters.results)]
    assert sides.results.empty() and len(sides.drops) == counters.dropped
    assert sorted([r.tag for r in results] + [tag for tag, _ in sides.drops]) == list(range(180))
    assert [r.frame for r in results] == sorted({r.frame for r in results})
    assert len(results) > 20
    for result in results:
        check(layout, result, images[result.tag % 3])


# Ends and beginnings

def test_a_server_that_starts_anew_is_used_again(pair):
    sides = pair('uniform:0.5')
    assert not sides.ask().fallback
    sides.server.close()
    sides.server = sides.new_server()
    result = sides.ask(1)
    assert 'the server gave the frame up: the frame runs under plan table' in result.fallback_reason
    assert result.fallback_reason.endswith('this server holds none')
    sides.agree(sides.robot.table)
    assert not sides.ask(2).fallback


def test_a_robot_that_starts_anew_has_a_session_of_its_own(pair):
    """It counts from 0 again while the server still has a frame 0 of the session before."""
    sides = pair('uniform:0.5', deadline_s=0.1)
    sides.up = lambda chunk: [chunk] if chunk.value_id == 0 else []
    assert sides.ask().fallback
    plans, old = sides.robot.table, sides.robot
    assert [key[0] for key in sides.server._sessions] == [old.session]
    old.close()
    sides.up = lambda chunk: [chunk]
    sides.robot = sides.new_robot(plans, WAIT_S, 0.0)
    sides.robot.server.status(0, plans.digest)
    assert sides.robot.session != old.session
    result = sides.ask(1)
    assert (result.frame, result.fallback) == (0, False)


def test_close_in_the_middle_of_a_frame_ends_everything_at_once(pair, layout):
    sides = pair('full_offload', deadline_s=10 * WAIT_S)
    waiting = threading.Event()
    sides.down = lambda chunk: waiting.set() or []
    sides.robot.submit('given up', lambda: random_image(layout))
    assert waiting.wait(WAIT_S)
    sides.robot.submit('never begun', lambda: random_image(layout))
    closer = threading.Thread(target=sides.robot.close)
    closer.start()
    closer.join(WAIT_S)
    assert not closer.is_alive(), 'it waits for the deadline'
    sides.robot.submit('too late', lambda: random_image(layout))
    assert sorted(sides.drops) == [(tag, 'the robot is stopping')
                                   for tag in ('given up', 'never begun', 'too late')]
    assert sides.robot.counters.dropped == 3 and sides.robot.counters.late == 0
    assert sides.results.empty()
    until(lambda: not any(name.startswith('robot ') for name in engine_threads()))
    sides.robot.close()  # once more does no harm


def test_close_while_an_image_is_prepared_lets_nothing_be_begun_with_it(pair, layout):
    sides = pair('full_offload')
    busy, go_on = threading.Event(), threading.Event()

    def slow():
        busy.set()
        assert go_on.wait(WAIT_S)
        return random_image(layout)
    sides.robot.submit('slow', slow)
    assert busy.wait(WAIT_S)
    closer = threading.Thread(target=sides.robot.close)
    closer.start()
    until(lambda: sides.robot._closing)
    go_on.set()
    closer.join(WAIT_S)
    assert sides.drops == [('slow', 'the robot is stopping')]
    until(lambda: not any(name.startswith('robot ') for name in engine_threads()))


@pytest.mark.parametrize('plan', ['uniform:0.5', 'full_offload'])
def test_a_frame_that_is_over_leaves_nothing_in_memory(pair, monkeypatch, plan):
    sides = pair(plan)
    gone = []
    monkeypatch.setattr(Outbox, 'send', _watching(Outbox.send, gone))

    def tensors():
        gc.collect()
        return sum(issubclass(type(item), torch.Tensor) for item in gc.get_objects())

    def frames(count, fail):
        sides.down = (lambda chunk: []) if fail else (lambda chunk: [chunk])
        sides.robot.deadline_s = 0.05 if fail else WAIT_S
        sides.server.session_timeout_s = 0.1 if fail else WAIT_S
        for seed in range(count):
            assert sides.ask(seed).fallback == fail
        until(lambda: sides.robot_link.outbox.idle)
    frames(2, fail=False)
    before = tensors()
    frames(4, fail=False)
    frames(3, fail=True)
    frames(1, fail=False)
    image = random_image(sides.layout)
    gone.append(weakref.ref(image))
    sides.robot.submit('watched', lambda image=image: image)
    del image
    gone += [weakref.ref(tensor) for tensor in sides.results.get(timeout=WAIT_S).outputs.values()]
    until(lambda: not sides.server._sessions)

    until(lambda: all(ref() is None for ref in gone))  # without the help of the collector
    assert tensors() <= before


def _watching(send, refs):
    """Return Outbox.send with a weak reference to everything that is sent."""
    def watched(self, tensor, *rest):
        refs.append(weakref.ref(tensor))
        send(self, tensor, *rest)
    return watched
