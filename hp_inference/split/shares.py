# SPDX-License-Identifier: Apache-2.0
"""
From a plan to what each side computes and what travels: one backward pass over the graph.

A row that is wanted is computed where the plan lets it be and needed; the side that does not
compute a row that it wants gets it sent. Rows that nothing wants belong to nobody.

This module, ``blocks`` and ``steps`` are the plan compiler. They run as they are in the nodes;
the planner's search compiles them to machine code (hp_planner/timeline/compiled.py). So they keep
to functions over sets of rows in memory that the caller gives, ``Workspace``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from hp_inference.split import rowsets as rs
from hp_inference.split.row_rules import add_needs

ROBOT, SERVER = 0, 1
SIDES = ('robot', 'server')
COMPLETE, SPOILT = -1, -2
"""What became of a plan, where it is not the number of a value of which rows have no place."""


class Workspace(NamedTuple):
    """
    Memory for one plan at a time; what is indexed by value and side, and more where it says so.

    Sets of rows: ``wanted``, ``computed``, ``arriving``; by piece: ``travel``; by phase: ``asked``,
    ``due`` (computed rows by the earliest phase that wants them), ``made`` (rows computed in it),
    ``there`` (rows there at its end). Numbers: by piece ``travel_phase``; ``travel_count``;
    ``events``: phases, as bits, in which rows come to be there; ``behind``: 1 where something that
    arrives lies behind the value; ``first_message``. By message: ``got``, ``message_begin``,
    ``message_end``. ``spare``: a few sets. Travel is indexed by the side that sends.
    """

    wanted: Any
    computed: Any
    arriving: Any
    travel: Any
    travel_phase: Any
    travel_count: Any
    asked: Any
    due: Any
    made: Any
    there: Any
    events: Any
    behind: Any
    first_message: Any
    got: Any
    message_begin: Any
    message_end: Any
    spare: Any


class _Sets(dict):
    """Sets of rows, empty until something is added."""

    def __init__(self, room: int):
        super().__init__()
        self._room = room

    def __missing__(self, key):
        made = self[key] = [0] * self._room
        return made


class _Numbers(dict):
    """Numbers, 0 until they are set."""

    def __missing__(self, key):
        return 0


def new_workspace(intervals: int) -> Workspace:
    """Return memory for working out one plan, with sets of at most so many intervals."""
    room = rs.room_for(intervals)
    sets = 'wanted', 'computed', 'arriving', 'travel', 'asked', 'due', 'made', 'there', 'spare'
    return Workspace(*(_Sets(room) if name in sets else _Numbers() for name in Workspace._fields))


def fill_shares(rules, robot, server, work: Workspace):
    """
    Fill wanted, computed and arriving for shares (row counts by value); return what became of it.

    COMPLETE, SPOILT, or the value of which a row is wanted that neither side computes.
    """
    count = len(rules.rows)
    for v in range(count):
        work.wanted[v, ROBOT][0] = 0
        work.wanted[v, SERVER][0] = 0
        if rules.output[v]:
            rs.add(work.wanted[v, ROBOT], 0, rules.rows[v])
    for v in range(count - 1, -1, -1):
        r, s = robot[v], server[v]
        robot_wants, server_wants = work.wanted[v, ROBOT], work.wanted[v, SERVER]
        if robot_wants[0] < 0 or server_wants[0] < 0:
            return SPOILT
        if r < s and (rs.meets(robot_wants, r, s) or rs.meets(server_wants, r, s)):
            return v
        _share_out(work, v, r, s, rules.rows[v])
        if work.computed[v, ROBOT][0] < 0 or work.computed[v, SERVER][0] < 0:
            return SPOILT
        if v:
            _ask_for_what_is_read(rules, work, v, ROBOT)
            _ask_for_what_is_read(rules, work, v, SERVER)
    return COMPLETE


def _share_out(work: Workspace, v, r, s, rows):
    """Fill computed and arriving where the robot may compute rows [0, r), the server [s, rows)."""
    here, there = work.computed[v, ROBOT], work.computed[v, SERVER]
    down, up, spare = work.arriving[v, ROBOT], work.arriving[v, SERVER], work.spare[0]
    rs.clip(down, work.wanted[v, ROBOT], r, rows)
    rs.clip(up, work.wanted[v, SERVER], 0, s)
    rs.clip(here, work.wanted[v, ROBOT], 0, r)
    rs.clip(spare, up, 0, r)
    rs.add_all(here, spare)
    rs.clip(there, work.wanted[v, SERVER], s, rows)
    rs.clip(spare, down, s, rows)
    rs.add_all(there, spare)


def _ask_for_what_is_read(rules, work: Workspace, v, side):
    computed = work.computed[v, side]
    for i in range(computed[0]):
        for k in range(rules.first[v], rules.first[v + 1]):
            add_needs(rules, k, rules.rows[v], computed[1 + 2 * i], computed[2 + 2 * i],
                      work.wanted[rules.source[k], side])
