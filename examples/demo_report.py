# SPDX-License-Identifier: Apache-2.0
"""What the demo saw: a row per frame, a table, a summary and a verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median

from rich.table import Table

from hp_inference.runtime.frames import Span

RECENT = 14
LIVE, ALONE, AWAY = 'live', 'robot_only', 'full_offload'
WAYS = {LIVE: 'Hybrid-Parallel', ALONE: 'robot only', AWAY: 'full offload'}
HEAD = ('s', 'link\nMbit/s', 'estimate\nMbit/s', 'way', 'plan', 'latency\nms', 'predicted\nms',
        'energy\nJ', 'computed on', 'relative\nerror', '')
SUMMARY_HEAD = ('link\nMbit/s', *(f'{name}\nmedian ms' for name in WAYS.values()),
                'against the\nbetter of both', 'plans of Hybrid-Parallel', 'dropped',
                'worst\nerror')
_LEFT = ('way', 'plan', 'computed on', 'plans of Hybrid-Parallel', '')
_WIDTHS = (5, 0, 0, 15, 12, 0, 0, 0, 16)
LATE = '*: mostly computed by the robot alone, because the server did not answer'


@dataclass(frozen=True)
class Phase:
    """The link carries ``mbit_s`` from ``begin_s`` on (seconds since the first phase began)."""

    mbit_s: float
    begin_s: float

    @property
    def label(self) -> str:
        """The rate in words."""
        return f'{self.mbit_s:g}' if self.mbit_s else 'blackout'


@dataclass(frozen=True)
class Row:
    """
    One answered frame.

    ``shown_s``: when its photograph was shown, counted like Phase.begin_s. ``phase``: index of
    the phase. ``way``: LIVE, or the plan that the robot was told to use. ``estimate``: Mbit/s, None
    where nobody said. ``predicted_s`` and ``energy_j``: 0 where nobody knows. ``spans`` count from
    the receipt of the image. ``error``: the largest relative error against the unsplit model.
    """

    frame: int
    shown_s: float
    phase: int
    way: str
    mbit_s: float
    estimate: float | None
    plan: str
    image: str
    latency_s: float
    predicted_s: float
    energy_j: float
    computed_on: str
    sent_bytes: int
    received_bytes: int
    error: float
    fallback_reason: str
    spans: Sequence[Span]

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, in the order of HEAD."""
        return (f'{self.shown_s:.1f}', Phase(self.mbit_s, 0).label,
                '-' if self.estimate is None else f'{self.estimate:.1f}', WAYS[self.way],
                self.plan, f'{1e3 * self.latency_s:.1f}',
                f'{1e3 * self.predicted_s:.1f}' if self.predicted_s else '-',
                f'{self.energy_j:.2f}' if self.energy_j else '-', self.computed_on,
                f'{self.error:.1e}', self.why_alone)

    @property
    def why_alone(self) -> str:
        """Why the robot computed alone what it should not, without the particulars."""
        return self.fallback_reason.partition(':')[0]


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


def summary(rows: Sequence[Row], phases: Sequence[Phase], shown: Counter) -> Table:
    """Return a table with a line per phase; ``shown`` counts images by (phase, way)."""
    table = _table(SUMMARY_HEAD)
    for index, phase in enumerate(phases):
        mine = [row for row in rows if row.phase == index]
        ways = {way: [row for row in mine if row.way == way] for way in WAYS}
        medians = {way: median(row.latency_s for row in each)
                   for way, each in ways.items() if each}
        rivals = [medians[way] for way in (ALONE, AWAY) if way in medians]
        gain = (f'{100 * (medians[LIVE] / min(rivals) - 1):+.0f} %'
                if LIVE in medians and rivals else '-')
        plans = Counter(row.plan for row in ways[LIVE])
        table.add_row(
            phase.label,
            *(f'{1e3 * medians[way]:.0f}{"*" if _mostly_late(each) else ""}' if each else '-'
              for way, each in ways.items()), gain,
            ', '.join(f'{count} x {plan}' for plan, count in plans.most_common()) or '-',
            str(sum(shown[index, way] for way in WAYS) - len(mine)),
            f'{max(row.error for row in mine):.1e}' if mine else '-')
    return table


def notes(rows: Sequence[Row], phases: Sequence[Phase]) -> list[str]:
    """Return what the summary's figures need to be read, a line each."""
    places = {(row.phase, row.way) for row in rows}
    late = any(_mostly_late([row for row in rows if (row.phase, row.way) == place])
               for place in places)
    counts = Counter((row.phase, row.way, row.why_alone)
                     for row in rows if row.fallback_reason)
    return ['all three were measured, each for a part of each phase by telling the robot which '
            'plan to use', *([LATE] if late else []),
            *(f'{phases[phase].label}, {WAYS[way]}: {count} x the robot alone: {reason}'
              for (phase, way, reason), count in counts.items())]


def complaints(rows: Sequence[Row], phases: Sequence[Phase], shown: Counter,
               tolerance: float) -> list[str]:
    """Return what went wrong, a line each; empty when the demo has shown what it should."""
    found = [f'frame {row.frame} ({row.plan}, {row.image}) disagrees with the unsplit model: '
             f'relative error {row.error:.3g}, at most {tolerance:g} is allowed'
             for row in rows if not row.error <= tolerance]  # "not <=", so that NaN is found
    answered = {(row.phase, row.way) for row in rows}
    found += [f'link {phases[index].label}, {WAYS[way]}: no answer came'
              for index, way in shown if (index, way) not in answered]
    meant = [row for row in rows if row.mbit_s and row.plan != ALONE]
    if meant and all(row.fallback_reason for row in meant):
        found.append('the server took part in no frame, the last one because: '
                     f'{meant[-1].fallback_reason}')
    return found


def typical(rows: Sequence[Row]) -> Row | None:
    """Return the frame of median latency, one that followed its plan if there is any."""
    drawn = sorted((row for row in rows if row.spans),
                   key=lambda row: (bool(row.fallback_reason), row.latency_s))
    followed = [row for row in drawn if not row.fallback_reason] or drawn
    return followed[(len(followed) - 1) // 2] if followed else None


def _mostly_late(rows: Sequence[Row]) -> bool:
    return 2 * sum(bool(row.fallback_reason) for row in rows) > len(rows)


def _table(head: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in head:
        # Where the terminal is narrow, words wrap and numbers do not.
        words = name in ('plans of Hybrid-Parallel', '')
        table.add_column(name, justify='left' if name in _LEFT else 'right', no_wrap=not words)
    return table
