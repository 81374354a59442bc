# SPDX-License-Identifier: Apache-2.0
"""
What a device takes for a model: seconds per operator and rows, codecs, messages, watts.

Plain data that checks itself, and its JSON; nothing is measured here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
import json
from pathlib import Path

import numpy as np

from hp_inference import __version__, files
from hp_inference.runtime.meters import BadPower, Power
from hp_inference.split.errors import shown
from hp_inference.text import host_name, line, NAME, plain
from hp_inference.text import MOST as MOST_TEXT

FORMAT, KIND = 1, 'device_profile'
MAX_BYTES = 8 << 20  # 50 times what the largest networks need
# Far beyond every figure, and far from where arithmetic overflows or comes to nothing.
LEAST, MOST = 1e-15, 1e15
AGAIN = 'measure it again with hp profile'


class ProfileError(ValueError):
    """A device profile that can't be used; the text says what is wrong and what was expected."""


@dataclass(frozen=True)
class CodecSpeed:
    """How fast one thread encodes and decodes, in raw (not encoded) bytes per second."""

    encode_bytes_per_s: float
    decode_bytes_per_s: float

    def __post_init__(self):
        """Refuse what is no speed; raises ProfileError."""
        for name in ('encode_bytes_per_s', 'decode_bytes_per_s'):
            _number(getattr(self, name), f'codec {name}', 'bytes per second', above=True)


@dataclass(frozen=True)
class OperatorTime:
    """
    What one operator takes for so many rows of its output.

    ``operator``: its ATen name. ``rows``: ascending, the last is all rows of the value.
    ``seconds``: one per row count. ``spread``: the worst interquartile range / median of them.
    """

    operator: str
    rows: tuple[int, ...]
    seconds: tuple[float, ...]
    spread: float = 0.0

    def __post_init__(self):
        """Refuse what can't have been measured; raises ProfileError."""
        where = f'operator {shown(self.operator)}:'
        _text(self.operator, 'an operator name')
        ascending = bool(self.rows) and all(
            type(b) is int and a < b for a, b in zip((0, *self.rows), self.rows))
        if not ascending or len(self.seconds) != len(self.rows):
            raise ProfileError(f'{where} rows are {shown(self.rows)} and seconds '
                               f'{shown(self.seconds)}, expected ascending whole numbers from 1 '
                               'on and as many seconds')
        for seconds in self.seconds:
            _number(seconds, f'{where} a time', 'seconds')
        _number(self.spread, f'{where} spread', 'share of the median')


@dataclass(frozen=True)
class DeviceProfile:
    """
    One model on one device.

    ``operators[v - 1]`` makes value v; their seconds are already multiplied by ``scale``, so that
    whole operators add up to ``whole_s``, the measured unsplit run. ``codecs`` by wire name;
    ``ratios``: per codec encoded / raw bytes of each value (0..n-1) of a sample image.
    ``message_s`` and ``byte_s``: what the sender's host takes per chunk message and per encoded
    byte, in seconds. ``value_bytes``: raw bytes of each value, whole. ``device``: 'cpu',
    'cuda:0' or a name. Of texts, which may be a stranger's, only what a name may hold is kept.
    Raises ProfileError for what makes no sense.
    """

    model: str
    model_digest: str
    device: str
    host: str
    versions: dict[str, str]
    threads: int
    date: str
    operators: tuple[OperatorTime, ...]
    whole_s: float
    scale: float
    codecs: dict[str, CodecSpeed]
    ratios: dict[str, tuple[float, ...]]
    message_s: float
    byte_s: float
    value_bytes: tuple[int, ...]
    weight_bytes: int
    power: Power

    def __post_init__(self):
        """Check everything that needs no graph."""
        for name in ('model', 'model_digest', 'device', 'date'):
            self._keep(name, plain(_text(getattr(self, name), name), MOST_TEXT))
        self._keep('host', host_name(_text(self.host, 'host')))
        self._keep('versions', {plain(package): plain(_text(version, f'version {shown(package)}'))
                                for package, version in self.versions.items()})
        self._keep('power', replace(self.power, source=plain(self.power.source)))
        _whole_number(self.threads, 'threads', least=1)
        _whole_number(self.weight_bytes, 'weight_bytes')
        _number(self.whole_s, 'whole_s', 'seconds', above=True)
        _number(self.scale, 'scale', 'factor', above=True)
        _number(self.message_s, 'message_s', 'seconds')
        _number(self.byte_s, 'byte_s', 'seconds')
        values = len(self.operators) + 1
        for name, numbers in (('value_bytes', self.value_bytes),
                              *((f'ratios of {line(name, NAME)}', each)
                                for name, each in self.ratios.items())):
            if len(numbers) != values:
                raise ProfileError(f'{name}: {len(numbers)} numbers, expected {values}, one per '
                                   f'value of a graph of {values - 1} operators')
        for size in self.value_bytes:
            _whole_number(size, 'value_bytes: a size')
        for name, numbers in self.ratios.items():
            for ratio in numbers:
                _number(ratio, f'ratios of {line(name, NAME)}: a ratio', 'encoded / raw bytes',
                        above=True)

    def _keep(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def seconds(self, value: int, rows):
        """
        Return what so many rows of a value take: a float, or an array for an array.

        Linear between 0 rows, which take no time, and the measured counts. The image takes none.
        """
        if value:
            operator = self.operators[value - 1]
            made = np.interp(rows, (0, *operator.rows), (0.0, *operator.seconds))
        else:
            made = np.zeros(np.shape(rows))
        return float(made) if np.ndim(made) == 0 else made

    def slowed(self, factor: float) -> DeviceProfile:
        """Return the profile of a device whose operators take ``factor`` times as long."""
        operators = tuple(replace(operator, seconds=tuple(factor * s for s in operator.seconds))
                          for operator in self.operators)
        return replace(self, operators=operators, whole_s=factor * self.whole_s)

    def check(self, layout) -> None:
        """Raise ProfileError unless the profile is of the model that a layout describes."""
        graph, here = layout.graph, f'{self.device} of {self.host}'
        if self.model_digest != graph.digest:
            raise ProfileError(
                f'the profile of {here} is of model {shown(self.model)} with digest '
                f'{self.model_digest[:12]}, expected {graph.model!r} with digest '
                f'{graph.digest[:12]}: {AGAIN} {graph.model}, with the same weights')
        if len(self.operators) != len(graph.ops):
            places = range(len(self.operators) + 1, len(graph.ops) + 1)
            named = ', '.join(f'%{v} {graph.values[v].name}' for v in places[:5])
            raise ProfileError(
                f'the profile of {here} has {len(self.operators)} operators, expected '
                f'{len(graph.ops)}' + (f'; missing are {named}' if named else '') + f': {AGAIN}')
        for op, time in zip(graph.ops, self.operators):
            v, value = op.output, graph.values[op.output]
            for what, got, expected in (
                    ('operator', time.operator, op.target),
                    ('number of rows', time.rows[-1], layout.rows[v]),
                    ('size in bytes', self.value_bytes[v], value.nbytes)):
                if got != expected:
                    raise ProfileError(f'the profile of {here}: the {what} of %{v} {value.name} '
                                       f'is {shown(got)}, expected {expected!r}: {AGAIN}')
        if self.value_bytes[0] != graph.input.nbytes:
            raise ProfileError(f'the profile of {here} is for an image of {self.value_bytes[0]} '
                               f'bytes, expected {graph.input.nbytes}: {AGAIN}')

    def to_json(self) -> dict:
        """Return the profile as JSON data."""
        return {'format': FORMAT, 'kind': KIND, **asdict(self)}

    @classmethod
    def from_json(cls, data: object) -> DeviceProfile:
        """Return the profile that JSON data describes; raises ProfileError."""
        data = dict(_object(data, 'a device profile'))
        kind, written = data.pop('kind', None), data.pop('format', None)
        if kind != KIND:
            raise ProfileError(f'"kind" is {shown(kind)}, expected {KIND!r}: this is no file that '
                               'hp profile wrote')
        if type(written) is not int or written != FORMAT:
            newer = type(written) is int and written > FORMAT
            raise ProfileError(f'"format" is {shown(written)}, this version ({__version__}) reads '
                               f'{FORMAT}' + (': a newer version wrote the profile, install that '
                                              f'one or {AGAIN}' if newer else f': {AGAIN}'))
        _check_keys(cls, data, 'the profile')
        for key in ('versions', 'codecs', 'ratios'):
            _object(data[key], f'"{key}"')
        for key in ('operators', 'value_bytes'):
            data[key] = _list(data[key], f'"{key}"')
        data['operators'] = tuple(_part(OperatorTime, item, f'operators[{place}]')
                                  for place, item in enumerate(data['operators']))
        data['codecs'] = {name: _part(CodecSpeed, item, f'codec {shown(name)}')
                          for name, item in data['codecs'].items()}
        data['ratios'] = {name: _list(item, f'ratios of {shown(name)}')
                          for name, item in data['ratios'].items()}
        data['power'] = _part(Power, data['power'], '"power"')
        return cls(**data)

    def dumps(self) -> str:
        """Return the profile as text, with a line per operator, codec and list of ratios."""
        lines = []
        for key, item in self.to_json().items():
            if key == 'operators':
                text = '[\n  ' + ',\n  '.join(map(json.dumps, item)) + ']'
            elif key in ('codecs', 'ratios') and item:
                text = '{\n  ' + ',\n  '.join(f'{json.dumps(name)}: {json.dumps(part)}'
                                              for name, part in item.items()) + '}'
            else:
                text = json.dumps(item)
            lines.append(f'{json.dumps(key)}: {text}')
        return '{' + ',\n '.join(lines) + '}\n'

    @classmethod
    def loads(cls, text: str) -> DeviceProfile:
        """Return the profile in JSON text; raises ProfileError."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ProfileError(f'it is not JSON: {error}') from error
        return cls.from_json(data)

    def save(self, path: str | Path) -> None:
        """Write the profile to a file; raises FileError."""
        files.write(path, self.dumps())

    @classmethod
    def load(cls, path: str | Path) -> DeviceProfile:
        """Return the profile in a file; raises ProfileError, also for a file that can't be read."""
        try:
            return cls.loads(files.read_text(path, MAX_BYTES))
        except files.FileError as error:
            raise ProfileError(
                f'can not read device profile {line(path)}: {error.why}') from error
        except ProfileError as error:
            raise ProfileError(f'device profile {line(path)}: {error}') from error


def digits(number: float) -> float:
    """Return a number with no more digits than a measurement has."""
    return float(f'{number:.6g}')


def _check_keys(kind: type, data: dict, where: str) -> None:
    known = {field.name for field in fields(kind)}
    if set(data) != known:
        raise ProfileError(f'keys of {where}: missing {sorted(known - set(data))}, '
                           f'unknown {shown(sorted(set(data) - known))}')


def _part(kind: type, item: object, where: str):
    data = dict(_object(item, where))
    _check_keys(kind, data, where)
    try:
        return kind(**{key: tuple(part) if isinstance(part, list) else part
                       for key, part in data.items()})
    except (ProfileError, BadPower, TypeError) as error:
        raise ProfileError(f'{where}: {error}') from error


def _object(item: object, where: str) -> dict:
    if not isinstance(item, dict):
        raise ProfileError(f'{where} is {shown(item)}, expected a JSON object')
    return item


def _list(item: object, where: str) -> tuple:
    if not isinstance(item, (list, tuple)):
        raise ProfileError(f'{where} is {shown(item)}, expected a list')
    return tuple(item)


def _number(number: object, where: str, unit: str, above: bool = False) -> None:
    if (isinstance(number, bool) or not isinstance(number, (int, float))
            or not (LEAST if above else 0) <= number < MOST):
        raise ProfileError(f'{where} is {shown(number)}, expected a finite number '
                           f'{"above 0" if above else "from 0 on"} ({unit})')


def _whole_number(number: object, where: str, least: int = 0) -> None:
    if type(number) is not int or not least <= number <= MOST:
        raise ProfileError(f'{where} is {shown(number)}, expected a whole number from {least} on')


def _text(text: object, where: str) -> str:
    if not isinstance(text, str):
        raise ProfileError(f'{where} is {shown(text)}, expected text')
    return text
