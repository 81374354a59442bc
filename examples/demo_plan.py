# SPDX-License-Identifier: Apache-2.0
"""The plan table of the demo: this machine is measured once, and a few rates are planned for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hp_inference.graph.layout import Layout
from hp_inference.profile.measure import profile
from hp_inference.split.plan import full_offload, robot_only
from hp_inference.split.table import PlanTable
from hp_planner.search.grid import plan_table
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import LinkModel, Setting
from hp_planner.timeline.timeline import Timeline

RATES = (5.0, 20.0, 50.0, 100.0)  # Mbit/s; below the first the robot computes alone
MEASURED_S = 5.0  # a rough profile is enough to see plans change
Progress = Callable[[str, int, int], None]


def plan_here(layout: Layout, slower: float, progress: Progress) -> PlanTable:
    """
    Return a table for this machine as server and one ``slower`` times slower as robot.

    It also holds the plans that the demo compares with, robot_only and full_offload.
    """
    server = profile(layout, seconds=MEASURED_S, progress=progress)
    timeline = Timeline(Setting(layout, server.slowed(slower), server, LinkModel('full')))
    table = plan_table(timeline, Objective('latency'), RATES, progress=progress)
    known = {plan.name for plan in table.plans}
    rest = [plan for plan in (robot_only(layout, codec='none'), full_offload(layout, codec='none'))
            if plan.name not in known]
    return replace(table, plans=[*table.plans, *rest])
