# SPDX-License-Identifier: Apache-2.0
"""Pictures of a plan table: what it gains at which bandwidth, and how. No window is ever opened."""

from __future__ import annotations

from collections.abc import Sequence
import io
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter
import numpy as np

from hp_inference import files
from hp_inference.show import timeline
from hp_inference.text import line
from hp_planner.report.record import Compromise, Point
from hp_planner.report.table_file import label, TABLE, TableFile

_INK, _PALE = '#333333', '#e4e4e4'
_ROBOT, _SERVER = '#3b6fb6', '#d9822b'
# Colour and line of the table and each baseline, the same in all pictures.
_STYLES = {
    TABLE: ('#c0264b', '-'), 'robot_only': (_ROBOT, '-'), 'full_offload': (_SERVER, '-'),
    'full_offload_jpeg': ('#b08d57', (0, (6, 2))), 'whole_switch': ('#7a5195', (0, (3, 1.5))),
    'layer_cut': ('#3f9c6d', (0, (6, 1.5, 1, 1.5))), 'minimum_cut': ('#4c9fb0', (0, (1, 1.2)))}
_OTHER = ('#8a8a8a', (0, (2, 1)))
_SHARES = LinearSegmentedColormap.from_list('shares', [_SERVER, '#f4efe6', _ROBOT])
# Of each picture against the bandwidth: title, figure, its axis and its scale there.
_CURVES = {
    'latency': ('latency of one inference', 'latency_s', 'latency [ms]', 1e3),
    'energy': ("the robot's energy per inference", 'energy_j', 'energy [J]', 1),
    'throughput': ('frames per second with several in flight', 'throughput', 'throughput [1/s]',
                   1)}
# Rates drawn between the ends of the grid, and value names written below a heat map.
_RATES, _NAMES, _PANELS = 400, 14, 4


def write_pictures(table: TableFile, folder: Path, mbit_s: Sequence[float] = ()) -> list[Path]:
    """
    Write the pictures of a table as PNG files into a folder, and return their paths.

    ``mbit_s``: where to draw the time line, at the nearest rates of the grid; without any, at a
    few rates at which something travels. No energy where nobody knows the robot's power. All are
    drawn before the first is written. Raises OSError for the folder, FileError.
    """
    record, pictures = table.record, {}
    with rc_context({'text.parse_math': False}):  # names are names, whatever is in them
        drawn = [(name, _against_bandwidth(table, *about)) for name, about in _CURVES.items()
                 if name != 'energy' or record.power_known]
        if record.depth:
            drawn.append(('shares', _shares(table)))
        if record.pareto:
            drawn.append(('pareto', _pareto(table)))
        for name, figure in drawn:
            figure.savefig(pictures.setdefault(f'{name}.png', io.BytesIO()))
        timeline.draw([_panel(point) for point in lane_points(record.points, mbit_s)],
                      pictures.setdefault('timeline.png', io.BytesIO()),
                      f'{table.model}, predicted')
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        files.write(folder / name, picture.getvalue())
    return [folder / name for name in pictures]


def lane_points(points: Sequence[Point], mbit_s: Sequence[float] = ()) -> list[Point]:
    """Return the points nearest (in ratio) to some rates; without any, a few with traffic."""
    if mbit_s:
        nearest = [min(points, key=lambda point: abs(np.log(point.mbit_s / rate)))
                   for rate in mbit_s]
        return sorted(set(nearest), key=lambda point: point.mbit_s)
    busy = [point for point in points
            if any(span.lane in timeline.LINK for span in point.lanes)] or list(points)
    places = np.linspace(0, len(busy) - 1, min(_PANELS, len(busy))).round().astype(int)
    return [busy[place] for place in places]


def _panel(point: Point) -> timeline.Panel:
    return timeline.Panel(f'{_plain(point.mbit_s)} Mbit/s: {point.plan}', point.lanes,
                          point.latency_s)


def _plain(number: float) -> str:
    """Return three digits, 1000 as 1000."""
    return f'{float(f"{number:.3g}"):g}'


def _figure(title: str, width: float = 8.0, height: float = 4.9) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=110, layout='constrained')
    axes = figure.add_subplot()
    axes.set_title(title, loc='left', fontsize=11, color=_INK)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, labelsize=8.5)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    for side in ('left', 'bottom'):
        axes.spines[side].set_color('#bbbbbb')
    return figure, axes


def _log(axes: Axes, *names: str) -> None:
    """Make axes logarithmic, with plain numbers at 1, 2 and 5."""
    for name in names:
        getattr(axes, f'set_{name}scale')('log', subs=(2, 5))
        axis = getattr(axes, f'{name}axis')
        axis.set_major_formatter(FuncFormatter(lambda number, _: f'{number:g}'))
        low, high = axis.get_view_interval()
        few = high < 100 * low
        axis.set_minor_formatter(FuncFormatter(lambda number, _: f'{number:g}') if few
                                 else NullFormatter())
    axes.tick_params(which='minor', length=0, labelsize=7.5, labelcolor='#777777')


def _against_bandwidth(table: TableFile, title: str, name: str, unit: str,
                       scale: float) -> Figure:
    """Draw a figure of the table and of every baseline against the bandwidth."""
    record, grid = table.record, table.record.grid
    figure, axes = _figure(f'{table.model}: {title}')
    marker = 'o' if len(grid) == 1 else None
    rates = np.unique([*np.geomspace(grid[0], grid[-1], _RATES).clip(grid[0], grid[-1]), *grid])
    if name == 'latency_s':
        axes.plot(grid, [scale * point.bound_s for point in record.points], color=_INK,
                  linewidth=1.0, linestyle=(0, (4, 3)), label='lower bound (table)', marker=marker)
    # The table last, so that it lies on top of what it equals.
    for approach in reversed(table.approaches):
        colour, line = _STYLES.get(approach, _OTHER)
        axes.plot(rates, scale * table.figure(approach, rates, name), color=colour, linestyle=line,
                  linewidth=2.4 if approach == TABLE else 1.4, label=label(approach),
                  marker=marker)
    _log(axes, 'x', 'y')
    axes.grid(which='major', color=_PALE, linewidth=0.7)
    axes.set_xlabel('bandwidth [Mbit/s]', color=_INK, fontsize=9)
    axes.set_ylabel(unit, color=_INK, fontsize=9)
    axes.legend(reverse=True, frameon=False, fontsize=8.5, labelcolor=_INK, handlelength=2.6,
                loc='upper left', bbox_to_anchor=(1.0, 1.0))
    return figure


def _shares(table: TableFile) -> Figure:
    """Draw who computes what: the depth of the network across, the bandwidth upwards."""
    record = table.record
    grid, depth = record.grid, record.depth
    shares = [[table.share(table.plan_at(TABLE, rate), value) for value in depth] for rate in grid]
    figure, axes = _figure(f'{table.model}: who computes which part of every value', 9.0, 5.2)
    # A choice holds up to the next one.
    above = grid[-1] * (grid[-1] / grid[-2] if len(grid) > 1 else 2)
    mesh = axes.pcolormesh(np.arange(len(depth) + 1), [*grid, above], np.array(shares),
                           cmap=_SHARES, vmin=0, vmax=1, rasterized=True)
    _log(axes, 'y')
    step = max(1, -(-len(depth) // _NAMES))
    names = [table.graph['values'][value].get('name', value) for value in depth[::step]]
    axes.set_xticks(np.arange(0, len(depth), step) + 0.5, [line(name, 20) for name in names],
                    rotation=50, ha='right', rotation_mode='anchor', fontsize=8)
    axes.set_xlabel('depth of the network', color=_INK, fontsize=9)
    axes.set_ylabel('bandwidth [Mbit/s]', color=_INK, fontsize=9)
    bar = figure.colorbar(mesh, ax=axes, ticks=[0, 0.5, 1], pad=0.02)
    bar.ax.set_yticklabels(['server\nall rows', 'half', 'robot\nall rows'], fontsize=8.5)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=_INK, length=0)
    return figure


def _pareto(table: TableFile) -> Figure:
    """Draw the front: latency across, energy upwards, throughput as colour, memory as size."""
    record = table.record
    front, rate = record.pareto, record.pareto_mbit_s
    figure, axes = _figure(f'{table.model}: plans that no other beats, at {_plain(rate)} Mbit/s')
    most = max(point.robot_peak_bytes for point in front) or 1.0

    def size(held: float) -> float:
        return 15 + 145 * held / most
    dots = axes.scatter([1e3 * point.latency_s for point in front],
                        [point.energy_j for point in front],
                        c=[point.throughput for point in front], cmap='viridis',
                        s=[size(point.robot_peak_bytes) for point in front], alpha=0.85,
                        edgecolors='white', linewidths=0.6, zorder=3)
    handles = [*_marks(table, axes, front, rate),
               *(Line2D([], [], linestyle='', marker='o', color='#9a9a9a',
                        markersize=np.sqrt(size(part * most)),
                        label=f"robot's peak {part * most / 1e6:.3g} MB") for part in (0.25, 1))]
    axes.legend(handles=handles, frameon=False, fontsize=8.5, labelcolor=_INK, loc='best',
                labelspacing=0.8)
    axes.grid(color=_PALE, linewidth=0.7)
    axes.set_xlabel('latency [ms]', color=_INK, fontsize=9)
    axes.set_ylabel('energy per inference [J]', color=_INK, fontsize=9)
    bar = figure.colorbar(dots, ax=axes, pad=0.02)
    bar.set_label('throughput [1/s]', color=_INK, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=_INK, length=0, labelsize=8.5)
    return figure


def _marks(table: TableFile, axes: Axes, front: Sequence[Compromise], rate: float) -> list:
    """Mark the table and those baselines that are not far outside of the front."""
    marks = []
    for approach in table.approaches:
        latency, energy = (float(table.figure(approach, np.array([rate]), name)[0])
                           for name in ('latency_s', 'energy_j'))
        if (latency <= 1.5 * max(point.latency_s for point in front)
                and energy <= 1.5 * max(point.energy_j for point in front)):
            colour, _ = _STYLES.get(approach, _OTHER)
            ring = {'marker': 'o', 'markersize': 14, 'fillstyle': 'none', 'markeredgewidth': 2}
            cross = {'marker': 'P', 'markersize': 9, 'markeredgecolor': 'white'}
            marks += axes.plot(1e3 * latency, energy, color=colour, linestyle='', zorder=4,
                               label=label(approach), **(ring if approach == TABLE else cross))
    return marks
