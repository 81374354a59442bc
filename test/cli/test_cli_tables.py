# SPDX-License-Identifier: Apache-2.0
"""`hp simulate` and `hp report`: what a table file alone tells."""

from cli_runner import complaint_of, data_of, runner
import pytest
import synthetic

TRACE = 'time_s,mbit_s\n' + ''.join(f'{0.5 * place},{100 if place < 40 else 8}\n'
                                    for place in range(80))


@pytest.fixture
def hp(capsys, monkeypatch, tmp_path):
    synthetic.write(tmp_path / 'table.json')
    (tmp_path / 'trace.csv').write_text(TRACE)
    return runner(capsys, monkeypatch, tmp_path)


def test_simulate_runs_the_table_and_every_baseline_along_the_trace(hp):
    data = data_of(hp('simulate table.json --trace trace.csv --json'))
    assert (data['model'], data['samples'], data['seconds']) == ('net', 80, 40)
    assert (data['objective'], data['mean_mbit_s']) == ('latency', 54)
    found = data['results']
    assert list(found) == ['table', 'robot_only', 'full_offload', 'full_offload_jpeg',
                           'whole_switch', 'layer_cut', 'minimum_cut']
    assert found['robot_only'] == {
        'mean_s': pytest.approx(0.1), 'p95_s': pytest.approx(0.1), 'energy_j': pytest.approx(1.4),
        'inferences': 400, 'switches': 0, 'unfinished_s': 0, 'time_share': {'robot_only': 1}}
    # 22 ms each for 20 s at 100 Mbit/s, 160 ms each for half a second at 8 (the one under way at
    # the end of either goes on), then the robot alone.
    mine = found['table']
    assert (mine['switches'], mine['inferences']) == (1, 909 + 3 + 1 + 193)
    assert mine['time_share']['robot_only'] == pytest.approx(19.5 / 40, abs=0.005)
    assert mine == found['whole_switch']
    assert mine['mean_s'] < found['full_offload']['mean_s'] < found['robot_only']['mean_s']


def test_simulate_shows_a_line_each_and_what_the_table_gains(hp):
    status, out, err = hp('simulate table.json --trace trace.csv')
    assert (status, err) == (0, '')
    lines = [line for line in out.splitlines() if line]
    assert lines[0] == 'net  table table.json, objective latency'
    assert lines[1] == 'trace trace.csv: 80 samples, 40 s, mean 54.0 Mbit/s'
    assert lines[2].split() == ['mean', 'ms', 'p95', 'ms', 'energy', 'J', 'switches', 'inferences']
    assert lines[3].startswith('plan table ')
    assert lines[4].split() == ['robot', 'only', '100.0', '100.0', '1.400', '0', '400']
    assert len(lines) == 3 + 7 + 1
    assert lines[-1].startswith('the table against the fastest baseline under policy exact '
                                '(whole-model switch): mean latency ')


def test_simulate_compares_with_lossy_baselines_only_under_a_lossy_policy(hp, tmp_path):
    data = synthetic.table(record=synthetic.record(policy='lossy'))
    synthetic.write(tmp_path / 'table.json', data)
    assert 'under policy lossy (full offload, JPEG): mean latency +' in hp(
        'simulate table.json --trace trace.csv')[1]


def test_simulate_says_when_a_baseline_is_stuck(hp, tmp_path):
    (tmp_path / 'dead.csv').write_text('time_s,mbit_s\n0,0\n1,0\n2,0\n')
    status, out, _ = hp('simulate table.json --trace dead.csv')
    assert status == 0
    assert ('full offload, uint8: the last inference was still under way after 3.0 s, when the '
            'trace ended') in out
    data = data_of(hp('simulate table.json --trace dead.csv --json'))
    assert data['results']['full_offload']['mean_s'] is None
    assert data['results']['table']['mean_s'] == pytest.approx(0.1)


def test_report_writes_pictures_and_lists_them(hp, tmp_path):
    data = data_of(hp('report table.json --out new/pictures --bandwidths 20,5 --json'))
    assert data['files'] == [f'new/pictures/{name}.png' for name in (
        'latency', 'energy', 'throughput', 'shares', 'pareto', 'timeline')]
    assert all((tmp_path / file).read_bytes().startswith(b'\x89PNG') for file in data['files'])
    status, out, err = hp('report table.json --out new/pictures')
    assert (status, out.split(), err) == (0, data['files'], '')


@pytest.mark.parametrize(('line', 'says'), [
    ('simulate', 'TABLE'),
    ('simulate table.json', '--trace'),
    ('simulate gone.json --trace trace.csv', 'plan table: can not read gone.json: No such file'),
    ('simulate . --trace trace.csv', 'plan table: can not read .: it is no regular file'),
    ('simulate image.png --trace trace.csv', 'plan table: can not read image.png: it is not text'),
    ('simulate bare.json --trace trace.csv', 'bare.json: it has no choices or no record'),
    ('simulate newer.json --trace trace.csv', 'the plan table has format 7, this version reads 1'),
    ('simulate one.json --trace trace.csv', 'one.json was made for 20 Mbit/s alone'),
    ('simulate table.json --trace gone.csv', 'trace: can not read gone.csv: No such file'),
    ('simulate table.json --trace table.json', 'expected time_s and mbit_s'),
    ('simulate table.json --trace gap.csv', 'gap.csv, line 5: a gap from 2 s to 60 s'),
    ('report', 'TABLE'),
    ('report table.json', '--out'),
    ('report gone.json --out new', 'can not read gone.json'),
    ('report bare.json --out new', 'it was not made by hp plan, which writes both'),
    ('report table.json --out table.json', 'can not write the pictures to table.json: give --out'),
    ('report table.json --out new --bandwidths 5,0', "'5,0' is not rates above 0 in Mbit/s"),
    ('report table.json --out new --bandwidths fast', "'fast' is not rates above 0"),
    ('report table.json --out new --bandwidths inf', "'inf' is not rates above 0"),
])
def test_bad_use_is_one_line_that_says_what_is_wrong(hp, tmp_path, line, says):
    synthetic.write(tmp_path / 'bare.json', synthetic.table(record=..., choices=...))
    synthetic.write(tmp_path / 'newer.json', synthetic.table(format=7))
    synthetic.write(tmp_path / 'one.json', synthetic.table((20.0,)))
    (tmp_path / 'gap.csv').write_text('time_s,mbit_s\n0,5\n1,5\n2,5\n60,5\n61,5\n')
    assert says in complaint_of(hp(line))
    assert not (tmp_path / 'new').exists()
