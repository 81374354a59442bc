# SPDX-License-Identifier: Apache-2.0
"""
The robot's side of the frames: newest image first, one result or one counted drop for each.

No ROS here: chunks, reports and results go through callables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import logging
import secrets
import threading
import time

import torch

from hp_inference.aside import Aside
from hp_inference.graph.layout import Layout
from hp_inference.link.errors import Aborted, DeadlinePassed, LinkError
from hp_inference.link.transport import Transport
from hp_inference.link.wire import Chunk, Head
from hp_inference.runtime.deadline import Deadlines, Due
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.executor_cache import ExecutorCache
from hp_inference.runtime.frames import compute_spans, FrameReport, FrameResult, ROBOT
from hp_inference.runtime.liveness import ServerLiveness
from hp_inference.runtime.pixels import BadImage
from hp_inference.runtime.robot_frame import RobotFrame
from hp_inference.runtime.switching import Pick
from hp_inference.runtime.threads import name_thread
from hp_inference.split.plan import robot_only
from hp_inference.split.program import compile_plan
from hp_inference.split.shares import ROBOT as ROBOT_SIDE
from hp_inference.split.table import PlanTable

_log = logging.getLogger(__name__)

# After a frame that the server left alone, the robot goes alone for this long before it asks again.
RETRY_S = 1.0
STOPPING = 'the robot is stopping'


@dataclass
class Counters:
    """Cumulative counts since the start. Every image ends in ``results`` or in ``dropped``."""

    results: int = 0
    dropped: int = 0  # images replaced by a newer one before their turn, or refused
    refused: int = 0  # of these, images that could not be used, or whose computing failed
    alone: int = 0  # results of the robot alone although the plan says otherwise
    late: int = 0  # frames begun with the server and finished without it
    stray_chunks: int = 0  # chunks of past or unknown frames, or that came again


@dataclass
class _Submission:
    tag: object
    prepare: Callable[[], torch.Tensor]
    received_s: float


@dataclass
class _Order:
    """What is to be done for an image: by which plan, until when, and what has come of it."""

    image: torch.Tensor
    table: PlanTable
    picked: Pick
    executor: Executor
    due: Due
    prepared_s: float
    result: FrameResult

    @property
    def plan(self) -> tuple[bytes, int]:
        """Which plan it is, of all that ever were."""
        return self.table.digest, self.picked.index


class RobotEngine:
    """
    Computes the robot's share of each frame on a thread of its own.

    ``transport`` carries rows; a frame is opened there with the tag of its image.
    on_result(FrameResult) and on_drop(tag, reason) end a frame. They are called on the engine's
    thread, on_drop also in ``submit`` and ``close``. An answer that on_result raises for counts as
    dropped. ``deadline_s`` is when a frame's answer is due,
    counted from the receipt of its image; 0: by what is to be expected of its plan (see Deadlines).
    ``server``: what is known of the server, to be told.
    ``pick(table, index)`` says which plan the next frame runs under where ``index`` is in force
    (None: that one), and ``took(table, pick, seconds)`` is told how long a frame took under it
    once its image was at hand, also where the server was late.
    """

    def __init__(self, layout: Layout, table: PlanTable, transport: Transport,
                 on_result: Callable[[FrameResult], None],
                 on_drop: Callable[[object, str], None], deadline_s: float = 0.0,
                 retry_s: float = RETRY_S, *,
                 pick: Callable[[PlanTable, int], Pick] | None = None,
                 took: Callable[[PlanTable, Pick, float], None] = lambda *_: None):
        self.layout = layout
        self.session = secrets.randbits(64)
        self.deadline_s = deadline_s
        self.server = ServerLiveness(retry_s)
        self._pick = pick or (lambda table, index: Pick(index, 'set'))
        self._took = took
        self._aside = Aside(_log.error)
        self.counters = Counters()
        self._transport, self._on_result, self._on_drop = transport, on_result, on_drop
        self._alone = Executor(layout, compile_plan(layout, robot_only(layout))[0])
        self._alone.warm_up()
        self._deadlines = Deadlines()
        begun = time.monotonic()
        self._alone.warm_up()  # once more: the first run packs weights
        self._deadlines.took_alone(time.monotonic() - begun)
        self._cache = ExecutorCache(layout, ROBOT_SIDE)
        self.table: PlanTable | None = None
        self._lock = threading.Condition()
        self._waiting: _Submission | None = None
        self._current: RobotFrame | None = None
        self._next_frame = 0
        self._closing = False
        self.use(table, 0)
        self._thread = threading.Thread(target=self._run, name='robot frames', daemon=True)
        self._thread.start()

    def prepare(self, table: PlanTable) -> list[Executor]:
        """Make a table ready beside the frames; ``use`` is quick while the result is held."""
        return self._cache.prepare(table)

    def use(self, table: PlanTable, index: int) -> None:
        """Put a plan in force from the next frame on; a new table takes its time to prepare."""
        executors = self._executors if table is self.table else self.prepare(table)
        with self._lock:
            if table is not self.table:
                self._deadlines.forget_plans()
            self.table, self.index, self._executors = table, index, executors

    def submit(self, tag: object, prepare: Callable[[], torch.Tensor]) -> None:
        """
        Offer an image; one that still waits is dropped for it.

        prepare() returns it as uint8 [1, C, H, W] or raises BadImage; called on the frame thread.
        """
        offered = _Submission(tag, prepare, time.monotonic())
        with self._lock:
            if self._closing:
                gone, reason = offered, STOPPING
            else:
                gone, reason = self._waiting, 'a newer image came before its turn'
                self._waiting = offered
                self._lock.notify()
        if gone:
            self._drop(gone, reason)

    def on_chunk(self, chunk: Chunk) -> None:
        """Take in a chunk from the server. A bad one ends the frame's wait for the server."""
        frame = self._current
        if not (frame and frame.is_of(chunk.session, chunk.frame) and frame.on_chunk(chunk)):
            self.counters.stray_chunks += 1

    def on_report(self, report: FrameReport) -> None:
        """Take in the server's report; a refusal ends the frame's wait for the server."""
        frame = self._current
        if frame and frame.is_of(report.session, report.frame):
            frame.on_report(report)

    def close(self) -> None:
        """Give up the frame at hand and stop."""
        with self._lock:
            self._closing = True
            waiting, self._waiting = self._waiting, None
            frame = self._current
            self._lock.notify()
        if waiting:
            self._drop(waiting, STOPPING)
        if frame:
            frame.give_up(STOPPING)
        self._thread.join(5.0)

    def _run(self) -> None:
        name_thread('robot frames')
        while self._next():
            pass  # a frame's variables, and with them its memory, are gone by now

    def _next(self) -> bool:
        """Answer the next image; return False when there is none any more."""
        with self._lock:
            self._lock.wait_for(lambda: self._waiting or self._closing)
            if self._closing:
                return False
            taken, self._waiting = self._waiting, None
        try:
            self._frame(taken)
        except Aborted as error:
            self._drop(taken, error.reason)
        except BadImage as error:
            self._drop(taken, str(error), refused=True)
        except Exception as error:  # whatever happens to one frame, the next one comes
            _log.exception('a frame failed')
            self._drop(taken, f'{type(error).__name__}: {error}', refused=True)
        return True

    def _drop(self, taken: _Submission, reason: str, refused: bool = False) -> None:
        with self._lock:
            self.counters.dropped += 1
            self.counters.refused += refused
        try:
            self._on_drop(taken.tag, reason)
        except Exception:
            _log.exception('the callback for a dropped image failed')

    def _frame(self, taken: _Submission) -> None:
        """Answer an image."""
        order = self._order(taken)
        result = order.result
        asking = not result.fallback
        telling = asking and self._together(order)
        if result.fallback:
            self._go_alone(order)
            if asking:
                self.server.left_alone()
        if telling:
            self._aside(self._took, order.table, order.picked,
                        time.monotonic() - order.prepared_s)
        result.dropped, result.late = self.counters.dropped, self.counters.late
        result.latency_s = time.monotonic() - taken.received_s
        self._on_result(result)
        self.counters.results += 1

    def _order(self, taken: _Submission) -> _Order:
        """Make the image ready, and say by which plan it is computed and when it is due."""
        begun = time.monotonic()
        image = taken.prepare()
        prepared = time.monotonic()
        with self._lock:
            table, executors = self.table, self._executors
            picked = self._aside(self._pick, table, self.index,
                                 otherwise=Pick(self.index, 'kept'))
            index = self.index = picked.index
            executor = executors[index]
            number, self._next_frame = self._next_frame, self._next_frame + 1
        alone = self.server.why_not(table.digest) if executor.program.receives else ''
        due = self._deadlines.of(taken.received_s, prepared, self.deadline_s,
                                 (table.digest, index), picked.predicted_s)
        return _Order(image, table, picked, executor, due, prepared, FrameResult(
            taken.tag, number, {}, table.plans[index].name, index, table.digest, ROBOT, alone,
            queue_s=begun - taken.received_s, preprocess_s=prepared - begun,
            predicted_s=picked.predicted_s or 0.0,
            bandwidth_bytes_per_s=picked.bytes_per_s or 0.0,
            deadline_s=due.due_s - taken.received_s))

    def _together(self, order: _Order) -> bool:
        """
        Follow the plan with the server; leaves a fallback reason when that did not work.

        Returns whether the time that passed says something about the plan: not where somebody
        gave the frame up.
        """
        result = order.result
        frame = RobotFrame(self.layout, order.executor, self._transport, Head(
            self.session, result.frame, result.table_digest, result.plan_index), result.tag)
        with self._lock:
            if self._closing:
                raise Aborted(STOPPING)
            self._current = frame
        telling = True
        try:
            result.outputs = frame.run(order.image, order.due.give_up_s)
            if order.executor.program.receives:
                self.server.answered()
                self._deadlines.took_together(order.plan, time.monotonic() - order.prepared_s)
                frame.await_report()
            else:
                self._deadlines.took_alone(time.monotonic() - order.prepared_s)
        except LinkError as error:
            if self._closing:
                raise Aborted(STOPPING) from error
            self.counters.late += 1
            telling = isinstance(error, DeadlinePassed)
            if telling:
                self._deadlines.waited_in_vain(order.plan, time.monotonic() - order.prepared_s)
            result.fallback_reason = error.reason if isinstance(error, Aborted) else str(error)
        finally:
            self._current = None
        frame.account(result, order.prepared_s)
        return telling

    def _go_alone(self, order: _Order) -> None:
        """Compute all of it here, although the plan says otherwise."""
        self.counters.alone += 1
        trace, begun, result = Trace(), time.monotonic(), order.result
        result.outputs = self._alone.run(None, order.image, trace)
        self._deadlines.took_alone(time.monotonic() - begun)
        result.robot_compute_s += trace.compute_s
        result.spans += compute_spans('robot', trace, order.prepared_s)
