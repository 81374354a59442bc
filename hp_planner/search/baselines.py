# SPDX-License-Identifier: Apache-2.0
"""What people use instead of splitting inside layers, as plans of the same kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from hp_inference.split.plan import full_offload, layer, Plan, robot_only
from hp_planner.search.objective import Objective
from hp_planner.timeline.setting import bytes_per_s
from hp_planner.timeline.simulate import LATENCY, message_seconds
from hp_planner.timeline.timeline import CODECS, Population, Timeline

JPEG = 'full_offload_jpeg'
# Max-flow takes 32-bit whole numbers: the robot's own time for everything has so many steps.
STEPS = 2 ** 29


def baselines(timeline: Timeline, objective: Objective, mbit_s: Sequence[float],
              jpeg: bool = False) -> dict[str, list[Plan]]:
    """
    Return, per baseline, the plan that it uses at each rate.

    robot_only; full_offload (uint8 pixels); full_offload_jpeg (where ``jpeg``); whole_switch (the
    better of the first two, by the objective); layer_cut (the best single one: Kang et al.,
    Neurosurgeon, 2017); minimum_cut (Hu et al., DADS, 2019). Rates in Mbit/s.
    """
    layout = timeline.setting.layout
    alone, away = robot_only(layout, codec='none'), full_offload(layout, codec='none')
    found = {'robot_only': [alone] * len(mbit_s), 'full_offload': [away] * len(mbit_s)}
    if jpeg:
        found[JPEG] = [replace(away, name=JPEG, codecs={0: 'jpeg'})] * len(mbit_s)
    cuts = [layer(layout, last, codec='none') for last in range(len(layout.rows) - 1)]
    # The last "cut" is no cut: after the last value comes nothing, so robot_only stands for it.
    found['whole_switch'] = _best(timeline, objective, [alone, away], mbit_s)
    found['layer_cut'] = _best(timeline, objective, [*cuts, alone], mbit_s)
    found['minimum_cut'] = [minimum_cut(timeline, rate) for rate in mbit_s]
    return found


def _best(timeline: Timeline, objective: Objective, plans: list[Plan],
          mbit_s: Sequence[float]) -> list[Plan]:
    costs = objective.cost(timeline.figures(Population.of(plans), mbit_s))
    return [plans[i] for i in costs.argmin(0)]


def minimum_cut(timeline: Timeline, mbit_s: float) -> Plan:
    """
    Return the plan that gives each operator to one side so that the sum of all times is least.

    All computing and all messages one after the other, which is what a minimum cut can count
    (Hu et al., DADS, 2019; exact for that sum). The image and the result are on the robot.
    """
    layout, tables, costs = timeline.setting.layout, timeline.tables, timeline.costs
    rate = bytes_per_s(mbit_s)
    values = len(layout.rows)
    plain = CODECS.index('none')
    if rate == 0:
        return replace(robot_only(layout, codec='none'), name='minimum_cut')
    whole = costs.compute[:, tables.at_row + tables.rows]
    travel = np.array([[message_seconds(costs, plain, v, layout.rows[v], side, rate)[0]
                        + costs.trip_s for v in range(values)] for side in range(2)])
    # Nodes: the values (with the robot: in the source's half), up and down nodes of each value (a
    # value is sent once however many read it), the user of the outputs, source, sink.
    up, down, user = values, 2 * values, 3 * values
    source, sink = user + 1, user + 2
    edges: list[tuple[int, int, float]] = [(source, 0, np.inf), (source, user, np.inf)]
    for v in range(values):
        if v:
            edges += [(v, sink, whole[0, v]), (source, v, whole[1, v])]
        edges += [(v, up + v, travel[0, v]), (down + v, v, travel[1, v])]
    readers = [(ref, op.output) for op in layout.graph.ops for ref in set(op.refs)]
    readers += [(v, user) for v in layout.graph.outputs.values()]
    for v, reader in readers:
        edges += [(up + v, reader, np.inf), (reader, down + v, np.inf)]
    robot = _source_side(edges, source, sink, sink + 1)
    cut = tuple(rows if v in robot else 0 for v, rows in enumerate(layout.rows))
    return Plan('minimum_cut', cut, cut, codec='none')


def _source_side(edges: list[tuple[int, int, float]], source: int, sink: int,
                 nodes: int) -> set[int]:
    """Return the nodes on the source's side of a minimum cut."""
    # Nothing dearer than computing all on the robot is ever cut, so such edges count as endless.
    most = sum(weight for _, end, weight in edges if end == sink)
    scale = STEPS / (most or 1.0)
    begin, end, weights = zip(*((a, b, STEPS * 2 if w > most else max(1, round(w * scale)))
                                for a, b, w in edges))
    graph = csr_array((np.array(weights, np.int32), (begin, end)), shape=(nodes, nodes))
    rest = graph - maximum_flow(graph, source, sink).flow
    rest.data = np.maximum(rest.data, 0)
    rest.eliminate_zeros()
    return set(breadth_first_order(rest, source, return_predecessors=False).tolist())


def latency(timeline: Timeline, plan: Plan, mbit_s: float) -> float:
    """Return the predicted latency of one plan in seconds, infinite where it cannot run."""
    return float(timeline.figures(Population.of([plan]), [mbit_s])[0, 0, LATENCY])
