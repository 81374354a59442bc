# SPDX-License-Identifier: Apache-2.0
"""Tables of strangers are read by a process of their own, which may take no time and no memory."""

import json
import os
import signal
import time

from engine_pair import small_net, table
import pytest

from hp_inference.link.errors import Aborted
from hp_inference.runtime import intake as module
from hp_inference.runtime import strangers
from hp_inference.runtime.intake import Intake
from hp_inference.runtime.zygote import Zygote
from hp_inference.split.errors import PlanError
from hp_inference.split.plan import random_plan
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import Choice, MAX_JSON_BYTES, MAX_PLANS


@pytest.fixture(scope='module')
def layout():
    return small_net()


@pytest.fixture(scope='module')
def reader(layout):
    reader = Intake(layout)
    reader.start()
    yield reader
    reader.close()


@pytest.fixture(scope='module')
def good(layout):
    return table(layout, 'robot_only', 'uniform:0.5', 'full_offload')


def text(made: PlanTable) -> bytes:
    return made.dumps().encode()


def test_what_comes_back_is_the_table_that_this_process_would_have_made(layout, reader):
    plans = []
    for seed in range(20):
        try:
            plans += PlanTable(layout, [random_plan(layout, seed)]).plans
        except PlanError:  # a random plan may have a gap
            pass
    record = {'objective': 'latency', 'grid': [1.0], 'power': {'waiting_w': 1.0},
              'curves': {plan.name: {'latency_s': [1.0]} for plan in plans}}
    made = PlanTable(layout, plans, record=record)
    got = reader.table(text(made), made.digest)
    assert len(plans) > 5
    for name in ('plans', 'choices', 'programs', 'digest', 'record'):
        assert list(getattr(got, name) or ()) == list(getattr(made, name) or ()), name
    with_choices = PlanTable(layout, table(layout, 'robot_only', 'full_offload').plans,
                             [Choice(5.0, 1)])
    assert reader.table(text(with_choices), with_choices.digest).choices == (Choice(5.0, 1),)


@pytest.mark.parametrize('data, said', [
    (b'\xff', 'is not text'), (b'[' * MAX_JSON_BYTES, 'is not JSON'),
    (b'{"a":' * 1_000_000, 'is not JSON'),
    (b'[' + b'{},' * 2_700_000 + b'{}]', 'is a JSON object, got list'),
    (b'[' + b'1,' * 1_000_000 + b'1]', 'is a JSON object, got list'),
    (b'1' * 5_000_000, 'is not JSON'),
    (b' ' * (MAX_JSON_BYTES + 1), f'has {MAX_JSON_BYTES + 1} bytes, at most {MAX_JSON_BYTES}')])
def test_what_is_no_table_is_refused_by_name_and_the_next_one_is_read(reader, good, data, said):
    before = reader.pid
    begun = time.process_time()
    with pytest.raises(PlanError, match=said):
        reader.read(data, bytes(32))
    assert time.process_time() - begun < 0.5  # of this process, which only hands it on
    assert reader.read(text(good), good.digest).digest == good.digest
    assert reader.pid == before


def test_too_many_plans_and_another_table_than_was_named_are_refused(reader, good):
    data = json.loads(text(good))
    data['plans'] *= MAX_PLANS
    with pytest.raises(PlanError, match=f'at most {MAX_PLANS} plans'):
        reader.read(json.dumps(data).encode(), good.digest)
    with pytest.raises(PlanError, match='not the one that its digest names'):
        reader.read(text(good), bytes(32))


def test_a_plan_with_a_gap_is_refused_when_its_turn_comes(layout, reader, good):
    data = json.loads(text(good))
    rows = layout.rows
    data['plans'] = [{'name': 'gap', 'robot': [rows[0]] + [0] * (len(rows) - 1),
                      'server': list(rows)}]
    with pytest.raises(PlanError, match="plan 'gap' has a gap"):
        reader.compile(json.dumps(data['plans'][0]).encode())


def test_a_record_of_too_many_figures_costs_only_itself(layout, reader, good):
    made = PlanTable(layout, good.plans, record={'grid': [1.0], 'curves': {
        'robot_only': {'latency_s': [0.5] * (strangers.MOST_FIGURES + 1)}}})
    got = reader.table(text(made), made.digest)
    assert got.record == {'curves': f'more than {strangers.MOST_FIGURES} figures'}


def test_its_memory_and_its_time_are_limited(reader, good):
    reader.start()
    limits = open(f'/proc/{reader.pid}/limits').read()
    data, = [line for line in limits.splitlines() if line.startswith('Max data size')]
    assert strangers.DATA_BYTES < int(data.split()[3]) < strangers.DATA_BYTES + (1 << 30)
    reader.read(text(good), good.digest)
    limits = open(f'/proc/{reader.pid}/limits').read()
    cpu, = [line for line in limits.splitlines() if line.startswith('Max cpu time')]
    assert strangers.CPU_S < int(cpu.split()[3]) < 3 * strangers.CPU_S + 60
    assert os.getpriority(os.PRIO_PROCESS, reader.pid) >= strangers.NICE


def test_one_that_is_not_needed_any_more_ends(reader, good, monkeypatch):
    reader.start()
    reader.look()
    assert reader.pid
    monkeypatch.setattr(reader, 'keep_s', 0.0)
    reader.look()
    assert reader.pid is None
    assert reader.read(text(good), good.digest).digest == good.digest


def test_one_that_is_killed_is_said_and_the_next_one_works(reader, good):
    reader.start()
    os.kill(reader.pid, signal.SIGSTOP)  # so that it does not answer before
    killed = reader.pid

    def kill():
        os.kill(killed, signal.SIGKILL)
    reader._check = kill
    with pytest.raises(PlanError, match='too much to read: what reads it ended with status -9'):
        reader.read(text(good), good.digest)
    reader._check = lambda: None
    assert reader.table(text(good), good.digest).programs == good.programs
    assert reader.pid != killed


def test_where_all_that_could_be_forked_from_is_gone_another_one_is_made(layout, good, monkeypatch):
    forked = Zygote(strangers.main, fork=True)
    monkeypatch.setattr(module, '_zygotes', [forked])
    reader = Intake(layout)
    reader.start()
    os.kill(forked._pid, signal.SIGKILL)
    assert reader.table(text(good), good.digest).programs == good.programs  # it lives on
    reader.close()
    assert reader.table(text(good), good.digest).programs == good.programs
    assert module._zygotes != [forked]
    reader.close()
    module._zygotes[0].close()


def hangs(fd: int) -> None:
    """Take what every process is given at its start, say that it is ready, then nothing more."""
    with os.fdopen(fd, 'r+b', buffering=0) as file:
        left, = strangers.LENGTH.unpack(file.read(strangers.LENGTH.size))
        while left:
            left -= len(file.read(left))
        file.write(strangers.LENGTH.pack(0))
        time.sleep(1e6)


@pytest.fixture
def hanging(layout, monkeypatch):
    zygote = Zygote(hangs, fork=True)
    monkeypatch.setattr(module, '_zygotes', [zygote])
    reader = Intake(layout)
    reader.start()
    assert reader.pid
    yield reader
    reader.close()
    zygote.close()


def test_one_that_takes_too_long_is_ended(hanging, good, monkeypatch):
    monkeypatch.setattr(module, 'LONGEST_S', 0.3)
    with pytest.raises(PlanError, match='too much to read: it takes more than 0.3 s'):
        hanging.read(text(good), good.digest)
    assert hanging.pid is None


def test_who_wants_no_more_of_it_is_let_go_at_once(hanging):
    def stop():
        raise Aborted('stopping')
    hanging._check = stop
    with pytest.raises(Aborted):
        hanging.read(b'{}', bytes(32))
    assert hanging.pid is None


def test_more_memory_than_it_may_have_is_a_refusal(layout, good):
    def greedy(*_):
        raise MemoryError
    said = []
    original, strangers._read = strangers._read, greedy
    try:
        strangers.answer(layout, strangers.READ + text(good), said.append)
    finally:
        strangers._read = original
    assert json.loads(said[0])['refused'] == 'the plan table is too much to read: MemoryError'
