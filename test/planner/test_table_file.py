# SPDX-License-Identifier: Apache-2.0
"""A table's file is read without its model, and without PyTorch."""

import json
import math
import subprocess
import sys

from nets import chain
import numpy as np
import pytest
import synthetic

from hp_inference.split.errors import PlanError
from hp_inference.split.plan import full_offload, Plan, robot_only
from hp_inference.split.table import Choice, PlanTable
from hp_planner.report import table_file
from hp_planner.report.table_file import label, read_table_file, TABLE


@pytest.fixture
def table(tmp_path):
    return read_table_file(synthetic.write(tmp_path / 'table.json'))


def test_the_table_and_its_baselines_have_a_plan_at_every_rate(table):
    assert table.approaches == (TABLE, 'robot_only', 'full_offload', 'full_offload_jpeg',
                                'whole_switch', 'layer_cut', 'minimum_cut')
    assert [table.plan_at(TABLE, rate) for rate in (0, 0.4, 0.5, 10, 12, 20, 50, 1e6)] == [
        'robot_only', 'robot_only', 'robot_only', 'split_8', 'split_8', 'split_4', 'full_offload',
        'full_offload']
    assert table.plan_at(TABLE, math.nan) == 'robot_only'
    assert table.plan_at('whole_switch', 12) == 'robot_only'


def test_figures_follow_the_plan_in_force(table):
    rates = np.array([12.0, 1.0, 800.0])
    wanted = [synthetic.figures(plan, rate)['latency_s']
              for plan, rate in zip(('split_8', 'robot_only', 'full_offload'), rates)]
    assert table.figure(TABLE, rates, 'latency_s') == pytest.approx(wanted)


def test_shares_are_parts_of_a_values_rows(table):
    assert table.rows == (16,) * 11 + (1,)
    assert [table.share('split_8', value) for value in (0, 1, 10, 11)] == [1, 9 / 16, 9 / 16, 1]
    assert table.share('full_offload', 11) == 0


def test_a_table_made_from_a_model_is_read(tmp_path):
    layout = chain(16)
    plans = [robot_only(layout), Plan('split_8', *[(16, 8, 8, 8, 8)] * 2), full_offload(layout)]
    record = synthetic.record(depth=[0, 4])
    record['choices'] = [{**point, 'plan': 'split_8'} for point in record['choices']]
    made = PlanTable(layout, plans, [Choice(1, 0), Choice(8.5, 1), Choice(30, 2)], record)
    path = tmp_path / 'table.json'
    path.write_text(made.dumps())
    table = read_table_file(path)
    assert (table.model, table.names) == ('net', [plan.name for plan in plans])
    assert table.rows == tuple(layout.rows)
    for rate in (0, 0.5, 1, 8, 8.5, 29, 30, 1e4, math.nan):
        assert table.plan_at(TABLE, rate) == plans[made.choose(rate)].name


def test_neither_reading_nor_drawing_needs_pytorch(tmp_path):
    synthetic.write(tmp_path / 'table.json')
    (tmp_path / 'trace.csv').write_text('time_s,mbit_s\n0,10\n1,20\n')
    code = ('import sys\nfrom hp_cli.main import main\n'
            'assert main(["simulate", "table.json", "--trace", "trace.csv"]) == 0\n'
            'assert main(["simulate", "gone.json", "--trace", "trace.csv"]) == 2\n'
            'assert main(["report", "table.json", "--out", "out"]) == 0\n'
            'assert "torch" not in sys.modules, "torch is there"\n')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('approach, name', [
    (TABLE, 'plan table'), ('robot_only', 'robot only'), ('full_offload', 'full offload, uint8'),
    ('minimum_cut', 'minimum cut'), ('some_other', 'some other')])
def test_labels_are_words(approach, name):
    assert label(approach) == name


VALUE = synthetic.table()['graph']['values'][0]


@pytest.mark.parametrize('changes, said', [
    ({'plans': ...}, 'it is no plan table, there are no "plans" in it'),
    ({'format': 2}, 'the plan table has format 2, this version reads 1: run the same version on '
                    'both sides (a newer version than this one'),
    ({'format': ...}, 'has format None'),
    ({'model': ...}, 'the table has no "model"'),
    ({'plans': []}, 'a table holds 1 to 128 plans, got 0'),
    ({'plans': [5]}, '"plans"[0] of the table is 5'),
    ({'plans': {}}, '"plans" of the table is {}, expected list'),
    ({'plans': [{**synthetic.plan('split_8'), 'robot': [16]}]},
     "plan 'split_8' does not fit the graph of the table: expected 12 robot shares"),
    ({'plans': [{**synthetic.plan('split_8'), 'robot': [17] * 12}]}, 'each up to its rows'),
    ({'plans': [{**synthetic.plan('split_8'), 'name': 5}]}, '"name" of "plans"[0]'),
    ({'choices': ...}, 'no choices or no record of what planning found: it was not made by hp'),
    ({'choices': []}, 'no choices or no record'),
    ({'record': ...}, 'no choices or no record'),
    ({'record': None}, 'no choices or no record'),
    ({'record': 5}, 'the record is 5, expected an object'),
    ({'choices': [{'mbit_s': 1, 'plan': 9}]}, 'is plan 9: expected an index from 0 to 3'),
    ({'plans': [{**synthetic.plan('split_8'), 'name': name} for name in ('robot_only', 'x')],
      'choices': [{'mbit_s': 1, 'plan': 0}]}, "the record has no curve of plan 'x'"),
    ({'plans': [synthetic.plan('robot_only')], 'choices': [{'mbit_s': 1, 'plan': 0}]},
     "the record has chosen plan 'split_8', which is not in the table"),
    ({'record': synthetic.record(depth=[12])},
     '"depth" of the record holds value 12, the graph has 12 values'),
    *(({'record': synthetic.record(depth=depth)}, '"depth" of the record is not a list of values '
       'in the order of the network') for depth in ([4, 0], [0] * 20_000)),
    ({'record': synthetic.record(baselines={str(n): [] for n in range(2000)})},
     '"baselines" of the record holds 2000 of them, expected at most 32'),
    ({'graph': {}}, 'has no "values"'),
    ({'graph': {'values': [VALUE]}}, 'it has 12 row axes for 1 values'),
    ({'graph': {'values': [VALUE]}, 'axes': [4]}, 'row axis 4'),
    ({'graph': {'values': [VALUE]}, 'axes': ['x']}, "row axis 'x'"),
    ({'graph': {'values': [{**VALUE, 'shape': [1, 1, 0, 1]}]}, 'axes': [2]}, 'row axis 2'),
])
def test_a_table_that_can_not_be_used_is_refused_by_its_name(tmp_path, changes, said):
    path = synthetic.write(tmp_path / 'table.json', synthetic.table(**changes))
    with pytest.raises(PlanError) as error:
        read_table_file(path)
    assert said in str(error.value) and str(error.value).startswith(f'plan table {path}: ')
    assert len(str(error.value)) < 300 + len(str(path)) and '\n' not in str(error.value)


@pytest.mark.parametrize('content, said', [
    (b'', 'is not JSON'), (b'\xff', 'is not text'), (b'[' * 100_000, 'is not JSON'),
    (b'[]', 'is a JSON object, got list')])
def test_what_is_no_table_is_refused(tmp_path, content, said):
    (tmp_path / 'table.json').write_bytes(content)
    with pytest.raises(PlanError, match=said):
        read_table_file(tmp_path / 'table.json')


def test_a_file_that_is_not_there_or_too_large_is_refused(tmp_path, monkeypatch):
    with pytest.raises(PlanError, match='plan table: can not read .*gone.json: No such file'):
        read_table_file(tmp_path / 'gone.json')
    with pytest.raises(PlanError, match='plan table: can not read .*: it is no regular file'):
        read_table_file(tmp_path)
    path = synthetic.write(tmp_path / 'table.json')
    monkeypatch.setattr(table_file, 'MAX_JSON_BYTES', 100)
    with pytest.raises(PlanError, match='has more than 100 bytes'):
        read_table_file(path)


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    text = json.dumps(synthetic.table()).replace('"waiting_w": 5.0', '"waiting_w": NaN')
    (tmp_path / 'table.json').write_text(text)
    with pytest.raises(PlanError, match='"waiting_w" of "power" of the record holds nan'):
        read_table_file(tmp_path / 'table.json')
