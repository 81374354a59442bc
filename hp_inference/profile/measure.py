# SPDX-License-Identifier: Apache-2.0
"""Measure a device: what every operator of a model takes for so many rows, and a whole frame."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import replace
from functools import partial
import math
import platform
import random
import time

import numpy as np
import torch

from hp_inference import __version__
from hp_inference.graph.ir import Op
from hp_inference.graph.layout import Layout
from hp_inference.profile.device import DeviceProfile, digits, OperatorTime
from hp_inference.profile.measure_link import link_costs
from hp_inference.profile.sample import sample_image
from hp_inference.profile.walk import Held, Walk
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.memory import keep_freed_memory
from hp_inference.runtime.meters import NO_POWER, Power
from hp_inference.split.plan import robot_only
from hp_inference.split.program import compile_plan, Compute, Program

SECONDS = 40.0
# Of every operator and row count at least, and rounds through the network at most.
LEAST_SAMPLES, MOST_ROUNDS = 3, 300
SHARES = (0.25, 0.5, 0.75)

Progress = Callable[[str, int, int], None]
Timer = Callable[[Callable[[], object]], tuple[object, float]]


def profile(layout: Layout, image: torch.Tensor | None = None, power: Power = NO_POWER,
            seconds: float = SECONDS, progress: Progress = lambda what, done, of: None
            ) -> DeviceProfile:
    """
    Return what a model takes on the device that its graph is on, with torch's present threads.

    image: uint8 [1, C, H, W] on the CPU, so that values and ratios are like those to come; where
    none is given one that is like a photograph. ``seconds``: how long to measure operators, longer
    where LEAST_SAMPLES take longer. ``progress(what, done, of)`` is called now and then. Raises
    what the model's operators raise.
    """
    keep_freed_memory()
    graph = layout.graph
    image = sample_image(graph.input.shape) if image is None else image
    layout = Layout(graph)  # one of its own: the weights that are packed for it go when it goes
    program = compile_plan(layout, robot_only(layout))[0]
    on_gpu = graph.device.type == 'cuda'
    # Other processes stretch the time of an operator, and of a long one more often than of a
    # short one. A single thread's own time they leave as it is; what this process is kept from
    # even when nobody else runs (a quota) the quietest frames tell.
    alone = torch.get_num_threads() == 1
    with torch.inference_mode(), (torch.cuda.device(graph.device) if on_gpu
                                  else contextlib.nullcontext()):
        bench = OperatorBench(layout, image.to(graph.device), gpu_time if on_gpu else
                              thread_time if alone else wall_time)
        whole = partial(gpu_time if on_gpu else both_times if alone else wall_time,
                        partial(Executor(layout, program).run, None, image))
        whole_s = _measure(bench, whole, seconds, progress)
        link = link_costs(bench.walk, image.to(graph.device), progress)
    measured = DeviceProfile(
        graph.model, graph.digest, str(graph.device), platform.node(), versions(graph.device),
        torch.get_num_threads(), time.strftime('%Y-%m-%dT%H:%M:%S'), bench.times(), whole_s, 1.0,
        link.codecs, link.ratios, link.message_s, link.byte_s,
        tuple(value.nbytes for value in graph.values),
        sum(weight.nbytes for weight in graph.constants.values()), power)
    return scaled(measured, program)


def row_counts(rows: int) -> tuple[int, ...]:
    """Return how many rows of a value are measured: 1, its quarters, all."""
    return tuple(sorted({1, *(math.ceil(share * rows) for share in SHARES), rows}))


def scaled(measured: DeviceProfile, program: Program) -> DeviceProfile:
    """Return the profile with operators scaled so that the Program of all adds up to the whole."""
    total = sum(measured.seconds(step.value, step.end - step.begin)
                for step in program.steps if isinstance(step, Compute))
    scale = measured.whole_s / total
    operators = tuple(replace(operator, seconds=tuple(
        digits(seconds * scale) for seconds in operator.seconds))
        for operator in measured.operators)
    return replace(measured, operators=operators, scale=digits(scale))


def versions(device: torch.device) -> dict[str, str]:
    """Return what the figures depend on besides the device."""
    found = {'hp_inference': __version__, 'torch': torch.__version__,
             'python': platform.python_version(), 'system': platform.platform()}
    if device.type == 'cuda':
        found |= {'gpu': torch.cuda.get_device_name(device), 'cuda': str(torch.version.cuda)}
    return found


def wall_time(run: Callable[[], object]) -> tuple[object, float]:
    """Return what ``run`` returns and the seconds that it took."""
    begin = time.perf_counter()
    made = run()
    return made, time.perf_counter() - begin


def thread_time(run: Callable[[], object]) -> tuple[object, float]:
    """Return what ``run`` returns and the seconds that this thread computed."""
    begin = time.thread_time()
    made = run()
    return made, time.thread_time() - begin


def both_times(run: Callable[[], object]) -> tuple[object, tuple[float, float]]:
    """Return what ``run`` returns, the seconds that it took and those that this thread computed."""
    (made, own), wall = wall_time(partial(thread_time, run))
    return made, (wall, own)


def frame_seconds(samples: list) -> float:
    """
    Return what a frame takes, of seconds or of (seconds, seconds that the thread computed).

    Of the latter: the median of what was computed, times how much longer the quietest tenth took.
    """
    times = np.array(samples, float)
    if times.ndim == 1:
        return float(np.median(times))
    wall, own = times.T
    return float(np.median(own) * max(1.0, np.quantile(wall / own, 0.1)))


def gpu_time(run: Callable[[], object]) -> tuple[object, float]:
    """Return what ``run`` returns and the seconds that it took on the current GPU."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    made = run()
    end.record()
    end.synchronize()
    return made, begin.elapsed_time(end) / 1e3


class OperatorBench:
    """
    Times operators where they stand in a frame.

    A round goes once through the network. At each operator it times one of its row counts, which
    are drawn in shuffled order, and then computes the whole value. So a timed operator finds what
    it finds in a frame: inputs just made, of real values, and weights not used since the last.
    """

    def __init__(self, layout: Layout, image: torch.Tensor, timer: Timer):
        self.walk = Walk(layout)
        self._image, self._timer = image, timer
        self._draw = random.Random(0)
        self._pieces = [{rows: self.walk.piece(op, rows) for rows in row_counts(
            layout.rows[op.output])} for op in layout.graph.ops]
        self._turns: list[list[int]] = [[] for _ in self._pieces]
        self._samples = [{rows: [] for rows in pieces} for pieces in self._pieces]

    def warm_up(self) -> None:
        """Run every piece once, so that weights are packed and kernels chosen."""
        def visit(op: Op, held: Held) -> torch.Tensor:
            for piece in self._pieces[op.output - 1].values():
                if not piece.whole:
                    piece.run(piece.inputs(held))
            return self.walk.compute(op, held)
        self.walk.go(self._image, visit)

    def round(self) -> None:
        """Go through the network once."""
        self.walk.go(self._image, self._visit)

    def times(self) -> tuple[OperatorTime, ...]:
        """Return the medians so far."""
        made = []
        for op, samples in zip(self.walk.layout.graph.ops, self._samples):
            quartiles = [np.quantile(each, (0.25, 0.5, 0.75)) for each in samples.values()]
            made.append(OperatorTime(
                op.target, tuple(samples), tuple(float(middle) for _, middle, _ in quartiles),
                round(float(max((high - low) / middle for low, middle, high in quartiles)), 4)))
        return tuple(made)

    def _visit(self, op: Op, held: Held) -> torch.Tensor:
        place = op.output - 1
        pieces, turns = self._pieces[place], self._turns[place]
        if not turns:
            turns += self._draw.sample(sorted(pieces), len(pieces))
        rows = turns.pop()
        tensors = pieces[rows].inputs(held)
        made, seconds = self._timer(partial(pieces[rows].run, tensors))
        self._samples[place][rows].append(seconds)
        return made if pieces[rows].whole else self.walk.compute(op, held)


def _measure(bench: OperatorBench, whole: Callable[[], tuple], seconds: float,
             progress: Progress) -> float:
    """Measure until the time is up; return what a whole frame takes, from one in each round."""
    progress('operators', 0, 100)
    bench.warm_up()
    for _ in range(2):
        whole()
    least = LEAST_SAMPLES * (len(SHARES) + 2)
    wholes: list = []
    begun, share = time.monotonic(), 0.0
    while share < 1:
        bench.round()
        wholes.append(whole()[1])
        share = max(len(wholes) / MOST_ROUNDS,
                    min((time.monotonic() - begun) / seconds, len(wholes) / least))
        progress('operators', int(100 * min(share, 1)), 100)
    return digits(frame_seconds(wholes))
