# SPDX-License-Identifier: Apache-2.0
"""A plan table's file, read without its model: enough for traces and pictures, not to run it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hp_inference import files
from hp_inference.split.errors import PlanError, shown
from hp_inference.split.record_json import Part, RecordError
from hp_inference.split.table_json import (
    check_format,
    checked_choices,
    Choice,
    MAX_JSON_BYTES,
    MAX_PLANS,
    read_choices,
    read_object,
)
from hp_inference.text import line
from hp_planner.report.record import at_or_below, Record

#: What the table itself is called among the baselines.
TABLE = 'table'
_LABELS = {TABLE: 'plan table', 'full_offload': 'full offload, uint8',
           'full_offload_jpeg': 'full offload, JPEG', 'whole_switch': 'whole-model switch',
           'layer_cut': 'best layer cut'}


def label(approach: str) -> str:
    """Return what people call the table or a baseline."""
    return _LABELS.get(approach, approach.replace('_', ' '))


@dataclass(frozen=True)
class TableFile:
    """
    A table: ``plans`` and ``graph`` as JSON, ``rows`` per value of the graph (1: whole).

    ``choices`` and ``record`` agree with the plans: each plan has its curve.
    """

    model: str
    plans: tuple[dict, ...]
    graph: dict = field(repr=False)
    rows: tuple[int, ...]
    choices: tuple[Choice, ...]
    record: Record = field(repr=False)

    @property
    def names(self) -> list[str]:
        """The plans' names, by index."""
        return [plan['name'] for plan in self.plans]

    @property
    def approaches(self) -> tuple[str, ...]:
        """What can be compared: the table and every baseline of its record."""
        return TABLE, *self.record.baselines

    def plan_at(self, approach: str, mbit_s: float) -> str:
        """Return the name of the plan that the table, or a baseline, puts in force at a rate."""
        return self.plans_at(approach, np.array([mbit_s]))[0]

    def plans_at(self, approach: str, mbit_s: np.ndarray) -> list[str]:
        """
        Return the names of the plans that the table, or a baseline, puts in force at some rates.

        Below the first choice, or the grid, and for what is no bandwidth, it is robot_only.
        """
        if approach != TABLE:
            return self.record.baselines_at(approach, mbit_s)
        return at_or_below([choice.mbit_s for choice in self.choices],
                           [self.plans[choice.plan]['name'] for choice in self.choices], mbit_s)

    def figure(self, approach: str, mbit_s: np.ndarray, figure: str) -> np.ndarray:
        """Return a figure of the table or a baseline, per rate, under the plan in force there."""
        plans = np.array(self.plans_at(approach, np.asarray(mbit_s, float)))
        made = np.empty(len(plans))
        for plan in set(plans):
            here = plans == plan
            made[here] = self.record.curves[str(plan)].at(mbit_s[here], figure)
        return made

    def share(self, plan: str, value: int) -> float:
        """Return which part of a value's rows the robot computes under a plan, 0 to 1."""
        return self.plans[self.names.index(plan)]['robot'][value] / self.rows[value]


def read_table_file(path: str | Path) -> TableFile:
    """Return the table in a file; raises PlanError, RecordError where its record is no good."""
    try:
        return _table(read_object(files.read_text(path, MAX_JSON_BYTES)))
    except files.FileError as error:
        raise PlanError(f'plan table: {error}') from error
    except RecordError as error:
        raise RecordError(f'plan table {line(path)}: {error}') from error
    except PlanError as error:
        raise PlanError(f'plan table {line(path)}: {error}') from error


def _table(data: dict) -> TableFile:
    if 'plans' not in data:
        raise PlanError('it is no plan table, there are no "plans" in it')
    check_format(data)
    top = Part(data, 'the table')
    rows = _rows(top)
    plans = top.parts('plans')
    if not 0 < len(plans) <= MAX_PLANS:
        raise PlanError(f'a table holds 1 to {MAX_PLANS} plans, got {len(plans)}')
    names = [plan.get('name', str) for plan in plans]
    for plan in plans:
        shares = plan.places('robot')
        if len(shares) != len(rows) or any(share > most for share, most in zip(shares, rows)):
            raise PlanError(f'plan {shown(plan.data["name"])} does not fit the graph of the table: '
                            f'expected {len(rows)} robot shares, each up to its rows')
    choices = checked_choices(read_choices(data), names)
    if not choices or data.get('record') is None:
        raise RecordError('it has no choices or no record of what planning found: it was not made '
                          'by hp plan, which writes both')
    record = Record.from_json(data['record'])
    _check_names(record, names)
    wrong = [value for value in record.depth if value >= len(rows)]
    if wrong:
        raise RecordError(f'"depth" of the record holds value {wrong[0]}, the graph has '
                          f'{len(rows)} values')
    return TableFile(top.get('model', str), tuple(plan.data for plan in plans), data['graph'], rows,
                     choices, record)


def _check_names(record: Record, names: list[str]) -> None:
    """Refuse a record that lacks one of the table's plans, or says it used another."""
    lacking = [name for name in names if name not in record.curves]
    if lacking:
        raise RecordError(f'the record has no curve of plan {shown(lacking[0])}: it is the record '
                          'of another table')
    foreign = [point.plan for point in record.points if point.plan not in names]
    if foreign:
        raise RecordError(f'the record has chosen plan {shown(foreign[0])}, which is not in the '
                          'table')


def _rows(top: Part) -> tuple[int, ...]:
    """Return the number of rows of every value: its size along its row axis, 1 without one."""
    values, axes = top.part('graph').parts('values'), top.get('axes', list)
    if len(axes) != len(values):
        raise PlanError(f'it has {len(axes)} row axes for {len(values)} values')
    rows = []
    for value, axis in zip(values, axes):
        shape = value.places('shape')
        if axis is not None and (type(axis) is not int or not 0 <= axis < len(shape)
                                 or shape[axis] == 0):
            raise PlanError(f'{value.where} has shape {shown(shape)} and row axis {shown(axis)}')
        rows.append(1 if axis is None else shape[axis])
    return tuple(rows)
