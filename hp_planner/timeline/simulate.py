# SPDX-License-Identifier: Apache-2.0
"""
The timeline, compiled: two processors, a radio, the steps of both sides, and the clock.

A processor carries out its steps one after the other; a Receive waits for its message. Messages of
a direction leave in the order in which they were handed over; one radio serves both directions in
half duplex, whichever message was ready first. One event after the other, always the earliest:
what a real pair of programs would do, without noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hp_inference.link.wire import CODEC_CODES
from hp_inference.split.shares import ROBOT, SERVER, Workspace
from hp_inference.split.steps import COMPUTE, RECEIVE, SEND, Steps
from hp_planner.timeline.compiled import compiled
from hp_planner.timeline.compiler import make_steps
from hp_planner.timeline.row_tables import RowTables

# What `simulate` writes, in this order (see setting.Prediction).
(LATENCY, ENERGY, ROBOT_BUSY, SERVER_BUSY, RADIO_BUSY, UP_BYTES, DOWN_BYTES, ROBOT_PEAK,
 SERVER_PEAK) = range(9)
FIGURES = 9
JPEG = CODEC_CODES['jpeg']


class Costs(NamedTuple):
    """
    What everything costs, in seconds, bytes and watts.

    ``compute[side, at_row[v] + rows]``; ``row_bytes[v]`` raw; ``ratio[codec, v]`` encoded/raw;
    ``codec_s[side, codec, 0 encode or 1 decode]`` per raw byte; ``chunk_s[side]`` per chunk and
    ``host_byte_s[side]`` per encoded byte, at the sender; ``byte_s``, ``message_s``, ``trip_s``
    (one way) of the link; ``half``: one radio; ``power``: waiting, communicating, computing.
    ``chunk[codec]``: raw bytes of a chunk.
    """

    compute: np.ndarray
    row_bytes: np.ndarray
    ratio: np.ndarray
    codec_s: np.ndarray
    chunk_s: np.ndarray
    host_byte_s: np.ndarray
    byte_s: float
    message_s: float
    trip_s: float
    half: bool
    power: np.ndarray
    chunk: np.ndarray


class Lanes(NamedTuple):
    """
    When what happened: per lane (robot, server, up, down) ``spans[lane, i]`` = begin, end.

    ``what[lane, i]``: value, begin row, end row. ``counts[lane]``. ``arrival[m]``, ``ready[m]``.
    """

    spans: np.ndarray
    what: np.ndarray
    counts: np.ndarray
    arrival: np.ndarray
    ready: np.ndarray
    queue: np.ndarray
    alive: np.ndarray
    last: np.ndarray


def new_lanes(steps: Steps) -> Lanes:
    """Return memory for the times of what is in ``steps``."""
    most, values = steps.kind.shape[1], steps.held_end.shape[1]
    return Lanes(np.zeros((4, most, 2)), np.zeros((4, most, 3), np.int32), np.zeros(4, np.int32),
                 np.zeros(most), np.zeros(most), np.zeros((2, most, 5), np.int32),
                 np.zeros(values, np.int32), np.zeros(values, np.int32))


@compiled
def message_seconds(costs: Costs, codec, value, rows, sender, rate):
    """
    Return (seconds on the link, encoded bytes) of one message.

    Its chunks pass encoding, the link and decoding one behind the other: the slowest of the three
    counts for all chunks, the other two for one.
    """
    raw = rows * costs.row_bytes[value]
    wire = raw * costs.ratio[codec, value]
    encode = costs.codec_s[sender, codec, 0]
    decode = costs.codec_s[1 - sender, codec, 1]
    send = raw * encode + np.ceil(raw / costs.chunk[codec]) * costs.chunk_s[sender] \
        + wire * costs.host_byte_s[sender]
    take = raw * decode
    air = wire * (1 / rate + costs.byte_s)
    slowest = max(air, send, take)
    one = costs.chunk[codec] / raw if raw > costs.chunk[codec] else 1.0
    return costs.message_s + slowest + one * (air + send + take - slowest), wire


@compiled
def _span(lanes: Lanes, lane, begin, end, value, first, last):
    i = lanes.counts[lane]
    lanes.spans[lane, i, 0], lanes.spans[lane, i, 1] = begin, end
    lanes.what[lane, i, 0], lanes.what[lane, i, 1], lanes.what[lane, i, 2] = value, first, last
    lanes.counts[lane] = i + 1


@compiled
def _busy(lanes: Lanes, lane):
    total = 0.0
    for i in range(lanes.counts[lane]):
        total += lanes.spans[lane, i, 1] - lanes.spans[lane, i, 0]
    return total


@compiled
def _talking(lanes: Lanes):
    """Return how long the radio was busy in either direction while the robot did not compute."""
    total, until, up, down, robot = 0.0, 0.0, 0, 0, 0
    while up < lanes.counts[2] or down < lanes.counts[3]:
        if down >= lanes.counts[3] or (
                up < lanes.counts[2] and lanes.spans[2, up, 0] <= lanes.spans[3, down, 0]):
            begin, end = lanes.spans[2, up, 0], lanes.spans[2, up, 1]
            up += 1
        else:
            begin, end = lanes.spans[3, down, 0], lanes.spans[3, down, 1]
            down += 1
        begin = max(begin, until)
        if end <= begin:
            continue
        until = end
        total += end - begin
        while robot < lanes.counts[0] and lanes.spans[0, robot, 1] <= begin:
            robot += 1
        i = robot
        while i < lanes.counts[0] and lanes.spans[0, i, 0] < end:
            total -= min(end, lanes.spans[0, i, 1]) - max(begin, lanes.spans[0, i, 0])
            i += 1
    return total


@compiled
def _peak(tables: RowTables, costs: Costs, steps: Steps, lanes: Lanes, side):
    """
    Return the most bytes that the values held at once take on a side.

    Like runtime.lifetimes, without the memory saved by writing over an input.
    """
    count, alive, last = steps.counts[side], lanes.alive, lanes.last
    alive[:] = 0
    for i in range(count):
        v = steps.value[side, i]
        last[v] = i
        if steps.kind[side, i] == COMPUTE:
            for k in range(tables.first[v], tables.first[v + 1]):
                last[tables.source[k]] = i
    held = 0.0
    if side == ROBOT:
        held = (steps.held_end[side, 0] - steps.held_begin[side, 0]) * costs.row_bytes[0]
        alive[0] = held > 0
    peak = held
    for i in range(count):
        v = steps.value[side, i]
        if not alive[v]:
            alive[v] = 1
            held += (steps.held_end[side, v] - steps.held_begin[side, v]) * costs.row_bytes[v]
            peak = max(peak, held)
        last_argument = tables.first[v]
        if steps.kind[side, i] == COMPUTE:
            last_argument = tables.first[v + 1]
        for k in range(tables.first[v] - 1, last_argument):
            u = v if k < tables.first[v] else tables.source[k]
            if alive[u] and last[u] == i and not (side == ROBOT and tables.output[u]):
                alive[u] = 0
                held -= (steps.held_end[side, u] - steps.held_begin[side, u]) * costs.row_bytes[u]
    return peak


@compiled
def _shared_pixels(tables: RowTables, costs: Costs, steps: Steps):
    """Return the bytes of the copy of the image that a robot needs which also computes on it."""
    sends, reads = False, False
    for i in range(steps.counts[ROBOT]):
        v = steps.value[ROBOT, i]
        if steps.kind[ROBOT, i] == SEND:
            sends = sends or v == 0
        elif steps.kind[ROBOT, i] == COMPUTE:
            for k in range(tables.first[v], tables.first[v + 1]):
                reads = reads or tables.source[k] == 0
    rows = steps.held_end[ROBOT, 0] - steps.held_begin[ROBOT, 0]
    return rows * costs.row_bytes[0] if sends and reads else 0.0


@compiled
def simulate(tables: RowTables, costs: Costs, steps: Steps, codecs, rate, lanes: Lanes, figures):
    """
    Run the steps at a rate (bytes/s; 0: nothing gets through) and fill ``figures``.

    ``codecs``: per value. All is infinite where the steps are of no complete plan, and where
    something would have to travel at rate 0.
    """
    figures[:] = np.inf
    if not steps.counts[3] or (rate <= 0 and steps.counts[2]):
        return
    lanes.counts[:] = 0
    lanes.arrival[:steps.counts[2]] = -1.0
    clock = np.zeros(2)
    at = np.zeros(2, np.int64)
    head, tail = np.zeros(2, np.int64), np.zeros(2, np.int64)
    free, carried = np.zeros(2), np.zeros(2)
    while True:
        turn, when = -1, np.inf  # 0, 1: a processor's step; 2, 3: a message up, down
        for side in range(2):
            if head[side] < tail[side]:
                ready = lanes.ready[lanes.queue[side, head[side], 0]]
                if ready < when:
                    turn, when = 2 + side, ready
        for side in range(2):
            i = at[side]
            if i == steps.counts[side] or (
                    steps.kind[side, i] == RECEIVE
                    and lanes.arrival[steps.message[side, i]] < 0):
                continue
            if clock[side] < when:
                turn, when = side, clock[side]
        if turn < 0:
            break
        if turn >= 2:
            side = turn - 2
            m, v, begin, end, _ = lanes.queue[side, head[side]]
            head[side] += 1
            start = max(when, free[side])
            seconds, wire = message_seconds(costs, codecs[v], v, end - begin, side, rate)
            free[side] = start + seconds
            if costs.half:
                free[1 - side] = free[side]
            carried[side] += wire
            lanes.arrival[m] = start + seconds + costs.trip_s
            _span(lanes, 2 + side, start, start + seconds, v, begin, end)
            continue
        i = at[turn]
        at[turn] += 1
        v, m = steps.value[turn, i], steps.message[turn, i]
        begin, end = steps.begin[turn, i], steps.end[turn, i]
        if steps.kind[turn, i] == RECEIVE:
            clock[turn] = max(clock[turn], lanes.arrival[m])
        elif steps.kind[turn, i] == SEND:
            lanes.ready[m] = clock[turn]
            entry = lanes.queue[turn, tail[turn]]
            entry[0], entry[1], entry[2], entry[3] = m, v, begin, end
            tail[turn] += 1
        else:
            start = clock[turn]
            clock[turn] += costs.compute[turn, tables.at_row[v] + end - begin]
            _span(lanes, turn, start, clock[turn], v, begin, end)
    for side in range(2):
        if at[side] < steps.counts[side]:
            return  # a circle of waiting; no complete plan has one
    figures[LATENCY] = clock[ROBOT]
    figures[ROBOT_BUSY], figures[SERVER_BUSY] = _busy(lanes, 0), _busy(lanes, 1)
    up, down = _busy(lanes, 2), _busy(lanes, 3)
    figures[RADIO_BUSY] = up + down if costs.half else max(up, down)
    figures[UP_BYTES], figures[DOWN_BYTES] = carried[ROBOT], carried[SERVER]
    talking = _talking(lanes)
    waiting = max(0.0, clock[ROBOT] - figures[ROBOT_BUSY] - talking)
    figures[ENERGY] = (costs.power[0] * waiting + costs.power[1] * talking
                       + costs.power[2] * figures[ROBOT_BUSY])
    figures[ROBOT_PEAK] = _peak(tables, costs, steps, lanes, ROBOT)
    if codecs[0] == JPEG:
        figures[ROBOT_PEAK] += _shared_pixels(tables, costs, steps)
    figures[SERVER_PEAK] = _peak(tables, costs, steps, lanes, SERVER)


@compiled
def judge(tables: RowTables, costs: Costs, robot, server, blocks, codecs, rates, part, parts,
          work: Workspace, steps: Steps, lanes: Lanes, out):
    """Fill ``out[plan, rate]`` with figures for every ``parts``-th plan, beginning at ``part``."""
    for i in range(part, len(robot), parts):
        make_steps(tables, robot[i], server[i], blocks[i], work, steps)
        for j in range(len(rates)):
            simulate(tables, costs, steps, codecs[i], rates[j], lanes, out[i, j])
