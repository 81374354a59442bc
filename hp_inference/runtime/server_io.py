# SPDX-License-Identifier: Apache-2.0
"""The link of a frame on the server, where frames of all robots take turns to compute."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
import time

import torch

from hp_inference.link.errors import Aborted, DeadlinePassed
from hp_inference.link.inbox import Inbox
from hp_inference.link.transport import FrameIO
from hp_inference.link.wire import SliceSpec
from hp_inference.runtime.fair_queue import Turn
from hp_inference.split.program import Program, Receive, Send


class ServerIO:
    """
    A Program's rows for one frame, which computes only while it has a place.

    ``io``: the frame's own, ``inbox`` where its rows come in. ``timeout_s``: a frame is given up
    when nothing of it comes for so long while it waits, or its turn does not come.
    ``before_last()`` is called just before the last rows go. Raises DeadlinePassed, and Aborted,
    also from here.
    """

    def __init__(self, io: FrameIO, inbox: Inbox, program: Program, timeout_s: float, turn: Turn,
                 before_last: Callable[[], None]):
        self._io, self._inbox = io, inbox
        self._timeout_s, self._turn, self._before_last = timeout_s, turn, before_last
        steps = program.steps
        self._last = next((_key(step) for step in reversed(steps) if isinstance(step, Send)), None)
        # After these nothing is computed before the next rows are waited for.
        self._then_wait = {_key(step) for step, then in pairwise(steps)
                           if isinstance(step, Receive) and isinstance(then, Receive)}
        if steps and not isinstance(steps[0], Receive):
            self._enter()

    def receive(self, spec: SliceSpec) -> torch.Tensor:
        """Return rows; while they are not there, others compute."""
        self._io.give_up_s = 0.0
        try:
            rows = self._io.receive(spec)
        except DeadlinePassed:
            self._turn.leave()
            rows = self._wait(spec)
        if spec.key not in self._then_wait:
            self._enter()
        return rows

    def _wait(self, spec: SliceSpec) -> torch.Tensor:
        """Wait for rows as long as something comes: how long a link takes for them is no fault."""
        self._io.give_up_s = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._io.receive(spec)
            except DeadlinePassed:
                self._io.give_up_s = self._inbox.arrived_s + self._timeout_s
                if self._io.give_up_s <= time.monotonic():
                    raise

    def send(self, spec: SliceSpec, rows: torch.Tensor) -> None:
        """Queue rows."""
        if spec.key == self._last:
            self._inbox.check()
            self._before_last()
        self._io.send(spec, rows)

    def _enter(self) -> None:
        if not self._turn.enter():
            self._inbox.check()
            raise Aborted(f'its turn to compute did not come: after {self._turn.waited_s:.2f} s in '
                          'line it is given up; the server has too much to do')


def _key(step: Send | Receive) -> tuple[int, int, int]:
    return step.value, step.begin, step.end
