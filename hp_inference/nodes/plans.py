# SPDX-License-Identifier: Apache-2.0
"""Which plan a robot runs: from its parameters, or from a planner's table and the bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import rclpy
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import SetBool

from hp_inference.nodes import qos
from hp_inference.nodes.convert import table_from_msg, table_to_msg
from hp_inference.runtime.meters import BadPower, NO_POWER, Power
from hp_inference.runtime.switching import BadBandwidth, MOST_BYTES_PER_S, Pick, Switching
from hp_inference.split.curves import Curve, read_curves
from hp_inference.split.errors import PlanError
from hp_inference.split.record_json import Part
from hp_inference.split.source import assemble
from hp_inference.split.table import PlanTable
from hp_msgs.msg import Bandwidth
from hp_msgs.msg import PlanTable as PlanTableMsg

if TYPE_CHECKING:
    from hp_inference.nodes.robot_node import RobotNode


SWITCHING = {'force_plan': 'force', 'hold': 'hold', 'bandwidth_mbit_s': 'fixed_mbit_s'}


class Plans:
    """
    Keeps the plan in force what the parameters and the topics planned_table and bandwidth say.

    A new table is read and made ready on the node's worker, beside the frames, which go on under
    the table before; it is put in force on the node's thread. Of several the one asked for last
    counts. A planned one that can't be used changes nothing but ``refusal``, which says why until
    one can.
    """

    def __init__(self, node: RobotNode):
        self._node = node
        self._newest: object = None  # stands for the table that was asked for last
        self._asked = False  # by parameters, and it is not ready yet
        self._planned: PlanTable | None = None
        self._record_power = NO_POWER
        self.refusal = ''
        self.switching = Switching(self._on_switch)
        node.params.check('plan', self._check_plan)
        node.params.check('force_plan', self._check_forced)
        node.params.check('codec', self._check_codec)
        node.params.on_change(self._on_change)
        node.create_service(SetBool, '~/hold', self._on_hold)

    def given(self, **changes: str) -> PlanTable:
        """Return the table that the parameters describe, ``changes`` made; raises PlanError."""
        params = self._node.params
        named = {'plan': params.plan, 'codec': params.codec, **changes}
        return assemble(self._node.layout, named['plan'], params.plans, named['codec'])

    def open(self) -> None:
        """Open the topics of a node that has its engine."""
        node = self._node
        self._tables = node.advertise(PlanTableMsg, 'plan_table', qos.LATCHED)
        self._name = node.advertise(String, '~/plan', qos.LATCHED)
        self._set_switching()
        self.switching.named = node.params.plan
        self._look_for_forced(node.engine.table)
        node.engine.use(node.engine.table, self._pick(node.engine.table).index)
        node.listen(PlanTableMsg, 'planned_table', self._on_planned, qos.LATCHED)
        self._bandwidth = node.listen(Bandwidth, 'bandwidth', self._on_bandwidth, qos.METRICS)

    def forget(self) -> None:
        """Be as at first; the topics are gone with the node's others."""
        self._newest, self._asked, self._planned = None, False, None
        self._record_power, self.refusal = NO_POWER, ''
        self.switching = Switching(self._on_switch)

    @property
    def power(self) -> Power:
        """The watts of the robot's board: the parameters' where they are not 0, or planning's."""
        states = [f'{state}_w' for state in ('waiting', 'communicating', 'computing')]
        given = {state: getattr(self._node.params, f'power.{state}') for state in states}
        if not any(given.values()):
            return self._record_power
        return Power(*(given[state] or getattr(self._record_power, state) for state in states))

    def announce(self) -> None:
        """Publish the table and the name of the plan in force."""
        self._tables.publish(table_to_msg(self._node.engine.table))
        self._name.publish(String(data=self.name))

    @property
    def name(self) -> str:
        """The name of the plan in force."""
        engine = self._node.engine
        return engine.table.plans[engine.index].name

    def _pick(self, table: PlanTable) -> Pick:
        """Return the plan that a table goes on, or begins, with."""
        engine = self._node.engine
        same = engine.index if table is engine.table else table.index(self.name)
        return self.switching.choose(table, same or 0)

    def _set_switching(self) -> None:
        for name, attribute in SWITCHING.items():
            setattr(self.switching, attribute, getattr(self._node.params, name))

    def learn(self, table: PlanTable) -> None:
        """Keep what planning knew of a table; running and serving it take none of that."""
        record, table.record = table.record, None
        curves, least_latency, self._record_power = {}, False, NO_POWER
        try:
            if record is not None:
                curves, least_latency, self._record_power = _known(Part(record, 'the record'))
        except (PlanError, BadPower) as error:
            self._node.get_logger().warning(
                f'the plan table works, but says nothing about what to expect: {error}')
        self.switching.expect(table, curves, least_latency)
        self._node.count_energy()

    def _check_plan(self, plan: str) -> None:
        # The plans of a planned table have names that nothing can be made from.
        if self._node.engine and self._node.engine.table.index(plan) is None:
            self.given(plan=plan)

    def _check_forced(self, name: str) -> None:
        if name and self._node.engine and self._node.engine.table.index(name) is None:
            names = ', '.join(plan.name for plan in self._node.engine.table.plans[:20])
            raise ValueError(f"parameter 'force_plan' is {name!r}, expected the name of a plan of "
                             f'the table in force: {names}')

    def _look_for_forced(self, table: PlanTable) -> None:
        """Say so where a table lacks the plan that is forced: others run then."""
        if self.switching.force and table.index(self.switching.force) is None:
            self._node.get_logger().warning(
                f"parameter 'force_plan' is {self.switching.force!r}, which is no plan of the "
                'table in force: it has no effect there')

    def _check_codec(self, codec: str) -> None:
        if self._node.engine and self._node.engine.table is not self._planned:
            self.given(codec=codec)

    def _on_change(self, values: dict) -> None:
        if self._node.engine is None or not {*SWITCHING, 'plan', 'codec'} & set(values):
            return
        self._set_switching()
        table, why = self._node.engine.table, f'parameter {", ".join(values)} set'
        # In a planned table the codecs are part of what was planned.
        if (('plan' in values and (self._asked or table.index(values['plan']) is None))
                or ('codec' in values and (self._asked or table is not self._planned))):
            self._make_ready(self.given, partial(self._adopt_given, why))
            self._asked = True
        else:
            self._use(table, why)

    def _on_planned(self, msg: PlanTableMsg) -> None:
        self._make_ready(lambda: self._node.intake.table(*table_from_msg(msg)),
                         self._adopt_planned)

    def _make_ready(self, make: Callable[[], PlanTable],
                    adopt: Callable[[PlanTable | Exception], None]) -> None:
        asked, self._asked = object(), False
        self._newest = asked

        def ready() -> tuple[PlanTable, object] | None:
            if asked is not self._newest:
                return None
            table = make()
            # Held until it is in force: what is ready is forgotten with it.
            return table, self._node.engine.prepare(table)

        def then(made: tuple[PlanTable, object] | Exception | None) -> None:
            if made is not None and asked is self._newest:
                adopt(made if isinstance(made, Exception) else made[0])
        self._node.worker.submit(ready, then)

    def _adopt_given(self, why: str, table: PlanTable | Exception) -> None:
        self._asked = False
        if isinstance(table, Exception):  # what was checked has changed since
            self._node.get_logger().error(f'{why}, which changes nothing: {table}')
        else:
            self._use(table, why)

    def _adopt_planned(self, table: PlanTable | Exception) -> None:
        if isinstance(table, Exception):
            self.refusal = f'planned table refused: {str(table) or type(table).__name__}'
            self._node.get_logger().error(self.refusal)
            return
        self.refusal, self._planned = '', table
        self._use(table, f'planned table {table.digest.hex()[:12]} of {len(table.plans)} plans')

    def _use(self, table: PlanTable, why: str) -> None:
        engine, before = self._node.engine, self.name
        new = table is not engine.table
        # Not before its table is in force: the one before would fall back on its first plan.
        self.switching.named = self._node.params.plan
        if new:
            self.learn(table)
            self._look_for_forced(table)
        pick = self._pick(table)
        engine.use(table, pick.index)
        change = 'stays' if self.name == before else f'-> {self.name}'
        self._node.get_logger().info(
            f'plan {before} {change}: {why}; {pick.why}')
        if new:
            self._tables.publish(table_to_msg(table))
        self._name.publish(String(data=self.name))

    def _on_switch(self, table: PlanTable, before: int, pick: Pick) -> None:
        """Say that the next frame runs under another plan; on the frames' thread."""
        name = table.plans[pick.index].name
        self._node.get_logger().info(f'plan {table.plans[before].name} -> {name}: {pick.why}')
        if rclpy.ok():
            self._name.publish(String(data=name))

    def _on_bandwidth(self, msg: Bandwidth) -> None:
        low, now = msg.low_bytes_per_s, msg.bytes_per_s
        known = 0 < low <= now <= MOST_BYTES_PER_S  # 0 is also what a publisher leaves unset
        try:
            self.switching.hear(low if known else now, msg.age_s, msg.source[:100])
        except BadBandwidth as error:
            self._node.get_logger().warning(f'topic bandwidth: {error}',
                                            throttle_duration_sec=2.0)

    def look(self) -> None:
        """Look how many say what the link carries."""
        publishers = self._node.count_publishers(self._bandwidth.topic_name)
        if publishers > 1 and not self.switching.several:
            self._node.get_logger().warning(
                f'{publishers} publishers on {self._bandwidth.topic_name}: the least bandwidth '
                'counts; stop all but one')
        self.switching.several = publishers > 1

    def _on_hold(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self._node.set_parameters([Parameter('hold', value=request.data)])[0]
        response.success, response.message = result.successful, result.reason
        if result.successful and self._node.engine:
            response.message = f'plan {self.name} ' + (
                'is held' if request.data else 'is in force; the bandwidth decides from now on')
        return response


def _known(record: Part) -> tuple[dict[str, Curve], bool, Power]:
    """Return what a table's record predicts, if it is for least latency, and for what watts."""
    power = record.part('power')
    return read_curves(record), record.data.get('objective') == 'latency', Power(**power.data)
