# SPDX-License-Identifier: Apache-2.0
"""A world without halos, to show what they cost: plans made in it are not exact and never run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hp_inference.graph.layout import Layout
from hp_planner.timeline import timeline
from hp_planner.timeline.row_tables import row_tables, RowTables


@contextmanager
def without_halos() -> Iterator[None]:
    """Let every operator read just the share of its input's rows that it computes of its output."""
    timeline.row_tables, before = _proportional, timeline.row_tables
    try:
        yield
    finally:
        timeline.row_tables = before


def _proportional(layout: Layout) -> RowTables:
    made = row_tables(layout)
    low, high = made.low.copy(), made.high.copy()
    for v in range(1, len(made.rows)):
        rows = int(made.rows[v])
        for k in range(made.first[v], made.first[v + 1]):
            read, at = int(made.rows[made.source[k]]), made.at[k]
            if made.pairs[k] < 0 and rows > 1 and read > 1:
                row = np.arange(rows + 1)
                low[at:at + rows + 1] = row * read // rows
                high[at:at + rows + 1] = -(-row * read // rows)
    return made._replace(low=low, high=high)
