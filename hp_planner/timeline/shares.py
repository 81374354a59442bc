# SPDX-License-Identifier: Apache-2.0
"""
From a plan to what each side computes and what travels, compiled.

The rules are those of hp_inference/split/shares.py, which says why.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hp_inference.split.blocks import PHASES
from hp_inference.split.shares import ROBOT, SERVER
from hp_planner.timeline import rowsets as rs
from hp_planner.timeline.compiled import compiled
from hp_planner.timeline.lattice import INTERVALS, Lattice

# Most intervals of a value that one side sends.
MOST_SENT = PHASES * INTERVALS


class Workspace(NamedTuple):
    """Memory for one plan at a time: row sets per value and side, and per phase."""

    wanted: np.ndarray
    computed: np.ndarray
    arriving: np.ndarray
    travel: np.ndarray  # value, sending side, piece
    travel_phase: np.ndarray
    travel_count: np.ndarray
    asked: np.ndarray  # value, side, phase
    due: np.ndarray  # value, side, phase: computed rows by the earliest phase that wants them
    made: np.ndarray  # value, side, phase: rows computed in that phase
    there: np.ndarray  # value, side, phase: rows there at the end of that phase
    events: np.ndarray  # value, side: phases, as bits, in which rows come to be there
    behind: np.ndarray
    first_message: np.ndarray  # value, sending side
    got: np.ndarray  # message
    message_span: np.ndarray  # message: begin, end
    spare: np.ndarray


def new_workspace(values: int) -> Workspace:
    """Return memory for working out a plan of a graph with so many values."""
    def sets(*shape):
        return np.zeros((values, 2, *shape, rs.SIZE), np.int32)
    most = 2 * MOST_SENT * values
    return Workspace(sets(), sets(), sets(), sets(PHASES), np.zeros((values, 2, PHASES), np.int32),
                     np.zeros((values, 2), np.int32), sets(PHASES + 1), sets(PHASES + 1),
                     sets(PHASES + 1), sets(PHASES + 1), np.zeros((values, 2), np.int32),
                     np.zeros((values, 2), np.int32), np.zeros((values, 2), np.int32),
                     np.zeros(most, np.int32), np.zeros((most, 2), np.int32),
                     np.zeros((4, rs.SIZE), np.int32))


@compiled
def add_needs(grid: Lattice, argument, rows, begin, end, into):
    """Add what computing [begin, end) of a value with ``rows`` rows reads by one argument."""
    p = grid.pairs[argument]
    if p < 0:
        at = grid.at[argument]
        rs.add(into, grid.low[at + begin], grid.high[at + end])
        return
    p += begin * (rows + 1) + end
    for i in range(grid.starts[p], grid.starts[p + 1]):
        rs.add(into, grid.spans[i, 0], grid.spans[i, 1])


@compiled
def fill_shares(grid: Lattice, robot, server, work: Workspace):
    """Fill wanted, computed and arriving; return whether the plan is complete."""
    count = len(grid.rows)
    for v in range(count):
        for side in range(2):
            work.wanted[v, side, 0] = 0
        if grid.output[v]:
            rs.add(work.wanted[v, ROBOT], 0, grid.rows[v])
    for v in range(count - 1, -1, -1):
        r, s, rows = robot[v], server[v], grid.rows[v]
        want, arrive, compute = work.wanted[v], work.arriving[v], work.computed[v]
        if want[ROBOT, 0] < 0 or want[SERVER, 0] < 0:
            return False
        if r < s and (rs.meets(want[ROBOT], r, s) or rs.meets(want[SERVER], r, s)):
            return False
        rs.clip(arrive[ROBOT], want[ROBOT], r, rows)
        rs.clip(arrive[SERVER], want[SERVER], 0, s)
        rs.clip(compute[ROBOT], want[ROBOT], 0, r)
        rs.clip(work.spare[0], arrive[SERVER], 0, r)
        rs.add_all(compute[ROBOT], work.spare[0])
        rs.clip(compute[SERVER], want[SERVER], s, rows)
        rs.clip(work.spare[0], arrive[ROBOT], s, rows)
        rs.add_all(compute[SERVER], work.spare[0])
        if compute[ROBOT, 0] < 0 or compute[SERVER, 0] < 0:
            return False
        if v == 0:
            break
        for side in range(2):
            for i in range(compute[side, 0]):
                begin, end = compute[side, 1 + 2 * i], compute[side, 2 + 2 * i]
                for k in range(grid.first[v], grid.first[v + 1]):
                    add_needs(grid, k, rows, begin, end, work.wanted[grid.source[k], side])
    return True
