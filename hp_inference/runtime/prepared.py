# SPDX-License-Identifier: Apache-2.0
"""The executors of one side, ready before the first frame that needs them."""

from __future__ import annotations

from hp_inference.graph.ir import canonical
from hp_inference.graph.layout import Layout
from hp_inference.runtime.executor import Executor
from hp_inference.split.table import PlanTable


class Prepared:
    """
    One warmed-up executor per plan; a plan that comes again in another table keeps its own.

    ``prepare`` takes its time (a frame's time per plan, more for the first) and may run beside
    frames; ``of`` does not wait.
    """

    def __init__(self, layout: Layout, side: int):
        self.layout, self.side = layout, side
        self._tables: dict[bytes, list[Executor]] = {}
        self._plans: dict[bytes, Executor] = {}

    def prepare(self, table: PlanTable, keep: int) -> None:
        """Prepare all plans of a table, and forget all but the ``keep`` latest tables."""
        executors, plans = [], {}
        for plan, programs in zip(table.plans, table.programs):
            key = canonical(plan.to_json())
            executor = self._plans.get(key)
            if executor is None:
                executor = Executor(self.layout, programs[self.side])
                executor.warm_up()
            executors.append(executor)
            plans[key] = executor
        self._plans = plans
        kept = [(digest, held) for digest, held in self._tables.items() if digest != table.digest]
        self._tables = dict([*kept, (table.digest, executors)][-keep:])

    def of(self, table: PlanTable, index: int) -> Executor:
        """Return the executor of a plan of a prepared table; raises KeyError for another."""
        return self._tables[table.digest][index]
