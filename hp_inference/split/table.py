# SPDX-License-Identifier: Apache-2.0
"""A plan table: the plans that robot and server both hold, with the graph that they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import hashlib
import json

from hp_inference.graph.ir import canonical
from hp_inference.graph.layout import Layout
from hp_inference.split.plan import Plan, PlanError, shown
from hp_inference.split.program import compile_plan, Program

FORMAT = 1
MAX_JSON_BYTES = 64 << 20
MAX_PLANS = 1024


@dataclass
class PlanTable:
    """
    Plans by index, for one graph.

    ``digest`` (32 bytes) names the table on the wire. Every plan in a table compiles.
    """

    layout: Layout
    plans: Sequence[Plan]
    programs: list[tuple[Program, Program]] = field(init=False, repr=False)
    digest: bytes = field(init=False)

    def __post_init__(self):
        """Compile every plan; raises PlanError for one that is incomplete."""
        if not 0 < len(self.plans) <= MAX_PLANS:
            raise PlanError(f'a table holds 1 to {MAX_PLANS} plans, got {len(self.plans)}')
        self.programs = [compile_plan(self.layout, plan) for plan in self.plans]
        # Not of the model's name, which may be another path on the other side.
        named = {key: item for key, item in self.to_json().items() if key != 'model'}
        self.digest = hashlib.sha256(canonical(named)).digest()

    def index(self, name: str) -> int | None:
        """Return the index of the plan of this name, None when there is none."""
        return next((i for i, plan in enumerate(self.plans) if plan.name == name), None)

    def to_json(self) -> dict:
        """Return the table as JSON data, the graph embedded."""
        return {'format': FORMAT, **describe(self.layout),
                'plans': [plan.to_json() for plan in self.plans]}

    def dumps(self) -> str:
        """Return the table as text, one plan a line."""
        data = self.to_json()
        plans = ',\n  '.join(json.dumps(plan) for plan in data.pop('plans'))
        head = ',\n '.join(f'{json.dumps(key)}: {json.dumps(item)}' for key, item in data.items())
        return f'{{{head},\n "plans": [\n  {plans}]}}\n'

    @classmethod
    def loads(cls, text: str, layout: Layout) -> PlanTable:
        """
        Return the table in ``text`` (a table or a single plan), checked against this side's graph.

        Raises PlanError for what is not a table, a newer format, or another graph.
        """
        if len(text) > MAX_JSON_BYTES:
            raise PlanError(f'the plan table has {len(text)} characters, at most {MAX_JSON_BYTES}')
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f'the plan table is not JSON: {error}') from error
        if not isinstance(data, dict):
            raise PlanError(f'a plan table is a JSON object, got {type(data).__name__}')
        if 'plans' not in data:
            return cls(layout, [Plan.from_json(data, layout)])
        if type(data.get('format')) is not int or data['format'] != FORMAT:
            raise PlanError(f'the plan table has format {shown(data.get("format"))}, this '
                            f'version reads {FORMAT}: run the same version on both sides')
        check_same(data, layout)
        plans = data['plans']
        if not isinstance(plans, list) or len(plans) > MAX_PLANS:
            raise PlanError(f'"plans" is a list of at most {MAX_PLANS} plans')
        return cls(layout, [Plan.from_json(plan, layout) for plan in plans])


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
            f'{str(theirs)[:12]}, '
            f'this side has {graph.model!r} with digest {graph.digest[:12]}: other weights, '
            'another input size or another torch version; give both sides the same weights, or '
            'the same .pt2 file')
    mine = json.loads(canonical(describe(layout)))
    if data.get('graph') != mine['graph'] or data.get('axes') != mine['axes']:
        raise PlanError(f'the plan table numbers the operators of {graph.model!r} differently: '
                        'it was made by another version of hp_inference; run the same version '
                        'on both sides')
