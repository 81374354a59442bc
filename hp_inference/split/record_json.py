# SPDX-License-Identifier: Apache-2.0
"""Reading a table's record key by key, so that a wrong one is refused in one clear line."""

from __future__ import annotations

from collections.abc import Collection

from hp_inference.split.errors import PlanError, shown
from hp_inference.text import line

# Far beyond every figure, and far from where arithmetic overflows or comes to nothing.
_LEAST, _MOST = 1e-100, 1e100


class RecordError(PlanError):
    """A table's record that is not there or makes no sense; the text says where and why."""


def _check_text(text: str, where: str) -> None:
    if line(text) != text:
        raise RecordError(f'{where} is {shown(text)}, expected one line of text that can be shown')


class Part:
    """A JSON object of the record; ``where`` names it in complaints. Raises RecordError."""

    def __init__(self, data: object, where: str):
        if not isinstance(data, dict):
            raise RecordError(f'{where} is {shown(data)}, expected an object')
        for key in data:
            _check_text(key, f'a key of {where}')
        self.data, self.where = data, where

    def get(self, key: str, kind: type):
        """Return what a key holds, of a kind that JSON knows."""
        if key not in self.data:
            raise RecordError(f'{self.where} has no "{key}": make the table again with hp plan')
        item = self.data[key]
        if not isinstance(item, kind):
            raise RecordError(f'"{key}" of {self.where} is {shown(item)}, expected {kind.__name__}')
        if kind is str:
            _check_text(item, f'"{key}" of {self.where}')
        return item

    def number(self, key: str, above: bool = False) -> float:
        """Return a finite number from 0 on, or above 0."""
        return self._number(self.get(key, object), key, above)

    def numbers(self, key: str, count: int, above: bool = False) -> list[float]:
        """Return ``count`` finite numbers from 0 on, or above 0, one per rate of the grid."""
        return [self._number(item, key, above) for item in self._per_rate(key, count)]

    def rates(self, key: str) -> tuple[float, ...]:
        """Return one or more rates, ascending."""
        rates = tuple(self._number(item, key, above=True) for item in self.get(key, list))
        if not rates or any(after <= before for before, after in zip(rates, rates[1:])):
            raise RecordError(f'"{key}" of {self.where} is {shown(rates)}, expected one or more '
                              'rates in Mbit/s, ascending')
        return rates

    def places(self, key: str) -> tuple[int, ...]:
        """Return whole numbers from 0 on."""
        items = self.get(key, list)
        wrong = [item for item in items if type(item) is not int or item < 0]
        if wrong:
            raise RecordError(f'"{key}" of {self.where} holds {shown(wrong[0])}, expected whole '
                              'numbers from 0 on')
        return tuple(items)

    def name(self, key: str, known: Collection[str]) -> str:
        """Return the name of a plan that has a curve."""
        return self._name(self.get(key, str), known)

    def names(self, key: str, count: int, known: Collection[str]) -> tuple[str, ...]:
        """Return ``count`` names of plans that have curves, one per rate of the grid."""
        return tuple(self._name(item, known) for item in self._per_rate(key, count))

    def part(self, key: str) -> Part:
        """Return the object that a key holds."""
        return Part(self.get(key, dict), f'"{key}" of {self.where}')

    def parts(self, key: str) -> list[Part]:
        """Return the objects in a list."""
        return [Part(item, f'"{key}"[{place}] of {self.where}')
                for place, item in enumerate(self.get(key, list))]

    def _per_rate(self, key: str, count: int) -> list:
        items = self.get(key, list)
        if len(items) != count:
            raise RecordError(f'"{key}" of {self.where} has {len(items)} entries, expected '
                              f'{count}, one per rate of the grid')
        return items

    def _number(self, item: object, key: str, above: bool) -> float:
        if (isinstance(item, bool) or not isinstance(item, (int, float))
                or not (_LEAST if above else 0) <= item <= _MOST):
            raise RecordError(f'"{key}" of {self.where} holds {shown(item)}, expected a finite '
                              f'number {"above 0" if above else "from 0 on"} up to {_MOST:g}')
        return float(item)

    def _name(self, item: object, known: Collection[str]) -> str:
        if not isinstance(item, str) or item not in known:
            raise RecordError(f'{self.where} uses plan {shown(item)}, which has no curve')
        return item
