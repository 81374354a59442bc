# SPDX-License-Identifier: Apache-2.0
"""
What no plan can beat, by linear programming.

Of every operator the robot computes a part and the server a part, as if rows could be cut as finely
as one likes and all three, robot, server and radio, were busy all the time. What remains true of
every plan: rows computed cost at least the least time per row that was measured; whoever computes
rows has the rows that they read, computed or received; robot, server and radio each need the sum of
their work; a plan that uses the server sends at least one message each way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from hp_inference.split import rowsets as rs
from hp_inference.split.plan import robot_only
from hp_inference.split.row_rules import RowRules
from hp_inference.split.shares import fill_shares, new_workspace, ROBOT, SERVER
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import bytes_per_s
from hp_planner.timeline.timeline import CODECS, Timeline


@dataclass
class _Rows:
    """Constraints ``sum coefficient * variable <= limit``, as they are collected."""

    row: list
    column: list
    coefficient: list
    limit: list

    def add(self, terms: list[tuple[int, float]], limit: float) -> None:
        for column, coefficient in terms:
            self.row.append(len(self.limit))
            self.column.append(column)
            self.coefficient.append(coefficient)
        self.limit.append(limit)


class Bound:
    """Lower bounds on the cost of every plan in one setting, per bandwidth."""

    def __init__(self, timeline: Timeline, objective: Objective, codecs: list[str]):
        self.timeline, self.objective = timeline, objective
        tables, costs = timeline.tables, timeline.costs
        self._least_ratio = np.min([costs.ratio[CODECS.index(name)] for name in codecs], 0)
        self._needed = _needed_rows(timeline)
        # Seconds per row: no slice of an operator was measured, or is interpolated, below this.
        self._slope = np.array([[min(
            costs.compute[side, tables.at_row[v] + 1:tables.at_row[v] + tables.rows[v] + 1]
            / np.arange(1, tables.rows[v] + 1)) for v in range(len(tables.rows))]
            for side in (ROBOT, SERVER)])
        self._reads = [_reads_per_row(timeline, v) for v in range(1, len(tables.rows))]

    def at(self, mbit_s: float) -> float:
        """Return the bound on the objective's cost at a rate (0: the robot alone)."""
        tables, costs = self.timeline.tables, self.timeline.costs
        values, rate = len(tables.rows), bytes_per_s(mbit_s)
        # Variables: rows computed on the robot, on the server, sent up, sent down, then T and R.
        x, y, up, down = (range(i * values, (i + 1) * values) for i in range(4))
        total, busy = 4 * values, 4 * values + 1
        system = _Rows([], [], [], [])
        for v in range(1, values):
            system.add([(x[v], -1), (y[v], -1)], -float(self._needed[v]))
            for reads, ref in zip(self._reads[v - 1], tables.source[tables.first[v]:]):
                system.add([(y[v], reads), (y[ref], -1), (up[ref], -1)], 0)
                system.add([(x[v], reads), (x[ref], -1), (down[ref], -1)], 0)
        for v in np.flatnonzero(tables.output):
            system.add([(x[v], -1), (down[v], -1)], -float(tables.rows[v]))
        work = [(x[v], self._slope[ROBOT, v]) for v in range(1, values)]
        system.add([*work, (busy, -1)], 0)
        system.add([(busy, 1), (total, -1)], 0)
        system.add([*((y[v], self._slope[SERVER, v]) for v in range(1, values)), (total, -1)], 0)
        free = 1 / rate + costs.byte_s if rate else 0.0
        air = costs.row_bytes * self._least_ratio * free
        ways = [(up, down)] if costs.half else [(up,), (down,)]
        for way in ways:
            system.add([*((each[v], air[v]) for each in way for v in range(values)), (total, -1)],
                       0)
        most = np.concatenate([tables.rows] * 4).astype(float)
        most[y[0]] = most[down[0]] = 0
        if not rate:
            most[list(up) + list(down)] = 0
        limit = self.objective.latency_bound_s
        bounds = [*((0, m) for m in most), (0, limit), (0, None)]
        matrix = coo_array((system.coefficient, (system.row, system.column)),
                           shape=(len(system.limit), busy + 1)).tocsr()
        price = np.zeros(busy + 1)
        price[total], price[busy] = self._prices()
        solved = linprog(price, matrix, system.limit, bounds=bounds, method='highs')
        if not solved.success:
            return np.inf if solved.status == 2 else 0.0
        return self._with_messages(float(solved.fun))

    def _prices(self) -> tuple[float, float]:
        """Return what a second of latency, and one of the robot's computing, costs at least."""
        idle = float(min(self.timeline.costs.power))
        energy = idle, max(0.0, float(self.timeline.costs.power[2]) - idle)
        weights = {'latency': (1, 0), 'throughput': (1, 0), 'energy': (0, 1),
                   'energy_under_latency': (0, 1),
                   'weighted': (self.objective.latency_weight, self.objective.energy_weight)}
        per_s, per_j = weights[self.objective.name]
        return per_s + per_j * energy[0], per_j * energy[1]

    def _with_messages(self, relaxed: float) -> float:
        """Return the bound, knowing that a plan is the robot's alone or sends both ways."""
        costs = self.timeline.costs
        alone = float(self._slope[ROBOT] @ self._needed)
        per_latency, per_busy = self._prices()
        if self.objective.name == 'throughput':
            both = costs.message_s * (2 if costs.half else 1)
        else:
            both = 2 * (costs.message_s + costs.trip_s)
        return max(relaxed, min((per_latency + per_busy) * alone, per_latency * both))


def _needed_rows(timeline: Timeline) -> np.ndarray:
    """Return how many rows of each value the outputs need."""
    layout = timeline.setting.layout
    plan, work = robot_only(layout), new_workspace(max(layout.rows))
    fill_shares(RowRules(layout), plan.robot, plan.server, work)
    return np.array([rs.count(work.computed[v, ROBOT]) for v in range(len(layout.rows))])


def _reads_per_row(timeline: Timeline, value: int) -> list[float]:
    """Return, per argument, the fewest rows read per row computed, over all intervals."""
    tables = timeline.tables
    rows, least = int(tables.rows[value]), []
    for k in range(tables.first[value], tables.first[value + 1]):
        if tables.pairs[k] < 0:
            low = tables.low[tables.at[k]:tables.at[k] + rows + 1]
            high = tables.high[tables.at[k]:tables.at[k] + rows + 1]
            least.append(min(max(0, int((high[n:] - low[:rows + 1 - n]).min())) / n
                             for n in range(1, rows + 1)))
            continue
        block = timeline.setting.layout.rules[value].block
        place = k - tables.first[value]
        least.append(min(block(a, b).needs[place].count / (b - a)
                         for a in range(rows) for b in range(a + 1, rows + 1)))
    return least
