# SPDX-License-Identifier: Apache-2.0
"""Plans as people name them: by constructor, or in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from hp_inference import files
from hp_inference.graph.layout import Layout
from hp_inference.split.plan import DEFAULT_CODEC, make_plan, Plan, PlanError
from hp_inference.split.table import Choice, MAX_JSON_BYTES, PlanTable
from hp_inference.text import line

Made = TypeVar('Made')


def is_file(text: str) -> bool:
    """Tell whether a plan is named by a file."""
    return text.endswith('.json') or '/' in text


def of_file(name: str, use: Callable[[str], Made]) -> Made:
    """Return what ``use`` gives for a plan file's name; what it raises becomes a PlanError."""
    try:
        return use(name)
    except files.FileError as error:
        gone = isinstance(error.__cause__, FileNotFoundError)
        why = 'there is no such file' if gone else error.why
        raise PlanError(f'plan file {line(name)}: {why}') from error
    except PlanError as error:
        raise PlanError(f'plan file {line(name)}: {error}') from error


def read_file(name: str) -> str:
    """Return the text of a plan file, wherever it is; raises FileError."""
    return files.read_text(name, MAX_JSON_BYTES)


def read_plans(text: str, layout: Layout, codec: str = DEFAULT_CODEC) -> list[Plan]:
    """
    Return the plans that ``text`` names: a constructor (one plan), or a plan or table file.

    Raises PlanError.
    """
    return _read(text, layout, codec, read_file)[0]


def _read(text: str, layout: Layout, codec: str,
          read: Callable[[str], str]) -> tuple[list[Plan], Sequence[Choice], dict | None]:
    """Return the plans that ``text`` names; of a table also the choices and the record."""
    if not is_file(text):
        return [make_plan(text, layout, codec)], (), None
    table = of_file(text, lambda name: PlanTable.loads(read(name), layout))
    return list(table.plans), table.choices, table.record


def assemble(layout: Layout, first: str, others: Sequence[str] = (),
             codec: str = DEFAULT_CODEC, read: Callable[[str], str] = read_file) -> PlanTable:
    """
    Return the table of the plans that ``first`` names, then ``others``; each name once.

    The plan at index 0 is the one meant to be in force. Where ``first`` is a table file its
    choices and its record hold in the new table. ``read`` returns the text of a file, or raises
    FileError. Raises PlanError.
    """
    # A table with choices has each name once, so its indices are those of the new table too.
    named, choices, record = _read(first, layout, codec, read)
    plans: dict[str, Plan] = {}
    for plan in (*named, *(plan for text in others
                           for plan in _read(text, layout, codec, read)[0])):
        plans.setdefault(plan.name, plan)
    return PlanTable(layout, list(plans.values()), choices, record)
