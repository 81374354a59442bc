# SPDX-License-Identifier: Apache-2.0
"""
From a plan to the steps of both sides, compiled: the optimiser asks for thousands a second.

The steps are those of the Programs that hp_inference/split/program.py makes, which says why; a test
holds the two equal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hp_inference.split.blocks import PHASES
from hp_inference.split.shares import ROBOT
from hp_planner.timeline import rowsets as rs
from hp_planner.timeline.blocks import fill_phases
from hp_planner.timeline.compiled import compiled
from hp_planner.timeline.lattice import INTERVALS, Lattice
from hp_planner.timeline.shares import add_needs, fill_shares, MOST_SENT, Workspace

COMPUTE, SEND, RECEIVE = 0, 1, 2
# Most intervals of a value that one side sends, computes and receives: no plan has more steps.
MOST_STEPS = (PHASES + 1) * INTERVALS + 2 * MOST_SENT


class Steps(NamedTuple):
    """
    The steps of both sides; the first ``counts[side]`` are filled.

    ``kind[side, i]``; ``value``, ``begin``, ``end``; ``message``: of a Send or Receive the number
    of the message. ``held[side, v]``: the rows kept (begin, end). ``counts[2]``: messages;
    ``counts[3]``: 1 where the plan is complete, else 0.
    """

    kind: np.ndarray
    value: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    message: np.ndarray
    held: np.ndarray
    counts: np.ndarray


def new_steps(values: int) -> Steps:
    """Return memory for the steps of any plan of a graph with so many values."""
    return Steps(*(np.zeros((2, MOST_STEPS * values), np.int32) for _ in range(5)),
                 np.zeros((2, values, 2), np.int32), np.zeros(4, np.int32))


@compiled
def _put(steps: Steps, side, kind, value, begin, end, message):
    i = steps.counts[side]
    steps.kind[side, i], steps.value[side, i] = kind, value
    steps.begin[side, i], steps.end[side, i] = begin, end
    steps.message[side, i] = message
    steps.counts[side] = i + 1


@compiled
def _number_messages(grid: Lattice, work: Workspace):
    """Give what travels its numbers, by value and sending side, and return how many there are."""
    total = 0
    for v in range(len(grid.rows)):
        for side in range(2):
            work.first_message[v, side] = total
            for j in range(work.travel_count[v, side]):
                piece = work.travel[v, side, j]
                for i in range(piece[0]):
                    work.message_span[total, 0] = piece[1 + 2 * i]
                    work.message_span[total, 1] = piece[2 + 2 * i]
                    work.got[total] = 0
                    total += 1
    return total


@compiled
def _receive(grid: Lattice, work: Workspace, steps: Steps, total, v, side, need):
    """Put the Receives of what is still to come of a value and is needed."""
    first = work.first_message[v, 1 - side]
    if side == ROBOT:  # the server's messages come after the robot's
        end = work.first_message[v + 1, 0] if v + 1 < len(grid.rows) else total
    else:
        end = work.first_message[v, 1]
    for m in range(first, end):
        begin, stop = work.message_span[m, 0], work.message_span[m, 1]
        if not work.got[m] and rs.meets(need, begin, stop):
            work.got[m] = 1
            _put(steps, side, RECEIVE, v, begin, stop, m)


@compiled
def _project(grid: Lattice, work: Workspace, steps: Steps, total, side):
    need = work.spare[0]
    for phase in range(PHASES + 1):
        for v in range(len(grid.rows)):
            made = work.made[v, side, phase]
            if v:
                for i in range(made[0]):
                    begin, end = made[1 + 2 * i], made[2 + 2 * i]
                    for k in range(grid.first[v], grid.first[v + 1]):
                        ref = grid.source[k]
                        if not work.arriving[ref, side, 0]:
                            continue
                        need[0] = 0
                        for other in range(k, grid.first[v + 1]):  # what reads a value twice
                            if grid.source[other] == ref:
                                add_needs(grid, other, grid.rows[v], begin, end, need)
                        if need[0] < 0:
                            return False
                        _receive(grid, work, steps, total, ref, side, need)
                    _put(steps, side, COMPUTE, v, begin, end, -1)
            m = work.first_message[v, side]
            for j in range(work.travel_count[v, side]):
                piece = work.travel[v, side, j]
                for i in range(piece[0]):
                    if work.travel_phase[v, side, j] == phase:
                        _put(steps, side, SEND, v, piece[1 + 2 * i], piece[2 + 2 * i], m)
                    m += 1
    for v in range(len(grid.rows)):
        if work.arriving[v, side, 0]:
            _receive(grid, work, steps, total, v, side, work.arriving[v, side])
    return True


@compiled
def make_steps(grid: Lattice, robot, server, blocks, work: Workspace, steps: Steps):
    """
    Fill ``steps`` for the plan with these shares and block counts (int arrays, one per value).

    Returns whether the plan is complete and simple enough to be considered.
    """
    steps.counts[:] = 0
    if not (fill_shares(grid, robot, server, work) and fill_phases(grid, blocks, work)):
        return False
    total = _number_messages(grid, work)
    for side in range(2):
        for v in range(len(grid.rows)):
            lo, hi = 2 ** 30, 0
            for rows in (work.computed[v, side], work.arriving[v, side]):
                if rows[0]:
                    lo = min(lo, rows[1])
                    hi = max(hi, rows[2 * rows[0]])
            steps.held[side, v, 0], steps.held[side, v, 1] = min(lo, hi), hi
        if not _project(grid, work, steps, total, side):
            return False
    steps.counts[2], steps.counts[3] = total, 1
    return True
