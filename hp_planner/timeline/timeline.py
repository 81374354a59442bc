# SPDX-License-Identifier: Apache-2.0
"""
What plans cost in a setting: one timeline for one plan and for whole populations.

The steps of a plan come from its compiled Programs (what runs is what is timed) or, for the
optimiser's thousands, from arrays of shares; both go through the same simulation.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
import os

import numpy as np

from hp_inference.link.wire import CHUNK_BYTES, chunk_bytes, CODEC_CODES
from hp_inference.runtime.frames import Span
from hp_inference.split.plan import Plan
from hp_inference.split.program import compile_plan, Compute, Program, Send
from hp_inference.split.steps import COMPUTE, RECEIVE, SEND, Steps
from hp_planner.timeline.compiler import new_steps, new_workspace
from hp_planner.timeline.row_tables import row_tables, RowTables
from hp_planner.timeline.setting import bytes_per_s, Prediction, Setting
from hp_planner.timeline.simulate import Costs, judge, Lanes, new_lanes, simulate
from hp_planner.timeline.simulate import FIGURES as FIGURE_COUNT

CODECS = tuple(sorted(CODEC_CODES, key=CODEC_CODES.get))
LANES = ('robot', 'server', 'uplink', 'downlink')
WORKERS = os.cpu_count() or 1
POOL = ThreadPoolExecutor(WORKERS, 'timeline')


@dataclass(frozen=True)
class Population:
    """
    Plans as arrays: ``robot``, ``server``, ``blocks``, ``codecs``, each [plans, values] int32.

    ``codecs`` are the codes of the wire.
    """

    robot: np.ndarray
    server: np.ndarray
    blocks: np.ndarray
    codecs: np.ndarray

    def __len__(self) -> int:
        """Return the number of plans."""
        return len(self.robot)

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> Population:
        """Return plans as arrays."""
        values = range(len(plans[0].robot))
        return cls(*(np.array(rows, np.int32) for rows in (
            [plan.robot for plan in plans], [plan.server for plan in plans],
            [[plan.block_count(v) for v in values] for plan in plans],
            [[CODEC_CODES[plan.codec_of(v)] for v in values] for plan in plans])))

    def plan(self, i: int, name: str) -> Plan:
        """Return one of the plans; blocks and codecs that differ from the rest are named."""
        codecs = [CODECS[code] for code in self.codecs[i]]
        rest = codecs[1:] or codecs  # JPEG, which is for the image alone, is never the usual one
        usual = max(sorted(set(rest)), key=rest.count)
        return Plan(name, tuple(map(int, self.robot[i])), tuple(map(int, self.server[i])),
                    {v: int(n) for v, n in enumerate(self.blocks[i]) if n != 1},
                    {v: codec for v, codec in enumerate(codecs) if codec != usual}, usual)


class Timeline:
    """The costs of one setting, ready to judge plans."""

    def __init__(self, setting: Setting):
        self.setting = setting
        self.tables: RowTables = row_tables(setting.layout)
        self.costs: Costs = _costs(setting, self.tables)
        self._memory = []
        for _ in range(WORKERS):
            steps = new_steps(len(self.tables.rows))
            self._memory.append((new_workspace(len(self.tables.rows)), steps, new_lanes(steps)))

    def predict(self, plan: Plan, mbit_s: float) -> Prediction:
        """Return what a plan costs; raises PlanError for one that does not compile."""
        return Prediction(*map(float, self._run(plan, mbit_s)[0]))

    def lanes(self, plan: Plan, mbit_s: float) -> list[Span]:
        """Return when robot, server, uplink and downlink are busy, and with what."""
        lanes = self._run(plan, mbit_s)[1]
        names = [value.name for value in self.setting.layout.graph.values]
        spans = []
        for lane, name in enumerate(LANES):
            for i in range(lanes.counts[lane]):
                begin, end = map(float, lanes.spans[lane, i])
                value, first, last = map(int, lanes.what[lane, i])
                spans.append(Span(name, f'{names[value]}[{first}:{last}]', begin, end - begin))
        return spans

    def figures(self, population: Population, mbit_s: Sequence[float]) -> np.ndarray:
        """
        Return [plans, rates, figures] (simulate.LATENCY and on), infinite for what can't run.

        All plans at all rates; the work is shared among threads, the answer does not depend on it.
        """
        rates = np.array([bytes_per_s(rate) for rate in mbit_s])
        out = np.empty((len(population), len(rates), FIGURE_COUNT))
        parts = min(len(self._memory), max(1, len(population) // 8))

        def work(part: int) -> None:
            judge(self.tables, self.costs, population.robot, population.server, population.blocks,
                  population.codecs, rates, part, parts, *self._memory[part], out)
        list(POOL.map(work, range(parts)))
        return out

    def _run(self, plan: Plan, mbit_s: float) -> tuple[np.ndarray, Lanes]:
        steps = steps_of(compile_plan(self.setting.layout, plan), len(self.tables.rows))
        codecs = Population.of([plan]).codecs[0]
        lanes, figures = new_lanes(steps), np.empty(FIGURE_COUNT)
        simulate(self.tables, self.costs, steps, codecs, bytes_per_s(mbit_s), lanes, figures)
        return figures, lanes


def predict(setting: Setting, plan: Plan, mbit_s: float) -> Prediction:
    """Return what one plan costs in a setting at a rate."""
    return Timeline(setting).predict(plan, mbit_s)


def steps_of(programs: tuple[Program, Program], values: int) -> Steps:
    """Return the steps of compiled Programs as arrays, with messages numbered."""
    longest = max(1, *(len(program.steps) for program in programs))
    steps = new_steps(values, longest)
    numbers: dict[tuple[int, int, int, int], int] = {}
    for side, program in enumerate(programs):
        for send in program.sends:
            numbers[side, send.value, send.begin, send.end] = len(numbers)
    for side, program in enumerate(programs):
        for value, held in program.held.items():
            steps.held_begin[side, value], steps.held_end[side, value] = held
        for i, step in enumerate(program.steps):
            kind, sender = RECEIVE, 1 - side
            if isinstance(step, Compute):
                kind = COMPUTE
            elif isinstance(step, Send):
                kind, sender = SEND, side
            steps.kind[side, i], steps.value[side, i] = kind, step.value
            steps.begin[side, i], steps.end[side, i] = step.begin, step.end
            steps.message[side, i] = numbers.get((sender, step.value, step.begin, step.end), -1)
        steps.counts[side] = len(program.steps)
    steps.counts[2:] = len(numbers), 1
    return steps


def _costs(setting: Setting, tables: RowTables) -> Costs:
    profiles, link, power = (setting.robot, setting.server), setting.link, setting.power
    values = len(tables.rows)
    compute = np.zeros((2, int(tables.at_row[-1]) + int(tables.rows[-1]) + 1))
    for side, profile in enumerate(profiles):
        for v in range(1, values):
            rows = np.arange(tables.rows[v] + 1)
            compute[side, tables.at_row[v] + rows] = profile.seconds(v, rows)
    ratio, codec_s = np.ones((len(CODECS), values)), np.zeros((2, len(CODECS), 2))
    for code, name in enumerate(CODECS):
        # What one device did not measure costs nothing there: such a codec is not offered.
        ratio[code] = setting.robot.ratios.get(name, np.ones(values))
        for side, profile in enumerate(profiles):
            if name in profile.codecs:
                speed = profile.codecs[name]
                codec_s[side, code] = 1 / speed.encode_bytes_per_s, 1 / speed.decode_bytes_per_s
    return Costs(compute, np.array(setting.robot.value_bytes) / tables.rows, ratio, codec_s,
                 np.array([profile.message_s for profile in profiles]),
                 np.array([profile.byte_s for profile in profiles]), float(link.byte_s),
                 float(link.message_s), link.round_trip_s / 2, link.duplex == 'half',
                 np.array([power.waiting_w, power.communicating_w, power.computing_w], float),
                 np.array([_chunk_bytes(name, setting) for name in CODECS], float))


def _chunk_bytes(codec: str, setting: Setting) -> int:
    rows = setting.layout.rows[0]
    # None for rows too long for a JPEG's chunk: such a plan is refused before it is judged.
    return chunk_bytes(codec, setting.layout.graph.input.nbytes // rows) or CHUNK_BYTES
