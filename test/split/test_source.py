# SPDX-License-Identifier: Apache-2.0
"""Plans as people name them: constructors, plan files, table files."""

import json
import os
from pathlib import Path

from nets import chain
import pytest

from hp_inference.split import source
from hp_inference.split.plan import make_plan, PlanError
from hp_inference.split.source import assemble, read_plans
from hp_inference.split.table import Choice, PlanTable


@pytest.fixture(scope='module')
def layout():
    return chain(12)


@pytest.fixture
def plan_file(tmp_path, layout):
    path = tmp_path / 'plan.json'
    path.write_text(json.dumps(make_plan('uniform:0.25', layout).to_json()))
    return str(path)


@pytest.fixture
def table_file(tmp_path, layout):
    path = tmp_path / 'table.json'
    plans = [make_plan(name, layout) for name in ('layer:2', 'full_offload')]
    path.write_text(PlanTable(layout, plans).dumps())
    return str(path)


def names(plans):
    return [plan.name for plan in plans]


@pytest.mark.parametrize('name', ['robot_only', 'full_offload', 'uniform:0.5', 'layer:2',
                                  'random:3'])
@pytest.mark.parametrize('codec', ['none', 'zstd'])
def test_a_constructor_gives_its_one_plan_in_the_codec(layout, name, codec):
    plan, = read_plans(name, layout, codec)
    assert plan == make_plan(name, layout, codec) and plan.codec == codec


def test_a_plan_file_gives_its_plan_with_its_own_codec(layout, plan_file):
    plan, = read_plans(plan_file, layout, 'none')
    assert plan == make_plan('uniform:0.25', layout, 'zstd')


def test_a_table_file_gives_all_its_plans_in_order(layout, table_file):
    assert names(read_plans(table_file, layout)) == ['layer:2', 'full_offload']


def test_a_table_holds_each_name_once_the_one_in_force_first(layout, plan_file, table_file):
    made = assemble(layout, 'robot_only', ('full_offload', table_file, 'robot_only', plan_file))
    assert names(made.plans) == ['robot_only', 'full_offload', 'layer:2', 'uniform:0.25']
    made = assemble(layout, table_file, ('full_offload', 'robot_only'))
    assert names(made.plans) == ['layer:2', 'full_offload', 'robot_only']
    assert names(assemble(layout, 'uniform:0.5').plans) == ['uniform:0.5']


def test_the_choices_of_the_first_table_hold_for_its_plans(layout, tmp_path, table_file):
    plans = [make_plan(name, layout) for name in ('full_offload', 'robot_only', 'layer:2')]
    choices = (Choice(0.5, 1), Choice(3, 2), Choice(70, 0))
    path = tmp_path / 'chosen.json'
    path.write_text(PlanTable(layout, plans, choices, {'objective': 'latency'}).dumps())
    made = assemble(layout, str(path), ('uniform:0.5', table_file, 'robot_only'))
    assert names(made.plans) == ['full_offload', 'robot_only', 'layer:2', 'uniform:0.5']
    assert [made.plans[made.choose(rate)].name for rate in (0, 1, 5, 100)] == [
        'robot_only', 'robot_only', 'layer:2', 'full_offload']
    assert made.record == {'objective': 'latency'}
    # Somebody who names another plan first means that one, whatever the link does.
    assert assemble(layout, 'robot_only', (str(path),)).choices == ()


def test_the_codec_holds_for_all_constructors_of_a_table(layout):
    made = assemble(layout, 'uniform:0.5', ('full_offload',), 'none')
    assert [plan.codec for plan in made.plans] == ['none', 'none']


def test_two_tables_of_the_same_plans_are_the_same(layout):
    made = [assemble(layout, 'uniform:0.5', ('full_offload',)) for _ in range(2)]
    assert made[0].digest == made[1].digest
    assert assemble(layout, 'full_offload', ('uniform:0.5',)).digest != made[0].digest


@pytest.mark.parametrize('text, message', [
    ('nonsense', "plan 'nonsense' is not known: expected robot_only"),
    ('', "plan '' is not known"),
    ('uniform:much', "'much' is not a number"),
    ('layer:99', 'expected a value number from 0 to 4'),
    ('missing.json', 'plan file missing.json: there is no such file'),
    ('some/where', 'plan file some/where: there is no such file'),
    ('a' * 300 + '.json', 'File name too long'),
    ('a\0b.json', 'embedded null byte')])
def test_what_is_no_plan_is_refused_with_what_was_expected(layout, text, message):
    with pytest.raises(PlanError) as caught:
        read_plans(text, layout)
    assert message in str(caught.value)
    with pytest.raises(PlanError):
        assemble(layout, 'robot_only', (text,))


@pytest.mark.parametrize('content, message', [
    (b'{"name": ', 'is not JSON'),
    (b'[1, 2]', 'is a JSON object, got list'),
    (b'{}', "missing ['name', 'robot', 'server']"),
    (b'\xff\xfe', 'is not text'),
    (b'[' * 100_000, 'is not JSON'),
    (b'{"name": "gap", "robot": [12, 0, 0, 0, 0], "server": [12, 12, 12, 12, 12]}',
     "plan 'gap' has a gap"),
    (b'{"name": "other", "robot": [12], "server": [12]}', "plan 'other' is for another graph")])
def test_a_broken_file_is_refused_by_its_name(layout, tmp_path, content, message):
    path = tmp_path / 'broken.json'
    path.write_bytes(content)
    with pytest.raises(PlanError) as caught:
        assemble(layout, str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_for_another_model_is_refused(layout, tmp_path):
    path = tmp_path / 'table.json'
    other = chain(14)
    path.write_text(PlanTable(other, [make_plan('full_offload', other)]).dumps())
    with pytest.raises(PlanError, match='numbers the operators of .* differently'):
        read_plans(str(path), layout)


def test_a_folder_is_no_plan_file(layout, tmp_path):
    with pytest.raises(PlanError, match='it is no regular file'):
        read_plans(str(tmp_path), layout)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(layout, plan_file, monkeypatch):
    monkeypatch.setattr(source, 'MAX_JSON_BYTES', 10)
    with pytest.raises(PlanError, match='plan file .*: it has more than 10 bytes'):
        read_plans(plan_file, layout)


def test_a_file_that_can_not_be_read_is_refused_by_its_name(layout, plan_file, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr('os.open', refuse)
    with pytest.raises(PlanError, match='plan file .*plan.json: .*Permission denied'):
        read_plans(plan_file, layout)


@pytest.mark.parametrize('name', ['\ud800', 'a\nERROR b', '\x1b[2J', ' x', 'x ', '\u202ex'])
def test_a_name_that_does_not_print_is_refused(layout, tmp_path, name):
    data = make_plan('full_offload', layout).to_json()
    path = tmp_path / 'plan.json'
    path.write_text(json.dumps({**data, 'name': name}))
    with pytest.raises(PlanError, match='something in it that does not print') as refused:
        read_plans(str(path), layout)
    assert str(refused.value).isprintable()


def test_texts_of_a_table_that_is_refused_are_printable(layout):
    table = PlanTable(layout, [make_plan('full_offload', layout)]).to_json()
    for change in ({'model_digest': '\ud800', 'model': 'a\nb'}, {'format': '\ud800'},
                   {'plans': [{'\ud800': 1}]}, {'choices': ['\ud800']}, {'record': '\ud800'}):
        with pytest.raises(PlanError) as refused:
            PlanTable.loads(json.dumps({**table, **change}), layout)
        assert str(refused.value).isprintable(), change


def test_what_would_be_waited_for_is_no_plan_file(layout, tmp_path):
    os.mkfifo(tmp_path / 'pipe.json')
    for name in (str(tmp_path / 'pipe.json'), '/dev/zero', '/proc/kmsg'):
        with pytest.raises(PlanError):
            read_plans(name, layout)


def test_who_reads_the_files_may_be_another(layout, plan_file):
    asked = []

    def read(name):
        asked.append(name)
        return Path(plan_file).read_text()
    assert assemble(layout, 'x.json', ('y/z',), read=read).plans
    assert asked == ['x.json', 'y/z']
