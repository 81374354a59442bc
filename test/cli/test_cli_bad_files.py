# SPDX-License-Identifier: Apache-2.0
"""Whatever a file, an argument or the machine does to `hp`, it ends at once, in one line."""

import copy
import json
import os
import random
import resource
import subprocess
import sys

from cli_runner import CHATTER, NETWORKS, runner
from draws import again_when_long, MANY
import pytest
import synthetic

from hp_cli.main import _printable, main
from hp_inference import files

TRACE = 'time_s,mbit_s\n' + ''.join(f'{0.5 * place},{100 if place < 4 else 8}\n'
                                    for place in range(20))
NET = 'tiny.py:parameterless --input 1,3,12,12'
# Every argument that names a file to read; {} is where.
READS = {
    'weights': 'graph tiny.py:classes --input 1,3,8,8 --weights {}',
    'image of run': f'run {NET} --plan robot_only --image {{}}',
    'image of check': f'check {NET} --plans 1 --image {{}}',
    'image of profile': f'profile {NET} --out p.json --image {{}}',
    'robot': f'plan {NET} --robot {{}} --server {{}} --out t.json',
    'table of simulate': 'simulate {} --trace trace.csv',
    'trace': 'simulate table.json --trace {}',
    'table of report': 'report {} --out new',
}
FILES = {
    'endless': '/dev/zero', 'pipe': 'pipe', 'folder': '.', 'kernel': '/proc/kmsg', 'none': '',
    'half a pair': '\ud800', 'no text': 'a\udcff', 'long': 'x' * 5000, 'two lines': 'a\nb',
    'null': 'a\0b', 'colour': '\x1b[31mred', 'empty': 'empty', 'noise': 'noise'}
# Every argument that names a file to write.
WRITES = {'plan': f'plan {NET} --robot r.json --server r.json --out {{}}',
          'profile': f'profile {NET} --out {{}}', 'report': 'report table.json --out {}'}


@pytest.fixture
def folder(monkeypatch, capsys, tmp_path):
    runner(capsys, monkeypatch, tmp_path)
    synthetic.write(tmp_path / 'table.json')
    (tmp_path / 'trace.csv').write_text(TRACE)
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'empty').touch()
    (tmp_path / 'noise').write_bytes(random.Random(0).randbytes(5000))
    return tmp_path


@pytest.fixture
def hp(capsys):
    """Return how to run hp with a line and a name in it, whatever is in the name."""
    def run(line, *names):
        names = iter(names)
        argv = [part.replace('{}', next(names)) if part == '{}' else part
                for part in line.split()]
        capsys.readouterr()
        status = main(argv)
        shown = capsys.readouterr()
        return status, shown.out, [each for each in shown.err.split('\n')
                                   if each and each not in CHATTER]
    return run


def is_one_line(result):
    status, out, err = result
    assert (status, out, len(err)) == (2, '', 1), result
    assert err[0].startswith('hp: ') and err[0].isprintable() and len(err[0]) < 2200
    assert 'can not go on' not in err[0]  # which is said where nobody thought of it


@pytest.mark.parametrize('what', READS)
def test_what_is_no_file_to_read_is_refused_at_once(hp, folder, what):
    before = sorted(os.listdir(folder))
    captured = 'tiny.py' in READS[what] and what != 'robot'  # which takes a while
    for kind, name in FILES.items():
        if kind == 'kernel' and not os.access(name, os.R_OK):
            continue
        if captured and kind not in ('endless', 'pipe', 'kernel', 'half a pair', 'noise'):
            continue
        is_one_line(hp(READS[what], name, name))
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(('what', 'name'), [
    (what, name) for what in WRITES
    for name in ('pipe', '/dev/null', '.', 'gone/f', '\ud800', 'x' * 5000, 'a\0b', '')
    if what != 'report' or name not in ('.', '', 'gone/f')])  # folders that are there or made
def test_what_can_not_be_written_is_refused_and_left_as_it_is(hp, folder, what, name):
    before = sorted(os.listdir(folder))
    is_one_line(hp(WRITES[what], name))
    assert sorted(os.listdir(folder)) == before and os.path.exists('/dev/null')
    assert not os.path.isfile('/dev/null')


@pytest.mark.parametrize('what', ['profile', 'report'])
def test_a_write_that_fails_leaves_nothing_half(hp, folder, monkeypatch, what):
    (folder / 'new').mkdir()
    name = 'new' if what == 'report' else 'new/p.json'
    def full(handle):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(files.os, 'fsync', full)
    is_one_line(hp(WRITES[what], name))
    assert os.listdir(folder / 'new') == []


# Numbers and texts that JSON can hold and nobody means.
STRANGE = (1e308, 5e-324, -5e-324, float('inf'), float('nan'), -1, 0, True, None, 10 ** 400,
           '\ud800', 'a\nb', '', 'x' * 3000, [], {}, 2 ** 63, 1e150, 1e-150)


def leaves(data, path=()):
    """Yield the places of everything in JSON data, of long lists the first two."""
    items = data.items() if isinstance(data, dict) else (
        list(enumerate(data))[:2] if isinstance(data, list) else ())
    for key, item in items:
        yield (*path, key)
        yield from leaves(item, (*path, key))


def changed(data, path, value):
    made = copy.deepcopy(data)
    part = made
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return made


def is_whole_or_one_line(result):
    if result[0] == 0:
        assert not result[2] and all(each.isprintable() for each in result[1].splitlines())
    else:
        is_one_line(result)


@again_when_long
def test_any_number_or_text_in_a_table_is_taken_or_refused(hp, folder):
    draw, table = random.Random(0), synthetic.table()
    places = list(leaves(table))
    for _ in range(80 if MANY else 40):
        path, value = draw.choice(places), draw.choice(STRANGE)
        (folder / 'table.json').write_text(json.dumps(changed(table, path, value)))
        is_whole_or_one_line(hp('simulate table.json --trace trace.csv'))
        is_whole_or_one_line(hp('simulate table.json --trace trace.csv --json'))


@pytest.mark.parametrize('path', [
    ('model',), ('plans', 0, 'name'), ('record', 'objective'), ('record', 'choices', 0, 'plan'),
    ('record', 'choices', 0, 'lanes', 0, 'label'), ('graph', 'values', 1, 'name')])
def test_a_text_that_can_not_be_shown_breaks_no_picture(hp, folder, path):
    for value in ('\ud800', 'a\nhp: forged'):
        (folder / 'table.json').write_text(json.dumps(changed(synthetic.table(), path, value)))
        is_whole_or_one_line(hp('report table.json --out new'))


TIMES = ('0', '1', '2', '3', '-1e308', '1e308', '5e-324', '1e-323', '1e15', '-1e15', '1e999',
         'nan', 'true', '', '0x10', '1e14')
RATES = ('0', '5e-324', '1e-320', '2e-12', '1e6', '1e-300', '8', '100', '1e308', '-0', 'nan')


@again_when_long
def test_any_times_and_rates_in_a_trace_are_taken_or_refused(hp, folder):
    draw = random.Random(0)
    taken = 0
    for number in range(150 if MANY else 70):
        times = draw.choices(TIMES, k=draw.choice((2, 3, 4)))
        if number % 2:  # so that they ascend
            times = sorted({time for time in times if time not in ('true', '', '0x10', 'nan')},
                           key=float)
        (folder / 'trace.csv').write_text('time_s,mbit_s\n' + ''.join(
            f'{time},{draw.choice(RATES)}\n' for time in times))
        for line in ('simulate table.json --trace trace.csv',
                     'simulate table.json --trace trace.csv --json'):
            result = hp(line)
            is_whole_or_one_line(result)
            taken += result[0] == 0
    assert taken > 5


@pytest.mark.parametrize('number', ['1e308', '1e999', 'nan', '-inf', 'true', '\ud800'])
@pytest.mark.parametrize('option', [
    '--latency-bound-ms', '--latency-weight', '--energy-weight', '--robot-mb', '--server-mb',
    '--link-mb-per-s', '--message-ms', '--round-trip-ms', '--swing', '--pareto', '--bandwidths',
    '--seed', '--threads', '--mean', '--std', '--weights-seed'])
def test_strange_numbers_for_a_plan_are_refused(hp, folder, option, number):
    result = hp(f'plan {NET} --robot gone --server gone --out t.json {option}={number}')
    is_one_line(result)
    assert 'gone' not in result[2][0]  # which is what comes after the numbers


def raising(error):
    def run(args):
        raise error
    return run


class Mute(Exception):
    def __str__(self):
        raise RuntimeError('no')


class Foreign(BaseException):
    pass


@pytest.mark.parametrize(('error', 'says'), [
    (MemoryError(), 'not enough memory for this: MemoryError'),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 'not enough memory'),
    (OSError(12, 'Cannot allocate memory'), 'not enough memory'),
    (ImportError('libtorch.so: failed to map segment from shared object'), 'not enough memory'),
    (ImportError('No module named torch'), 'hp needs PyTorch'),
    (OSError(24, 'Too many open files', 'f'), "Too many open files: 'f'"),
    (Mute(), 'Mute: <Mute>'), (Foreign('a\nb'), 'Foreign: a b'), (GeneratorExit(), 'GeneratorExit'),
    (KeyError('\ud800'), 'KeyError'), (ValueError('x' * 100_000), 'ValueError: xxx'),
    (SystemExit(0), 'the code of the model ended the program'),
    (SystemExit('bye'), 'the code of the model ended the program'),
])
def test_whatever_is_raised_is_one_line_and_status_2(hp, folder, monkeypatch, error, says):
    from hp_cli.commands import simulate
    monkeypatch.setattr(simulate, 'run', raising(error))
    status, out, err = hp('simulate table.json --trace trace.csv')
    assert (status, out, len(err)) == (2, '', 1)
    assert says in err[0] and err[0].isprintable() and len(err[0]) < 2300


def test_what_nobody_thought_of_says_where_it_came_from(hp, folder, monkeypatch):
    from hp_cli.commands import simulate
    monkeypatch.setattr(simulate, 'run', raising(ZeroDivisionError('oh')))
    assert 'test_cli_bad_files.py, line ' in hp('simulate table.json --trace trace.csv')[2][0]


def test_a_terminal_of_another_alphabet_gets_what_it_can_show(folder):
    done = subprocess.run(
        [sys.executable, '-c', 'from hp_cli.main import main; main()', 'simulate',
         'table.json', '--trace', 'trace-\xe9.csv'.encode()], capture_output=True,
        env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
    assert done.stderr.count(b'\n') == 1 and done.stderr.startswith(b'hp: ')
    os.rename('trace.csv', 'trace-\xe9.csv')
    done = subprocess.run(
        [sys.executable, '-c', 'from hp_cli.main import main; main()', 'simulate',
         'table.json', '--trace', 'trace-\xe9.csv'], capture_output=True,
        env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
    assert done.returncode == 0 and b'trace trace-?.csv: 20 samples' in done.stdout


def limited(megabytes, *argv):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20,) * 2)
    return subprocess.run(
        [sys.executable, '-c', 'import sys; from hp_cli.main import main; sys.exit(main())',
         *argv], capture_output=True, text=True, preexec_fn=limit, timeout=250,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'})


@pytest.mark.parametrize(('megabytes', 'argv'), [
    (100, ('simulate', 'table.json', '--trace', 'trace.csv')),
    (100, ('graph', f'{NETWORKS}:classes')),
    (1000, ('graph', f'{NETWORKS}:classes', '--input', '1,3,16000,16000')),
])
def test_too_little_memory_is_one_line(folder, megabytes, argv):
    done = limited(megabytes, *argv)
    lines = [each for each in done.stderr.splitlines() if each not in CHATTER]
    assert (done.returncode, done.stdout, len(lines)) == (2, '', 1), done
    assert lines[0].startswith('hp: there is not enough memory for this: ')


def test_text_for_a_terminal_can_neither_break_nor_colour_its_lines():
    assert _printable('a\x1b[31m\nb\u202e \ud800') == 'a?[31m\nb? ?'
