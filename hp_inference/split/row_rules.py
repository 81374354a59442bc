# SPDX-License-Identifier: Apache-2.0
"""Which rows of its inputs an operator reads, as the plan compiler asks for it."""

from __future__ import annotations

from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows
from hp_inference.split import rowsets as rs


class RowRules:
    """
    The row rules of a graph, asked one by one.

    ``rows[v]``: the rows of value v; arguments ``first[v]`` to ``first[v + 1]`` of the operator
    that makes it, with ``source``: the value that each reads; ``output[v]``: whether it is one.
    The planner, which compiles thousands of plans of one graph, keeps all answers in arrays
    instead (hp_planner/timeline/row_tables.py).
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        self.rows = layout.rows
        self.first, self.source, self._owner = [0, 0], [], []
        for op in layout.graph.ops:
            self.source.extend(op.refs)
            self._owner.extend([op.output] * len(op.refs))
            self.first.append(len(self.source))
        outputs = set(layout.graph.outputs.values())
        self.output = [value in outputs for value in range(len(self.rows))]
        self._known: dict[tuple[int, int, int], tuple[Rows, ...]] = {}

    def needs(self, argument: int, begin: int, end: int) -> Rows:
        """Return the rows that an argument reads for [begin, end) of its operator's value."""
        value = self._owner[argument]
        asked = value, begin, end
        if asked not in self._known:
            self._known[asked] = self.layout.rules[value].block(begin, end).needs
        return self._known[asked][argument - self.first[value]]


def add_needs(rules: RowRules, argument, rows, begin, end, into):
    """Add what computing [begin, end) of a value with ``rows`` rows reads by one argument."""
    for low, high in rules.needs(argument, begin, end):
        rs.add(into, low, high)


def has_needs(rules: RowRules, argument, rows, begin, end, there):
    """Return whether a set has all that ``add_needs`` would add."""
    return all(rs.holds(there, low, high) for low, high in rules.needs(argument, begin, end))


def needs_of(layout: Layout, value: int, rows: Rows) -> dict[int, Rows]:
    """Return the input rows, by value, that computing ``rows`` of a value reads."""
    wanted: dict[int, Rows] = {}
    for begin, end in rows:
        block = layout.rules[value].block(begin, end)
        for source, need in zip(layout.graph.ops[value - 1].refs, block.needs):
            wanted[source] = wanted.get(source, Rows()) | need
    return wanted
