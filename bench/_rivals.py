# SPDX-License-Identifier: Apache-2.0
"""Plans for the two hosts of the lab: ours and what people use instead."""

from __future__ import annotations

from dataclasses import dataclass

from hp_inference.graph.layout import Layout
from hp_inference.profile.device import DeviceProfile
from hp_inference.split.plan import Plan
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import Choice
from hp_planner.search.grid import plan_table
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import LinkModel, Setting
from hp_planner.timeline.timeline import Timeline

#: Of a link's bits those of TCP/IP and Ethernet frames are no payload: 1448 of 1514 bytes are.
PAYLOAD = 0.95
#: Baselines that an exact answer may be compared with; the others send a JPEG.
EXACT = ('robot_only', 'full_offload', 'whole_switch', 'layer_cut', 'minimum_cut')
ALL = (*EXACT, 'full_offload_jpeg')
POLICIES = {'exact': EXACT, 'lossy': ALL}


@dataclass(frozen=True)
class Rivals:
    """
    What competes under a policy.

    ``ours``: our table as it is; ``together``: the same with the plans of the baselines, which
    planning says nothing of there. ``used[mbit_s][system]``: the plan of a baseline at a rate of
    the link; ``predicted_s[mbit_s][plan]``. ``live[system]``: a baseline's own table.
    """

    ours: PlanTable
    together: PlanTable
    used: dict[float, dict[str, str]]
    predicted_s: dict[float, dict[str, float]]
    live: dict[str, PlanTable]


def rivals(layout: Layout, robot: DeviceProfile, server: DeviceProfile, link: LinkModel,
           mbit_s: list[float], policy: str, swing: float = 0.0) -> Rivals:
    """Plan for links of these rates."""
    timeline = Timeline(Setting(layout, robot, server, link))
    ours = plan_table(timeline, Objective('latency'), [PAYLOAD * rate for rate in mbit_s], policy,
                      swing=swing)
    record = ours.record
    plans = {plan.name: plan for plan in ours.plans}
    plans |= {data['name']: Plan.from_json(data, layout) for data in record['others']}
    used = {}
    for rate in mbit_s:
        place = min(range(len(record['grid'])),
                    key=lambda i: abs(record['grid'][i] - PAYLOAD * rate))
        used[rate] = {system: record['baselines'][system][place] for system in POLICIES[policy]}
    needed = {name for names in used.values() for name in names.values()}
    extra = [plans[name] for name in sorted(needed) if ours.index(name) is None]
    known = {**record, 'curves': {plan.name: record['curves'][plan.name] for plan in ours.plans}}
    together = PlanTable(layout, [*ours.plans, *extra], ours.choices, known)
    predicted = {rate: {plan.name: timeline.predict(plan, PAYLOAD * rate).latency_s
                        for plan in together.plans} for rate in mbit_s}
    live = {system: _live(layout, plans, record['baselines'][system], record['grid'])
            for system in POLICIES[policy]}
    return Rivals(ours, together, used, predicted, live)


def _live(layout: Layout, plans: dict[str, Plan], used: list[str],
          grid: list[float]) -> PlanTable:
    """Return the table of a baseline that looks at the bandwidth."""
    kept = list(dict.fromkeys(['robot_only', *used]))
    choices = [Choice(rate, kept.index(name)) for i, (rate, name) in enumerate(zip(grid, used))
               if not i or name != used[i - 1]]
    return PlanTable(layout, [plans[name] for name in kept], choices)
