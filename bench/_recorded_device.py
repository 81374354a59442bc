# SPDX-License-Identifier: Apache-2.0
"""Two device profiles and a link from a record, and how well they explain what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from _recorded import Measured, MIB, read_measured, read_record, Record, RecordError
from _recorded_align import align, layout_of
import numpy as np
from scipy.optimize import nnls

from hp_inference.graph.ir import Graph
from hp_inference.graph.layout import Layout
from hp_inference.profile.device import DeviceProfile, OperatorTime
from hp_inference.runtime.meters import Power
from hp_planner.report.trace import durations, run_trace, Sample
from hp_planner.timeline.setting import LinkModel

ROBOT_ONLY, FULL_OFFLOAD = 'robot only', 'full offload'
# The recorded transport: 8 ms per inference (a message each way) and 11.5 ms per 1e6 bytes, up and
# down shaped apart.
RECORDED_LINK = LinkModel(duplex='full', message_s=0.004, byte_s=11.5e-9, round_trip_s=0.0)
# Watts of the recorded board while it waits or talks, and while its GPU computes where the
# model's own run was not measured.
WAITING_W, COMPUTING_W = 4.7, 13.0
SHARES = (0, 0.25, 0.5, 0.75, 1)  # of the rows; where an operator's time is given


@dataclass(frozen=True)
class Recorded:
    """
    A record made ready to be planned for: layout, profiles of both devices, measurements.

    ``places[i]``: the value that the time of the record's operator i went to. ``measured``: the
    lines of this model. ``notes``: what was assumed. Of codec 'none' the ratios are recorded over
    raw sizes, so that the image and the outputs travel with the bytes that were sent.
    """

    record: Record
    layout: Layout
    places: tuple[int, ...]
    robot: DeviceProfile
    server: DeviceProfile
    measured: tuple[Measured, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> tuple[float, ...]:
        """What each value has in bytes when it travels."""
        return tuple(size * ratio for size, ratio in zip(self.robot.value_bytes,
                                                         self.robot.ratios['none']))

    def as_pixels(self) -> Recorded:
        """Return the same with the image as its uint8 pixels."""
        ratios = {'none': (1.0, *self.robot.ratios['none'][1:])}
        return replace(self, robot=replace(self.robot, ratios=ratios),
                       server=replace(self.server, ratios=ratios))

    def line(self, approach: str, trace: str = '-') -> Measured | None:
        """Return what was measured of an approach along a trace, None where nothing was."""
        return next((line for line in self.measured
                     if (line.approach, line.trace) == (approach, trace)), None)


def load_recorded(data: Path, model: str, server_as_robot: bool = False) -> Recorded:
    """
    Return a model's record in the folder ``data``, beside whose records measured.csv may lie.

    Robot times are scaled to the robot-only run where it was measured, server times to the
    recorded whole run; ``server_as_robot`` scales the latter by what the robot's measured run
    takes more than its recorded one, too. Raises RecordError.
    """
    record, notes = read_record(Path(data) / f'{model}.json'), []
    measured: tuple[Measured, ...] = ()
    table = Path(data) / 'measured.csv'
    if table.exists():
        measured = tuple(line for line in read_measured(table) if line.model == record.model)
    alone = next((line for line in measured if line.approach == ROBOT_ONLY), None)
    robot_ms, watts = (alone.mean_ms, alone.mean_power_w) if alone else (
        record.robot_forward_ms, COMPUTING_W)
    if not robot_ms > 0:
        raise RecordError(f'the measured robot-only mean of {record.model} is {robot_ms} ms')
    if alone is None:
        notes.append(f'no robot-only run of {record.model} was measured: taken are its recorded '
                     f'forward time, {robot_ms:g} ms, and {watts:g} W')
    server_ms = record.server_forward_ms
    if server_as_robot:
        server_ms *= robot_ms / record.robot_forward_ms
    layout = layout_of(record)
    places = align(record, layout.graph)
    notes += [f'{record.described(number)} has no time in the record, so it costs nothing'
              for number, op in enumerate(record.ops)
              if op.name.startswith('conv') and not (op.robot_ms and op.server_ms)]
    return Recorded(record, layout, tuple(places),
                    _profile(record, layout, places, 'robot', robot_ms,
                             Power(WAITING_W, WAITING_W, watts, 'recorded')),
                    _profile(record, layout, places, 'server', server_ms,
                             Power(0.0, 0.0, 0.0, 'not recorded')), measured, tuple(notes))


def _profile(record: Record, layout: Layout, places: Sequence[int], side: str, whole_ms: float,
             power: Power) -> DeviceProfile:
    """Return one side's profile, whose operators add up to ``whole_ms``."""
    graph = layout.graph
    scale = whole_ms / record.total_ms(side)
    floors = floors_ms(record, graph, places, side)
    parts: list[list[tuple[float, float]]] = [[] for _ in graph.values]
    for op, value, floor in zip(record.ops, places, floors):
        if value:
            ms = getattr(op, f'{side}_ms')
            parts[value].append((floor, ms - floor))
    operators = []
    for op in graph.ops:
        rows = layout.rows[op.output]
        counts = sorted({max(1, round(share * rows)) for share in SHARES})
        ms = [sum(floor + rest * count / rows for floor, rest in parts[op.output])
              for count in counts]
        operators.append(OperatorTime(op.target, tuple(counts),
                                      tuple(number * scale / 1e3 for number in ms)))
    sent = [1.0] * len(graph.values)
    sent[0] = record.input_mbytes * MIB / graph.input.nbytes
    outputs = set(graph.outputs.values())
    for value in outputs:
        sent[value] = record.output_mbytes * MIB / sum(graph.values[v].nbytes for v in outputs)
    host = getattr(record, side)
    return DeviceProfile(
        model=record.model, model_digest=graph.digest, device=side, host=host, versions={},
        threads=1, date='', operators=tuple(operators), whole_s=whole_ms / 1e3, scale=scale,
        codecs={}, ratios={'none': tuple(sent)}, message_s=0.0, byte_s=0.0,
        value_bytes=tuple(value.nbytes for value in graph.values),
        weight_bytes=sum(tensor.nbytes for tensor in graph.constants.values()), power=power)


def floors_ms(record: Record, graph: Graph, places: Sequence[int], side: str) -> list[float]:
    """
    Return for each operator of a record the part of its time that fewer rows do not save.

    "Slices of small maps do not get proportionally faster": starting an operator takes its time
    however small the map. A record shows how long in its own operators of different sizes:
    time = floor + work / speed, fitted by relative least squares, neither negative; once for
    convolutions (work: multiplications) and once for all that only passes over a map (work: its
    elements). Where the sizes are too alike for that, the floor is the 5th percentile of all times.
    No operator has a floor above its own time.
    """
    groups = {True: [], False: []}
    for op, value in zip(record.ops, places):
        ms = getattr(op, f'{side}_ms')
        target = graph.ops[value - 1].target if value else ''
        if not ms or not value or target.startswith('aten.linear'):
            continue
        heavy = op.name.startswith('conv')
        groups[heavy].append((_multiplications(graph, value) if heavy else prod(op.shapes[0]), ms))
    everything = [getattr(op, f'{side}_ms') for op in record.ops]
    usual = float(np.percentile([ms for ms in everything if ms], 5))
    floors = {heavy: _fitted_floor(pairs, usual) for heavy, pairs in groups.items()}
    return [min(ms, floors[op.name.startswith('conv')]) for op, ms in zip(record.ops, everything)]


def _multiplications(graph: Graph, value: int) -> int:
    """Return the multiplications of a convolution; of a transposed one each input has its own."""
    op = graph.ops[value - 1]
    weight = graph.constants[op.args[1].name]
    across = op.refs[0] if 'transpose' in op.target else value
    return prod(graph.values[across].shape) * weight.numel() // weight.shape[0]


def _fitted_floor(pairs: list[tuple[int, float]], usual: float) -> float:
    works = [work for work, _ in pairs]
    if len(pairs) < 4 or max(works) < 4 * min(works):
        return usual
    work, ms = np.array(pairs, float).T
    terms = np.stack([1 / ms, work / work.max() / ms], axis=1)
    return float(nnls(terms, np.ones(len(ms)))[0][0])


def pause_s(recorded: Recorded, samples: Sequence[Sample], trace: str) -> float:
    """
    Return the time between two inferences of full offload along a trace; 0 where not measured.

    The number of inferences times their mean is less than the trace's length by so much for each.
    """
    line = recorded.line(FULL_OFFLOAD, trace)
    if line is None or not line.inferences:
        return 0.0
    return max(0.0, sum(durations(samples)) / line.inferences - line.mean_ms / 1e3)


def fit_check(recorded: Recorded, samples: Sequence[Sample], trace: str,
              pause: float = 0.0) -> dict[str, float]:
    """
    Return modelled and measured mean of full offload along a trace, in ms, and the relative error.

    Modelled: recorded bytes at the trace's rate, the server's whole run and RECORDED_LINK, one
    inference after the other with ``pause`` seconds between. Raises RecordError where full offload
    was not measured along the trace, or none would end within it.
    """
    line = recorded.line(FULL_OFFLOAD, trace)
    if line is None:
        raise RecordError(f'full offload of {recorded.record.model} along {trace!r} was not '
                          'measured')
    sent = (recorded.record.input_mbytes + recorded.record.output_mbytes) * MIB
    fixed = (recorded.server.whole_s + 2 * RECORDED_LINK.message_s + RECORDED_LINK.byte_s * sent
             + pause)

    def cost(plan: str, mbit_s: float) -> tuple[float, float]:
        return (sent * 8e-6 / mbit_s + fixed if mbit_s else float('inf')), 0.0
    outcome = run_trace(samples, lambda rate: FULL_OFFLOAD, cost, WAITING_W)
    if outcome.mean_s is None:
        raise RecordError(f'no full offload of {recorded.record.model} ends within {trace!r}')
    modelled = (outcome.mean_s - pause) * 1e3
    return {'modelled_ms': modelled, 'measured_ms': line.mean_ms,
            'error': modelled / line.mean_ms - 1, 'pause_ms': pause * 1e3}
