# SPDX-License-Identifier: Apache-2.0
"""A plan table: the plans that robot and server both hold, with the graph that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import hashlib
import json

from hp_inference.graph.ir import canonical
from hp_inference.graph.layout import Layout
from hp_inference.split.errors import PlanError, shown
from hp_inference.split.plan import Plan
from hp_inference.split.program import compile_plan, Program
from hp_inference.split.table_json import (
    check_format,
    checked_choices,
    Choice,
    choose,
    dumps,
    FORMAT,
    MAX_JSON_BYTES,
    MAX_PLANS,
    read_choices,
    read_object,
)
from hp_inference.text import line


@dataclass
class PlanTable:
    """
    Plans by index, for one graph.

    ``choices``: which plan is in force from which bandwidth on, ascending; none for a table whose
    plan somebody else chooses. ``record``: what planning knew, as JSON data that hp_planner/report
    understands; it changes nothing that runs. ``digest`` (32 bytes) names the table on the wire,
    choices included, record not. Every plan in a table compiles.
    """

    layout: Layout
    plans: Sequence[Plan]
    choices: Sequence[Choice] = ()
    record: dict | None = None
    programs: list[tuple[Program, Program]] = field(init=False, repr=False)
    digest: bytes = field(init=False)

    def __post_init__(self):
        """Compile every plan; raises PlanError for one that is incomplete, and bad choices."""
        if not 0 < len(self.plans) <= MAX_PLANS:
            raise PlanError(f'a table holds 1 to {MAX_PLANS} plans, got {len(self.plans)}')
        self.choices = checked_choices(self.choices, self._names())
        self.programs = [compile_plan(self.layout, plan) for plan in self.plans]
        self.digest = self._named()

    @classmethod
    def compiled(cls, layout: Layout, plans: Sequence[Plan], choices: Sequence[Choice],
                 record: dict | None, programs: Sequence[tuple[Program, Program]],
                 digest: bytes) -> PlanTable:
        """Return a table that was checked and compiled elsewhere, by a process of this one."""
        table = cls.__new__(cls)
        table.layout, table.plans, table.choices = layout, list(plans), tuple(choices)
        table.record, table.programs, table.digest = record, list(programs), digest
        return table

    @classmethod
    def checked(cls, data: bytes, layout: Layout) -> PlanTable:
        """
        Return the table in ``data``, all of it checked but that its plans compile.

        Its ``programs`` are empty. Raises PlanError, as ``loads`` does.
        """
        try:
            plans, choices, record = _read(data.decode(), layout)
        except UnicodeDecodeError as error:
            raise PlanError(f'the plan table is not text: {error}') from error
        if not plans:
            raise PlanError(f'a table holds 1 to {MAX_PLANS} plans, got 0')
        names = [plan.name for plan in plans]
        table = cls.compiled(layout, plans, checked_choices(choices, names), record, (), b'')
        table.digest = table._named()
        return table

    def _named(self) -> bytes:
        # Not of the model's name, which may be another path on the other side.
        named = {key: item for key, item in self.to_json().items()
                 if key not in ('model', 'record')}
        return hashlib.sha256(canonical(named)).digest()

    def index(self, name: str) -> int | None:
        """Return the index of the plan of this name, None when there is none."""
        return next((i for i, plan in enumerate(self.plans) if plan.name == name), None)

    def choose(self, mbit_s: float) -> int | None:
        """
        Return the index of the plan for a bandwidth in Mbit/s; None for a table without choices.

        It is the choice at or next below the bandwidth; below the first choice, and for 0 or NaN,
        the plan robot_only.
        """
        return choose(self.choices, self._names(), mbit_s)

    def _names(self) -> list[str]:
        return [plan.name for plan in self.plans]

    def to_json(self) -> dict:
        """Return the table as JSON data, the graph embedded."""
        data = {'format': FORMAT, **describe(self.layout)}
        if self.choices:
            data['choices'] = [choice.to_json() for choice in self.choices]
        data['plans'] = [plan.to_json() for plan in self.plans]
        if self.record is not None:
            data['record'] = self.record
        return data

    def dumps(self) -> str:
        """Return the table as text: one plan, choice or curve of the record a line."""
        return dumps(self.to_json())

    @classmethod
    def loads(cls, text: str, layout: Layout) -> PlanTable:
        """
        Return the table in ``text`` (a table or a single plan), checked against this side's graph.

        Raises PlanError for what is not a table, a newer format, or another graph.
        """
        return cls(layout, *_read(text, layout))


def _read(text: str, layout: Layout) -> tuple[list[Plan], list[Choice], dict | None]:
    """Return the plans of a table as text, its choices, not yet checked, and its record."""
    if len(text) > MAX_JSON_BYTES:
        raise PlanError(f'the plan table has {len(text)} characters, at most {MAX_JSON_BYTES}')
    data = read_object(text)
    if 'plans' not in data:
        return [Plan.from_json(data, layout)], [], None
    check_format(data)
    check_same(data, layout)
    plans = data['plans']
    if not isinstance(plans, list) or len(plans) > MAX_PLANS:
        raise PlanError(f'"plans" is a list of at most {MAX_PLANS} plans')
    record = data.get('record')
    if record is not None and not isinstance(record, dict):
        raise PlanError(f'"record" of a plan table is an object, got {shown(record)}')
    return [Plan.from_json(plan, layout) for plan in plans], read_choices(data), record


def describe(layout: Layout) -> dict:
    """Return what a table says of its graph: the model, its digest, operators and row axes."""
    return {'model': layout.graph.model, 'model_digest': layout.graph.digest,
            'graph': layout.graph.to_json(), 'axes': layout.axes}


def check_same(data: dict, layout: Layout) -> None:
    """Raise PlanError, saying which side has what, unless ``data`` describes this graph."""
    graph = layout.graph
    theirs = data.get('model_digest')
    if theirs != graph.digest:
        raise PlanError(
            f'the plan table is for model {shown(data.get("model"))} with digest '
            f'{line(theirs)[:12]}, '
            f'this side has {graph.model!r} with digest {graph.digest[:12]}: other weights, '
            'another input size or another torch version; give both sides the same weights, or '
            'the same .pt2 file')
    mine = json.loads(canonical(describe(layout)))
    if data.get('graph') != mine['graph'] or data.get('axes') != mine['axes']:
        raise PlanError(f'the plan table numbers the operators of {graph.model!r} differently: '
                        'it was made by another version of hp_inference; run the same version '
                        'on both sides')
