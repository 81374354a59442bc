# SPDX-License-Identifier: Apache-2.0
"""
A graph's row rules as arrays, for compiled code.

For nearly every operator the rows that an interval [a, b) reads are an interval whose begin
depends on a alone and whose end on b alone: two lookup tables. The others (rolls, flips, windows)
get a table over all pairs. Both are filled by asking the operator table itself.
"""

from __future__ import annotations

from collections.abc import Iterator
import random
from typing import NamedTuple

import numpy as np

from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows

# Pairs that the two tables of an operator are tried on besides all single rows, prefixes and
# suffixes.
TRIED_PAIRS = 24


class RowTables(NamedTuple):
    """
    Values 0..n-1 and, per argument of the operator that makes a value, what it reads.

    ``rows[v]``; arguments ``first[v]`` to ``first[v+1]`` with ``source``; an argument is separable
    where ``pairs[k] < 0``: interval [a, b) reads [low[at[k]+a], high[at[k]+b]), empty where that
    is. Else ``spans[starts[p] : starts[p+1]]`` with p = pairs[k] + a*(rows+1) + b are its
    intervals. ``last[v]``: the last value that reads v (n for an output). ``output[v]``: 0 or 1.
    ``at_row[v]``: where the value's times begin in a table with rows+1 entries per value.
    """

    rows: np.ndarray
    first: np.ndarray
    source: np.ndarray
    at: np.ndarray
    low: np.ndarray
    high: np.ndarray
    pairs: np.ndarray
    starts: np.ndarray
    spans: np.ndarray
    last: np.ndarray
    output: np.ndarray
    at_row: np.ndarray


def row_tables(layout: Layout) -> RowTables:
    """Return the row rules of a layout as arrays."""
    count = len(layout.rows)
    first, source, at, low, high = [0, 0], [], [], [], []
    pairs, starts, spans = [], [0], []
    for value in range(1, count):
        rows, block = layout.rows[value], layout.rules[value].block
        refs = layout.graph.ops[value - 1].refs
        for place, ref in enumerate(refs):
            def needs(a, b):
                return block(a, b).needs[place]
            ends = _separable(needs, rows, layout.rows[ref])
            source.append(ref)
            at.append(len(low))
            if ends is None:
                pairs.append(len(starts) - 1)
                for need in _all_pairs(needs, rows):
                    spans.extend(need)
                    starts.append(len(spans))
            else:
                pairs.append(-1)
                low.extend(ends[0])
                high.extend(ends[1])
        first.append(len(source))
    last, output = np.zeros(count, np.int32), np.zeros(count, np.int32)
    for op in layout.graph.ops:
        for ref in op.refs:
            last[ref] = op.output
    for value in layout.graph.outputs.values():
        last[value], output[value] = count, 1
    sizes = np.array(layout.rows, np.int32) + 1
    return RowTables(
        np.array(layout.rows, np.int32), _ints(first), _ints(source), _ints(at), _ints(low),
        _ints(high), _ints(pairs), _ints(starts),
        np.array(spans, np.int32).reshape(-1, 2), last, output,
        np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int32))


def _ints(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.int32)


def _separable(needs, rows: int, reads: int) -> tuple[list[int], list[int]] | None:
    """Return begins by a (0..rows) and ends by b, None where the rule has no such form."""
    low, high = [reads] * (rows + 1), [0] * (rows + 1)
    tried = {(a, a + 1) for a in range(rows)}
    for a in range(rows):
        need = needs(a, rows)
        low[a] = need.hull[0] if need else reads
        need = needs(0, a + 1)
        high[a + 1] = need.hull[1] if need else 0
        tried |= {(a, rows), (0, a + 1)}
    draw = random.Random(rows)
    for _ in range(TRIED_PAIRS):
        a, b = sorted((draw.randrange(rows), draw.randrange(rows)))
        tried.add((a, b + 1))
    if all(needs(a, b) == Rows.of(low[a], high[b]) for a, b in tried):
        return low, high
    return None


def _all_pairs(needs, rows: int) -> Iterator[tuple]:
    for a in range(rows + 1):
        for b in range(rows + 1):
            yield needs(a, b).intervals if a < b else ()
