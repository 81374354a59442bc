# SPDX-License-Identifier: Apache-2.0
"""
The space that LOSS searches: plans as a few stretches, each with one share.

A stretch runs up to a value and has the robot's share of its rows, a way with halos, and a number
of row blocks. Under EXCHANGE every value is cut at the share and halos are sent; under RECOMPUTE
only the values that something behind the stretch reads are cut, and both sides compute whatever
rows those need. Robot only, full offload, layer cuts and uniform splits are one or two stretches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np

from hp_inference.split.plan import BLOCK_COUNTS
from hp_planner.timeline.compiled import compiled
from hp_planner.timeline.row_tables import RowTables
from hp_planner.timeline.timeline import Population

EXCHANGE, RECOMPUTE = 0, 1
MOST_STRETCHES = 16
# Of all values, the most that the first, coarse look considers as ends of a stretch.
COARSE_ENDS = 12
COARSE_SHARES = (0.08, 0.17, 0.25, 0.34, 0.42, 0.5, 0.6, 0.75)


class Stretch(NamedTuple):
    """Values up to ``end``; ``share`` is the robot's, 0 to 1; ``blocks`` of what travels."""

    end: int
    share: float
    halo: int = EXCHANGE
    blocks: int = 1


class Genome(NamedTuple):
    """A point of the space: the blocks that the image travels in, then stretches to the end."""

    image_blocks: int
    stretches: tuple[Stretch, ...]


def tidy(stretches: Sequence[Stretch], last: int) -> tuple[Stretch, ...]:
    """Return stretches in order, ending at the last value, without empty or repeated ones."""
    kept: list[Stretch] = []
    for stretch in sorted(stretches, key=lambda s: s.end):
        stretch = stretch._replace(end=min(max(stretch.end, 1), last))
        if kept and stretch[1:] == kept[-1][1:]:
            kept[-1] = stretch
        elif not kept or stretch.end > kept[-1].end:
            kept.append(stretch)
    if kept[-1].end < last:
        kept[-1] = kept[-1]._replace(end=last)
    while len(kept) > MOST_STRETCHES:
        kept.pop(len(kept) // 2)
    return tuple(kept)


def population(tables: RowTables, genomes: Sequence[Genome], codecs: np.ndarray) -> Population:
    """Return the plans of genomes; ``codecs[v]`` holds for all of them."""
    count, values = len(genomes), len(tables.rows)
    ends = np.full((count, MOST_STRETCHES), values - 1, np.int32)
    share = np.zeros((count, MOST_STRETCHES))
    halo, blocks = (np.zeros((count, MOST_STRETCHES), np.int32) for _ in range(2))
    image = np.array([genome.image_blocks for genome in genomes], np.int32)
    for i, genome in enumerate(genomes):
        used = len(genome.stretches)
        ends[i, :used], share[i, :used], halo[i, :used], blocks[i, :used] = zip(*genome.stretches)
    made = [np.zeros((count, values), np.int32) for _ in range(3)]
    _expand(tables, ends, share, halo, blocks, image, *made)
    return Population(*made, np.broadcast_to(codecs.astype(np.int32), (count, values)).copy())


@compiled
def _expand(tables: RowTables, ends, share, halo, blocks, image, robot, server, counts):
    values = len(tables.rows)
    asked, offered = np.zeros(values, np.int32), np.zeros(values, np.int32)
    for i in range(len(ends)):
        asked[:] = 0  # the robot's own operators read rows up to here
        offered[:] = tables.rows  # the server's own read rows from here on
        at = 0
        while ends[i, at] < values - 1:
            at += 1
        for v in range(values - 1, -1, -1):
            while at > 0 and ends[i, at - 1] >= v:
                at -= 1
            rows = tables.rows[v]
            if v == 0:
                robot[i, v], server[i, v], counts[i, v] = rows, rows, image[i]
                break
            counts[i, v] = blocks[i, at]
            if halo[i, at] == EXCHANGE or tables.last[v] > ends[i, at]:
                cut = max(0, int(np.ceil(share[i, at] * rows - 0.5)))
                robot[i, v], server[i, v] = cut, cut
            else:
                robot[i, v], server[i, v] = asked[v], offered[v]
            for k in range(tables.first[v], tables.first[v + 1]):
                u = tables.source[k]
                if robot[i, v] > 0:
                    _, high = _hull(tables, k, rows, 0, robot[i, v])
                    asked[u] = max(asked[u], high)
                if server[i, v] < rows:
                    low, _ = _hull(tables, k, rows, server[i, v], rows)
                    offered[u] = min(offered[u], low)


@compiled
def _hull(tables: RowTables, argument, rows, begin, end):
    p = tables.pairs[argument]
    if p < 0:
        return tables.low[tables.at[argument] + begin], tables.high[tables.at[argument] + end]
    p += begin * (rows + 1) + end
    low, high = 2 ** 30, 0
    for i in range(tables.starts[p], tables.starts[p + 1]):
        low, high = min(low, tables.spans[i, 0]), max(high, tables.spans[i, 1])
    return low, high


class Space:
    """Where stretches of one graph may well end, and how to walk from plan to plan."""

    def __init__(self, tables: RowTables):
        self.tables = tables
        self.last = len(tables.rows) - 1
        # Where little is alive, a cut sends little: these ends are tried more often.
        alive = np.zeros(self.last + 2, np.int64)
        for v in range(self.last + 1):
            alive[v] += 1
            alive[min(int(tables.last[v]), self.last + 1)] -= 1
        self.narrow = [v for v, n in enumerate(np.cumsum(alive)[:-1]) if n <= 1 and v > 0]
        self.narrow = self.narrow or [self.last]

    def coarse(self) -> Iterator[Genome]:
        """Yield a first, coarse net over the space: a split between robot, server and robot."""
        step = max(1, len(self.narrow) // COARSE_ENDS)
        ends = sorted({*self.narrow[::step], self.narrow[-1], self.last})
        for halo in (EXCHANGE, RECOMPUTE):
            for share in COARSE_SHARES:
                for j, end in enumerate(ends):
                    for begin in (0, *ends[:j]):
                        for after in (0.0, 1.0):
                            if end == self.last and after:
                                continue
                            head = [Stretch(begin, 1.0)] if begin else []
                            tail = [Stretch(self.last, after)] if end < self.last else []
                            yield Genome(2, tuple([*head, Stretch(end, share, halo), *tail]))

    def of_shares(self, robot: Sequence[int], server: Sequence[int]) -> Genome | None:
        """Return the genome of a plan that gives every value to one side, None for others."""
        stretches: list[Stretch] = []
        for v in range(1, self.last + 1):
            if robot[v] != server[v] or robot[v] not in (0, self.tables.rows[v]):
                return None
            stretches.append(Stretch(v, float(robot[v] > 0)))
        merged = tidy(stretches, self.last)
        return Genome(1, merged) if len(merged) < MOST_STRETCHES else None

    def mutant(self, parent: Genome, other: Genome, draw: Random) -> Genome:
        """Return a neighbour of a plan: a few random changes, or one crossing with another."""
        if draw.random() < 0.15:
            at = self._any_end(draw)
            head = [s for s in parent.stretches if s.end < at]
            here = next(s for s in parent.stretches if s.end >= at)
            tail = [s for s in other.stretches if s.end > at]
            return Genome(draw.choice((parent, other)).image_blocks,
                          tidy([*head, here._replace(end=at), *tail], self.last))
        genome = parent
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3))):
            genome = self._changed(genome, draw)
        return genome

    def _changed(self, genome: Genome, draw: Random) -> Genome:
        stretches, image = list(genome.stretches), genome.image_blocks
        i = draw.randrange(len(stretches))
        chosen, kind = stretches[i], draw.random()
        if kind < 0.35:
            stretches[i] = chosen._replace(share=self._share(chosen, draw))
        elif kind < 0.6:
            end = chosen.end + draw.choice((-1, 1)) * int(2 ** (draw.random() * 6))
            if draw.random() < 0.5:
                end = self._any_end(draw)
            stretches[i] = chosen._replace(end=end)
        elif kind < 0.72:
            cut = chosen._replace(end=self._any_end(draw), halo=draw.choice((0, 1)))
            stretches.insert(i, cut._replace(share=self._share(cut, draw)))
        elif kind < 0.8 and len(stretches) > 1:
            stretches.pop(i)
        elif kind < 0.88:
            stretches[i] = chosen._replace(halo=1 - chosen.halo)
        elif kind < 0.94:
            stretches[i] = chosen._replace(blocks=draw.choice(BLOCK_COUNTS))
        else:
            image = draw.choice(BLOCK_COUNTS)
        return Genome(image, tidy(stretches, self.last))

    def neighbours(self, genome: Genome) -> Iterator[Genome]:
        """Yield every plan that differs in one number, by a little or by as much as can be."""
        for image in BLOCK_COUNTS:
            if image != genome.image_blocks:
                yield genome._replace(image_blocks=image)
        for i, stretch in enumerate(genome.stretches):
            shares = {0.0, 1.0, *(min(1.0, max(0.0, stretch.share + change)) for change in
                                  (-0.1, -0.04, -0.015, -0.005, 0.005, 0.015, 0.04, 0.1))}
            changes = [stretch._replace(share=share) for share in sorted(shares)]
            changes.append(stretch._replace(halo=1 - stretch.halo))
            changes.extend(stretch._replace(blocks=blocks) for blocks in BLOCK_COUNTS)
            if stretch.end < self.last:
                near = min(range(len(self.narrow)),
                           key=lambda j: abs(self.narrow[j] - stretch.end))
                ends = {stretch.end + change for change in (-8, -4, -2, -1, 1, 2, 4, 8)}
                ends |= set(self.narrow[max(0, near - 2):near + 3])
                changes.extend(stretch._replace(end=end) for end in sorted(ends))
            for change in changes:
                if change != stretch:
                    others = [s for j, s in enumerate(genome.stretches) if j != i]
                    yield Genome(genome.image_blocks, tidy([*others, change], self.last))

    def _any_end(self, draw: Random) -> int:
        return draw.choice(self.narrow) if draw.random() < 0.7 else draw.randint(1, self.last)

    def _share(self, stretch: Stretch, draw: Random) -> float:
        kind = draw.random()
        if kind < 0.3:
            return draw.choice((0.0, 1.0))
        if kind < 0.5:
            return draw.random()
        return min(1.0, max(0.0, stretch.share + draw.gauss(0, 0.08)))

