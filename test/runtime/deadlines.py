# SPDX-License-Identifier: Apache-2.0
"""Deadlines that pass when all else has happened, however long a busy machine takes for it."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time

from simulated_time import SimulatedTime

from hp_inference.link.errors import DeadlinePassed
from hp_inference.link.inbox import Inbox
from hp_inference.link.outbox import Outbox
from hp_inference.runtime import executor, robot
from hp_inference.runtime.executor import Executor

LOOK_S = 0.005


def pass_when(monkeypatch, happened: Callable[[], object]) -> None:
    """Let a deadline for rows pass not before something has happened; it passes then, too."""
    get = Inbox.get

    def patient(inbox, value, begin, end, deadline=None):
        while deadline:
            due = time.monotonic() >= deadline and bool(happened())
            try:
                return get(inbox, value, begin, end, 0.0 if due else time.monotonic() + LOOK_S)
            except DeadlinePassed:
                if due:
                    raise
        return get(inbox, value, begin, end, deadline)
    monkeypatch.setattr(Inbox, 'get', patient)


def pass_when_both_wait(monkeypatch) -> None:
    """Let a deadline pass only when both sides of a frame have begun, wait, and all has come."""
    begun, computing, waited_for, outboxes = set(), set(), {}, []
    run, init = Executor.run, Outbox.__init__
    pass_when(monkeypatch, lambda: len(begun) == 2 and not computing
              and all(outbox.idle for outbox in outboxes)
              and not any(rows.complete for rows in list(waited_for.values())))
    get = Inbox.get

    def counted_run(self, *args, **kwargs):
        this = threading.get_ident()
        begun.add(this)
        computing.add(this)
        try:
            return run(self, *args, **kwargs)
        finally:
            computing.discard(this)

    def waiting_get(self, value, begin, end, *args, **kwargs):
        this = threading.get_ident()
        waited_for[this] = self._slots[value, begin, end]
        computing.discard(this)
        try:
            return get(self, value, begin, end, *args, **kwargs)
        finally:
            computing.add(this)
            del waited_for[this]

    def kept(self, *args, **kwargs):
        outboxes.append(self)
        init(self, *args, **kwargs)
    monkeypatch.setattr(Executor, 'run', counted_run)
    monkeypatch.setattr(Inbox, 'get', waiting_get)
    monkeypatch.setattr(Outbox, '__init__', kept)


def simulate(monkeypatch, alone_s: float) -> SimulatedTime:
    """
    Return the clock of robots to whom nothing comes: to wait takes until the deadline, at once.

    To compute alone takes them ``alone_s``, all else no time.
    """
    clock, run, get = SimulatedTime(), Executor.run, Inbox.get

    def timed_run(self, *args, **kwargs):
        outputs = run(self, *args, **kwargs)
        if not self.program.receives:
            clock.sleep(alone_s)
        return outputs

    def timed_get(inbox, value, begin, end, deadline=None):
        if not threading.current_thread().name.startswith('robot '):
            return get(inbox, value, begin, end, deadline)
        try:
            return get(inbox, value, begin, end, 0.0)
        except DeadlinePassed:
            clock.now = max(clock.now, deadline)
            raise
    for module in (robot, executor):
        monkeypatch.setattr(module, 'time', clock)
    monkeypatch.setattr(Executor, 'run', timed_run)
    monkeypatch.setattr(Inbox, 'get', timed_get)
    return clock
