# SPDX-License-Identifier: Apache-2.0
"""Imports point one way: the `hp` command on the planner on hp_inference, and so within these."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ('hp_cli', 'hp_planner', 'hp_inference')
BASE = {'hp_inference'}  # the modules that lie in the package itself: files, text and the like
# What each folder may import besides itself; a module that lies in a package has the package's row.
MAY = {
    'hp_inference': BASE,
    'hp_inference.graph': BASE,
    'hp_inference.link': BASE,
    'hp_inference.split': BASE | {'hp_inference.graph'},
    'hp_inference.runtime': BASE | {'hp_inference.graph', 'hp_inference.link',
                                    'hp_inference.split'},
}
MAY['hp_inference.show'] = MAY['hp_inference.runtime'] | {'hp_inference.runtime'}
MAY['hp_inference.profile'] = MAY['hp_inference.runtime'] | {'hp_inference.runtime'}
MAY['hp_inference.nodes'] = MAY['hp_inference.profile'] | {'hp_inference.profile'}
INFERENCE = {folder for folder in MAY if folder.startswith('hp_inference')}
MAY['hp_planner.timeline'] = INFERENCE - {'hp_inference.nodes', 'hp_inference.show'}
MAY['hp_planner.search'] = MAY['hp_planner.timeline'] | {'hp_planner.timeline'}
MAY['hp_planner.report'] = MAY['hp_planner.timeline'] | {'hp_inference.show'}
MAY['hp_planner'] = INFERENCE | {'hp_planner.timeline', 'hp_planner.search'}
MAY['hp_cli'] = {'hp_cli.commands'} | BASE
MAY['hp_cli.commands'] = INFERENCE - {'hp_inference.nodes'} | {
    'hp_planner.timeline', 'hp_planner.search', 'hp_planner.report'}


def sources():
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob('*.py'))]


def folder_of(name: str) -> str:
    """Return the folder, as a row of MAY, in which the module of a dotted name lies."""
    parts = name.split('.')[:2]
    return '.'.join(parts if (ROOT / '/'.join(parts)).is_dir() else parts[:1])


def imported(tree: ast.AST) -> set[str]:
    """Return the dotted names that a module imports of ours, at any depth of its code."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, 'imports are absolute'
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return {name for name in names if name.split('.')[0] in PACKAGES}


@pytest.mark.parametrize('path', sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_lies_below_it(path):
    tree = ast.parse(path.read_text('utf-8'))
    own = folder_of('.'.join(path.relative_to(ROOT).with_suffix('').parts))
    assert {folder_of(name) for name in imported(tree)} - {own} <= MAY[own]


def test_nothing_of_a_higher_package_is_named_in_a_string_of_a_lower_one():
    for rank, package in enumerate(PACKAGES):
        above = tuple(f'{name}.' for name in PACKAGES[:rank])
        for path in (ROOT / package).rglob('*.py') if above else ():
            for node in ast.walk(ast.parse(path.read_text('utf-8'))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    assert not node.value.startswith(above), f'{path}, line {node.lineno}'


def test_what_may_be_imported_has_no_cycle():
    list(TopologicalSorter({folder: may - {folder} for folder, may in MAY.items()}).static_order())
    assert set(MAY) == {folder_of('.'.join(path.relative_to(ROOT).with_suffix('').parts))
                        for path in sources()}
