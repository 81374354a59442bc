# SPDX-License-Identifier: Apache-2.0
"""Sets of rows, held as ascending, disjoint, non-touching half-open intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class Rows:
    """
    An immutable set of row numbers, kept as intervals ``[begin, end)``.

    ``|``, ``&``, ``-`` are union, intersection and difference; ``<=`` is the subset test;
    ``bool`` is false for the empty set; ``count`` is the number of rows.
    """

    __slots__ = ('intervals',)

    def __init__(self, intervals: Iterable[tuple[int, int]] = ()):
        """Take any intervals, in any order, overlapping or empty."""
        merged: list[tuple[int, int]] = []
        for begin, end in sorted(pair for pair in intervals if pair[0] < pair[1]):
            if merged and begin <= merged[-1][1]:
                if end > merged[-1][1]:
                    merged[-1] = (merged[-1][0], end)
            else:
                merged.append((begin, end))
        self.intervals = tuple(merged)

    @classmethod
    def of(cls, begin: int, end: int) -> Rows:
        """Return the single interval ``[begin, end)`` (empty when begin >= end)."""
        return cls(((begin, end),))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.intervals)

    def __bool__(self) -> bool:
        return bool(self.intervals)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rows) and self.intervals == other.intervals

    def __hash__(self) -> int:
        return hash(self.intervals)

    def __repr__(self) -> str:
        return '+'.join(f'[{a},{b})' for a, b in self.intervals) or '[)'

    @property
    def count(self) -> int:
        """The number of rows in the set."""
        return sum(end - begin for begin, end in self.intervals)

    @property
    def hull(self) -> tuple[int, int]:
        """The smallest single interval that covers the set; (0, 0) when it is empty."""
        return (self.intervals[0][0], self.intervals[-1][1]) if self.intervals else (0, 0)

    def __or__(self, other: Rows) -> Rows:
        if not other.intervals or self.intervals == other.intervals:
            return self
        if not self.intervals:
            return other
        return Rows(self.intervals + other.intervals)

    def __and__(self, other: Rows) -> Rows:
        return Rows((max(a, c), min(b, d)) for a, b in self.intervals for c, d in other.intervals)

    def __sub__(self, other: Rows) -> Rows:
        left = list(self.intervals)
        for c, d in other.intervals:
            left = [part for a, b in left
                    for part in ((a, min(b, c)), (max(a, d), b)) if part[0] < part[1]]
        return Rows(left)

    def __le__(self, other: Rows) -> bool:
        return not self - other

    def split(self, parts: int) -> list[Rows]:
        """Cut the set into at most ``parts`` ascending sets of nearly equal row counts."""
        total, blocks, begun = self.count, [], 0
        bounds = [total * (i + 1) // parts for i in range(parts)]
        rest = list(self.intervals)
        for bound in bounds:
            block = []
            while begun < bound:
                begin, end = rest.pop(0)
                cut = min(end, begin + bound - begun)
                block.append((begin, cut))
                begun += cut - begin
                if cut < end:
                    rest.insert(0, (cut, end))
            if block:
                blocks.append(Rows(block))
        return blocks
