# SPDX-License-Identifier: Apache-2.0
"""
The process that reads plan tables of strangers; ``intake`` starts it and talks to it.

A table of hostile making costs this process its time and memory, both limited, and nobody else's:
it holds the graph and no weights, no ROS, no key and no file. What it answers is plain numbers.
"""

from __future__ import annotations

from collections.abc import Callable
import gc
import json
import math
import os
import pickle
import resource
import struct

import torch

from hp_inference.graph.layout import Layout
from hp_inference.runtime.memory import trim
from hp_inference.split.errors import PlanError
from hp_inference.split.plan import Plan
from hp_inference.split.program import compile_plan, Compute, Program, Receive, Send
from hp_inference.split.table import PlanTable

READ, COMPILE = b'R', b'C'  # what is asked for
DIGEST_BYTES = 32
# Processor time for one table to be read, or one plan to be compiled: of 40 random plans of
# densenet201, the slowest known, none took longer than 1.5 s on a 2024 server. [s]
CPU_S = 60
# Memory beside the graph's. 8 MB of JSON become 200 MB of Python objects at the very most.
DATA_BYTES = 512 << 20
NICE = 10
# Figures of the record that are passed on: 128 plans at 50 rates.
MOST_FIGURES = 32_000
_KINDS = (Compute, Send, Receive)
LENGTH = struct.Struct('<I')


def main(fd: int) -> None:
    """Answer what comes by a socket until it ends."""
    asking, answers = os.fdopen(fd, 'rb'), os.fdopen(os.dup(fd), 'wb')
    os.dup2(2, 1)  # whoever prints, prints elsewhere
    torch.set_num_threads(1)
    layout = Layout(pickle.loads(read_frame(asking)))  # of the process that started this
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, _data_bytes() + DATA_BYTES)
    os.nice(NICE)
    write_frame(answers, b'{}')
    answers.flush()
    while (asked := read_frame(asking)) is not None:
        # Of all that it has used so far and may use for this.
        used = math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))
        resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_S, resource.RLIM_INFINITY))
        answer(layout, asked, lambda data: write_frame(answers, data))
        answers.flush()
        if len(asked) > 1 << 20:
            del asked
            gc.collect()
            trim()


def answer(layout: Layout, asked: bytes, write: Callable[[bytes], None]) -> None:
    """Write the answer to a request: one frame of JSON, and those that it announces."""
    try:
        made = (_read if asked[:1] == READ else _compile)(layout, asked[1:])
    except PlanError as error:
        made = [{'refused': str(error)}]
    except (MemoryError, RecursionError) as error:
        made = [{'refused': f'the plan table is too much to read: {type(error).__name__}'}]
    for part in made:
        write(json.dumps(part, separators=(',', ':')).encode())


def _read(layout: Layout, data: bytes) -> list[dict]:
    """Return a head and then each plan, each curve."""
    table = PlanTable.checked(data[DIGEST_BYTES:], layout)
    if table.digest != data[:DIGEST_BYTES]:
        raise PlanError('the plan table is not the one that its digest names')
    record, curves = _record(table)
    return [{'plans': len(table.plans), 'record': record,
             'choices': [[choice.mbit_s, choice.plan] for choice in table.choices],
             'curves': list(curves)},
            *(plan.to_json() for plan in table.plans), *curves.values()]


def _record(table: PlanTable) -> tuple[dict | None, dict]:
    """Return what a robot can use of a table's record, its curves apart; looked at elsewhere."""
    record = table.record
    if record is None:
        return None, {}
    known = {key: record[key] for key in ('objective', 'grid', 'power') if key in record}
    curves = record.get('curves')
    if not isinstance(curves, dict):
        return {**known, 'curves': None}, {}
    if _figures(known) + _figures(curves) > MOST_FIGURES:
        return {'curves': f'more than {MOST_FIGURES} figures'}, {}
    return known, curves


def _figures(item: object) -> int:
    """Return how many things there are in JSON data, texts by their length."""
    if isinstance(item, str):
        return 1 + len(item) // 100
    if isinstance(item, dict):
        return sum(_figures(key) + _figures(part) for key, part in item.items())
    return 1 + sum(map(_figures, item)) if isinstance(item, list) else 1


def _compile(layout: Layout, data: bytes) -> list[dict]:
    """Return both programs of a plan as numbers."""
    plan = Plan.from_json(json.loads(data), layout)
    return [{'programs': [_numbers(program) for program in compile_plan(layout, plan)]}]


def _numbers(program: Program) -> dict:
    return {'steps': [[_KINDS.index(type(step)), step.value, step.begin, step.end]
                      for step in program.steps],
            'held': [[value, *rows] for value, rows in program.held.items()]}


def program(layout: Layout, plan: Plan, side: int, numbers: dict) -> Program:
    """Return the program that ``_numbers`` wrote down; raises ValueError for one that can't be."""
    for value, begin, end in (*(step[1:] for step in numbers['steps']), *numbers['held']):
        if not (0 <= value < len(layout.rows) and 0 <= begin < end <= layout.rows[value]):
            raise ValueError(f'rows [{begin},{end}) of value {value} are not in the graph')
    steps = tuple(Compute(value, begin, end) if kind == 0 else
                  _KINDS[kind](value, begin, end, plan.codec_of(value))
                  for kind, value, begin, end in numbers['steps'])
    return Program(side, plan.name, steps,
                   {value: (begin, end) for value, begin, end in numbers['held']})


def write_frame(file, data: bytes) -> None:
    """Write some bytes with their number before them."""
    file.write(LENGTH.pack(len(data)))
    file.write(data)


def read_frame(file) -> bytes | None:
    """Return what ``write_frame`` wrote; None at the end."""
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    length, = LENGTH.unpack(head)
    data = file.read(length)
    return data if len(data) == length else None


def _limit(what: int, most: int) -> None:
    """Lower a limit of this process for good, where the system lets it."""
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def _data_bytes() -> int:
    """Return the private memory that this process has so far."""
    with open('/proc/self/statm') as file:
        return int(file.read().split()[5]) * resource.getpagesize()
