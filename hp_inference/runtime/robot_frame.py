# SPDX-License-Identifier: Apache-2.0
"""One frame that the robot computes together with the server, from its first row to its report."""

from __future__ import annotations

import logging
import threading

import torch

from hp_inference.graph.layout import Layout
from hp_inference.link.errors import BadChunk
from hp_inference.link.transport import Transport
from hp_inference.link.wire import Chunk, Head
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.frames import (
    BOTH,
    compute_spans,
    FrameReport,
    FrameResult,
    inbox_for,
    link_spans,
    OK,
    SERVER,
    server_spans,
)
from hp_inference.split.program import Compute

_log = logging.getLogger(__name__)

# The server's report travels beside its last rows; this is how long it may come after them.
REPORT_GRACE_S = 0.02


class RobotFrame:
    """
    Runs the robot's Program of a frame and takes in what the server says of it.

    ``run`` is called on the frames' thread, all else on any.
    """

    def __init__(self, layout: Layout, executor: Executor, transport: Transport, head: Head,
                 tag: object):
        self.head, self._executor, self._trace = head, executor, Trace()
        self._inbox = inbox_for(layout, executor.program, head)
        self._io = transport.open_frame(head, self._inbox, tag)
        self._report: FrameReport | None = None
        self._reported = threading.Event()

    def is_of(self, session: int, frame: int) -> bool:
        """Tell whether something that has come belongs to this frame."""
        return (session, frame) == (self.head.session, self.head.frame)

    def run(self, image: torch.Tensor, give_up_s: float) -> dict[str, torch.Tensor]:
        """
        Return the outputs; the server's rows are waited for until ``give_up_s``.

        Raises LinkError where they do not come; then nothing more of the frame is sent.
        """
        self._io.give_up_s = give_up_s
        try:
            return self._executor.run(self._io, image, self._trace)
        except BaseException:
            self._io.cancel()
            raise

    def await_report(self) -> None:
        """Give the server's report, which travels beside its last rows, the time to come."""
        self._reported.wait(REPORT_GRACE_S)

    def on_chunk(self, chunk: Chunk) -> bool:
        """Take in a chunk; return whether it was of use. A bad one ends the wait."""
        try:
            return self._inbox.put(chunk)
        except BadChunk as error:
            self.give_up(f'the server sent a bad chunk: {error}')
            return True

    def on_report(self, report: FrameReport) -> None:
        """Take in the server's report; a refusal ends the wait."""
        if not report.sane:
            _log.warning('a report of frame %d is ignored: its durations are %s, %s and %s s',
                         report.frame, report.compute_s, report.wait_s, report.total_s)
            return
        self._report = report
        self._reported.set()
        if report.status != OK:
            self.give_up(f'the server gave the frame up: {report.text}')

    def give_up(self, reason: str) -> None:
        """End the wait for the server."""
        self._inbox.abort(reason)

    def account(self, result: FrameResult, origin: float) -> None:
        """Write down what the frame took; spans count from ``origin``."""
        trace, io, program = self._trace, self._io, self._executor.program
        result.robot_compute_s, result.robot_wait_s = trace.compute_s, trace.wait_s
        result.sent_bytes, result.received_bytes = io.sent_bytes, self._inbox.received_bytes
        if program.receives and not result.fallback:
            own = any(isinstance(step, Compute) for step in program.steps)
            result.computed_on = BOTH if own else SERVER
        result.spans = compute_spans('robot', trace, origin)
        result.spans += link_spans(io.slices, self._inbox, origin)
        if self._report is not None:
            result.server_compute_s = self._report.compute_s
            result.server_wait_s = self._report.wait_s
            result.spans += server_spans(self._report, io.slices, self._inbox, origin)
