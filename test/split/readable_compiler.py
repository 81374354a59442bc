# SPDX-License-Identifier: Apache-2.0
"""
The plan compiler once more, in sets of rows that can be read: the oracle of the one that runs.

What each side computes and what travels (``shares``), when (``timing``), and in which steps
(``programs_of``). The rules and why they are so: hp_inference/split/{shares,blocks,steps}.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows
from hp_inference.split.blocks import MIN_BLOCK_ROWS, PHASES
from hp_inference.split.plan import Plan, PlanError
from hp_inference.split.program import Compute, Program, Receive, Send
from hp_inference.split.row_rules import needs_of
from hp_inference.split.shares import ROBOT, SERVER

NONE = Rows()


@dataclass
class Share:
    """Of one value, per side (robot, server): the rows wanted, computed there and arriving."""

    wanted: list[Rows] = field(default_factory=lambda: [NONE, NONE])
    computed: list[Rows] = field(default_factory=lambda: [NONE, NONE])
    arriving: list[Rows] = field(default_factory=lambda: [NONE, NONE])

    def held(self, side: int) -> Rows:
        """Return the rows that a side ends up with."""
        return self.computed[side] | self.arriving[side]


def shares(layout: Layout, plan: Plan) -> list[Share]:
    """
    Return every value's share.

    A row that is wanted is computed where the plan lets it be and needed; the side that does not
    compute a row that it wants gets it sent. Rows that nothing wants belong to nobody. Raises
    PlanError where a wanted row is computed by neither side.
    """
    plan.validate(layout)
    made = [Share() for _ in layout.rows]
    for value in layout.graph.outputs.values():
        made[value].wanted[ROBOT] = Rows.of(0, layout.rows[value])
    for value in reversed(range(len(made))):
        share, rows = made[value], layout.rows[value]
        able = (Rows.of(0, plan.robot[value]), Rows.of(plan.server[value], rows))
        gap = (share.wanted[ROBOT] | share.wanted[SERVER]) - (able[ROBOT] | able[SERVER])
        if gap:
            raise PlanError(
                f'plan {plan.name!r} has a gap: rows {gap} of value {value} '
                f'({layout.graph.values[value].name}) are needed, but the robot computes '
                f'[0,{plan.robot[value]}) and the server [{plan.server[value]},{rows})')
        for side, other in ((ROBOT, SERVER), (SERVER, ROBOT)):
            share.arriving[side] = share.wanted[side] - able[side]
            share.computed[side] = able[side] & (
                share.wanted[side] | (share.wanted[other] - able[other]))
        if value == 0:
            break
        for side in (ROBOT, SERVER):
            for source, need in needs_of(layout, value, share.computed[side]).items():
                made[source].wanted[side] = made[source].wanted[side] | need
    return made


@dataclass(frozen=True)
class Timing:
    """
    Per value and side: which rows are computed, and which leave, in which phase.

    ``computed[v][side]`` and ``leaving[v][side]``: lists of (phase, rows), phases ascending.
    """

    computed: list[tuple[list, list]]
    leaving: list[tuple[list, list]]


def timing(layout: Layout, plan: Plan, made: list[Share]) -> Timing:
    """Assign phases to all rows that are computed or travel."""
    # What leaves a side is what arrives at the other.
    travels = [tuple(_travel_blocks(share.arriving[other], plan.block_count(value))
                     for other in (SERVER, ROBOT)) for value, share in enumerate(made)]
    streams = any(len(blocks) > 1 for pair in travels for blocks in pair)
    wanted = _wanted_phases(layout, made, travels) if streams else None
    computed, leaving = [], []
    available = [([], []) for _ in made]  # like computed, with what arrived
    waits = [[False, False] for _ in made]  # does anything that arrives lie behind this value?
    for value, share in enumerate(made):
        phases: tuple[list, list] = ([], [])
        for side in (ROBOT, SERVER):
            rows = share.computed[side]
            if not rows:
                continue
            refs = layout.graph.ops[value - 1].refs if value else ()
            behind = any(waits[ref][side] or made[ref].arriving[side] for ref in refs)
            waits[value][side] = behind
            if not streams or value == 0:
                phases[side].append((PHASES if value else 0, rows))
            else:
                earliest = [(1, rows)] if behind else wanted[value][side]
                phases[side].extend(_as_enabled(layout, value, earliest, available, side))
        computed.append(phases)
        leaving.append(tuple(_leave(blocks, phases[side])
                             for side, blocks in enumerate(travels[value])))
        for side, other in ((ROBOT, SERVER), (SERVER, ROBOT)):
            available[value][side].extend(sorted(
                phases[side] + leaving[value][other], key=lambda entry: entry[0]))
    return Timing(computed, leaving)


def _travel_blocks(rows: Rows, count: int) -> list[tuple[int, Rows]]:
    parts = rows.split(count) if rows else []
    return [(PHASES * (i + 1) // len(parts), part) for i, part in enumerate(parts)]


def _wanted_phases(layout: Layout, made: list[Share], travels) -> list[tuple[list, list]]:
    """Return, per value and side, the computed rows by the earliest phase that wants them."""
    asked = [[{}, {}] for _ in made]  # value, side -> {phase: rows}
    wanted: list[tuple[list, list]] = [([], []) for _ in made]
    for value in reversed(range(len(made))):
        for side in (ROBOT, SERVER):
            for phase, rows in travels[value][side]:
                asked[value][side][phase] = asked[value][side].get(phase, NONE) | rows
            rest, so_far = made[value].computed[side], NONE
            for phase in range(1, PHASES + 1):
                rows = asked[value][side].get(phase, NONE) & rest
                if phase == PHASES:
                    rows = rest
                if not rows:
                    continue
                rest, so_far = rest - rows, so_far | rows
                wanted[value][side].append((phase, rows))
                if value:
                    # Blocks may be joined, and joined they may read rows that lie between what
                    # they read apart (a stride that skips rows): ask for those in time.
                    for source, need in needs_of(layout, value, so_far).items():
                        table = asked[source][side]
                        table[phase] = table.get(phase, NONE) | need
    return wanted


def _as_enabled(layout: Layout, value: int, earliest: list, available, side: int) -> list:
    """
    Return the rows by the first phase, not before ``earliest``, that has all they read.

    Blocks of few rows wait for the phase after, to be joined with what is ready then.
    """
    refs = layout.graph.ops[value - 1].refs
    events = sorted({phase for ref in refs for phase, _ in available[ref][side]}
                    | {phase for phase, _ in earliest})
    entries, rest = [], NONE
    for phase in events:
        rest = rest | Rows(pair for when, part in earliest if when == phase for pair in part)
        ready = rest
        if phase != events[-1]:
            there = {ref: Rows(pair for when, part in available[ref][side] if when <= phase
                               for pair in part) for ref in refs}
            ready = Rows((begin, _enabled_until(layout, value, begin, end, there))
                         for begin, end in rest)
        if ready.count >= MIN_BLOCK_ROWS or phase == events[-1] and ready:
            entries.append((phase, ready))
            rest = rest - ready
    return entries


def _enabled_until(layout: Layout, value: int, begin: int, end: int, there) -> int:
    """Return the largest e in [begin, end] such that rows [begin, e) can be computed."""
    low, high = begin, end
    while low < high:
        middle = (low + high + 1) // 2
        needs = needs_of(layout, value, Rows.of(begin, middle))
        if all(need <= there[source] for source, need in needs.items()):
            low = middle
        else:
            high = middle - 1
    return low


def _leave(blocks: list, computed: list) -> list:
    """Return travel blocks with their phase put off to when their rows are computed."""
    put_off, latest = [], 0
    for phase, rows in blocks:
        ready = max((when for when, part in computed if part & rows), default=0)
        latest = max(latest, phase, ready)
        put_off.append((latest, rows))
    return put_off


def programs_of(layout: Layout, plan: Plan) -> tuple[Program, Program]:
    """Return the robot's and the server's Program; raises PlanError for an incomplete plan."""
    made = shares(layout, plan)
    when = timing(layout, plan, made)
    return tuple(_project(layout, plan, made, when, side) for side in (ROBOT, SERVER))


def _project(layout: Layout, plan: Plan, made: list[Share], when, side: int) -> Program:
    """Return one side's steps; a Receive stands right before the first step that needs it."""
    actions = []  # (phase, value, 0 compute / 1 send, rows)
    for value in range(len(made)):
        if value:
            actions += [(phase, value, 0, rows) for phase, rows in when.computed[value][side]]
        actions += [(phase, value, 1, rows) for phase, rows in when.leaving[value][side]]
    actions.sort(key=lambda action: (action[0], action[1], action[2], action[3].hull))
    pending = {value: [pair for _, rows in when.leaving[value][1 - side] for pair in rows]
               for value in range(len(made)) if made[value].arriving[side]}
    steps: list = []

    def receive(value: int, need: Rows) -> None:
        for pair in list(pending.get(value, ())):
            if need & Rows((pair,)):
                steps.append(Receive(value, *pair, plan.codec_of(value)))
                pending[value].remove(pair)
    for _, value, what, rows in actions:
        for begin, end in rows:
            if what == 1:
                steps.append(Send(value, begin, end, plan.codec_of(value)))
                continue
            for source, need in needs_of(layout, value, Rows.of(begin, end)).items():
                receive(source, need)
            steps.append(Compute(value, begin, end))
    for value in list(pending):
        receive(value, made[value].arriving[side])
    held = {value: share.held(side).hull for value, share in enumerate(made)
            if share.held(side) != NONE}
    return Program(side, plan.name, tuple(steps), held)
