# SPDX-License-Identifier: Apache-2.0
"""Plans as people name them: by constructor, or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hp_inference.graph.layout import Layout
from hp_inference.split.plan import DEFAULT_CODEC, make_plan, Plan, PlanError
from hp_inference.split.table import Choice, MAX_JSON_BYTES, PlanTable


def read_plans(text: str, layout: Layout, codec: str = DEFAULT_CODEC) -> list[Plan]:
    """
    Return the plans that ``text`` names: a constructor (one plan), or a plan or table file.

    Raises PlanError.
    """
    return _read(text, layout, codec)[0]


def _read(text: str, layout: Layout,
          codec: str) -> tuple[list[Plan], Sequence[Choice], dict | None]:
    """Return the plans that ``text`` names; of a table also the choices and the record."""
    if not (text.endswith('.json') or '/' in text):
        return [make_plan(text, layout, codec)], (), None
    path = Path(text)
    try:
        if not path.is_file():
            raise PlanError('there is no such file')
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise PlanError(f'it has {size} bytes, at most {MAX_JSON_BYTES} are read')
        table = PlanTable.loads(path.read_text('utf-8'), layout)
        return list(table.plans), table.choices, table.record
    except UnicodeDecodeError as error:
        raise PlanError(f'plan file {text} is not text: {error}') from error
    except (OSError, PlanError) as error:
        raise PlanError(f'plan file {text}: {error}') from error


def assemble(layout: Layout, first: str, others: Sequence[str] = (),
             codec: str = DEFAULT_CODEC) -> PlanTable:
    """
    Return the table of the plans that ``first`` names, then ``others``; each name once.

    The plan at index 0 is the one meant to be in force. Where ``first`` is a table file its
    choices and its record hold in the new table. Raises PlanError.
    """
    # A table with choices has each name once, so its indices are those of the new table too.
    named, choices, record = _read(first, layout, codec)
    plans: dict[str, Plan] = {}
    for plan in (*named, *(plan for text in others for plan in read_plans(text, layout, codec))):
        plans.setdefault(plan.name, plan)
    return PlanTable(layout, list(plans.values()), choices, record)
