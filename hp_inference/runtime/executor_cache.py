# SPDX-License-Identifier: Apache-2.0
"""The executors of one side, ready before the first frame that needs them."""

from __future__ import annotations

from collections.abc import Callable
import threading
import weakref

from hp_inference.graph.ir import canonical
from hp_inference.graph.layout import Layout
from hp_inference.runtime.executor import Executor
from hp_inference.split.plan import Plan
from hp_inference.split.program import Program
from hp_inference.split.table import PlanTable


class ExecutorCache:
    """
    Makes the executors of plan tables, one side's, warmed up.

    A plan that is in another table too has one executor, for as long as somebody holds it. Any
    thread may ask, one waits for the other.
    """

    def __init__(self, layout: Layout, side: int):
        self.layout, self.side = layout, side
        self._plans: weakref.WeakValueDictionary[bytes, Executor] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def prepare(self, table: PlanTable,
                check: Callable[[], None] = lambda: None) -> list[Executor]:
        """
        Return a table's executors by plan index.

        Takes its time (a frame's time per new plan, more for the first); may run beside frames.
        ``check`` is called before each plan and may raise to give it up.
        """
        executors = []
        for plan, programs in zip(table.plans, table.programs):
            check()
            executors.append(self.executor(plan, programs))
        return executors

    def executor(self, plan: Plan, programs: tuple[Program, Program]) -> Executor:
        """Return the executor of one plan."""
        key = canonical(plan.to_json())
        with self._lock:
            executor = self._plans.get(key)
            if executor is None:
                executor = Executor(self.layout, programs[self.side])
                executor.warm_up()
                self._plans[key] = executor
        return executor
