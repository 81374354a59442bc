# SPDX-License-Identifier: Apache-2.0
"""Which plan a robot runs: from its parameters, or from a planner's table and the bandwidth."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from std_msgs.msg import String

from hp_inference.nodes import qos
from hp_inference.nodes.convert import table_from_msg, table_to_msg
from hp_inference.split.source import assemble
from hp_inference.split.table import PlanTable
from hp_msgs.msg import PlanTable as PlanTableMsg

if TYPE_CHECKING:
    from hp_inference.nodes.robot_node import RobotNode


def plan_in_force(table: PlanTable, plan: str, mbit_s: float) -> int:
    """
    Return the index of the plan that a robot runs.

    It is what the table chooses at a bandwidth in Mbit/s, where it has choices and the bandwidth
    is known (above 0); else the plan of this name; else, without one, the first.
    """
    chosen = table.choose(mbit_s) if mbit_s > 0 else None
    return (table.index(plan) or 0) if chosen is None else chosen


class Plans:
    """
    Keeps the plan in force what the parameters and the topic planned_table say.

    A planned table is read and made ready on the node's worker, beside the frames, which go on
    under the table before; it is put in force on the node's thread. One that can't be used changes
    nothing but ``refusal``, which says why until one can.
    """

    def __init__(self, node: RobotNode):
        self._node = node
        self._newest: PlanTableMsg | None = None
        self._planned: PlanTable | None = None
        self.refusal = ''
        node.params.check('plan', self._check_plan)
        node.params.check('codec', self._check_codec)
        node.params.on_change(self._on_change)

    def given(self, **changes: str) -> PlanTable:
        """Return the table that the parameters describe, ``changes`` made; raises PlanError."""
        params = self._node.params
        named = {'plan': params.plan, 'codec': params.codec, **changes}
        return assemble(self._node.layout, named['plan'], params.plans, named['codec'])

    def open(self) -> None:
        """Open the topics of a node that has its engine."""
        node = self._node
        node.engine.use(node.engine.table, self._index(node.engine.table))
        self._tables = node.advertise(PlanTableMsg, 'plan_table', qos.LATCHED)
        self._name = node.advertise(String, '~/plan', qos.LATCHED)
        node.listen(PlanTableMsg, 'planned_table', self._on_planned, qos.LATCHED)

    def forget(self) -> None:
        """Be as at first; the topics are gone with the node's others."""
        self._newest = self._planned = None
        self.refusal = ''

    def announce(self) -> None:
        """Publish the table and the name of the plan in force."""
        self._tables.publish(table_to_msg(self._node.engine.table))
        self._name.publish(String(data=self.name))

    @property
    def name(self) -> str:
        """The name of the plan in force."""
        engine = self._node.engine
        return engine.table.plans[engine.index].name

    def _index(self, table: PlanTable) -> int:
        params = self._node.params
        return plan_in_force(table, params.plan, params.bandwidth_mbit_s)

    def _check_plan(self, plan: str) -> None:
        # The plans of a planned table have names that nothing can be made from.
        if self._node.engine and self._node.engine.table.index(plan) is None:
            self.given(plan=plan)

    def _check_codec(self, codec: str) -> None:
        if self._node.engine and self._node.engine.table is not self._planned:
            self.given(codec=codec)

    def _on_change(self, values: dict) -> None:
        if self._node.engine is None or not {'plan', 'codec', 'bandwidth_mbit_s'} & set(values):
            return
        table = self._node.engine.table
        # In a planned table the codecs are part of what was planned.
        if (('plan' in values and table.index(values['plan']) is None)
                or ('codec' in values and table is not self._planned)):
            table = self.given()
        self._use(table, f'parameter {", ".join(values)} set')

    def _on_planned(self, msg: PlanTableMsg) -> None:
        self._newest = msg
        self._node.worker.submit(partial(self._read, msg), partial(self._adopt, msg))

    def _read(self, msg: PlanTableMsg) -> tuple[PlanTable, object] | None:
        if msg is not self._newest:
            return None
        table = table_from_msg(msg, self._node.layout)
        # What planning knew is most of the text, and the server, to which it goes, needs none.
        table.record = None
        return table, self._node.engine.prepare(table)

    def _adopt(self, msg: PlanTableMsg, read: tuple[PlanTable, object] | Exception | None) -> None:
        if read is None or msg is not self._newest:
            return
        if isinstance(read, Exception):
            self.refusal = f'planned table refused: {str(read) or type(read).__name__}'
            self._node.get_logger().error(self.refusal)
            return
        self.refusal, self._planned = '', read[0]
        self._use(read[0], f'planned table {read[0].digest.hex()[:12]} of {len(read[0].plans)} '
                           'plans')

    def _use(self, table: PlanTable, why: str) -> None:
        engine, before = self._node.engine, self.name
        new = table is not engine.table
        engine.use(table, self._index(table))
        mbit_s = self._node.params.bandwidth_mbit_s
        if table.choices and mbit_s > 0:
            why += f'; its choice for {mbit_s:g} Mbit/s'
        change = 'stays' if self.name == before else f'-> {self.name}'
        self._node.get_logger().info(f'plan {before} {change}: {why}')
        if new:
            self._tables.publish(table_to_msg(table))
        self._name.publish(String(data=self.name))
