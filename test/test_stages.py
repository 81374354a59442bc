# SPDX-License-Identifier: Apache-2.0
"""The stages of make test: all run whatever failed before, and the end tells how each went."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / '.ci' / 'test.sh'
STAGES = ('core', 'planner', 'cli', 'ros', 'lab')
# In the place of python: writes down how it was called, and does as the stage is meant to.
PYTHON = """#!/bin/bash
printf '%s\\n' "$* long=$HP_LONG_TESTS" >>"$CALLS"
case "$*" in
  -c*) exit $NO_ROS ;;
  *test/planner\\ test/bench*) exit $PLANNER ;;
  *--ignore\\ test/cli*) exit $CORE ;;
  *test/cli) exit $CLI ;;
  *-m\\ ros*) exit $ROS ;;
  *test/lab) exit $LAB ;;
  *) exit 99 ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the script, stages ending as told; it returns what came out."""
    (tmp_path / 'python').write_text(PYTHON)
    (tmp_path / 'python').chmod(0o755)
    calls = tmp_path / 'calls'

    def run(*arguments, which='not long', stages=STAGES, **ends):
        status = {name: str(ends.get(name, 0)) for name in ('NO_ROS', *map(str.upper, STAGES))}
        calls.write_text('')
        done = subprocess.run(
            ['bash', str(SCRIPT), which, *stages, '--', *arguments], capture_output=True,
            text=True, env={'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'CALLS': str(calls),
                            **status})
        outcomes = dict(line.split()[:2] for line in done.stdout.splitlines() if ' in ' in line)
        ran = [line for line in calls.read_text().splitlines() if line.startswith('-m pytest')]
        return done.returncode, outcomes, ran
    return run


def test_all_stages_run_whatever_failed_before(run):
    status, outcomes, ran = run(CORE=1, ROS=2)
    assert status == 1 and len(ran) == 5
    assert outcomes == {'core': 'FAILED', 'planner': 'passed', 'cli': 'passed', 'ros': 'FAILED',
                        'lab': 'passed'}


def test_where_nothing_fails_neither_does_the_whole(run):
    status, outcomes, _ = run()
    assert status == 0 and set(outcomes.values()) == {'passed'}


def test_without_ros_its_stages_fail_and_the_others_run(run):
    status, outcomes, ran = run(NO_ROS=1)
    assert status == 1 and len(ran) == 3
    assert outcomes == {'core': 'passed', 'planner': 'passed', 'cli': 'passed', 'ros': 'FAILED',
                        'lab': 'FAILED'}


@pytest.mark.parametrize('arguments, which, status', [
    ((), 'not long', 1), (('-k', 'codec'), 'not long', 0), ((), 'long', 0)])
def test_a_stage_without_tests_passes_only_where_some_were_chosen(run, arguments, which, status):
    assert run(*arguments, which=which, LAB=5)[0] == status


def test_arguments_reach_every_stage_as_they_are(run):
    _, _, ran = run('-k', 'a or b')
    assert len(ran) == 5 and all('-k a or b' in call for call in ran)


def test_an_unknown_stage_is_a_failure(run):
    assert run(stages=('nodes',))[:2] == (1, {'nodes': 'FAILED'})


@pytest.mark.parametrize('which', ['long', 'not long'])
def test_the_stages_take_the_long_tests_or_the_others(run, which):
    ran = run(which=which)[2]
    assert all(f'({which})' in call or f'-m {which}' in call for call in ran)
    assert all(call.endswith('long=1' if which == 'long' else 'long=') for call in ran)


def test_a_run_tells_how_many_came_out_how_and_names_the_failed(tmp_path):
    (tmp_path / 'test_some.py').write_text(
        'import pytest\n\n\ndef test_good():\n    pass\n\n\ndef test_bad():\n    assert False\n\n\n'
        '@pytest.mark.skip\ndef test_left_out():\n    pass\n')
    for name in ('conftest.py', 'own_domain.py'):
        shutil.copy(Path(__file__).with_name(name), tmp_path)
    summary = tmp_path / 'summary'
    subprocess.run([sys.executable, '-m', 'pytest', '-c', os.devnull, '--rootdir', tmp_path,
                    '--summary', summary, tmp_path], cwd=tmp_path, capture_output=True)
    assert summary.read_text().splitlines() == ['1 passed, 1 failed, 1 skipped',
                                                '    test_some.py::test_bad']
