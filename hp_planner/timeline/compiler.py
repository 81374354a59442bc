# SPDX-License-Identifier: Apache-2.0
"""
The plan compiler of hp_inference.split as machine code, over arrays.

Its functions are taken as they are; only what asks for the rows that an operator reads is replaced
by a look into the arrays of ``row_tables``. A test holds the steps equal.
"""

from __future__ import annotations

from numba.extending import overload, register_jitable
import numpy as np

from hp_inference.split import blocks, row_rules, shares, steps
from hp_inference.split import rowsets as rs
from hp_inference.split.blocks import PHASES
from hp_inference.split.shares import Workspace
from hp_inference.split.steps import Steps
from hp_planner.timeline.compiled import compiled

INTERVALS = 6
"""More intervals than this in the rows of a value at one side: such a plan is not considered."""
MOST_SENT = PHASES * INTERVALS
"""Most intervals of a value that one side sends."""
MOST_STEPS = (PHASES + 1) * INTERVALS + 2 * MOST_SENT
"""Most intervals of a value that one side sends, computes and receives: no plan has more steps."""

for module, functions in (
        (rs, 'add add_all clip add_common remove count meets holds'),
        (shares, 'fill_shares _share_out _ask_for_what_is_read'),
        (blocks, 'fill_phases _cut_what_travels _cut_into_blocks _find_due _ask_in_time _fill_made '
                 '_as_enabled _events_before _enabled _reads_are_there _put_off _fill_there'),
        (steps, 'make_steps _number_messages _fill_held _project _receive_needs _receive _send '
                '_put')):
    for name in functions.split():
        register_jitable(getattr(module, name))


@overload(row_rules.add_needs)
def _add_needs(rules, argument, rows, begin, end, into):
    def look_up(rules, argument, rows, begin, end, into):
        p = rules.pairs[argument]
        if p < 0:
            at = rules.at[argument]
            rs.add(into, rules.low[at + begin], rules.high[at + end])
        else:
            p += begin * (rows + 1) + end
            for i in range(rules.starts[p], rules.starts[p + 1]):
                rs.add(into, rules.spans[i, 0], rules.spans[i, 1])
    return look_up


@overload(row_rules.has_needs)
def _has_needs(rules, argument, rows, begin, end, there):
    def look_up(rules, argument, rows, begin, end, there):
        p = rules.pairs[argument]
        if p < 0:
            at = rules.at[argument]
            return rs.holds(there, rules.low[at + begin], rules.high[at + end])
        p += begin * (rows + 1) + end
        for i in range(rules.starts[p], rules.starts[p + 1]):
            if not rs.holds(there, rules.spans[i, 0], rules.spans[i, 1]):
                return False
        return True
    return look_up


@compiled
def make_steps(tables, robot, server, counts, work: Workspace, made: Steps):
    """Fill ``made`` as hp_inference.split.steps does; all in arrays, ``tables`` a RowTables."""
    return steps.make_steps(tables, robot, server, counts, work, made)


def new_workspace(values: int) -> Workspace:
    """Return memory for working out a plan of a graph with so many values."""
    def numbers(*shape):
        return np.zeros(shape, np.int32)

    def sets(*shape):
        return numbers(values, 2, *shape, rs.room_for(INTERVALS))
    phases, messages = PHASES + 1, 2 * MOST_SENT * values
    return Workspace(
        wanted=sets(), computed=sets(), arriving=sets(), travel=sets(PHASES),
        travel_phase=numbers(values, 2, PHASES), travel_count=numbers(values, 2),
        asked=sets(phases), due=sets(phases), made=sets(phases), there=sets(phases),
        events=numbers(values, 2), behind=numbers(values, 2), first_message=numbers(values, 2),
        got=numbers(messages), message_begin=numbers(messages), message_end=numbers(messages),
        spare=numbers(4, rs.room_for(INTERVALS)))


def new_steps(values: int, most: int | None = None) -> Steps:
    """Return memory for the steps, at most so many, of a plan of a graph with so many values."""
    most = MOST_STEPS * values if most is None else most
    return Steps(*(np.zeros((2, most), np.int32) for _ in range(5)),
                 *(np.zeros((2, values), np.int32) for _ in range(2)), np.zeros(4, np.int32))
