# SPDX-License-Identifier: Apache-2.0
"""What takes long in a node: one thread of its own that does it, one thing after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
import inspect
import threading

from hp_inference.nodes.managed import ManagedNode

# A job that does not look whether it is to stop is left behind after this.
STOP_S = 5.0


class Stopped(Exception):
    """The job at hand is not wanted any more."""


@dataclass(eq=False)
class _Job:
    work: Callable[[], object]
    then: Callable[[object], None]
    steps: Generator | None = None  # what is left of it, where it is done in steps


class Worker:
    """
    Does jobs on a thread, and hands what they give to callbacks on the node's own thread.

    One at a time, so that a device is not measured while it prepares a plan table. Each ``line`` of
    jobs is done in turn. A job that is a generator is done in steps, and between two of them the
    jobs of other lines get theirs: what one robot asks for delays another by one step.
    """

    def __init__(self, node: ManagedNode, name: str):
        self._node = node
        self._lines: dict[object, deque[_Job]] = {}  # the one whose step is next comes first
        self._changed = threading.Condition()
        self._done: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._guard = node.create_guard_condition(self._deliver)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], object],
               then: Callable[[object], None] = lambda made: None, line: object = None,
               newest: bool = False) -> None:
        """
        Do ``work``; ``then`` gets what it returned, or the Exception that it raised.

        ``newest``: nothing that was asked for on this line before is wanted any more. What is
        being done there ends after its step, and gives nothing.
        """
        with self._changed:
            jobs = self._lines.setdefault(line, deque())
            if newest:
                jobs.clear()
            jobs.append(_Job(work, then))
            self._changed.notify()

    def check(self) -> None:
        """Raise Stopped where the node wants no more of the job at hand; jobs ask now and then."""
        if self._stopping.is_set():
            raise Stopped

    def close(self) -> None:
        """Forget the jobs that wait, wait for the one at hand; no callback comes after this."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(STOP_S)
        self._done.clear()
        self._node.destroy_guard_condition(self._guard)

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            line, job = taken
            over, made = True, None
            try:
                if job.steps is None:
                    made = job.work()
                    if inspect.isgenerator(made):
                        job.steps, over = made, False
                else:
                    next(job.steps)
                    over = False
            except StopIteration as end:
                made = end.value
            except Exception as error:
                made = error
                # ValueErrors are for people, and said where they are taken; the rest is a defect.
                if not (self._stopping.is_set() or isinstance(error, ValueError)):
                    self._node.get_logger().failed('a job failed')
            if self._stopping.is_set():
                return
            self._step_done(line, job, over, made)

    def _next(self) -> tuple[object, _Job] | None:
        """Wait for a job and return it with its line, None when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._stopping.is_set())
            if self._stopping.is_set():
                return None
            line = next(iter(self._lines))
            return line, self._lines[line][0]

    def _step_done(self, line: object, job: _Job, over: bool, made: object) -> None:
        with self._changed:
            jobs = self._lines.pop(line)
            wanted = bool(jobs) and jobs[0] is job
            if wanted and over:
                jobs.popleft()
            if jobs:
                self._lines[line] = jobs  # behind the others
        if not wanted and job.steps is not None:
            job.steps.close()
        elif over:
            self._done.append(lambda: job.then(made))
            self._guard.trigger()

    def _deliver(self) -> None:
        if self._done:
            deliver = self._done.popleft()
            if self._done:  # triggered more than once, called once
                self._guard.trigger()
            deliver()
