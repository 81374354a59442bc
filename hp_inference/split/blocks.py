# SPDX-License-Identifier: Apache-2.0
"""
Row blocks: when each row is computed and sent, so that computing and travelling overlap.

Time is cut into PHASES. Block j of a value that travels in n blocks belongs to phase j * PHASES/n;
a row of another value belongs to the phase of what it waits for (where rows arrive: as early as
possible), or of what waits for it (where nothing arrives: no earlier than somebody wants it). A
row's phase is never before that of a row it reads, which makes ``(phase, value)`` one global order
for both sides, in which every row comes after those that it reads.
"""

from __future__ import annotations

from hp_inference.split import rowsets as rs
from hp_inference.split.row_rules import add_needs, has_needs
from hp_inference.split.shares import Workspace

PHASES = 8
MIN_BLOCK_ROWS = 8
"""Blocks of fewer rows than this are joined with the next: an operator's fixed cost and its halo
outweigh the overlap, so small deep maps are computed whole."""


def fill_phases(rules, blocks, work: Workspace):
    """Give every row that is computed or travels its phase; return False for a spoilt set."""
    streams = _cut_what_travels(rules, blocks, work)
    if streams and not _find_due(rules, work):
        return False
    for v in range(len(rules.rows)):
        for side in range(2):
            if not _fill_made(rules, work, v, side, streams):
                return False
        for side in range(2):
            _put_off(work, v, side)
        if streams:
            for side in range(2):
                if not _fill_there(work, v, side):
                    return False
    return True


def _cut_what_travels(rules, blocks, work: Workspace):
    """Fill travel; return whether anything travels in more than one piece."""
    streams = False
    for v in range(len(rules.rows)):
        for side in range(2):
            work.travel_count[v, side] = 0
            if work.arriving[v, 1 - side][0]:
                _cut_into_blocks(work, v, side, blocks[v])
                streams = streams or work.travel_count[v, side] > 1
    return streams


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


def _find_due(rules, work: Workspace):
    """Fill ``due``: the computed rows by the earliest phase in which somebody wants them."""
    for v in range(len(rules.rows)):
        for side in range(2):
            for phase in range(PHASES + 1):
                work.asked[v, side, phase][0] = 0
                work.due[v, side, phase][0] = 0
    for v in range(len(rules.rows) - 1, -1, -1):
        for side in range(2):
            for j in range(work.travel_count[v, side]):
                rs.add_all(work.asked[v, side, work.travel_phase[v, side, j]],
                           work.travel[v, side, j])
            if not _ask_in_time(rules, work, v, side):
                return False
    return True


def _ask_in_time(rules, work: Workspace, v, side):
    """Fill ``due`` of a value and ask for what is read, by phase; return False for a spoilt set."""
    rest, so_far = work.spare[0], work.spare[1]
    rest[:] = work.computed[v, side]
    so_far[0] = 0
    for phase in range(1, PHASES + 1):
        due = work.due[v, side, phase]
        if phase == PHASES:
            due[:] = rest
        else:
            rs.add_common(due, work.asked[v, side, phase], rest)
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
        # Blocks may be joined, and joined they may read rows that lie between what they read apart
        # (a stride that skips rows): ask for those in time.
        for i in range(so_far[0]):
            for k in range(rules.first[v], rules.first[v + 1]):
                add_needs(rules, k, rules.rows[v], so_far[1 + 2 * i], so_far[2 + 2 * i],
                          work.asked[rules.source[k], side, phase])
    return True


def _fill_made(rules, work: Workspace, v, side, streams):
    """Fill ``made`` and ``behind`` of a value; return False for a spoilt set."""
    work.behind[v, side] = 0
    for phase in range(PHASES + 1):
        work.made[v, side, phase][0] = 0
    if work.computed[v, side][0] == 0:
        return True
    for k in range(rules.first[v], rules.first[v + 1]):
        ref = rules.source[k]
        if work.behind[ref, side] > 0 or work.arriving[ref, side][0] > 0:
            work.behind[v, side] = 1
    if v == 0:
        work.made[v, side, 0][:] = work.computed[v, side]
    elif not streams:
        work.made[v, side, PHASES][:] = work.computed[v, side]
    else:
        return _as_enabled(rules, work, v, side)
    return True


def _as_enabled(rules, work: Workspace, v, side):
    """
    Fill ``made``: rows by the first phase, not before they are due, that has all they read.

    Blocks of few rows wait for the phase after, to be joined with what is ready then. Returns False
    for a spoilt set.
    """
    events = _events_before(rules, work, v, side)
    final = 0
    for phase in range(PHASES + 1):
        if events >> phase & 1:
            final = phase
    rest, ready = work.spare[0], work.spare[1]
    rest[0] = 0
    for phase in range(final + 1):
        if not events >> phase & 1:
            continue
        if work.behind[v, side] == 0:
            rs.add_all(rest, work.due[v, side, phase])
        elif phase == 1:
            rs.add_all(rest, work.computed[v, side])
        if phase == final:
            ready[:] = rest
        else:
            _enabled(rules, work, v, side, phase)
        rows = rs.count(ready)
        if rows >= MIN_BLOCK_ROWS or (phase == final and rows):
            work.made[v, side, phase][:] = ready
            rs.remove(rest, ready, work.spare[2])
        if rest[0] < 0 or ready[0] < 0:
            return False
    return True


def _events_before(rules, work: Workspace, v, side):
    """Return the phases, as bits, in which rows of a value may become ready."""
    events = 0
    for k in range(rules.first[v], rules.first[v + 1]):
        events |= work.events[rules.source[k], side]
    if work.behind[v, side] > 0:
        return events | 2
    for phase in range(1, PHASES + 1):
        if work.due[v, side, phase][0]:
            events |= 1 << phase
    return events


def _enabled(rules, work: Workspace, v, side, phase):
    """Make the second spare set what of the first can be computed from what is there."""
    rest, ready = work.spare[0], work.spare[1]
    ready[0] = 0
    for i in range(rest[0]):
        begin, end = rest[1 + 2 * i], rest[2 + 2 * i]
        low, high = begin, end
        while low < high:
            middle = (low + high + 1) // 2
            if _reads_are_there(rules, work, v, side, phase, begin, middle):
                low = middle
            else:
                high = middle - 1
        rs.add(ready, begin, low)


def _reads_are_there(rules, work: Workspace, v, side, phase, begin, end):
    for k in range(rules.first[v], rules.first[v + 1]):
        if not has_needs(rules, k, rules.rows[v], begin, end,
                         work.there[rules.source[k], side, phase]):
            return False
    return True


def _put_off(work: Workspace, v, side):
    """Let no block leave before its rows are computed, nor before the block ahead of it."""
    latest = 0
    for j in range(work.travel_count[v, side]):
        piece = work.travel[v, side, j]
        latest = max(latest, work.travel_phase[v, side, j])
        for phase in range(latest + 1, PHASES + 1):
            for i in range(piece[0]):
                if rs.meets(work.made[v, side, phase], piece[1 + 2 * i], piece[2 + 2 * i]):
                    latest = phase
        work.travel_phase[v, side, j] = latest


def _fill_there(work: Workspace, v, side):
    """Fill ``there`` and ``events`` of a value; return False for a spoilt set."""
    events = 0
    for phase in range(PHASES + 1):
        there = work.there[v, side, phase]
        there[0] = 0
        if phase:
            there[:] = work.there[v, side, phase - 1]
        if work.made[v, side, phase][0]:
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
