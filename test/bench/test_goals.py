# SPDX-License-Identifier: Apache-2.0
"""The exit status of every bench says whether its goals held, and all of them are run."""

import argparse
import importlib.util
import json
from pathlib import Path
import sys

import pytest

BENCH = Path(__file__).parents[2] / 'bench'
sys.path.insert(0, str(BENCH))
import _all  # noqa: E402
import _common  # noqa: E402
from _goals import at_least, at_most, FELL_SHORT, HELD, none, short, SKIPPED  # noqa: E402


def bench(name):
    """Return a bench by its file: Python has modules of some of these names, too."""
    spec = importlib.util.spec_from_file_location(f'bench_{name}', BENCH / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def finish(goals, tmp_path, quick=False):
    options = argparse.Namespace(quick=quick, json=tmp_path / 'figures.json')
    return _common.finish(options, {'figure': 1}, goals), json.loads(
        (tmp_path / 'figures.json').read_text())


@pytest.mark.parametrize('goal, held', [
    (at_most('a', 1.0, 1.0), True), (at_most('a', 1.1, 1.0), False),
    (at_least('a', 1.0, 1.0), True), (at_least('a', 0.9, 1.0), False),
    (none('a', 0), True), (none('a', 1), False), (at_most('a', float('nan'), 1.0), False),
    (at_least('a', float('nan'), 1.0), False), (at_most('a', None, 1.0), False),
    (at_least('a', None, 1.0), False)])
def test_a_goal_holds_within_its_bound_and_never_without_a_figure(goal, held):
    assert goal.held is held


def test_all_goals_held_is_status_0(tmp_path, capsys):
    status, figures = finish([at_most('late s', 1.5, 2.0), none('wrong', 0)], tmp_path)
    assert (status, figures['judged'], figures['figure']) == (HELD, True, 1)
    assert figures['goals'][0] == {'name': 'late s', 'value': 1.5, 'bound': 2.0, 'least': False,
                                   'held': True}
    assert 'all 2 goals held' in capsys.readouterr().out


def test_one_that_fell_short_is_status_1_and_is_listed(tmp_path, capsys):
    status, figures = finish([at_most('late s', 3.55, 2.0), none('wrong', 0)], tmp_path)
    assert status == FELL_SHORT
    assert [goal['held'] for goal in figures['goals']] == [False, True]
    out = capsys.readouterr().out
    assert 'fell short, 1 of 2 goals:\n  late s: 3.55, wanted at most 2\n' in out


def test_a_quick_run_judges_nothing_and_says_so(tmp_path, capsys):
    status, figures = finish([none('wrong', 7)], tmp_path, quick=True)
    assert (status, figures['judged']) == (HELD, False)
    assert 'the exit status says nothing of the goals' in capsys.readouterr().out


def test_nothing_to_judge_is_no_success(tmp_path):
    assert finish([], tmp_path)[0] == FELL_SHORT


def soak(**changes):
    return {'wrong': 0, 'out_of_order_or_stale': 0, 'lost': 0, 'back_s': {'bursts': [0.4, 1.9]},
            'tracebacks': {'robot': 0}, 'exit_statuses': [0, 0], 'robot_mb': [430, 435, 437],
            **changes}


def fleet(**changes):
    robot = {'lost': 0, 'wrong': 0, 'p50_ms': 40.0, **changes}
    return ({1: {'robots': [robot], 'fairness': changes.get('fairness', 1.0)}},
            changes.get('mb', 4.5), {
                'alone': [robot], 'beside a flood, in turns': [
                    {**robot, 'p50_ms': changes.get('flooded', 80.0)}],
                'beside a flood, all at once': [robot]})


def link(ratio=0.95, lost=0, held_up=0.02):
    return ([{'mbit_s': 10.0, 'loss': 0.01, 'stream_ratio': ratio, 'alone_ratio': 0.99,
              'lost': lost}], [{'mbit_s': 10.0, 'switch_s': 0.0001, 'held_up': held_up},
                               {'mbit_s': 10.0, 'switch_s': 0.005, 'held_up': 0.3}])


def end_to_end(**changes):
    system = {'predicted_s': 0.1, 'median_s': changes.get('median_s', 0.1), 'lost': 0,
              'fallbacks': changes.get('fallbacks', 0),
              'worst_error': changes.get('worst_error', 1e-6)}
    policies = {policy: {'best': 'full_offload', 'ratio': changes.get('ratio', 0.8),
                         'interval': [changes.get('low', 0.75), 0.9], 'systems': {policy: system}}
                for policy in ('exact', 'lossy')}
    return 'resnet50 224', {'cells': [{'mbit_s': 25.0, 'over': 1.0, 'policies': policies}]}


def trace(reaction_s=0.4, lost=0, error=1e-6, mean_s=0.1):
    each = {'lost': lost, 'worst_error': error}
    return {'steps': [{'at_s': 6.0, 'mbit_s': 10.0, 'reaction_s': reaction_s}], 'traces': {
        'walk': {'exact': {**each, 'mean_s': mean_s}, 'oracle': {**each, 'mean_s': 0.1}}}}


def recorded(switch_ms=100.0, energy_j=1.0):
    line = {'model': 'vgg19_bn', 'trace': 'indoors', 'p95_ms': 1.0}
    return [{**line, 'variant': variant, 'approach': approach, 'mean_ms': ms, 'energy_j': j}
            for variant, approach, ms, j in (
                ('recorded/float32', 'LOSS, swing', 70.0, 2.0),
                ('recorded/float32', 'whole_switch', switch_ms, 2.0),
                ('recorded/float32', 'LOSS (energy)', energy_j and 80.0, energy_j),
                ('measured there', "Hybrid-Parallel (authors' LOP)", 90.0, 2.0))]


def operators(**changes):
    return [{'dtype': dtype, 'ok': changes.get(dtype, True)} for dtype in ('float32', 'float64')]


def ran(whole=0.6, halves=1.1):
    return {'resnet50': {'whole_over_module': [whole, 0, 0], 'halves_over_whole': [halves, 0, 0],
                         'goals': (1.03, 1.2)},
            'another': {'whole_over_module': [9, 9, 9], 'halves_over_whole': [9, 9, 9],
                        'goals': (None, None)}}


def sealed(**changes):
    return {'model': 'm', 'plan': 'full_offload', 'share': 0.01, **changes}


def searched(**changes):
    return [{'model': 'vgg16', 'mbit_s': 1.0, 'baselines': 1.06, 'coarse net': 1.01,
             'differential evolution': 0.9995, **changes}]


def transports(**changes):
    return {'default': {'lost': 0, 'mb_per_s': 200.0, 'computing_held_up': {
        'paced': changes.get('paced', 0.02), 'flat out': 0.5}, **changes}}


# Of each bench: how it judges, figures that are good, and bad ones with what falls short.
CASES = {
    'end_to_end': (lambda: end_to_end(), [
        (lambda: end_to_end(low=1.06), 'low end'), (lambda: end_to_end(ratio=0.89), 'T/S 1.00'),
        (lambda: end_to_end(fallbacks=1), 'fallbacks of exact'),
        (lambda: end_to_end(median_s=0.12), 'predicted of exact'),
        (lambda: end_to_end(worst_error=1e-4), 'exact answer')]),
    'exactness': (lambda: [operators()], [(lambda: [operators(float64=False)], 'float64')]),
    'executor': (lambda: [ran()], [(lambda: [ran(1.04)], 'whole / module'),
                                   (lambda: [ran(0.6, 1.21)], 'halves / whole')]),
    'fleet': (fleet, [(lambda: fleet(lost=1), 'lost'), (lambda: fleet(wrong=1), 'wrong'),
                      (lambda: fleet(fairness=0.5), 'worst over the best'),
                      (lambda: fleet(mb=99.0), 'MB of the server'),
                      (lambda: fleet(flooded=150.0), 'beside a flood')]),
    'link': (link, [(lambda: link(0.91), 'stream over TCP'), (lambda: link(lost=1), 'values lost'),
                    (lambda: link(held_up=0.11), 'held up')]),
    'near_optimal': (lambda: [[{'graph': 'g', 'devices': 'd', 'worst': -0.1}]], [
        (lambda: [[{'graph': 'g', 'devices': 'd', 'worst': 0.01}]], 'cost over the least')]),
    'planning': (
        lambda: [[{'model': 'm', 'points': 31, 'planning_s': 13.0, 'peak_mb': 900.0}]], [
            (lambda: [[{'model': 'm', 'points': 31, 'planning_s': 70.0, 'peak_mb': 900.0}]],
             'planning s')]),
    'seals': (lambda: [[sealed()]], [(lambda: [[sealed(share=0.031)]], 'part of a frame')]),
    'simulated': (lambda: [{'vgg16': {'mean_absolute_error': 0.03}}], [
        (lambda: [{'vgg16': {'mean_absolute_error': 0.11}}], 'mean error')]),
    'soak': (lambda: [soak()], [
        (lambda: [soak(back_s={'bursts': [0.4, 4.1]})], 'bursts: slowest s'),
        (lambda: [soak(back_s={'bursts': [0.4, None]})], 'bursts: slowest s'),
        (lambda: [soak(wrong=1)], 'wrong'), (lambda: [soak(lost=None)], 'lost'),
        (lambda: [soak(tracebacks={'robot': 1})], 'tracebacks of robot'),
        (lambda: [soak(exit_statuses=[0, -9])], 'did not end well'),
        (lambda: [soak(robot_mb=[400, 420, 441])], 'memory')]),
    'stages': (lambda: [searched()], [
        (lambda: [searched(baselines=0.99)], 'baselines'),
        (lambda: [searched(**{'differential evolution': 0.97})], 'differential evolution')]),
    'start': (lambda: [[{'order': order, 'up_to_together_s': 0.05} for order in (
        'robot first', 'server first', 'both at once')]], [
            (lambda: [[{'order': order, 'up_to_together_s': 0.05 if 'first' in order else 3.0}
                       for order in ('robot first', 'server first', 'both at once')]],
             'both at once')]),
    'topics': (lambda: [transports()], [
        (lambda: [transports(lost=1)], 'lost'), (lambda: [transports(paced=0.05)], 'held up'),
        (lambda: [transports(mb_per_s=5.0)], 'MB/s')]),
    'trace': (lambda: [trace()], [
        (lambda: [trace(reaction_s=1.04)], 'followed after'),
        (lambda: [trace(reaction_s=None)], 'followed after'),
        (lambda: [trace(lost=1)], 'exact lost'), (lambda: [trace(error=0.1)], 'error of exact'),
        (lambda: [trace(mean_s=0.12)], 'over the oracle')]),
    'xavier_nx': (lambda: [recorded()], [
        (lambda: [recorded(switch_ms=75.0)], 'simulated switch'),
        (lambda: [recorded(energy_j=None)], 'energy under')]),
}
NEEDS_ROS = {'link', 'seals', 'soak', 'start', 'topics', 'trace', 'end_to_end', 'fleet'}


def test_every_bench_is_judged_here():
    assert set(CASES) == {path.stem for path in _all.benches()}


@pytest.mark.parametrize('name', sorted(CASES))
def test_a_bench_tells_good_figures_from_bad_ones(name):
    if name in NEEDS_ROS:
        pytest.importorskip('rclpy')
    module = bench(name)
    judge = getattr(module, 'goals', None) if name == 'xavier_nx' else module.judge
    good, bad = CASES[name]
    goals = judge(*good())
    assert goals and not short(goals), [str(goal) for goal in short(goals)]
    for figures, said in bad:
        missed = [str(goal) for goal in short(judge(*figures()))]
        assert missed and said in ' '.join(missed), (said, missed)


def test_robots_beside_a_hostile_one_are_judged_and_nothing_is_where_it_sent_nothing():
    judge = bench('fleet').judge_beside
    good = {'together': 0.97, 'slower': 1.2, 'without': 1.0, 'wrong': 0, 'unsent': 0}
    assert not short(judge(**good))
    for changes, said in (({'together': 0.94}, "worst robot's"), ({'slower': 1.34}, 'percentile'),
                          ({'without': 0.9}, 'nothing can be said'), ({'wrong': 1}, 'wrong'),
                          ({'unsent': 6}, 'never sent')):
        missed = [str(goal) for goal in short(judge(**{**good, **changes}))]
        assert len(missed) == 1 and said in missed[0]


def test_every_bench_gives_its_exit_status():
    for path in _all.benches():
        text = path.read_text()
        assert text.rstrip().endswith("if __name__ == '__main__':\n    sys.exit(main())"), path
        assert 'return finish(' in text, path


SCRIPTS = {
    'a_crashes.py': 'raise SystemExit("no such thing")',
    'b_short.py': 'import json, pathlib, sys\npathlib.Path(sys.argv[-1]).write_text(json.dumps('
                  '{"judged": True, "goals": [{"name": "late s", "value": 3.0, "bound": 2.0, '
                  '"least": False, "held": False}]}))\nsys.exit(1)',
    'c_skipped.py': 'import sys\nsys.exit(77)',
    'd_holds.py': 'import pathlib, sys\nassert "--seconds" in sys.argv\n'
                  'pathlib.Path(sys.argv[-1]).write_text(\'{"judged": true, "goals": []}\')',
    'e_quick.py': 'import pathlib, sys\n'
                  'pathlib.Path(sys.argv[-1]).write_text(\'{"judged": false, "goals": []}\')',
    '_helper.py': 'raise SystemExit(5)'}


def test_all_benches_run_whatever_failed_before_and_what_fell_short_is_listed(
        tmp_path, monkeypatch, capfd):
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text)
    found = _all.benches(tmp_path)
    monkeypatch.setattr(_all, 'benches', lambda: found)
    assert _all.main(['--seconds', '1']) == FELL_SHORT
    out = capfd.readouterr().out
    assert out[out.index('=== all benches'):].splitlines()[1:] == [
        'a_crashes.py: FAILED, exit status 1', 'b_short.py: fell short',
        '    late s: 3.0, wanted at most 2.0', 'c_skipped.py: skipped', 'd_holds.py: held',
        'e_quick.py: ran, not judged']
    monkeypatch.setattr(_all, 'benches', lambda: found[2:])
    assert _all.main(['--seconds', '1']) == HELD
    assert SKIPPED not in (HELD, FELL_SHORT)
