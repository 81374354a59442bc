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

from hp_inference.folder import Folder
from hp_inference.nodes import qos
from hp_inference.nodes.convert import table_from_msg, table_to_msg
from hp_inference.nodes.neighbours import Neighbours
from hp_inference.runtime.liveness import Backoff
from hp_inference.runtime.meters import BadPower, NO_POWER, Power
from hp_inference.runtime.switching import BadBandwidth, MOST_BYTES_PER_S, Pick, Switching
from hp_inference.split.curves import Curve, read_curves
from hp_inference.split.errors import PlanError
from hp_inference.split.plan import make_plan
from hp_inference.split.record_json import Part
from hp_inference.split.source import assemble, is_file, of_file
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import MAX_JSON_BYTES
from hp_inference.text import line, NAME, why
from hp_msgs.msg import Bandwidth
from hp_msgs.msg import PlanTable as PlanTableMsg

if TYPE_CHECKING:
    from hp_inference.nodes.robot_node import RobotNode


SWITCHING = {'force_plan': 'force', 'hold': 'hold', 'bandwidth_mbit_s': 'fixed_mbit_s'}


class Plans:
    """
    Keeps the plan in force what the parameters and the topics planned_table and bandwidth say.

    A new table, also one in a file, is read and made ready on the node's worker, beside the frames,
    which go on under the table before; it is put in force on the node's thread. Of several the one
    asked for last counts. One that can't be used changes nothing but ``refusal``, which says why
    until one can. Files lie in the folder that plans_dir names.
    """

    def __init__(self, node: RobotNode):
        self._node = node
        self._newest: object = None  # stands for the table that was asked for last
        self._asked = False  # by parameters, and it is not ready yet
        self._planned: PlanTable | None = None
        self._record_power = NO_POWER
        self._refusals: dict[str, str] = {}
        self._folder = Folder(node.params.plans_dir)
        self._again = Backoff()
        self.switching = Switching(self._on_switch)
        node.params.check('plan', self._check_plan)
        node.params.check('force_plan', self._check_forced)
        node.params.check('codec', self._check_codec)
        node.params.on_change(self._on_change)
        node.create_service(SetBool, '~/hold', self._on_hold)

    def given(self) -> PlanTable:
        """Return the table that the parameters describe, its files read; raises PlanError."""
        params = self._node.params
        return assemble(self._node.layout, params.plan, params.plans, params.codec,
                        lambda name: self._folder.read_text(name, MAX_JSON_BYTES))

    def open(self) -> None:
        """Open the topics of a node that has its engine."""
        node = self._node
        self._tables = node.topics.advertise(PlanTableMsg, 'plan_table', qos.LATCHED)
        self._name = node.topics.advertise(String, '~/plan', qos.LATCHED)
        self._set_switching()
        self.switching.named = node.params.plan
        self._look_for_forced(node.engine.table)
        node.engine.use(node.engine.table, self._pick(node.engine.table).index)
        node.topics.listen(PlanTableMsg, 'planned_table', self._on_planned, qos.LATCHED)
        bandwidth = node.topics.listen(Bandwidth, 'bandwidth', self._on_bandwidth, qos.METRICS)
        self._monitors = Neighbours(node, bandwidth.topic_name, 'publisher',
                                    'The least bandwidth counts; stop all but one')

    def forget(self) -> None:
        """Be as at first; the topics are gone with the node's others."""
        self._newest, self._asked, self._planned = None, False, None
        self._record_power, self._refusals = NO_POWER, {}
        self._again = Backoff()
        self.switching = Switching(self._on_switch)

    @property
    def refusal(self) -> str:
        """Why what was asked for last, by a planner or by parameters, is not in force; or ''."""
        return '; '.join(self._refusals.values())

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
        self._announce_table()
        self._name.publish(String(data=self.name))

    def heard(self) -> None:
        """Note that the server holds the table in force."""
        self._again.heard()

    def insist(self) -> None:
        """Publish the table again where the server does not hold it; ever more rarely."""
        if self._again.due:
            self._announce_table()

    def _announce_table(self) -> None:
        self._again.said()
        self._tables.publish(table_to_msg(self._node.engine.table))

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
        """Refuse what is seen to be wrong at once; what is in a file is seen by the worker."""
        engine = self._node.engine
        # The plans of a planned table have names that nothing can be made from.
        if engine and engine.table.index(plan) is not None:
            return
        if is_file(plan):
            of_file(plan, self._folder.check_read)
        elif engine:
            make_plan(plan, self._node.layout, self._node.params.codec)

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
        params = self._node.params
        if self._node.engine and self._node.engine.table is not self._planned:
            for plan in (params.plan, *params.plans):
                if not is_file(plan):
                    make_plan(plan, self._node.layout, codec)

    def _on_change(self, values: dict) -> None:
        if self._node.engine is None or not {*SWITCHING, 'plan', 'codec'} & set(values):
            return
        self._set_switching()
        table, reason = self._node.engine.table, f'parameter {", ".join(values)} set'
        # In a planned table the codecs are part of what was planned.
        if (('plan' in values and (self._asked or table.index(values['plan']) is None))
                or ('codec' in values and (self._asked or table is not self._planned))):
            self._make_ready(self.given, partial(self._adopt_given, reason))
            self._asked = True
        else:
            if 'plan' in values:
                self._refusals.pop('given', None)
            self._use(table, reason)

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

    def _adopt_given(self, reason: str, table: PlanTable | Exception) -> None:
        self._asked = False
        if isinstance(table, Exception):
            self._refuse('given', f'{reason}, which changes nothing', table)
        else:
            self._refusals.pop('given', None)
            self._use(table, reason)

    def _adopt_planned(self, table: PlanTable | Exception) -> None:
        if isinstance(table, Exception):
            self._refuse('planned', 'planned table refused', table)
            return
        self._refusals, self._planned = {}, table
        self._use(table, f'planned table {table.digest.hex()[:12]} of {len(table.plans)} plans')

    def _refuse(self, who: str, what: str, error: Exception) -> None:
        self._refusals[who] = f'{what}: {why(error)}'
        self._node.get_logger().error(self._refusals[who])

    def _use(self, table: PlanTable, reason: str) -> None:
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
            f'plan {before} {change}: {reason}; {pick.why}')
        if new:
            self._announce_table()
        self._name.publish(String(data=self.name))

    def _on_switch(self, table: PlanTable, before: int, pick: Pick) -> None:
        """Say that the next frame runs under another plan; on the frames' thread."""
        self._node.aside(self._say_switch, table, before, pick)

    def _say_switch(self, table: PlanTable, before: int, pick: Pick) -> None:
        name = table.plans[pick.index].name
        self._node.get_logger().info(f'plan {table.plans[before].name} -> {name}: {pick.why}')
        if rclpy.ok():
            self._name.publish(String(data=name))

    def _on_bandwidth(self, msg: Bandwidth) -> None:
        low, now = msg.low_bytes_per_s, msg.bytes_per_s
        known = 0 < low <= now <= MOST_BYTES_PER_S  # 0 is also what a publisher leaves unset
        try:
            self.switching.hear(low if known else now, msg.age_s, line(msg.source, NAME))
        except BadBandwidth as error:
            self._node.get_logger().warning(f'topic bandwidth: {error}',
                                            throttle_duration_sec=2.0)

    def look(self) -> None:
        """Look how many say what the link carries."""
        self._monitors.look()
        self.switching.several = self._monitors.count > 1

    @property
    def trouble(self) -> str:
        """What there is to say of those who publish the bandwidth, '' where it is one."""
        return self._monitors.text

    def _on_hold(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        result = self._node.set_parameters([Parameter('hold', value=request.data)])[0]
        response.success, response.message = result.successful, result.reason
        if result.successful and self._node.engine:
            response.message = f'plan {self.name} ' + (
                'is held' if request.data else 'is in force; the bandwidth decides from now on')
        return response


def _known(record: Part) -> tuple[dict[str, Curve], bool, Power]:
    """Return what a table's record predicts, if it is for least latency, and for what watts."""
    part = record.part('power')
    try:
        power = Power(**part.data)
    except TypeError as error:
        raise BadPower(f'{part.where}: {error}') from error
    return read_curves(record), record.data.get('objective') == 'latency', power
