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

from hp_inference.graph.layout import Layout
from hp_inference.link.errors import Aborted, BadChunk, DeadlinePassed, LinkError
from hp_inference.link.inbox import Inbox
from hp_inference.link.outbox import Outbox, SentSlice
from hp_inference.link.wire import Chunk, Head
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.frames import compute_spans, FrameReport, inbox_for, LinkIO, OK, Span
from hp_inference.runtime.pixels import BadImage
from hp_inference.runtime.prepared import Prepared
from hp_inference.split.plan import robot_only
from hp_inference.split.program import compile_plan, Compute
from hp_inference.split.shares import ROBOT as ROBOT_SIDE
from hp_inference.split.table import PlanTable

_log = logging.getLogger(__name__)

ROBOT, SERVER, BOTH = 1, 2, 3
# After a frame that the server left alone, the robot goes alone for this long before it asks again.
RETRY_S = 1.0
# The server's report travels beside its last rows; this is how long it may come after them.
REPORT_GRACE_S = 0.02


@dataclass
class Counters:
    """Cumulative counts since the start."""

    results: int = 0
    dropped: int = 0  # images replaced by a newer one before their turn, or refused
    refused: int = 0  # of these, images that could not be used
    late: int = 0  # frames that the robot finished alone because the server's rows did not come
    stray_chunks: int = 0  # chunks of past or unknown frames


@dataclass
class FrameResult:
    """
    The answer to one image.

    ``tag`` is what came with the image. Durations in seconds; ``latency_s`` counts from receipt.
    ``spans`` count from the start of the frame's computing.
    """

    tag: object
    frame: int
    outputs: dict[str, torch.Tensor]
    plan: str
    plan_index: int
    table_digest: bytes
    computed_on: int
    fallback_reason: str
    latency_s: float = 0.0
    queue_s: float = 0.0
    preprocess_s: float = 0.0
    robot_compute_s: float = 0.0
    robot_wait_s: float = 0.0
    server_compute_s: float = 0.0
    server_wait_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    dropped: int = 0
    late: int = 0
    spans: list[Span] = field(default_factory=list)

    @property
    def fallback(self) -> bool:
        """Whether the robot computed alone although the plan said otherwise."""
        return bool(self.fallback_reason)


@dataclass
class _Submission:
    tag: object
    prepare: Callable[[], torch.Tensor]
    received_s: float


@dataclass
class _Frame:
    """What the callbacks of the link need to know of the frame that is being computed."""

    head: Head
    inbox: Inbox
    sent: list[SentSlice] = field(default_factory=list)
    report: FrameReport | None = None
    reported: threading.Event = field(default_factory=threading.Event)


class RobotEngine:
    """
    Computes the robot's share of each frame on a thread of its own.

    publish(chunk, tag) sends a chunk; on_result(FrameResult) and on_drop(tag, reason) end a frame.
    All are called on the engine's threads.
    """

    def __init__(self, layout: Layout, table: PlanTable,
                 publish: Callable[[Chunk, object], None],
                 on_result: Callable[[FrameResult], None],
                 on_drop: Callable[[object, str], None], deadline_s: float = 1.0):
        self.layout = layout
        self.session = secrets.randbits(64)
        self.deadline_s = deadline_s
        self.counters = Counters()
        self._publish, self._on_result, self._on_drop = publish, on_result, on_drop
        self._alone = Executor(layout, compile_plan(layout, robot_only(layout))[0])
        self._alone.warm_up()
        self._prepared = Prepared(layout, ROBOT_SIDE)
        self.table: PlanTable | None = None
        self._lock = threading.Condition()
        self._waiting: _Submission | None = None
        self._current: _Frame | None = None
        self._next_frame = 0
        self._tags: dict[int, object] = {}
        self._server_table: bytes = b''
        self._server_text = 'no server has been heard of'
        self._alone_until = 0.0
        self._closing = False
        self.use(table, 0)
        self._outbox = Outbox(self._send, 'robot outbox')
        self._thread = threading.Thread(target=self._run, name='robot frames', daemon=True)
        self._thread.start()

    def use(self, table: PlanTable, index: int) -> None:
        """Put a plan in force from the next frame on."""
        if self.table is not table:
            self._prepared.prepare(table, keep=1)
        with self._lock:
            self.table, self.index = table, index
            self._executor = self._prepared.of(table, index)

    def server_holds(self, digest: bytes, text: str = '') -> None:
        """Note which table the server has in force (empty: none, ``text`` says why)."""
        with self._lock:
            if digest != self._server_table:
                self._alone_until = 0.0
            self._server_table, self._server_text = digest, text

    def submit(self, tag: object, prepare: Callable[[], torch.Tensor]) -> None:
        """
        Offer an image; one that still waits is dropped for it.

        prepare() returns it as uint8 [1, C, H, W] or raises BadImage; called on the frame thread.
        """
        with self._lock:
            replaced, self._waiting = self._waiting, _Submission(tag, prepare, time.monotonic())
            if replaced:
                self.counters.dropped += 1
            self._lock.notify()
        if replaced:
            self._on_drop(replaced.tag, 'a newer image came before its turn')

    def on_chunk(self, chunk: Chunk) -> None:
        """Take in a chunk from the server. A bad one ends the frame's wait for the server."""
        frame = self._current
        if frame is None or chunk.head != frame.head:
            self.counters.stray_chunks += 1
            return
        try:
            frame.inbox.put(chunk)
        except BadChunk as error:
            _log.warning('from the server: %s', error)
            frame.inbox.abort(f'the server sent a bad chunk: {error}')

    def on_report(self, report: FrameReport) -> None:
        """Take in the server's report; a refusal ends the frame's wait for the server."""
        frame = self._current
        if frame is None or (report.session, report.frame) != (self.session, frame.head.frame):
            return
        frame.report = report
        frame.reported.set()
        if report.status != OK:
            frame.inbox.abort(f'the server gave the frame up: {report.text}')

    def close(self) -> None:
        """Give up the frame at hand and stop."""
        with self._lock:
            self._closing = True
            self._lock.notify()
            frame = self._current
        if frame:
            frame.inbox.abort('the robot node is stopping')
        self._thread.join(5.0)
        self._outbox.close(0.1)

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                taken, self._waiting = self._waiting, None
            try:
                self._frame(taken)
            except Exception as error:  # whatever happens to one frame, the next one comes
                self._drop(taken, f'{type(error).__name__}: {error}')
                if not isinstance(error, BadImage):
                    _log.exception('a frame failed')

    def _drop(self, taken: _Submission, reason: str) -> None:
        self.counters.dropped += 1
        self.counters.refused += 1
        self._on_drop(taken.tag, reason)

    def _why_alone(self, table: PlanTable, index: int) -> str:
        """Return why the plan can't be followed right now, '' when it can."""
        if not any(program.receives for program in table.programs[index]):
            return ''
        if self._server_table != table.digest:
            return self._server_text or 'the server holds another plan table'
        if time.monotonic() < self._alone_until:
            return 'the server left the last frame alone'
        return ''

    def _frame(self, taken: _Submission) -> None:
        begun = time.monotonic()
        image = taken.prepare()
        prepared = time.monotonic()
        with self._lock:
            table, index, executor = self.table, self.index, self._executor
            number, self._next_frame = self._next_frame, self._next_frame + 1
            reason = self._why_alone(table, index)
        result = FrameResult(taken.tag, number, {}, table.plans[index].name, index, table.digest,
                             ROBOT, reason, queue_s=begun - taken.received_s,
                             preprocess_s=prepared - begun)
        if not reason:
            self._together(taken, image, executor, result, prepared)
        if result.fallback:
            trace = Trace()
            result.outputs = self._alone.run(None, image, trace)
            result.robot_compute_s += trace.compute_s
            result.spans += compute_spans('robot', trace, prepared)
        self.counters.results += 1
        result.dropped, result.late = self.counters.dropped, self.counters.late
        result.latency_s = time.monotonic() - taken.received_s
        self._on_result(result)

    def _together(self, taken: _Submission, image: torch.Tensor, executor: Executor,
                  result: FrameResult, origin: float) -> None:
        """Follow the plan with the server; leaves a fallback reason when that did not work."""
        head = Head(self.session, result.frame, result.table_digest, result.plan_index)
        frame = _Frame(head, inbox_for(self.layout, executor.program, head))
        self._tags[result.frame] = taken.tag
        with self._lock:
            if self._closing:
                raise Aborted('the robot node is stopping')
            self._current = frame
        io = LinkIO(self.layout, frame.inbox, self._outbox, head,
                    taken.received_s + self.deadline_s, frame.sent.append)
        trace = Trace()
        try:
            result.outputs = executor.run(io, image, trace)
            if executor.program.receives:
                frame.reported.wait(REPORT_GRACE_S)
        except (DeadlinePassed, LinkError) as error:
            if self._closing:
                raise
            self._outbox.cancel(head.session, head.frame)
            self._alone_until = time.monotonic() + RETRY_S
            self.counters.late += 1
            result.fallback_reason = str(error)
        finally:
            self._current = None
            self._tags.pop(result.frame - 2, None)
        self._account(frame, executor, trace, result, origin)

    def _account(self, frame: _Frame, executor: Executor, trace: Trace, result: FrameResult,
                 origin: float) -> None:
        result.robot_compute_s, result.robot_wait_s = trace.compute_s, trace.wait_s
        result.sent_bytes = sum(sent.encoded_bytes for sent in frame.sent)
        result.received_bytes = frame.inbox.received_bytes
        own = any(isinstance(step, Compute) for step in executor.program.steps)
        if executor.program.receives and not result.fallback:
            result.computed_on = BOTH if own else SERVER
        result.spans = compute_spans('robot', trace, origin)
        result.spans += [Span('uplink', str(sent.spec), sent.start_s - origin,
                              sent.end_s - sent.start_s) for sent in frame.sent]
        arrivals = frame.inbox.arrivals
        result.spans += [Span('downlink', str(spec), begun - origin, done - begun)
                         for spec, begun, done in arrivals]
        report = frame.report
        if report is None:
            return
        result.server_compute_s, result.server_wait_s = report.compute_s, report.wait_s
        # The two clocks are not compared: the server's frame lies somewhere between our first
        # chunk and its last rows here, and is drawn in the middle of what that leaves open.
        earliest = frame.sent[0].start_s if frame.sent else origin
        latest = max((done for _, _, done in arrivals), default=time.monotonic()) - report.total_s
        shift = max(earliest, (earliest + latest) / 2) - origin
        result.spans += [Span(span.lane, span.label, span.start_s + shift, span.duration_s)
                         for span in report.spans]

    def _send(self, chunk: Chunk) -> None:
        self._publish(chunk, self._tags.get(chunk.frame))
