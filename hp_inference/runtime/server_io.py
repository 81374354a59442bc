# SPDX-License-Identifier: Apache-2.0
"""The link of a frame on the server, where frames of all robots take turns to compute."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
import time

import torch

from hp_inference.graph.layout import Layout
from hp_inference.link.errors import Aborted, DeadlinePassed
from hp_inference.link.inbox import Inbox
from hp_inference.link.outbox import Outbox
from hp_inference.link.wire import Head
from hp_inference.runtime.frames import LinkIO
from hp_inference.runtime.turns import Turn
from hp_inference.split.program import Program, Receive, Send


class ServerIO(LinkIO):
    """
    A Program's link for one frame, which computes only while it has a place.

    ``timeout_s``: a frame is given up when nothing of it comes for so long while it waits, or its
    turn does not come. ``before_last()`` is called just before the last rows go. Raises
    DeadlinePassed, and Aborted, also from here.
    """

    def __init__(self, layout: Layout, program: Program, inbox: Inbox, outbox: Outbox, head: Head,
                 timeout_s: float, turn: Turn, before_last: Callable[[], None]):
        super().__init__(layout, inbox, outbox, head)
        self._timeout_s, self._turn, self._before_last = timeout_s, turn, before_last
        steps = program.steps
        self._last = next((step for step in reversed(steps) if isinstance(step, Send)), None)
        # After these nothing is computed before the next rows are waited for.
        self._then_wait = {step for step, then in pairwise(steps)
                           if isinstance(step, Receive) and isinstance(then, Receive)}
        if steps and not isinstance(steps[0], Receive):
            self._enter()

    def receive(self, step: Receive) -> torch.Tensor:
        """Return rows; while they are not there, others compute."""
        try:
            rows = self._inbox.get(step.value, step.begin, step.end, deadline=0.0)
        except DeadlinePassed:
            self._turn.leave()
            rows = self._wait(step)
        if step not in self._then_wait:
            self._enter()
        return rows

    def _wait(self, step: Receive) -> torch.Tensor:
        """Wait for rows as long as something comes: how long a link takes for them is no fault."""
        self._deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return super().receive(step)
            except DeadlinePassed:
                self._deadline = self._inbox.arrived_s + self._timeout_s
                if self._deadline <= time.monotonic():
                    raise

    def send(self, step: Send, rows: torch.Tensor) -> None:
        """Queue rows."""
        if step is self._last:
            self._inbox.check()
            self._before_last()
        super().send(step, rows)

    def _enter(self) -> None:
        if not self._turn.enter():
            self._inbox.check()
            raise Aborted(f'its turn to compute did not come: after {self._turn.waited_s:.2f} s in '
                          'line it is given up; the server has too much to do')
