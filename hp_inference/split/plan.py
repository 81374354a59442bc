# SPDX-License-Identifier: Apache-2.0
"""
A plan: two numbers per value, from which all else follows.

The robot computes rows [0, robot[v]) of value v, the server rows [server[v], L). Rows that a side
needs and does not compute are the rows that travel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil
import random
import re

from hp_inference.graph.layout import Layout
from hp_inference.split.codecs import CODECS, DEFAULT_CODEC, LOSSY_CODECS
from hp_inference.split.errors import PlanError, shown

BLOCK_COUNTS = (1, 2, 4, 8)
JPEG_CHANNELS, JPEG_ROW_BYTES = (1, 3), 60_000  # a JPEG holds whole rows, so does a chunk
NAME_LENGTH = 100  # a plan's name travels with every result
# As to_json writes them, so that no two keys mean one value.
VALUE_NUMBER = re.compile(r'0|[1-9][0-9]{0,8}')


@dataclass(frozen=True)
class Plan:
    """
    The shares of robot and server, in rows, per value of one graph.

    ``blocks``: in how many row blocks a travelling value is sent (1 where it is not named).
    ``codecs``: how a travelling value is encoded (``codec`` where it is not named); 'jpeg' is for
    value 0, the image, alone.
    """

    name: str
    robot: tuple[int, ...]
    server: tuple[int, ...]
    blocks: Mapping[int, int] = field(default_factory=dict)
    codecs: Mapping[int, str] = field(default_factory=dict)
    codec: str = DEFAULT_CODEC

    def block_count(self, value: int) -> int:
        """Return in how many blocks a value travels."""
        return self.blocks.get(value, 1)

    def codec_of(self, value: int) -> str:
        """Return the name of the codec that a value travels under."""
        return self.codecs.get(value, self.codec)

    @property
    def lossy(self) -> bool:
        """Whether a codec that the plan names may change the answer."""
        return any(codec in LOSSY_CODECS for codec in (*self.codecs.values(), self.codec))

    def to_json(self) -> dict:
        """Return the plan as JSON data."""
        return {'name': self.name, 'robot': list(self.robot), 'server': list(self.server),
                'blocks': {str(v): n for v, n in sorted(self.blocks.items())},
                'codecs': {str(v): c for v, c in sorted(self.codecs.items())},
                'codec': self.codec}

    @classmethod
    def from_json(cls, data: object, layout: Layout) -> Plan:
        """Return the plan that JSON data describes, checked; raises PlanError."""
        if not isinstance(data, dict):
            raise PlanError(f'a plan is a JSON object, got {type(data).__name__}')
        unknown = set(data) - {'name', 'robot', 'server', 'blocks', 'codecs', 'codec'}
        missing = {'name', 'robot', 'server'} - set(data)
        if unknown or missing:
            raise PlanError(f'plan keys: missing {sorted(missing)}, '
                            f'unknown {shown(sorted(unknown))}')
        plan = cls(_typed(data['name'], str, 'name'),
                   tuple(_list_of_ints(data['robot'], 'robot')),
                   tuple(_list_of_ints(data['server'], 'server')),
                   _by_value(data.get('blocks', {}), 'blocks', int),
                   _by_value(data.get('codecs', {}), 'codecs', str),
                   _typed(data.get('codec', DEFAULT_CODEC), str, 'codec'))
        plan.validate(layout)
        return plan

    def validate(self, layout: Layout) -> None:
        """
        Check every number against the graph; raises PlanError.

        That every needed row is computed by some side is found when the plan is compiled.
        """
        if not 0 < len(self.name) <= NAME_LENGTH:
            raise PlanError(f'plan {shown(self.name)}: its name has {len(self.name)} '
                            f'characters, expected 1 to {NAME_LENGTH}')
        if not self.name.isprintable() or self.name != self.name.strip():
            raise PlanError(f'plan {shown(self.name)}: its name has something in it that does not '
                            'print, or spaces at its ends, expected one line of text')
        count = len(layout.rows)
        for side, numbers in (('robot', self.robot), ('server', self.server)):
            if len(numbers) != count:
                raise PlanError(f'plan {self.name!r} is for another graph: it has {len(numbers)} '
                                f'{side} shares, this graph has {count} values')
            for value, (number, rows) in enumerate(zip(numbers, layout.rows)):
                if not 0 <= number <= rows:
                    raise PlanError(f'plan {self.name!r}: {side} share {shown(number)} of '
                                    f'value {value} is outside 0..{rows}, its number of rows')
        if self.robot[0] != layout.rows[0] or self.server[0] != layout.rows[0]:
            raise PlanError(f'plan {self.name!r}: the image is on the robot, so value 0 has both '
                            f'shares {layout.rows[0]}, got {self.robot[0]} and {self.server[0]}')
        for value, blocks in self.blocks.items():
            if not 0 <= value < count or blocks not in BLOCK_COUNTS:
                raise PlanError(f'plan {self.name!r}: {shown(blocks)} blocks for value '
                                f'{value}; expected one of {BLOCK_COUNTS} for a value below '
                                f'{count}')
        for value, codec in (*self.codecs.items(), (0, self.codec)):
            if not 0 <= value < count or codec not in CODECS:
                raise PlanError(f'plan {self.name!r}: codec {shown(codec)} for value '
                                f'{value}; expected one of {CODECS} for a value below {count}')
        self._validate_jpeg(layout)

    def _validate_jpeg(self, layout: Layout) -> None:
        named = [value for value, codec in self.codecs.items() if codec == 'jpeg']
        if self.codec == 'jpeg' or any(named):
            where = 'every value' if self.codec == 'jpeg' else f'value {max(named)}'
            raise PlanError(f"plan {self.name!r}: codec 'jpeg' for {where}; it is for value 0, "
                            "the image, alone: name it in 'codecs'")
        _, channels, _, width = layout.graph.input.shape
        if named and (channels not in JPEG_CHANNELS or channels * width > JPEG_ROW_BYTES):
            raise PlanError(f"plan {self.name!r}: codec 'jpeg' for an image of {channels} channels "
                            f'and {width} columns; expected 1 or 3 channels and rows of at most '
                            f'{JPEG_ROW_BYTES} bytes: give value 0 another codec')


def _typed(item: object, kind: type, name: str):
    if not isinstance(item, kind) or isinstance(item, bool):
        raise PlanError(f'plan key {name!r} holds {shown(item)}, '
                        f'expected {kind.__name__}')
    return item


def _list_of_ints(item: object, name: str) -> list[int]:
    return [_typed(number, int, name) for number in _typed(item, list, name)]


def _by_value(item: object, name: str, kind: type) -> dict:
    table = _typed(item, dict, name)
    wrong = [key for key in table if not VALUE_NUMBER.fullmatch(key)]
    if wrong:
        raise PlanError(f'plan key {name!r} is keyed by value numbers, got {shown(wrong)}')
    return {int(key): _typed(entry, kind, name) for key, entry in table.items()}


def _everywhere(name: str, layout: Layout, share: Callable[[int, int], int], **more) -> Plan:
    """Return the plan whose boundary is ``share(value, rows)``; the image is the robot's."""
    cut = [layout.rows[0], *(share(v, rows) for v, rows in enumerate(layout.rows) if v)]
    return Plan(name, tuple(cut), tuple(cut), **more)


def robot_only(layout: Layout, **more) -> Plan:
    """Return the plan under which nothing travels."""
    return _everywhere('robot_only', layout, lambda v, rows: rows, **more)


def full_offload(layout: Layout, **more) -> Plan:
    """Return the plan under which the image travels up and the outputs travel down."""
    return _everywhere('full_offload', layout, lambda v, rows: 0, **more)


def uniform(layout: Layout, share: float, **more) -> Plan:
    """Return the plan whose robot computes ``share`` of the rows of every value, halves down."""
    if not 0 <= share <= 1:
        raise PlanError(f"uniform:{share}: the robot's share is a number from 0 to 1")
    text = f'{share:g}'  # 0.5, and 1 for 1.0, but two shares never have one name
    return _everywhere(f'uniform:{text if float(text) == share else share}', layout,
                       lambda v, rows: max(0, ceil(share * rows - 0.5)), **more)


def layer(layout: Layout, last: int, **more) -> Plan:
    """Return the plan whose robot computes values up to ``last``, the server those after it."""
    if not 0 <= last < len(layout.rows):
        raise PlanError(f'layer:{last}: expected a value number from 0 to {len(layout.rows) - 1}')
    return _everywhere(f'layer:{last}', layout, lambda v, rows: rows if v <= last else 0, **more)


def random_plan(layout: Layout, seed: int, **more) -> Plan:
    """
    Return a random complete plan: shares, overlaps, both directions, several cuts, block counts.

    Shares keep near the last value's share for a while and then jump, so that stretches of split
    operators, layer cuts and stretches on one side all come up.
    """
    draw = random.Random(seed)
    share, overlap = draw.random(), 0.0
    jump = draw.choice((0.02, 0.1, 0.5))
    robot, server, blocks = [layout.rows[0]], [layout.rows[0]], {}
    for value, rows in enumerate(layout.rows):
        if draw.random() < 0.3:
            blocks[value] = draw.choice(BLOCK_COUNTS)
        if value == 0:
            continue
        if draw.random() < jump:
            share = draw.choice((0.0, 1.0, draw.random(), draw.random()))
            overlap = draw.choice((0.0, 0.0, draw.random() * 0.3))
        mine = min(rows, max(0, ceil(share * rows - 0.5) + draw.choice((0, 0, 0, -1, 1))))
        robot.append(mine)
        server.append(max(0, mine - ceil(overlap * rows)))
    return Plan(f'random:{seed}', tuple(robot), tuple(server), blocks, **more)


def packed(codec: str) -> dict:
    """Return what a constructor takes so that all travels under a codec, where it applies."""
    return {'codecs': {0: codec}} if codec == 'jpeg' else {'codec': codec}


def make_plan(text: str, layout: Layout, codec: str = DEFAULT_CODEC) -> Plan:
    """
    Return the plan that a constructor by name makes.

    ``robot_only``, ``full_offload``, ``uniform:X``, ``layer:K``, ``random:SEED``. Under 'jpeg' the
    image travels as JPEG, all else under DEFAULT_CODEC. Raises PlanError.
    """
    name, _, argument = text.partition(':')
    makers = {'robot_only': (robot_only, None), 'full_offload': (full_offload, None),
              'uniform': (uniform, float), 'layer': (layer, int), 'random': (random_plan, int)}
    if name not in makers or (makers[name][1] is None) != (not argument):
        raise PlanError(f'plan {shown(text)} is not known: expected robot_only, full_offload, '
                        'uniform:SHARE, layer:VALUE or random:SEED')
    maker, kind = makers[name]
    if kind is None:
        plan = maker(layout, **packed(codec))
    else:
        try:
            number = kind(argument)
        except ValueError as error:
            raise PlanError(f'plan {shown(text)}: {shown(argument)} is not a number') from error
        plan = maker(layout, number, **packed(codec))
    plan.validate(layout)
    return plan
