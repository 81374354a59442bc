# SPDX-License-Identifier: Apache-2.0
"""What the plan compiler works out on the way, in the terms of readable_compiler."""

from readable_compiler import Share, Timing

from hp_inference.split.blocks import fill_phases, PHASES
from hp_inference.split.row_rules import RowRules
from hp_inference.split.rowsets import rows_of
from hp_inference.split.shares import COMPLETE, fill_shares, new_workspace, ROBOT, SERVER


def _worked(layout, plan):
    rules, work = RowRules(layout), new_workspace(max(layout.rows))
    assert fill_shares(rules, plan.robot, plan.server, work) == COMPLETE
    blocks = [plan.block_count(value) for value in range(len(layout.rows))]
    assert fill_phases(rules, blocks, work)
    return work


def shares(layout, plan):
    """Return every value's share."""
    work = _worked(layout, plan)
    return [Share(*([rows_of(sets[value, side]) for side in (ROBOT, SERVER)]
                    for sets in (work.wanted, work.computed, work.arriving)))
            for value in range(len(layout.rows))]


def timing(layout, plan):
    """Return the phases of all rows that are computed or travel."""
    work, values = _worked(layout, plan), range(len(layout.rows))
    return Timing(
        [tuple([(phase, rows_of(work.made[value, side, phase])) for phase in range(PHASES + 1)
                if work.made[value, side, phase][0]] for side in (ROBOT, SERVER))
         for value in values],
        [tuple([(work.travel_phase[value, side, j], rows_of(work.travel[value, side, j]))
                for j in range(work.travel_count[value, side])] for side in (ROBOT, SERVER))
         for value in values])
