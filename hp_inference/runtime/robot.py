# SPDX-License-Identifier: Apache-2.0
"""
The robot's side of the frames: newest image first, one result or one counted drop for each.

No ROS here: chunks, reports and results go through callables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import logging
import secrets
import threading
import time

import torch

from hp_inference.aside import Aside
from hp_inference.graph.layout import Layout
from hp_inference.link.errors import Aborted, BadChunk, DeadlinePassed, LinkError
from hp_inference.link.inbox import Inbox
from hp_inference.link.outbox import Outbox, SentSlice
from hp_inference.link.pacer import Pacer
from hp_inference.link.wire import Chunk, Head, SliceSpec
from hp_inference.runtime.deadline import Deadlines
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.frames import (
    BOTH,
    compute_spans,
    FrameReport,
    FrameResult,
    inbox_for,
    link_spans,
    LinkIO,
    OK,
    ROBOT,
    SERVER,
    server_spans,
)
from hp_inference.runtime.pixels import BadImage
from hp_inference.runtime.prepared import Prepared
from hp_inference.runtime.reach import Reach
from hp_inference.runtime.switching import Pick
from hp_inference.runtime.threads import name_thread
from hp_inference.split.plan import robot_only
from hp_inference.split.program import compile_plan, Compute
from hp_inference.split.shares import ROBOT as ROBOT_SIDE
from hp_inference.split.table import PlanTable

_log = logging.getLogger(__name__)

# After a frame that the server left alone, the robot goes alone for this long before it asks again.
RETRY_S = 1.0
# The server's report travels beside its last rows; this is how long it may come after them.
REPORT_GRACE_S = 0.02
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
class _Frame:
    """What the callbacks of the link need to know of the frame that is being computed."""

    head: Head
    tag: object
    inbox: Inbox
    sent: list[SentSlice] = field(default_factory=list)
    sent_bytes: int = 0
    report: FrameReport | None = None
    reported: threading.Event = field(default_factory=threading.Event)


class RobotEngine:
    """
    Computes the robot's share of each frame on a thread of its own.

    publish(chunk, tag) sends a chunk; on_result(FrameResult) and on_drop(tag, reason) end a frame.
    They are called on the engine's threads, on_drop also in ``submit`` and ``close``. An answer
    that on_result raises for counts as dropped. ``deadline_s`` is when a frame's answer is due,
    counted from the receipt of its image; 0: by what is to be expected of its plan (see Deadlines).
    ``server``: what is known of the server, to be told.
    ``pick(table, index)`` says which plan the next frame runs under where ``index`` is in force
    (None: that one), and ``took(table, pick, seconds)`` is told how long a frame took under it
    once its image was at hand, also where the server was late; ``pacer``: how fast rows are sent.
    """

    def __init__(self, layout: Layout, table: PlanTable,
                 publish: Callable[[Chunk, object], None],
                 on_result: Callable[[FrameResult], None],
                 on_drop: Callable[[object, str], None], deadline_s: float = 0.0,
                 retry_s: float = RETRY_S, *,
                 pick: Callable[[PlanTable, int], Pick] | None = None,
                 took: Callable[[PlanTable, Pick, float], None] = lambda *_: None,
                 pacer: Pacer | None = None):
        self.layout = layout
        self.session = secrets.randbits(64)
        self.deadline_s = deadline_s
        self.server = Reach(retry_s)
        self._pick = pick or (lambda table, index: Pick(index, 'set'))
        self._took = took
        self._aside = Aside(_log.error)
        self.counters = Counters()
        self._publish, self._on_result, self._on_drop = publish, on_result, on_drop
        self._alone = Executor(layout, compile_plan(layout, robot_only(layout))[0])
        self._alone.warm_up()
        self._deadlines = Deadlines()
        begun = time.monotonic()
        self._alone.warm_up()  # once more: the first run packs weights
        self._deadlines.took_alone(time.monotonic() - begun)
        self._prepared = Prepared(layout, ROBOT_SIDE)
        self.table: PlanTable | None = None
        self._lock = threading.Condition()
        self._waiting: _Submission | None = None
        self._current: _Frame | None = None
        self._next_frame = 0
        self._closing = False
        self.use(table, 0)
        self._outbox = Outbox(self._send, 'robot outbox', self._unsent, pacer)
        self._thread = threading.Thread(target=self._run, name='robot frames', daemon=True)
        self._thread.start()

    def prepare(self, table: PlanTable) -> list[Executor]:
        """Make a table ready beside the frames; ``use`` is quick while the result is held."""
        return self._prepared.prepare(table)

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
        if frame is None or (chunk.session, chunk.frame) != (self.session, frame.head.frame):
            self.counters.stray_chunks += 1
            return
        try:
            if not frame.inbox.put(chunk):
                self.counters.stray_chunks += 1
        except BadChunk as error:
            frame.inbox.abort(f'the server sent a bad chunk: {error}')

    def on_report(self, report: FrameReport) -> None:
        """Take in the server's report; a refusal ends the frame's wait for the server."""
        frame = self._current
        if frame is None or (report.session, report.frame) != (self.session, frame.head.frame):
            return
        if not report.sane:
            _log.warning('a report of frame %d is ignored: its durations are %s, %s and %s s',
                         report.frame, report.compute_s, report.wait_s, report.total_s)
            return
        frame.report = report
        frame.reported.set()
        if report.status != OK:
            frame.inbox.abort(f'the server gave the frame up: {report.text}')

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
            frame.inbox.abort(STOPPING)
        self._thread.join(5.0)
        self._outbox.close(0.1)

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
        reason = self.server.why_not(table.digest) if executor.program.receives else ''
        due = self._deadlines.of(taken.received_s, prepared, self.deadline_s,
                                 (table.digest, index), picked.predicted_s)
        result = FrameResult(taken.tag, number, {}, table.plans[index].name, index, table.digest,
                             ROBOT, reason, queue_s=begun - taken.received_s,
                             preprocess_s=prepared - begun, predicted_s=picked.predicted_s or 0.0,
                             bandwidth_bytes_per_s=picked.bytes_per_s or 0.0,
                             deadline_s=due.due_s - taken.received_s)
        telling = not reason and self._together(taken, image, executor, result, prepared,
                                                due.give_up_s)
        if result.fallback:
            self.counters.alone += 1
            trace, alone = Trace(), time.monotonic()
            result.outputs = self._alone.run(None, image, trace)
            self._deadlines.took_alone(time.monotonic() - alone)
            result.robot_compute_s += trace.compute_s
            result.spans += compute_spans('robot', trace, prepared)
            if not reason:
                self.server.left_alone()
        if telling:
            self._aside(self._took, table, picked, time.monotonic() - prepared)
        result.dropped, result.late = self.counters.dropped, self.counters.late
        result.latency_s = time.monotonic() - taken.received_s
        self._on_result(result)
        self.counters.results += 1

    def _together(self, taken: _Submission, image: torch.Tensor, executor: Executor,
                  result: FrameResult, origin: float, give_up_s: float) -> bool:
        """
        Follow the plan with the server; leaves a fallback reason when that did not work.

        Returns whether the time that passed says something about the plan: not where somebody
        gave the frame up.
        """
        head = Head(self.session, result.frame, result.table_digest, result.plan_index)
        frame = _Frame(head, taken.tag, inbox_for(self.layout, executor.program, head))
        with self._lock:
            if self._closing:
                raise Aborted(STOPPING)
            self._current = frame
        io = LinkIO(self.layout, frame.inbox, self._outbox, head, give_up_s, frame.sent.append)
        trace, done, late = Trace(), False, False
        plan = result.table_digest, result.plan_index
        try:
            result.outputs = executor.run(io, image, trace)
            done = True
            if executor.program.receives:
                self.server.answered()
                self._deadlines.took_together(plan, time.monotonic() - origin)
                frame.reported.wait(REPORT_GRACE_S)
            else:
                self._deadlines.took_alone(time.monotonic() - origin)
        except LinkError as error:
            if self._closing:
                raise Aborted(STOPPING) from error
            self.counters.late += 1
            late = isinstance(error, DeadlinePassed)
            if late:
                self._deadlines.waited_in_vain(plan, time.monotonic() - origin)
            result.fallback_reason = error.reason if isinstance(error, Aborted) else str(error)
        finally:
            self._current = None
            if not done:
                self._outbox.cancel(head.session, head.frame)
        self._account(frame, executor, trace, result, origin)
        return done or late

    def _account(self, frame: _Frame, executor: Executor, trace: Trace, result: FrameResult,
                 origin: float) -> None:
        result.robot_compute_s, result.robot_wait_s = trace.compute_s, trace.wait_s
        result.sent_bytes, result.received_bytes = frame.sent_bytes, frame.inbox.received_bytes
        own = any(isinstance(step, Compute) for step in executor.program.steps)
        if executor.program.receives and not result.fallback:
            result.computed_on = BOTH if own else SERVER
        result.spans = compute_spans('robot', trace, origin)
        result.spans += link_spans(frame.sent, frame.inbox, origin)
        if frame.report is not None:
            result.server_compute_s = frame.report.compute_s
            result.server_wait_s = frame.report.wait_s
            result.spans += server_spans(frame.report, frame.sent, frame.inbox, origin)

    def _send(self, chunk: Chunk) -> None:
        frame = self._current
        if frame is not None and chunk.frame == frame.head.frame:  # else nobody needs it any more
            frame.sent_bytes += len(chunk.payload)
            self._publish(chunk, frame.tag)

    def _unsent(self, spec: SliceSpec, head: Head, error: Exception) -> None:
        frame = self._current
        if frame is not None and head == frame.head:
            frame.inbox.abort(f'sending {spec} failed: {type(error).__name__}: {error}')
