# SPDX-License-Identifier: Apache-2.0
"""
From a plan to the steps of both sides, which ``program`` makes two Programs of.

Both lists are projections of one global order of (phase, value), so neither side can wait for the
other in a circle: Send only enqueues, arrivals are taken in by a thread of their own, and only
Receive blocks. A Receive stands right before the first step that needs it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hp_inference.split import rowsets as rs
from hp_inference.split.blocks import fill_phases, PHASES
from hp_inference.split.row_rules import add_needs
from hp_inference.split.shares import COMPLETE, fill_shares, ROBOT, SPOILT, Workspace

COMPUTE, SEND, RECEIVE = 0, 1, 2


class Steps(NamedTuple):
    """
    The steps of both sides; the first ``counts[side]`` are filled.

    ``kind[side, i]``; ``value``, ``begin``, ``end``; ``message``: of a Send or Receive the number
    of the message. ``held_begin[side, v]``, ``held_end``: the rows kept. ``counts[2]``: messages;
    ``counts[3]``: 1 where the plan is complete, else 0.
    """

    kind: Any
    value: Any
    begin: Any
    end: Any
    message: Any
    held_begin: Any
    held_end: Any
    counts: Any


def new_steps() -> Steps:
    """Return memory for the steps of one plan."""
    return Steps({}, {}, {}, {}, {}, {}, {}, [0, 0, 0, 0])


def make_steps(rules, robot, server, blocks, work: Workspace, steps: Steps):
    """
    Fill ``steps`` for the plan with these shares and block counts (one per value).

    Returns COMPLETE, SPOILT where the sets of ``work`` have too little room, or the value of which
    a row is wanted that neither side computes.
    """
    for i in range(4):
        steps.counts[i] = 0
    outcome = fill_shares(rules, robot, server, work)
    if outcome != COMPLETE:
        return outcome
    if not fill_phases(rules, blocks, work):
        return SPOILT
    total = _number_messages(rules, work)
    for side in range(2):
        _fill_held(rules, work, steps, side)
        if not _project(rules, work, steps, total, side):
            return SPOILT
    steps.counts[2], steps.counts[3] = total, 1
    return COMPLETE


def _number_messages(rules, work: Workspace):
    """Give what travels its numbers, by value and sending side, and return how many there are."""
    total = 0
    for v in range(len(rules.rows)):
        for side in range(2):
            work.first_message[v, side] = total
            for j in range(work.travel_count[v, side]):
                piece = work.travel[v, side, j]
                for i in range(piece[0]):
                    work.message_begin[total] = piece[1 + 2 * i]
                    work.message_end[total] = piece[2 + 2 * i]
                    work.got[total] = 0
                    total += 1
    return total


def _fill_held(rules, work: Workspace, steps: Steps, side):
    """Note the interval of rows that a side keeps of each value."""
    for v in range(len(rules.rows)):
        lo, hi = 2 ** 30, 0
        for rows in (work.computed[v, side], work.arriving[v, side]):
            if rows[0]:
                lo = min(lo, rows[1])
                hi = max(hi, rows[2 * rows[0]])
        steps.held_begin[side, v], steps.held_end[side, v] = min(lo, hi), hi


def _project(rules, work: Workspace, steps: Steps, total, side):
    """Put one side's steps, phase by phase; return False for a spoilt set."""
    for phase in range(PHASES + 1):
        for v in range(len(rules.rows)):
            if v:
                made = work.made[v, side, phase]
                for i in range(made[0]):
                    begin, end = made[1 + 2 * i], made[2 + 2 * i]
                    if not _receive_needs(rules, work, steps, total, v, side, begin, end):
                        return False
                    _put(steps, side, COMPUTE, v, begin, end, -1)
            _send(work, steps, v, side, phase)
    for v in range(len(rules.rows)):
        if work.arriving[v, side][0]:
            _receive(rules, work, steps, total, v, side, work.arriving[v, side])
    return True


def _receive_needs(rules, work: Workspace, steps: Steps, total, v, side, begin, end):
    """Put the Receives of all that computing [begin, end) reads; return False for a spoilt set."""
    need = work.spare[0]
    for k in range(rules.first[v], rules.first[v + 1]):
        ref = rules.source[k]
        if not work.arriving[ref, side][0]:
            continue
        need[0] = 0
        for other in range(k, rules.first[v + 1]):  # what reads a value twice
            if rules.source[other] == ref:
                add_needs(rules, other, rules.rows[v], begin, end, need)
        if need[0] < 0:
            return False
        _receive(rules, work, steps, total, ref, side, need)
    return True


def _receive(rules, work: Workspace, steps: Steps, total, v, side, need):
    """Put the Receives of what is still to come of a value and is needed."""
    first = work.first_message[v, 1 - side]
    if side == ROBOT:  # the server's messages come after the robot's
        stop = work.first_message[v + 1, 0] if v + 1 < len(rules.rows) else total
    else:
        stop = work.first_message[v, 1]
    for m in range(first, stop):
        begin, end = work.message_begin[m], work.message_end[m]
        if not work.got[m] and rs.meets(need, begin, end):
            work.got[m] = 1
            _put(steps, side, RECEIVE, v, begin, end, m)


def _send(work: Workspace, steps: Steps, v, side, phase):
    """Put the Sends of what leaves in a phase."""
    m = work.first_message[v, side]
    for j in range(work.travel_count[v, side]):
        piece = work.travel[v, side, j]
        for i in range(piece[0]):
            if work.travel_phase[v, side, j] == phase:
                _put(steps, side, SEND, v, piece[1 + 2 * i], piece[2 + 2 * i], m)
            m += 1


def _put(steps: Steps, side, kind, value, begin, end, message):
    i = steps.counts[side]
    steps.kind[side, i], steps.value[side, i] = kind, value
    steps.begin[side, i], steps.end[side, i] = begin, end
    steps.message[side, i] = message
    steps.counts[side] = i + 1
