# SPDX-License-Identifier: Apache-2.0
"""
Messages that nobody should send, made from what their classes say of their fields.

A field that is added to a message is covered by itself, and so is a message type.
"""

from __future__ import annotations

from array import array
import hashlib
import importlib
import json
import math
import random
import re
import struct

import numpy as np
from rclpy.serialization import serialize_message

from hp_inference.graph.ir import canonical

#: Stands at the begin of every line that an attacker tries to have a node log as its own.
FORGED = '[ERROR] [forged]'
TEXTS = ('', ' ', 'a', '0', '-1', 'nan', 'robot_only', 'full_offload', 'uniform:nan', 'layer:-1',
         'random:9999999999999999999999', 'x' * 100_000, 'é' * 5000, '\0', 'a\0b', '\ufffd',
         '\u202e\u2028\u2029\x85', f'\n{FORGED} a line', f'\r\n{FORGED}',
         f'\x1b[2J\x1b[31m{FORGED}', '\x07\x08\x7f', '$(touch forged)', '`touch forged`',
         "'; touch forged; '", '%s%n%d', '{}',
         '{0.__class__}', '[]', 'null', '"\\ud800"', '{"a": "\\ud800"}', '1e999', '[' * 5000,
         '{"a":' * 2000, 'torchvision:resnet18', '/dev/zero', '/proc/kmsg', '../../x', '~/x')
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, math.nan, math.inf, -math.inf, 1e300, -1e300, 1e308,
          1.7976931348623157e308, 5e-324, 2.2250738585072014e-308, 1e-9, 2.0 ** 63, 1e9, 0.05)
SIZES = (0, 0, 1, 2, 3, 31, 32, 33, 64, 65, 1000)
_BITS = {'int8': 8, 'int16': 16, 'int32': 32, 'int64': 64}
#: Type codes of arrays.
CODES = {'uint8': 'B', 'int8': 'b', 'uint16': 'H', 'int16': 'h', 'uint32': 'I', 'int32': 'i',
          'uint64': 'Q', 'int64': 'q', 'float': 'f', 'double': 'd'}
_ARRAY = re.compile(r'(?P<each>.+)\[(?P<size>\d+)\]$')
_SEQUENCE = re.compile(r'sequence<(?P<each>[^,]+)(, (?P<most>\d+))?>$')
_TEXT = re.compile(r'w?string(<(?P<most>\d+)>)?$')


def kind_of(name: str, folder: str = 'msg') -> type:
    """Return the class of 'package/Name' or 'package/msg/Name'."""
    package, *_, kind = name.split('/')
    return getattr(importlib.import_module(f'{package}.{folder}'), kind)


def integer(draw: random.Random, kind: str) -> int:
    """Return an integer that the field can hold; at the ends more often than not."""
    signed = not kind.startswith('u')
    bits = _BITS[kind if signed else kind[1:]]
    low, high = (-2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2 ** bits - 1)
    return draw.choice([low, high, high - 1, high // 2, high // 2 + 1, max(low, -1), 0, 1, 2,
                        min(high, 1000), draw.randint(low, high)])


def text(draw: random.Random) -> str:
    """Return a text that can be published."""
    if draw.random() < 0.2:
        return ''.join(chr(draw.choice([draw.randrange(32), draw.randrange(32, 127),
                                        draw.randrange(0xe000, 0x110000)]))
                       for _ in range(draw.randrange(200)))
    return draw.choice(TEXTS)


def value(draw: random.Random, kind: str, longest: int = 1000) -> object:
    """Return a value for a field of this type; arrays have ``longest`` elements at most."""
    if found := _ARRAY.match(kind):
        return _several(draw, found['each'], int(found['size']), longest, np.array)
    if found := _SEQUENCE.match(kind):
        size = min(draw.choice([*SIZES, longest]), longest, int(found['most'] or longest))
        return _several(draw, found['each'], size, longest)
    if found := _TEXT.match(kind):
        made = text(draw)
        return made[:int(found['most'])] if found['most'] else made
    if kind == 'boolean':
        return draw.random() < 0.5
    if kind in ('float', 'double'):
        return draw.choice([*FLOATS, draw.uniform(-10, 10)])
    if kind in ('octet', 'byte'):
        return bytes([draw.randrange(256)])
    if '/' in kind:
        return message(draw, kind_of(kind), min(longest, 50))
    return integer(draw, 'uint8' if kind == 'char' else kind)


def _several(draw: random.Random, each: str, size: int, longest: int, fixed=None) -> object:
    if each in CODES:
        if each in ('float', 'double'):
            made = array(CODES[each], [0.0])
            made = array(CODES[each], [value(draw, each) for _ in range(min(size, 100))])
            made.extend(made[:1] * (size - len(made)) if made else ())
        elif draw.random() < 0.5:
            made = array(CODES[each], [integer(draw, each)] * size)
        else:
            made = array(CODES[each], draw.randbytes(size * array(CODES[each]).itemsize))
        return fixed(made, dtype=made.typecode) if fixed else made
    made = [value(draw, each, longest) for _ in range(min(size, 50))]
    return (made * -(-size // len(made)))[:size] if made else []


def message(draw: random.Random, kind: type, longest: int = 1000):
    """Return a message of a class with nothing but such values."""
    return kind(**{name: value(draw, of, longest)
                   for name, of in kind.get_fields_and_field_types().items()})


def mutated(draw: random.Random, msg, keep: tuple[str, ...] = ()):
    """Return a message that differs in one field from one that came by; ``keep`` stay."""
    types = msg.get_fields_and_field_types()
    changed = type(msg)(**{name: getattr(msg, name) for name in types})
    name = draw.choice([name for name in types if name not in keep])
    before, of = getattr(msg, name), types[name]
    other = _other_json(draw, before) if isinstance(before, str) else None
    if other and draw.random() < 0.8:
        setattr(changed, name, other)
        if 'digest' in types and draw.random() < 0.7:  # as its sender would work it out
            changed.digest = digest(getattr(changed, name))
    elif '/' in of and not of.startswith('sequence') and not of.endswith(']'):
        setattr(changed, name, mutated(draw, before))
    elif isinstance(before, (array, np.ndarray)) and len(before) and draw.random() < 0.5:
        other = before[:]
        other = other.copy() if isinstance(other, np.ndarray) else other
        if draw.random() < 0.5 and isinstance(other, array):
            other = other[:draw.randrange(len(other))]
        else:
            other[draw.randrange(len(other))] = value(draw, of.split('<')[-1].split('[')[0]
                                                      .rstrip('>').split(',')[0])
        setattr(changed, name, other)
    else:
        setattr(changed, name, value(draw, of))
    return changed


def digest(data: str) -> np.ndarray:
    """Return the digest of a plan table, as its sender would work it out."""
    try:
        table = json.loads(data)
        named = {key: item for key, item in table.items() if key not in ('model', 'record')}
        return np.frombuffer(hashlib.sha256(canonical(named)).digest(), np.uint8)
    except (ValueError, RecursionError, TypeError):
        return np.zeros(32, np.uint8)


def _other_json(draw: random.Random, data: str) -> str:
    """Return a JSON text with one thing in it replaced, again and again, or gone; '' for none."""
    try:
        root = json.loads(data)
    except (ValueError, RecursionError):
        return ''
    if not isinstance(root, dict) or not root:
        return ''
    at, place = root, draw.choice(list(root))
    while isinstance(at[place], (dict, list)) and at[place] and draw.random() < 0.9:
        at = at[place]
        place = draw.choice(list(at)) if isinstance(at, dict) else draw.randrange(len(at))
    how = draw.random()
    if how < 0.1:
        del at[place]
    elif how < 0.2 and isinstance(at, list):
        at.extend(at[place:place + 1] * draw.choice([1, 100, 2000]))
    else:
        at[place] = draw.choice([
            None, True, False, 0, -1, 2 ** 31, 2 ** 63, 10 ** 400, 1e308, -1e308, 5e-324, math.nan,
            math.inf, [], {}, [[]], '\ud800', *TEXTS[:30], [0] * 5000, draw.choice(FLOATS)])
    try:
        return json.dumps(root)
    except ValueError:  # an integer with too many digits to be written
        return data.replace('1', '9' * 5000, 1)


def deep_json(size: int) -> str:
    """Return brackets in brackets, so many of them."""
    return '[' * (size // 2) + ']' * (size // 2)


def raw(draw: random.Random, msg) -> bytes:
    """Return what a message is on the wire, damaged."""
    data = bytearray(serialize_message(msg))
    how = draw.randrange(6)
    if how == 0:
        return bytes(data[:draw.randrange(len(data))])
    if how == 1:
        return bytes(data[:4]) + draw.randbytes(draw.randrange(300))
    if how == 2:
        return draw.randbytes(draw.randrange(1, 300))
    if how == 3:
        return bytes(data) + draw.randbytes(draw.randrange(1000))
    for _ in range(draw.randrange(1, 4)):
        if how == 4:
            data[draw.randrange(len(data))] = draw.randrange(256)
        elif len(data) >= 12:  # a length, as likely as anything
            struct.pack_into('<I', data, 4 * draw.randrange(1, len(data) // 4), draw.choice(
                [0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 24, len(data)]))
    return bytes(data)
