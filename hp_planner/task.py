# SPDX-License-Identifier: Apache-2.0
"""What planner_node's parameters ask for."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from hp_inference.graph.layout import Layout
from hp_inference.profile.device import DeviceProfile
from hp_inference.runtime.meters import Power
from hp_planner.search.grid import checked_grid, default_grid
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import LinkModel, Setting, SettingError

WATTS = ('waiting_w', 'communicating_w', 'computing_w')


@dataclass(frozen=True)
class Task:
    """
    A planning task without its model and devices.

    ``bandwidths`` in Mbit/s. ``watts``: of the robot by state, where they are not its profile's.
    ``save_to``: a file for the table in plans_dir, '' for none.
    """

    objective: Objective
    bandwidths: list[float]
    policy: str
    seed: int
    link: LinkModel
    watts: dict[str, float]
    save_to: str

    @classmethod
    def of(cls, params) -> Task:
        """Return what parameters (attributes) say; SettingError where they do not agree."""
        name, bound_s = params.objective, params.latency_bound_ms / 1e3
        if name == 'energy_under_latency' and not bound_s:
            raise SettingError("parameter 'objective' is 'energy_under_latency', which needs "
                               "'latency_bound_ms' above 0")
        if name == 'weighted' and not params.latency_weight + params.energy_weight:
            raise SettingError("parameter 'objective' is 'weighted', which needs "
                               "'latency_weight' or 'energy_weight' above 0")
        link = LinkModel(*(getattr(params, f'link.{part}')
                           for part in ('duplex', 'message_s', 'byte_s', 'round_trip_s')))
        watts = {state: getattr(params, f'power.{state}') for state in WATTS}
        return cls(
            Objective(name, bound_s or None, params.latency_weight, params.energy_weight,
                      params.robot_bytes or None, params.server_bytes or None,
                      params.link_bytes_per_s or None),
            checked_grid(params.bandwidths) if params.bandwidths else default_grid(),
            params.policy, params.search_seed, link,
            {state: each for state, each in watts.items() if each > 0}, params.save_to)

    def setting(self, layout: Layout, robot: DeviceProfile, server: DeviceProfile) -> Setting:
        """Return the setting to plan in; SettingError for energy where no power is known."""
        power = Power(**{**asdict(robot.power), **self.watts,
                         **({'source': 'parameters'} if self.watts else {})})
        if self.objective.weighs_energy and not power.computing_w:
            raise SettingError(f"parameter 'objective' is '{self.objective.name}', but the power "
                               "of the robot's board is not known: set 'power.waiting_w', "
                               "'power.communicating_w' and 'power.computing_w'")
        return Setting(layout, robot, server, self.link, power)
