# SPDX-License-Identifier: Apache-2.0
"""The executors of one side, ready before the first frame that needs them."""

from __future__ import annotations

import weakref

from hp_inference.graph.ir import canonical
from hp_inference.graph.layout import Layout
from hp_inference.runtime.executor import Executor
from hp_inference.split.table import PlanTable


class Prepared:
    """
    Makes the executors of plan tables, one side's, warmed up.

    A plan that is in another table too has one executor, for as long as somebody holds it.
    """

    def __init__(self, layout: Layout, side: int):
        self.layout, self.side = layout, side
        self._plans: weakref.WeakValueDictionary[bytes, Executor] = weakref.WeakValueDictionary()

    def prepare(self, table: PlanTable) -> list[Executor]:
        """
        Return a table's executors by plan index.

        Takes its time (a frame's time per new plan, more for the first); may run beside frames.
        """
        executors = []
        for plan, programs in zip(table.plans, table.programs):
            key = canonical(plan.to_json())
            executor = self._plans.get(key)
            if executor is None:
                executor = self._plans[key] = Executor(self.layout, programs[self.side])
                executor.warm_up()
            executors.append(executor)
        return executors
