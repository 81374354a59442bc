# SPDX-License-Identifier: Apache-2.0
"""Plans for the two hosts of the lab: ours and what people use instead, in one table."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hp_inference.graph.layout import Layout
from hp_inference.split.plan import Plan
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import Choice
from hp_planner.loss.grid import plan_table
from hp_planner.loss.objective import Objective
from hp_planner.profile.device import DeviceProfile
from hp_planner.timeline.setting import LinkModel, Setting
from hp_planner.timeline.timeline import Timeline

#: Of a link's bits those of TCP/IP and Ethernet frames are no payload: 1448 of 1514 bytes are.
PAYLOAD = 0.95
POLICIES = ('exact', 'lossy')
#: Baselines that an exact answer may be compared with; the others send a JPEG.
EXACT = ('robot_only', 'full_offload', 'whole_switch', 'layer_cut', 'minimum_cut')
ALL = (*EXACT, 'full_offload_jpeg')


@dataclass(frozen=True)
class Rivals:
    """
    What competes.

    ``table``: every plan once, without choices. ``plans[mbit_s][system]``: the name of the plan
    that a system uses at a rate of the link; ours are 'exact' and 'lossy'. ``predicted_s``: by
    rate and name of the plan. ``live[system]``: a table of its own that switches live.
    """

    table: PlanTable
    plans: dict[float, dict[str, str]]
    predicted_s: dict[float, dict[str, float]]
    live: dict[str, PlanTable]


def rivals(layout: Layout, robot: DeviceProfile, server: DeviceProfile, link: LinkModel,
           mbit_s: list[float], swing: float = 0.0) -> Rivals:
    """Plan for links of these rates under both policies."""
    timeline = Timeline(Setting(layout, robot, server, link))
    every: dict[str, Plan] = {}
    names: dict[float, dict[str, str]] = {rate: {} for rate in mbit_s}
    live = {}

    def enter(plan: Plan) -> str:
        for name, known in every.items():
            if replace(plan, name=name) == known:
                return name
        name = plan.name
        while name in every:
            name += "'"
        every[name] = replace(plan, name=name)
        return name
    for policy in POLICIES:
        table = plan_table(timeline, Objective('latency'), [PAYLOAD * rate for rate in mbit_s],
                           policy, swing=swing)
        record = table.record
        plans = {plan.name: plan for plan in table.plans}
        plans |= {data['name']: Plan.from_json(data, layout) for data in record['others']}
        for rate in mbit_s:
            names[rate][policy] = enter(table.plans[table.choose(PAYLOAD * rate)])
            place = min(range(len(record['grid'])),
                        key=lambda i: abs(record['grid'][i] - PAYLOAD * rate))
            for system in ALL if policy == 'lossy' else EXACT:
                names[rate][system] = enter(plans[record['baselines'][system][place]])
        live[policy] = table
        if policy == 'lossy':
            live |= {system: _live(layout, plans, record['baselines'][system], record['grid'])
                     for system in ALL}
    predicted = {rate: {name: timeline.predict(every[name], PAYLOAD * rate).latency_s
                        for name in set(used.values())} for rate, used in names.items()}
    return Rivals(PlanTable(layout, list(every.values())), names, predicted, live)


def _live(layout: Layout, plans: dict[str, Plan], used: list[str],
          grid: list[float]) -> PlanTable:
    """Return the table of a baseline that looks at the bandwidth."""
    kept = list(dict.fromkeys(['robot_only', *used]))
    choices = [Choice(rate, kept.index(name)) for i, (rate, name) in enumerate(zip(grid, used))
               if not i or name != used[i - 1]]
    return PlanTable(layout, [plans[name] for name in kept], choices)
