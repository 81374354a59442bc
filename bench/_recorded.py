# SPDX-License-Identifier: Apache-2.0
"""Reading device records: operator times of a robot and a server, and what was measured."""

from __future__ import annotations

import csv
from dataclasses import dataclass, fields
import json
import math
from pathlib import Path

MIB = 2 ** 20  # the records count megabytes so, the table of measurements counts 1e6 bytes


class RecordError(ValueError):
    """A record that can't be read or used; the text says which, where and what was expected."""


@dataclass(frozen=True)
class RecordedOp:
    """
    One call of a torch function: its name, the calls that made its inputs, shapes, milliseconds.

    ``inputs`` are positions in the record. They list aliases: what an in-place call returned
    stands beside what it wrote over, in ascending order.
    """

    name: str
    inputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    robot_ms: float
    server_ms: float


@dataclass(frozen=True)
class Record:
    """
    The operators of one model as two devices ran them, first ``_start`` and last ``_end``.

    ``robot_forward_ms`` and ``server_forward_ms`` are whole runs; ``input_mbytes`` and
    ``output_mbytes`` (of MIB bytes) what full offload sends.
    """

    model: str
    robot: str
    server: str
    source: str
    input_dtype: str
    robot_forward_ms: float
    server_forward_ms: float
    input_mbytes: float
    output_mbytes: float
    ops: tuple[RecordedOp, ...]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the model's input."""
        return self.ops[0].shapes[0]

    def total_ms(self, side: str) -> float:
        """Return the sum of the operators' times of 'robot' or 'server'."""
        return math.fsum(getattr(op, f'{side}_ms') for op in self.ops)

    def described(self, number: int) -> str:
        """Return an operator as error texts name it."""
        op = self.ops[number]
        shapes = ', '.join(str(list(shape)) for shape in op.shapes)
        return f'record operator {number} ({op.name}, {shapes})'


@dataclass(frozen=True)
class Measured:
    """One line of measured.csv: an approach's inferences along one trace ('-' for none)."""

    model: str
    approach: str
    trace: str
    mean_ms: float
    p95_ms: float
    mean_power_w: float
    mean_energy_j: float
    mean_sent_mbytes: float
    inferences: int


def read_record(path: Path) -> Record:
    """Return the record in a JSON file; raises RecordError."""
    try:
        data = json.loads(Path(path).read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise RecordError(f'record {path} can not be read as JSON: {error}') from error
    try:
        return _record(data)
    except RecordError as error:
        raise RecordError(f'record {path}: {error}') from error


def _record(data: object) -> Record:
    names = [part.name for part in fields(Record)]
    _keys(data, names, 'it')
    texts = {name: data[name] for name in ('model', 'robot', 'server', 'source', 'input_dtype')}
    for name, text in texts.items():
        if not isinstance(text, str) or not text:
            raise RecordError(f'{name} is {text!r}, expected text')
    numbers = {name: _number(data[name], name, positive=True) for name in names
               if name.endswith(('_ms', '_mbytes'))}
    if not isinstance(data['ops'], list) or len(data['ops']) < 3:
        raise RecordError('ops is not a list of at least three operators: _start, one that '
                          'computes, _end')
    record = Record(**texts, **numbers,
                    ops=tuple(_operator(item, place) for place, item in enumerate(data['ops'])))
    for place, name in ((0, '_start'), (-1, '_end')):
        if record.ops[place].name != name:
            raise RecordError(f'operator {place} is {record.ops[place].name!r}, expected {name!r}')
    for side in ('robot', 'server'):
        if record.total_ms(side) <= 0:
            raise RecordError(f'the {side}_ms of all operators are 0, expected times')
    return record


def _operator(item: object, place: int) -> RecordedOp:
    where = f'operator {place}'
    _keys(item, ['op', 'inputs', 'output_shapes', 'robot_ms', 'server_ms'], where)
    if not isinstance(item['op'], str) or not item['op']:
        raise RecordError(f'{where}: op is {item["op"]!r}, expected the name of a torch function')
    inputs = item['inputs']
    if not isinstance(inputs, list) or not all(_whole(i) and 0 <= i < place for i in inputs):
        raise RecordError(f'{where} ({item["op"]}): inputs is {inputs!r}, expected a list of '
                          'earlier operators')
    if place and not inputs:
        raise RecordError(f'{where} ({item["op"]}): it has no inputs, expected earlier operators')
    shapes = item['output_shapes']
    if not isinstance(shapes, list) or not shapes or not all(
            isinstance(shape, list) and shape and all(_whole(n) and n > 0 for n in shape)
            for shape in shapes):
        raise RecordError(f'{where} ({item["op"]}): output_shapes is {shapes!r}, expected a list '
                          'of shapes, which are lists of sizes')
    times = (_number(item[f'{side}_ms'], f'{where} ({item["op"]}): {side}_ms')
             for side in ('robot', 'server'))
    return RecordedOp(item['op'], tuple(inputs), tuple(map(tuple, shapes)), *times)


def _keys(item: object, names: list[str], where: str) -> None:
    if not isinstance(item, dict):
        raise RecordError(f'{where} is a {type(item).__name__}, expected an object with '
                          f'{", ".join(names)}')
    missing = [name for name in names if name not in item]
    if missing:
        raise RecordError(f'{where} lacks {", ".join(missing)}')


def _whole(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _number(item: object, where: str, positive: bool = False) -> float:
    if not isinstance(item, (int, float)) or isinstance(item, bool) or not (
            0 <= item < math.inf) or (positive and item == 0):
        raise RecordError(f'{where} is {item!r}, expected a finite number '
                          f'{"above" if positive else "from"} 0')
    return float(item)


def read_measured(path: Path) -> list[Measured]:
    """Return the lines of a measured.csv; raises RecordError."""
    try:
        with Path(path).open(encoding='utf-8', newline='') as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f'measurements {path} can not be read as CSV: {error}') from error
    lines = []
    for number, row in enumerate(rows, 2):
        where = f'measurements {path}, line {number}'
        _keys(row, [part.name for part in fields(Measured)], where)
        given = {}
        for part in fields(Measured):
            text = row[part.name]
            if part.type == 'str':
                given[part.name] = text
                continue
            try:
                value = _number(float(text), f'{where}: {part.name}')
                given[part.name] = int(value) if part.type == 'int' else value
            except (TypeError, ValueError) as error:
                raise RecordError(f'{where}: {part.name} is {text!r}, expected a finite number '
                                  'from 0') from error
        lines.append(Measured(**given))
    return lines
