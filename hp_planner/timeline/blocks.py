# SPDX-License-Identifier: Apache-2.0
"""
Row blocks: in which phase each row is computed and sent, compiled.

The rules are those of hp_inference/split/blocks.py, which says why.
"""

from __future__ import annotations

from hp_inference.split.blocks import MIN_BLOCK_ROWS, PHASES
from hp_planner.timeline import rowsets as rs
from hp_planner.timeline.compiled import compiled
from hp_planner.timeline.lattice import Lattice
from hp_planner.timeline.shares import add_needs, Workspace


@compiled
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


@compiled
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


@compiled
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


@compiled
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


@compiled
def fill_phases(grid: Lattice, blocks, work: Workspace):
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
