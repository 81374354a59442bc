# SPDX-License-Identifier: Apache-2.0
"""
A plan table as JSON, apart from the graph that it is for: its format and its choices.

Needs no PyTorch, so that a table can be looked at where no model is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import json
import sys

from hp_inference import __version__
from hp_inference.split.errors import PlanError, shown

FORMAT = 1
# The largest real tables: 40 plans of efficientnet_v2_l (866 operators) are 0.5 MB, what planning
# knows of them 0.2 MB more; a planner's table has 10 to 30 plans.
MAX_JSON_BYTES = 8 << 20
MAX_PLANS = 128
MAX_CHOICES = 4096
#: The plan of this name is in force where there is no link worth the name.
ALONE = 'robot_only'
# How many levels below a key have a line per item; a line each for the other keys.
_LINES = {'choices': 1, 'plans': 1, 'record': 2}


@dataclass(frozen=True)
class Choice:
    """From ``mbit_s`` (1e6 bit/s) on, up to the next choice, ``plan`` (an index) is in force."""

    mbit_s: float
    plan: int

    def to_json(self) -> dict:
        """Return the choice as JSON data."""
        return {'mbit_s': self.mbit_s, 'plan': self.plan}


def choose(choices: Sequence[Choice], names: Sequence[str], mbit_s: float) -> int | None:
    """
    Return the index of the plan in force at a bandwidth; None without choices.

    Below the first choice, and for what is no bandwidth (0, negative, NaN), it is robot_only.
    """
    if not choices:
        return None
    below = [choice.plan for choice in choices if choice.mbit_s <= mbit_s]
    return below[-1] if below else names.index(ALONE)


def checked_choices(choices: Sequence[Choice], names: Sequence[str]) -> tuple[Choice, ...]:
    """Return the choices among plans of these names, their rates as floats; raises PlanError."""
    made, last = [], 0.0
    if len(choices) > MAX_CHOICES:
        raise PlanError(f'a table holds at most {MAX_CHOICES} choices, got {len(choices)}')
    for place, choice in enumerate(choices):
        rate = choice.mbit_s
        if (isinstance(rate, bool) or not isinstance(rate, (int, float))
                or not last < rate <= sys.float_info.max):
            raise PlanError(f'choice {place} of the plan table is at {shown(rate)} Mbit/s: '
                            f'expected finite rates above 0, each above the one before ({last:g})')
        if type(choice.plan) is not int or not 0 <= choice.plan < len(names):
            raise PlanError(f'choice {place} of the plan table, at {rate:g} Mbit/s, is plan '
                            f'{shown(choice.plan)}: expected an index from 0 to {len(names) - 1}')
        last = float(rate)
        made.append(Choice(last, choice.plan))
    if made and ALONE not in names:
        raise PlanError(f'a plan table with choices needs a plan named {ALONE!r}, for when there '
                        f'is no link; its plans are {shown(list(names))}')
    if made and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PlanError(f'a plan table with choices holds each name once, {shown(twice)} is there '
                        f'{names.count(twice)} times')
    return tuple(made)


def read_choices(data: dict) -> list[Choice]:
    """Return the choices in a table's JSON data, not yet checked; raises PlanError."""
    choices = data.get('choices', [])
    if not isinstance(choices, list) or len(choices) > MAX_CHOICES:
        raise PlanError(f'"choices" of a plan table is a list of at most {MAX_CHOICES} choices')
    for choice in choices:
        if not isinstance(choice, dict) or set(choice) != {'mbit_s', 'plan'}:
            raise PlanError('a choice of a plan table is an object of "mbit_s" and "plan", got '
                            f'{shown(choice)}')
    return [Choice(**choice) for choice in choices]


def read_object(text: str) -> dict:
    """Return the JSON object in ``text``; raises PlanError."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PlanError(f'the plan table is not JSON: {error}') from error
    if not isinstance(data, dict):
        raise PlanError(f'a plan table is a JSON object, got {type(data).__name__}')
    return data


def is_table(text: str) -> bool:
    """Tell whether a file's text is a plan table, of any format."""
    try:
        data = read_object(text)
    except PlanError:
        return False
    return type(data.get('format')) is int and isinstance(data.get('plans'), list)


def check_format(data: dict) -> None:
    """Raise PlanError, saying what to do, for a table in a format that this version can't read."""
    written = data.get('format')
    if type(written) is int and written == FORMAT:
        return
    more = ''
    if type(written) is int and written > FORMAT:
        more = (f' (a newer version than this one, {__version__}, made it: install that one here, '
                f'or make the table again with {__version__})')
    raise PlanError(f'the plan table has format {shown(written)}, this version reads {FORMAT}: '
                    f'run the same version on both sides{more}')


def dumps(data: dict) -> str:
    """Return a table's JSON data as text: one plan, choice or curve a line."""
    items = [f'{json.dumps(key)}: {_lines(item, _LINES.get(key, 0), 2)}'
             for key, item in data.items()]
    return '{' + ',\n '.join(items) + '}\n'


def _lines(item: object, levels: int, indent: int) -> str:
    """Return JSON; of containers of containers, ``levels`` levels have an item a line."""
    parts = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    if not levels or not any(isinstance(part, (dict, list)) for part in parts):
        return json.dumps(item, allow_nan=False)
    texts = [_lines(part, levels - 1, indent + 1) for part in parts]
    if isinstance(item, dict):
        texts = [f'{json.dumps(key)}: {text}' for key, text in zip(item, texts)]
    opened, closed = '{}' if isinstance(item, dict) else '[]'
    space = '\n' + ' ' * indent
    return opened + space + f',{space}'.join(texts) + closed
