# SPDX-License-Identifier: Apache-2.0
"""Plans as people name them: by constructor, or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hp_inference.graph.layout import Layout
from hp_inference.split.plan import DEFAULT_CODEC, make_plan, Plan, PlanError
from hp_inference.split.table import MAX_JSON_BYTES, PlanTable


def read_plans(text: str, layout: Layout, codec: str = DEFAULT_CODEC) -> list[Plan]:
    """
    Return the plans that ``text`` names: a constructor (one plan), or a plan or table file.

    Raises PlanError.
    """
    if not (text.endswith('.json') or '/' in text):
        return [make_plan(text, layout, codec)]
    path = Path(text)
    try:
        if not path.is_file():
            raise PlanError('there is no such file')
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise PlanError(f'it has {size} bytes, at most {MAX_JSON_BYTES} are read')
        return list(PlanTable.loads(path.read_text('utf-8'), layout).plans)
    except UnicodeDecodeError as error:
        raise PlanError(f'plan file {text} is not text: {error}') from error
    except (OSError, PlanError) as error:
        raise PlanError(f'plan file {text}: {error}') from error


def assemble(layout: Layout, first: str, others: Sequence[str] = (),
             codec: str = DEFAULT_CODEC) -> PlanTable:
    """
    Return the table of the plans that ``first`` names, then ``others``; each name once.

    The plan at index 0 is the one meant to be in force. Raises PlanError.
    """
    plans: dict[str, Plan] = {}
    for text in (first, *others):
        for plan in read_plans(text, layout, codec):
            plans.setdefault(plan.name, plan)
    return PlanTable(layout, list(plans.values()))
