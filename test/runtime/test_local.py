# SPDX-License-Identifier: Apache-2.0
"""Both Programs in one process: over a slow link, and when things go wrong on the way."""

from dataclasses import replace
import threading
import time

from deadlines import pass_when_both_wait
from nets import chain, Net, random_image, whole
import pytest
import torch
from waits import until, WAIT_S

from hp_inference.link.errors import Aborted, DeadlinePassed
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.local import run_both
from hp_inference.split.plan import full_offload, layer, robot_only, uniform
from hp_inference.split.program import compile_plan

LAYOUT = chain(40, 2)
IMAGE = random_image(LAYOUT)
WANTED = whole(LAYOUT.graph, IMAGE)['0']
HALVES = compile_plan(LAYOUT, uniform(LAYOUT, 0.5))


def run(programs=HALVES, timeout_s=WAIT_S, **options):
    return run_both(LAYOUT, programs, IMAGE, timeout_s=timeout_s, **options)


def same(frame):
    return (frame.outputs['0'] - WANTED).abs().max() <= 1e-12 * WANTED.abs().max()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    until(lambda: not set(threading.enumerate()) - before, what='the end of all threads')


def test_a_frame_says_what_it_took():
    frame = run(compile_plan(LAYOUT, full_offload(LAYOUT, codec='none')))
    assert same(frame)
    assert frame.sent_bytes == 40 * 6 * 2 + 40 * 6 * 2 * 8  # the image up, float64 rows down
    assert 0 < frame.robot.wait_s <= frame.latency_s and 0 < frame.server.compute_s


def test_nothing_is_sent_when_the_robot_does_it_alone():
    frame = run(compile_plan(LAYOUT, robot_only(LAYOUT)))
    assert same(frame) and frame.sent_bytes == 0
    assert frame.server.peak_bytes == 0 and not frame.server.waiting


def test_the_link_takes_its_time():
    programs = compile_plan(LAYOUT, full_offload(LAYOUT, codec='none'))
    frame = run(programs, mbit_s=0.4)
    assert same(frame)
    assert frame.latency_s >= (480 + 3840) * 8 / 0.4e6  # 86 ms


def test_blocks_let_the_server_start_before_all_is_there():
    programs = compile_plan(LAYOUT, full_offload(LAYOUT, blocks={0: 4}, codec='none'))
    frame = run(programs, mbit_s=0.05)
    waits = [begin for begin, _, value in frame.server.waiting]
    assert len(waits) == 4 and same(frame)
    # Between the first and the last wait, 58 ms of sending, it computed three times.
    assert len([a for a, b in frame.server.computing if waits[0] < a and b <= waits[-1]]) >= 3


def chunks_of(change, of=lambda chunk: True):
    """Return a tap that changes the chunks of a choice, and the list of those."""
    seen = []

    def tap(chunk):
        if not of(chunk):
            return [chunk]
        seen.append(chunk)
        return change(chunk)
    return tap, seen


def places(programs):
    """Return every slice that travels under two Programs."""
    return [(send.value, send.begin, send.end) for program in programs for send in program.sends]


@pytest.fixture
def passes(monkeypatch):
    """Let deadlines pass when both sides wait in vain."""
    pass_when_both_wait(monkeypatch)


def missed(change, place):
    """Run a frame with changed chunks of one slice; return what is said of the missing rows."""
    def of(chunk):
        return (chunk.value_id, chunk.row_begin, chunk.row_end) == place
    tap, seen = chunks_of(change, of)
    with pytest.raises(DeadlinePassed) as error:
        run(tap=tap, timeout_s=0.02)
    assert seen
    return str(error.value)


@pytest.mark.parametrize('place', places(HALVES))
def test_rows_that_do_not_come_end_the_frame_at_its_deadline_and_are_named(passes, place):
    # The other side waits in vain too, for what follows; the rows that came first are named.
    value, first, last = place
    assert f'value {value} rows [{first}, {last}) are missing' in missed(lambda chunk: [], place)


@pytest.mark.parametrize('place', [places(HALVES)[1], places(HALVES)[-1]])
@pytest.mark.parametrize('change', [
    lambda chunk: [replace(chunk, payload=chunk.payload[:-1])],
    lambda chunk: [replace(chunk, payload=chunk.payload + b'x')],
    lambda chunk: [replace(chunk, payload=b'')],
    lambda chunk: [replace(chunk, payload=b'\x28\xb5\x2f\xfd' + bytes(40), codec=1)],
    lambda chunk: [replace(chunk, raw_bytes=chunk.raw_bytes + 8)],
    lambda chunk: [replace(chunk, dtype=chunk.dtype % 10 + 1)],
    lambda chunk: [replace(chunk, value_id=chunk.value_id + 40)],
    lambda chunk: [replace(chunk, row_begin=chunk.row_begin + 1)],
    lambda chunk: [replace(chunk, chunk_count=2)],
    lambda chunk: [replace(chunk, frame=2)],
    lambda chunk: [replace(chunk, session=2)],
    lambda chunk: [replace(chunk, plan_index=1)],
    lambda chunk: [replace(chunk, table_digest=b'\x01' * 32)],
    lambda chunk: [replace(chunk, version=chunk.version + 1)],
], ids=['short', 'long', 'empty', 'broken', 'raw_bytes', 'dtype', 'value', 'rows', 'count', 'frame',
        'session', 'plan', 'table', 'version'])
def test_rows_that_come_damaged_or_as_something_else_count_as_missing(passes, change, place):
    value, first, last = place
    assert f'value {value} rows [{first}, {last}) are missing' in missed(change, place)


def test_what_the_robot_misses_is_named_by_its_rows(passes):
    tap, _ = chunks_of(lambda chunk: [], lambda chunk: chunk.value_id == 3)
    with pytest.raises(DeadlinePassed, match=r'value 3 rows \[20, 40\) are missing: 0 of 1 chunks'):
        run(tap=tap, timeout_s=0.02)


def test_what_the_server_misses_is_named_by_its_rows(passes):
    programs = compile_plan(LAYOUT, full_offload(LAYOUT))
    tap, _ = chunks_of(lambda chunk: [], lambda chunk: chunk.value_id == 0)
    with pytest.raises(DeadlinePassed, match=r'value 0 rows \[0, 40\) are missing: 0 of 1 chunks'):
        run(programs, tap=tap, timeout_s=0.02)


def test_a_chunk_that_comes_twice_or_three_times_counts_once():
    tap, seen = chunks_of(lambda chunk: [chunk] * 3)
    assert same(run(tap=tap)) and len(seen) == len(places(HALVES))


def test_a_damaged_chunk_that_comes_again_whole_is_taken():
    tap, _ = chunks_of(lambda chunk: [replace(chunk, payload=b'no'), chunk])
    assert same(run(tap=tap))


def test_chunks_may_come_in_any_order():
    net = Net(64, 512)
    layout = net.layout(net.conv(net.conv(net.x)))
    image = random_image(layout)
    programs = compile_plan(layout, full_offload(layout, blocks={0: 4, 3: 4}, codec='none'))
    held = {}

    def later(chunk):
        """Hold the chunks of each value back and give them out backwards."""
        chunks = held.setdefault(chunk.value_id, [])
        chunks.append(chunk)
        slices = {0: 4, 3: 4}[chunk.value_id]
        complete = [c for c in chunks if c.chunk_index == c.chunk_count - 1]
        return reversed(chunks) if len(complete) == slices else []
    frame = run_both(layout, programs, image, tap=later, timeout_s=WAIT_S)
    assert torch.equal(frame.outputs['0'], whole(layout.graph, image)['0'])
    assert len(held[3]) > 8


class Fails(Exception):
    pass


def failing(program, at):
    """Return an executor whose step fails."""
    executor = Executor(LAYOUT, program)

    def fail(store, io):
        raise Fails(f'step {at} failed')
    _, waits, value = executor._actions[at]
    executor._actions[at] = (fail, waits, value)
    return executor


@pytest.mark.parametrize('at', range(len(HALVES[1].steps)))
def test_an_error_on_the_server_reaches_the_caller(at):
    begin = time.monotonic()
    with pytest.raises(Fails, match=f'step {at} failed'):
        run(executors=(Executor(LAYOUT, HALVES[0]), failing(HALVES[1], at)))
    assert time.monotonic() - begin < WAIT_S, 'it waited for the deadline'


@pytest.mark.parametrize('at', range(len(HALVES[0].steps)))
def test_an_error_on_the_robot_reaches_the_caller_and_ends_the_server(at):
    begin = time.monotonic()
    with pytest.raises(Fails, match=f'step {at} failed'):
        run(executors=(failing(HALVES[0], at), Executor(LAYOUT, HALVES[1])))
    assert time.monotonic() - begin < WAIT_S, 'it waited for the deadline'


def test_an_error_on_the_server_after_the_robot_has_all_that_it_needs_is_not_lost():
    # The first value that goes down is the last that the robot waits for.
    programs = compile_plan(LAYOUT, layer(LAYOUT, 2))
    server = Executor(LAYOUT, programs[1])

    def late(store, io):
        time.sleep(0.2)
        raise Fails('afterwards')
    server._actions.append((late, False, 3))
    with pytest.raises(Fails, match='afterwards'):
        run(programs, executors=(Executor(LAYOUT, programs[0]), server))


def test_the_robots_own_error_is_not_hidden_by_what_it_does_to_the_server():
    for _ in range(20):
        with pytest.raises(Fails):
            run(executors=(failing(HALVES[0], 1), Executor(LAYOUT, HALVES[1])))


def test_ctrl_c_does_not_leave_the_server_waiting():
    robot = Executor(LAYOUT, HALVES[0])

    def interrupted(store, io):
        raise KeyboardInterrupt
    robot._actions[1] = (interrupted, False, 1)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(executors=(robot, Executor(LAYOUT, HALVES[1])))
    assert time.monotonic() - begin < WAIT_S, 'it waited for the deadline'


def test_a_wrong_image_is_refused_and_the_server_ends():
    with pytest.raises(ValueError, match='the image is torch.float32'):
        run_both(LAYOUT, HALVES, IMAGE.float(), timeout_s=WAIT_S)


def test_an_aborted_wait_says_why():
    assert 'the robot failed' in str(Aborted('the robot failed'))
