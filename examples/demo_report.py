# SPDX-License-Identifier: Apache-2.0
"""What the demo saw: a row per frame, a table, a summary and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median

from rich.table import Table

from hp_inference.runtime.frames import Span
from hp_inference.show.timeline import busy_s, LINK

RECENT = 14
_SHARED = ('robot\n%', 'server\n%', 'link\n%', 'sent\nkB', 'received\nkB')
HEAD = ('frame', 'plan', 'image', 'latency\nms', *_SHARED, 'relative\nerror', '')
SUMMARY_HEAD = ('plan', 'frames', 'median\nms', 'max\nms', *_SHARED, 'worst\nerror', 'dropped',
                'fallbacks')
_LEFT = ('plan', 'image', '')
_WIDTHS = (5, 12, 20)


@dataclass(frozen=True)
class Row:
    """
    One answered frame.

    ``spans`` count from the receipt of the image; empty when no time line came. ``error`` is the
    largest relative error against the unsplit model.
    """

    frame: int
    plan: str
    image: str
    latency_s: float
    sent_bytes: int
    received_bytes: int
    error: float
    fallback_reason: str
    spans: Sequence[Span]

    def share(self, *lanes: str) -> float:
        """Return the part of the latency during which one of the lanes was at work."""
        return busy_s(self.spans, lanes) / self.latency_s

    @property
    def shares(self) -> tuple[float, float, float]:
        """The shares of robot, server and link; they overlap, so they need not add up to 1."""
        return self.share('robot'), self.share('server'), self.share(*LINK)

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of HEAD."""
        shares = [f'{100 * share:.0f}' for share in self.shares] if self.spans else ['-'] * 3
        return (str(self.frame), self.plan, self.image, f'{1e3 * self.latency_s:.1f}', *shares,
                _kilobytes(self.sent_bytes), _kilobytes(self.received_bytes),
                f'{self.error:.1e}',
                self.fallback_reason and f'robot alone: {self.fallback_reason}')


def plain(cells: Sequence[str]) -> str:
    """Return a row of the table, or its head, as a line."""
    line = []
    for name, cell, width in zip_longest(HEAD, cells, _WIDTHS, fillvalue=0):
        name, cell = name.replace('\n', ' '), cell.replace('\n', ' ')
        width = max(width, len(name))
        line.append(cell.ljust(width) if name in _LEFT else cell.rjust(width))
    return '  '.join(line).rstrip()


def live_table(rows: Sequence[Row], tolerance: float) -> Table:
    """Return the newest rows as a table for a terminal."""
    table = _table(HEAD)
    for row in rows[-RECENT:]:
        style = 'red' if not row.error <= tolerance else 'yellow' if row.fallback_reason else None
        table.add_row(*row.cells(), style=style)
    return table


def summary(rows: Sequence[Row], shown: dict[str, int]) -> Table:
    """Return a table with a line per plan; ``shown`` counts the images shown under each."""
    table = _table(SUMMARY_HEAD)
    for plan, count in shown.items():
        mine = [row for row in rows if row.plan == plan]
        drawn = [row.shares for row in mine if row.spans]
        if not mine:
            table.add_row(plan, '0', *['-'] * 8, str(count), '-')
            continue
        latencies = [1e3 * row.latency_s for row in mine]
        table.add_row(
            plan, str(len(mine)), f'{median(latencies):.1f}', f'{max(latencies):.1f}',
            *([f'{100 * median(share):.0f}' for share in zip(*drawn)] or ['-'] * 3),
            _kilobytes(median(row.sent_bytes for row in mine)),
            _kilobytes(median(row.received_bytes for row in mine)),
            f'{max(row.error for row in mine):.1e}', str(count - len(mine)),
            str(sum(bool(row.fallback_reason) for row in mine)))
    return table


def fallbacks(rows: Sequence[Row]) -> list[str]:
    """Return a line for each reason for which the robot computed alone."""
    counts = Counter((row.plan, row.fallback_reason) for row in rows if row.fallback_reason)
    return [f'{plan}: {count} x the robot alone: {reason}'
            for (plan, reason), count in counts.items()]


def complaints(rows: Sequence[Row], plans: Iterable[str], tolerance: float) -> list[str]:
    """Return what went wrong, a line each; empty when the demo has shown what it should."""
    found = [f'frame {row.frame} ({row.plan}, {row.image}) disagrees with the unsplit model: '
             f'relative error {row.error:.3g}, at most {tolerance:g} is allowed'
             for row in rows if not row.error <= tolerance]  # "not <=", so that NaN is found
    for plan in plans:
        mine = [row for row in rows if row.plan == plan]
        if not mine:
            found.append(f'plan {plan}: no answer came')
        elif all(row.fallback_reason for row in mine):
            found.append(f'plan {plan}: the robot computed every frame alone, the last one '
                         f'because: {mine[-1].fallback_reason}')
    return found


def typical(rows: Sequence[Row]) -> Row | None:
    """Return the frame of median latency, one that followed its plan if there is any."""
    drawn = sorted((row for row in rows if row.spans),
                   key=lambda row: (bool(row.fallback_reason), row.latency_s))
    followed = [row for row in drawn if not row.fallback_reason] or drawn
    return followed[(len(followed) - 1) // 2] if followed else None


def _table(head: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in head:
        # Where the terminal is narrow, words wrap and numbers do not.
        words = name in ('image', '')
        table.add_column(name, justify='left' if name in _LEFT else 'right', no_wrap=not words)
    return table


def _kilobytes(count: float) -> str:
    return f'{count / 1e3:.{1 if not 0 < count < 1000 else 2}f}'
