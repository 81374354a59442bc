# SPDX-License-Identifier: Apache-2.0
"""The demo as a picture: the link above, what each frame took below."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from demo_report import ALONE, AWAY, LIVE, Phase, Row, WAYS
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

_INK, _PALE = '#333333', '#f0f0f0'
_COLOURS = {ALONE: '#3b6fb6', AWAY: '#d9822b'}
_OTHERS = ('#3f9c6d', '#7a5195', '#4cb0a8', '#8c6d31', '#d16ba5', '#8a8a8a')
_MARKERS = {LIVE: 'o', ALONE: '^', AWAY: 'v'}
_FLOOR_MBIT_S = 0.5  # what lies below is drawn here


def draw_link(path: Path, phases: Sequence[Phase], end_s: float,
              estimates: Sequence[tuple[float, float]], rows: Sequence[Row], title: str) -> None:
    """
    Write the picture of a run, from the begin of the first phase to ``end_s``.

    ``estimates``: (seconds, Mbit/s). The suffix of ``path`` gives the format.
    """
    with rc_context({'text.parse_math': False}):  # names are names, whatever is in them
        figure = Figure(figsize=(10.0, 6.2), dpi=110)
        link, latency = figure.subplots(2, sharex=True, height_ratios=(2, 3))
        begins = [phase.begin_s for phase in phases]
        for index, (phase, end) in enumerate(zip(phases, [*begins[1:], end_s])):
            for axes in (link, latency):
                if index % 2 == 0:
                    axes.axvspan(phase.begin_s, end, color=_PALE, linewidth=0)
            link.text((phase.begin_s + end) / 2, 1.03, f'{phase.mbit_s:g} Mbit/s'
                      if phase.mbit_s else 'blackout', ha='center', fontsize=9, color=_INK,
                      transform=link.get_xaxis_transform())
        _link(link, phases, end_s, estimates)
        _latency(latency, rows)
        latency.set_xlim(0, end_s)
        figure.suptitle(title, x=0.012, ha='left', fontsize=11, color=_INK)
        figure.subplots_adjust(left=0.075, right=0.8, top=0.89, bottom=0.08, hspace=0.1)
        figure.savefig(path)


def _link(axes: Axes, phases: Sequence[Phase], end_s: float,
          estimates: Sequence[tuple[float, float]]) -> None:
    times = [phase.begin_s for phase in phases]
    rates = [max(phase.mbit_s, _FLOOR_MBIT_S) for phase in phases]
    axes.step([*times, end_s], [*rates, rates[-1]], where='post', color=_INK, linewidth=1.6,
              label='as set')
    if estimates:
        axes.plot([time for time, _ in estimates],
                  [max(mbit_s, _FLOOR_MBIT_S) for _, mbit_s in estimates], color='#c0264b',
                  linewidth=1.2, label='as estimated')
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter(FuncFormatter(
        lambda rate, _: f'{rate:g}' if rate > _FLOOR_MBIT_S else '0'))
    axes.set_ylabel('link [Mbit/s]', color=_INK, fontsize=9)
    _legend(axes, *axes.get_legend_handles_labels())


def _latency(axes: Axes, rows: Sequence[Row]) -> None:
    names = list(dict.fromkeys(row.plan for row in rows))
    others = [name for name in names if name not in _COLOURS]
    colours = _COLOURS | dict(zip(others, cycle(_OTHERS)))
    for row in rows:
        late = bool(row.fallback_reason)
        axes.plot(row.shown_s, 1e3 * row.latency_s, _MARKERS[row.way], markersize=6,
                  markeredgecolor=colours[row.plan], markeredgewidth=1.3,
                  color='white' if late else colours[row.plan])
    axes.set_yscale('log')
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f'{ms:g}'))
    axes.yaxis.set_minor_formatter(FuncFormatter(
        lambda ms, _: f'{ms:g}' if f'{ms:g}'[0] in '235' else ''))
    axes.tick_params(axis='y', which='minor', labelsize=7)
    axes.set_ylabel('latency of a frame [ms]', color=_INK, fontsize=9)
    axes.set_xlabel('time [s]', color=_INK, fontsize=9)
    plain = {'linestyle': '', 'markersize': 6}
    handles = [
        *(Line2D([], [], marker=marker, color='#8a8a8a', label=WAYS[way], **plain)
          for way, marker in _MARKERS.items()),
        *(Line2D([], [], marker='s', color=colours[name], label=f'plan {name}', **plain)
          for name in names),
        Line2D([], [], marker='o', markerfacecolor='white', markeredgecolor='#8a8a8a',
               label='the robot alone after all', **plain)]
    _legend(axes, handles, [handle.get_label() for handle in handles])


def _legend(axes: Axes, handles: Sequence, labels: Sequence[str]) -> None:
    axes.legend(handles, labels, loc='upper left', bbox_to_anchor=(1.01, 1.0), frameon=False,
                fontsize=8.5, handlelength=1.4, borderaxespad=0)
    axes.grid(axis='y', color='#e4e4e4', linewidth=0.6)
    axes.tick_params(labelsize=8, colors=_INK)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
