# SPDX-License-Identifier: Apache-2.0
"""
From a plan to the steps of both sides, compiled: the optimiser asks for thousands a second.

The rules are those of hp_inference.split (shares, blocks, program), which say why; the steps are
those of the Programs that compile_plan makes (a test holds the two equal).
"""

from __future__ import annotations

from typing import NamedTuple

from numba import njit
import numpy as np

from hp_inference.split.blocks import MIN_BLOCK_ROWS, PHASES
from hp_inference.split.shares import ROBOT, SERVER
from hp_planner.timeline import rowsets as rs
from hp_planner.timeline.lattice import INTERVALS, Lattice

COMPUTE, SEND, RECEIVE = 0, 1, 2
# Most intervals of a value that one side sends, computes and receives: no plan has more steps.
MOST_SENT = PHASES * INTERVALS
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


def new_steps(values: int) -> Steps:
    """Return memory for the steps of any plan of a graph with so many values."""
    return Steps(*(np.zeros((2, MOST_STEPS * values), np.int32) for _ in range(5)),
                 np.zeros((2, values, 2), np.int32), np.zeros(4, np.int32))


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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def _reads_are_there(grid: Lattice, work: Workspace, value, side, phase, begin, end):
    rows = grid.rows[value]
    for k in range(grid.first[value], grid.first[value + 1]):
        there, p = work.there[grid.source[k], side, phase], grid.pairs[k]
        if p < 0:
            at = grid.at[k]
            if not rs.holds(there, grid.low[at + begin], grid.high[at + end]):
                return False
            continue
        p += begin * (rows + 1) + end
        for i in range(grid.starts[p], grid.starts[p + 1]):
            if not rs.holds(there, grid.spans[i, 0], grid.spans[i, 1]):
                return False
    return True


@njit(cache=True, nogil=True)
def _share(grid: Lattice, robot, server, work: Workspace):
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


@njit(cache=True, nogil=True)
def _cut_into_blocks(work: Workspace, v, side, parts):
    """Cut what leaves a side into blocks of nearly equal row counts, each with its phase."""
    rows = work.arriving[v, 1 - side]
    total = rs.count(rows)
    n = 0
    i, at = 0, rows[1]
    begun = 0
    for j in range(parts):
        bound = total * (j + 1) // parts
        if begun >= bound:
            continue
        piece = work.travel[v, side, n]
        piece[0] = 0
        while begun < bound:
            cut = min(rows[2 + 2 * i], at + bound - begun)
            rs.add(piece, at, cut)
            begun += cut - at
            at = cut
            if cut == rows[2 + 2 * i]:
                i += 1
                at = rows[1 + 2 * i] if i < rows[0] else 0
        n += 1
    for j in range(n):
        work.travel_phase[v, side, j] = PHASES * (j + 1) // n
    work.travel_count[v, side] = n


@njit(cache=True, nogil=True)
def _find_due(grid: Lattice, work: Workspace):
    """Fill ``due``: the computed rows by the earliest phase in which somebody wants them."""
    count = len(grid.rows)
    for v in range(count):
        for side in range(2):
            for phase in range(PHASES + 1):
                work.asked[v, side, phase, 0] = 0
                work.due[v, side, phase, 0] = 0
    rest, so_far = work.spare[0], work.spare[1]
    for v in range(count - 1, -1, -1):
        for side in range(2):
            asked = work.asked[v, side]
            for j in range(work.travel_count[v, side]):
                rs.add_all(asked[work.travel_phase[v, side, j]], work.travel[v, side, j])
            rest[:] = work.computed[v, side]
            so_far[0] = 0
            for phase in range(1, PHASES + 1):
                due = work.due[v, side, phase]
                if phase == PHASES:
                    due[:] = rest
                else:
                    rs.add_common(due, asked[phase], rest)
                if due[0] < 0:
                    return False
                if due[0] == 0:
                    continue
                rs.remove(rest, due, work.spare[2])
                rs.add_all(so_far, due)
                if rest[0] < 0 or so_far[0] < 0:
                    return False
                if v == 0:
                    continue
                for i in range(so_far[0]):
                    for k in range(grid.first[v], grid.first[v + 1]):
                        add_needs(grid, k, grid.rows[v], so_far[1 + 2 * i], so_far[2 + 2 * i],
                                  work.asked[grid.source[k], side, phase])
    return True


@njit(cache=True, nogil=True)
def _as_enabled(grid: Lattice, work: Workspace, v, side, behind):
    """Fill ``made``: rows by the first phase, not before they are due, that has all they read."""
    events = 0
    for k in range(grid.first[v], grid.first[v + 1]):
        events |= work.events[grid.source[k], side]
    if behind:
        events |= 2
    else:
        for phase in range(1, PHASES + 1):
            if work.due[v, side, phase, 0]:
                events |= 1 << phase
    final = 0
    for phase in range(PHASES + 1):
        if events >> phase & 1:
            final = phase
    rest, ready = work.spare[0], work.spare[1]
    rest[0] = 0
    for phase in range(final + 1):
        if not events >> phase & 1:
            continue
        if behind:
            if phase == 1:
                rs.add_all(rest, work.computed[v, side])
        else:
            rs.add_all(rest, work.due[v, side, phase])
        ready[:] = rest
        if phase != final:
            ready[0] = 0
            for i in range(rest[0]):
                begin, end = rest[1 + 2 * i], rest[2 + 2 * i]
                low, high = begin, end
                while low < high:
                    middle = (low + high + 1) // 2
                    if _reads_are_there(grid, work, v, side, phase, begin, middle):
                        low = middle
                    else:
                        high = middle - 1
                rs.add(ready, begin, low)
        rows = rs.count(ready)
        if rows >= MIN_BLOCK_ROWS or (phase == final and rows):
            work.made[v, side, phase][:] = ready
            rs.remove(rest, ready, work.spare[2])
        if rest[0] < 0 or ready[0] < 0:
            return False
    return True


@njit(cache=True, nogil=True)
def _time(grid: Lattice, blocks, work: Workspace):
    """Give every row that is computed or travels its phase; return False for a spoilt set."""
    count = len(grid.rows)
    streams = False
    for v in range(count):
        for side in range(2):
            work.travel_count[v, side] = 0
            if work.arriving[v, 1 - side, 0]:
                _cut_into_blocks(work, v, side, blocks[v])
                streams = streams or work.travel_count[v, side] > 1
    if streams and not _find_due(grid, work):
        return False
    for v in range(count):
        for side in range(2):
            work.behind[v, side] = 0
            for phase in range(PHASES + 1):
                work.made[v, side, phase, 0] = 0
            if work.computed[v, side, 0] == 0:
                continue
            behind = False
            for k in range(grid.first[v], grid.first[v + 1]):
                ref = grid.source[k]
                behind = behind or work.behind[ref, side] or work.arriving[ref, side, 0] > 0
            work.behind[v, side] = behind
            if v == 0:
                work.made[v, side, 0][:] = work.computed[v, side]
            elif not streams:
                work.made[v, side, PHASES][:] = work.computed[v, side]
            elif not _as_enabled(grid, work, v, side, behind):
                return False
        for side in range(2):
            latest = 0
            for j in range(work.travel_count[v, side]):
                piece = work.travel[v, side, j]
                latest = max(latest, work.travel_phase[v, side, j])
                for phase in range(latest + 1, PHASES + 1):
                    for i in range(piece[0]):
                        if rs.meets(work.made[v, side, phase], piece[1 + 2 * i],
                                    piece[2 + 2 * i]):
                            latest = phase
                work.travel_phase[v, side, j] = latest
        if not streams:
            continue
        for side in range(2):
            events = 0
            for phase in range(PHASES + 1):
                there = work.there[v, side, phase]
                there[0] = 0
                if phase:
                    there[:] = work.there[v, side, phase - 1]
                if work.made[v, side, phase, 0]:
                    events |= 1 << phase
                    rs.add_all(there, work.made[v, side, phase])
                for j in range(work.travel_count[v, 1 - side]):
                    if work.travel_phase[v, 1 - side, j] == phase:
                        events |= 1 << phase
                        rs.add_all(there, work.travel[v, 1 - side, j])
                if there[0] < 0:
                    return False
            work.events[v, side] = events
    return True


@njit(cache=True, nogil=True)
def _put(steps: Steps, side, kind, value, begin, end, message):
    i = steps.counts[side]
    steps.kind[side, i], steps.value[side, i] = kind, value
    steps.begin[side, i], steps.end[side, i] = begin, end
    steps.message[side, i] = message
    steps.counts[side] = i + 1


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def make_steps(grid: Lattice, robot, server, blocks, work: Workspace, steps: Steps):
    """
    Fill ``steps`` for the plan with these shares and block counts (int arrays, one per value).

    Returns whether the plan is complete and simple enough to be considered.
    """
    steps.counts[:] = 0
    if not (_share(grid, robot, server, work) and _time(grid, blocks, work)):
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
