# SPDX-License-Identifier: Apache-2.0
"""Where the rows of every value of a graph lie, and the rule of every operator."""

from __future__ import annotations

from hp_inference.graph.ir import Graph
import hp_inference.graph.rules  # noqa: F401  (fills the table)
from hp_inference.graph.table import GLOBAL, OpView, PARTIAL, Rule, TABLE, whole_rule


class Layout:
    """
    The row axis of every value of a graph and the rule of every operator.

    ``axes[v]``: the row axis or None; ``rows[v]``: the number of rows (1 for a whole value);
    ``rules[v]``: the rule of the operator that makes v (None for the input); ``unsupported``:
    how many operators of which name are not in the table.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        # The input is an image: its rows lie along the height.
        self.axes: list[int | None] = [2]
        self.rules: list[Rule | None] = [None]
        self.unsupported: dict[str, int] = {}
        for op in graph.ops:
            handler = TABLE.get(op.target)
            if handler is None:
                self.unsupported[op.target] = self.unsupported.get(op.target, 0) + 1
            view = OpView(op, graph, self.axes)
            rule = (handler(view) if handler else None) or whole_rule(view)
            self.rules.append(rule)
            self.axes.append(rule.axis)
        self.rows = [1 if axis is None else graph.values[v].shape[axis]
                     for v, axis in enumerate(self.axes)]

    def kind(self, value: int) -> str:
        """Return local, partial (row-wise, but with whole inputs) or global for an operator."""
        rule = self.rules[value]
        if rule.axis is None:
            return GLOBAL
        whole = any(self.axes[v] is None for v in self.graph.ops[value - 1].refs)
        return PARTIAL if whole else rule.kind

    def slice_shape(self, value: int, begin: int, end: int) -> tuple[int, ...]:
        """Return the shape of rows [begin, end) of a value."""
        shape = list(self.graph.values[value].shape)
        if self.axes[value] is not None:
            shape[self.axes[value]] = end - begin
        return tuple(shape)
