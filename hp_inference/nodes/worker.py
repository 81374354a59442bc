# SPDX-License-Identifier: Apache-2.0
"""What takes long in a node: one thread of its own that does it, one thing after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import queue
import threading

from hp_inference.nodes.managed import ManagedNode

# A job that does not look whether it is to stop is left behind after this.
STOP_S = 5.0


class Stopped(Exception):
    """The job at hand is not wanted any more."""


class Worker:
    """
    Does jobs on a thread, and hands what they give to callbacks on the node's own thread.

    In turn, so that a device is not measured while it prepares a plan table.
    """

    def __init__(self, node: ManagedNode, name: str):
        self._node = node
        self._jobs: queue.SimpleQueue = queue.SimpleQueue()
        self._done: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._guard = node.create_guard_condition(self._deliver)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], object],
               then: Callable[[object], None] = lambda made: None) -> None:
        """Do ``work``; ``then`` gets what it returned, or the Exception that it raised."""
        self._jobs.put((work, then))

    def check(self) -> None:
        """Raise Stopped where the node wants no more of the job at hand; jobs ask now and then."""
        if self._stopping.is_set():
            raise Stopped

    def close(self) -> None:
        """Forget the jobs that wait, wait for the one at hand; no callback comes after this."""
        self._stopping.set()
        self._jobs.put(None)
        self._thread.join(STOP_S)
        self._done.clear()
        self._node.destroy_guard_condition(self._guard)

    def _run(self) -> None:
        while (job := self._jobs.get()) and not self._stopping.is_set():
            work, then = job
            try:
                made = work()
            except Exception as error:
                made = error
                # ValueErrors are for people, and said where they are taken; the rest is a defect.
                if not (self._stopping.is_set() or isinstance(error, ValueError)):
                    self._node.get_logger().failed('a job failed')
            if self._stopping.is_set():
                return
            self._done.append(lambda then=then, made=made: then(made))
            self._guard.trigger()

    def _deliver(self) -> None:
        if self._done:
            deliver = self._done.popleft()
            if self._done:  # triggered more than once, called once
                self._guard.trigger()
            deliver()
