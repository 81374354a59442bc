# SPDX-License-Identifier: Apache-2.0
"""Where the time of a frame went: lanes for robot, link and server, as a picture and in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hp_inference.runtime.spans import busy_s, Span

LANES = ('robot', 'uplink', 'server', 'downlink')
LINK = ('uplink', 'downlink')
#: The label of the robot's span before the graph begins; drawn in a colour of its own.
PREPARE = 'prepare'

_COLOURS = {'robot': '#3b6fb6', 'server': '#d9822b', 'uplink': '#3f9c6d', 'downlink': '#3f9c6d'}
_PREPARE_COLOUR = '#9bb4d6'
_LEGEND = (('prepare the image', _PREPARE_COLOUR), ('robot computes', _COLOURS['robot']),
           ('rows leave, arrive', _COLOURS['uplink']), ('server computes', _COLOURS['server']))
_INK = '#333333'
_ANSWER = {'color': _INK, 'linewidth': 1.2, 'linestyle': (0, (4, 2))}
# Inches of a figure that the panels' own contents do not take: title and legend, and one panel.
_WIDTH, _MARGIN, _PANEL = 9.0, 1.05, 1.65
# A span narrower than this part of the axis would vanish in the picture.
_THINNEST = 0.0015


@dataclass(frozen=True)
class Panel:
    """One frame: ``spans`` count from the receipt of its image, the answer came at ``end_s``."""

    title: str
    spans: Sequence[Span]
    end_s: float


def draw(panels: Sequence[Panel], path: Path | str | BinaryIO, title: str = '') -> None:
    """
    Write a picture with one panel per frame, all on one time axis, to a file.

    The suffix of ``path`` gives the format; an open file gets a PNG. Raises ValueError without
    panels.
    """
    if not panels:
        raise ValueError('there is no frame to draw')
    height = _MARGIN + _PANEL * len(panels)
    figure = Figure(figsize=(_WIDTH, height), dpi=110)
    rows = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    last = max(max([panel.end_s] + [s.start_s + s.duration_s for s in panel.spans])
               for panel in panels)
    for axes, panel in zip(rows, panels):
        _draw_panel(axes, panel, 1e3 * last)
    rows[-1].set_xlabel('time since the image was received [ms]', color=_INK, fontsize=9)
    if title:
        figure.suptitle(title, x=0.012, y=1 - 0.1 / height, ha='left', va='top', fontsize=11,
                        color=_INK)
    handles = [Patch(color=colour, label=label) for label, colour in _LEGEND]
    figure.legend(handles=[*handles, Line2D([], [], label='answer', **_ANSWER)],
                  loc='upper right', bbox_to_anchor=(0.995, 1 - 0.06 / height),
                  ncol=len(handles) + 1, frameon=False, fontsize=8.5, handlelength=1.4,
                  columnspacing=1.2)
    figure.subplots_adjust(left=0.135, right=0.985, bottom=0.48 / height, top=1 - 0.62 / height,
                           hspace=0.42)
    figure.savefig(path)


def _draw_panel(axes: Axes, panel: Panel, last_ms: float) -> None:
    for place, lane in enumerate(LANES):
        for span in panel.spans:
            if span.lane == lane:
                colour = _PREPARE_COLOUR if span.label == PREPARE else _COLOURS[lane]
                width = max(1e3 * span.duration_s, _THINNEST * last_ms)
                axes.broken_barh([(1e3 * span.start_s, width)], (place - 0.34, 0.68), color=colour,
                                 linewidth=0)
    busy_ms = {lane: 1e3 * busy_s(panel.spans, (lane,)) for lane in LANES}
    axes.set_yticks(range(len(LANES)), [f'{lane}  {busy:.{0 if busy > 9.95 else 1}f} ms'
                                        for lane, busy in busy_ms.items()])
    axes.set_ylim(len(LANES) - 0.45, -0.55)
    axes.set_xlim(0, 1.02 * last_ms)
    axes.set_title(panel.title, loc='left', fontsize=9.5, color=_INK)
    axes.axvline(1e3 * panel.end_s, **_ANSWER)
    axes.grid(axis='x', color='#e4e4e4', linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, labelsize=8.5)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)
    axes.spines['bottom'].set_color('#bbbbbb')
