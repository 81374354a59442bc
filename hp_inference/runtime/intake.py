# SPDX-License-Identifier: Apache-2.0
"""
Plan tables of strangers, read and compiled by a process of its own (``strangers``).

Python holds its interpreter while it reads JSON, and a plan takes up to a second to compile: in the
node's own process every robot's frames would wait. What comes back is numbers, a plan at a time,
which are quickly taken in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import json
import os
import pickle
import select
import signal
import socket
import threading
import time

import torch

from hp_inference.graph.layout import Layout
from hp_inference.runtime import strangers
from hp_inference.runtime.zygote import Gone, Zygote
from hp_inference.split.errors import PlanError
from hp_inference.split.plan import Plan
from hp_inference.split.program import Program
from hp_inference.split.shares import SIDES
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import Choice, MAX_JSON_BYTES

# One that takes longer is ended, also where it gets no processor time at all. [s]
LONGEST_S = 4 * strangers.CPU_S
# Far above any answer about a table within the limits.
MOST_BYTES = 4 * MAX_JSON_BYTES
# Constants that operators' rules may look at are small: indices, not weights.
SMALL_BYTES = 1 << 16

# Of this process, from which all that read tables are forked.
_zygotes: list[Zygote] = []
_zygotes_lock = threading.Lock()


def prepare() -> None:
    """Have what reads tables there at once; at the start of a process, before any thread."""
    _zygotes.append(Zygote(strangers.main, fork=True))


@dataclass(frozen=True)
class Read:
    """A stranger's table, checked except for its plans, which are still to be compiled."""

    digest: bytes
    plans: list[bytes]  # as JSON
    choices: list[Choice]
    record: dict | None


class Intake:
    """
    Has tables read and plans compiled by another process, one at a time.

    Each call may raise PlanError; it costs whoever calls no more than the time that is allowed for
    one table to be read or one plan to be compiled. ``check`` is called now and then meanwhile and
    may raise to give it up. The process is started when it is first needed, or by ``start``, and
    anew after one that broke it. With ``keep_s`` it ends when it was not needed for so long.
    """

    def __init__(self, layout: Layout, check: Callable[[], None] = lambda: None,
                 keep_s: float | None = None):
        self.layout, self.keep_s = layout, keep_s
        self._check = check
        self._reader: _Reader | None = None
        self._used_s = time.monotonic()
        self._lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """The number of the process, None where there is none at present."""
        return None if self._reader is None else self._reader.pid

    def start(self) -> None:
        """Have the process ready."""
        with self._lock:
            self._ready()

    def table(self, data: bytes, digest: bytes) -> PlanTable:
        """Return the table in ``data``, which must be the one of this digest, all compiled."""
        read = self.read(data, digest)
        made = [self.compile(plan) for plan in read.plans]
        return PlanTable.compiled(self.layout, [plan for plan, _ in made], read.choices,
                                  read.record, [programs for _, programs in made], read.digest)

    def read(self, data: bytes, digest: bytes) -> Read:
        """Return the table in ``data``, which must be the one of this digest."""
        if len(data) > MAX_JSON_BYTES:
            raise PlanError(f'the plan table has {len(data)} bytes, at most {MAX_JSON_BYTES}')
        with self._lock:
            head = self._ask(strangers.READ + digest + data)
            plans = [self._frame(LONGEST_S) for _ in range(head['plans'])]
            record = head['record']
            if record is not None and head['curves']:
                record['curves'] = {name: json.loads(self._frame(LONGEST_S))
                                    for name in head['curves']}
        return Read(digest, plans, [Choice(*choice) for choice in head['choices']], record)

    def compile(self, plan: bytes) -> tuple[Plan, tuple[Program, Program]]:
        """Return a plan of a table that was read, and its programs."""
        with self._lock:
            numbers = self._ask(strangers.COMPILE + plan)['programs']
        made = Plan.from_json(json.loads(plan), self.layout)
        return made, tuple(strangers.program(self.layout, made, side, numbers[side])
                           for side in range(len(SIDES)))

    def look(self) -> None:
        """End the process where it was not needed for long; never waits."""
        if self.keep_s is not None and self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._used_s > self.keep_s:
                    self._end()
            finally:
                self._lock.release()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _ask(self, asked: bytes) -> dict:
        """Return the head of the answer; the lock is held."""
        self._ready()
        self._send(asked)
        head = json.loads(self._frame(LONGEST_S))
        self._used_s = time.monotonic()
        if 'refused' in head:
            raise PlanError(head['refused'])
        return head

    def _ready(self) -> None:
        if self._reader is not None and not self._reader.ended():
            return
        self._end()
        self._reader = _Reader()
        self._send(pickle.dumps(_without_weights(self.layout.graph)))
        self._frame(LONGEST_S)
        self._used_s = time.monotonic()

    def _send(self, data: bytes) -> None:
        left = memoryview(strangers.LENGTH.pack(len(data)) + data)
        pipe, until_s = self._reader.ours.fileno(), time.monotonic() + LONGEST_S
        while left:
            self._wait(pipe, select.POLLOUT, until_s)
            try:
                left = left[os.write(pipe, left):]
            except BlockingIOError:
                pass
            except OSError:
                raise self._broken() from None

    def _frame(self, seconds: float) -> bytes:
        until_s = time.monotonic() + seconds
        length, = strangers.LENGTH.unpack(self._take(strangers.LENGTH.size, until_s))
        if length > MOST_BYTES:
            raise self._broken()
        return self._take(length, until_s)

    def _take(self, count: int, until_s: float) -> bytes:
        pipe, data = self._reader.ours.fileno(), bytearray()
        while len(data) < count:
            self._wait(pipe, select.POLLIN, until_s)
            try:
                piece = os.read(pipe, min(count - len(data), 1 << 20))
            except BlockingIOError:
                continue
            except OSError:  # it ended before it had taken all that was sent
                piece = b''
            if not piece:
                raise self._broken()
            data += piece
        return bytes(data)

    def _wait(self, pipe: int, event: int, until_s: float) -> None:
        """Wait until a pipe can be used; what goes wrong costs the process."""
        poll = select.poll()
        poll.register(pipe, event)
        try:
            while not poll.poll(100):
                self._check()
                if time.monotonic() > until_s:
                    raise PlanError(f'the plan table is too much to read: it takes more than '
                                    f'{LONGEST_S} s')
        except BaseException:
            self._end()
            raise

    def _broken(self) -> PlanError:
        """Return what is to be said of a process that ended in the middle of its work."""
        reader, self._reader = self._reader, None
        status = reader.reap()
        why = f'it takes more than {strangers.CPU_S} s' if status == -signal.SIGXCPU else \
            f'what reads it ended with status {status}'
        return PlanError(f'the plan table is too much to read: {why}')

    def _end(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.end()


class _Reader:
    """A process and this end of the socket to it."""

    def __init__(self):
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        with theirs:
            self._zygote, self.pid = _fork(theirs)

    def ended(self) -> bool:
        """Tell whether it has let go of its end."""
        poll = select.poll()
        poll.register(self.ours, 0)
        return bool(poll.poll(0))

    def end(self) -> None:
        """End it at once."""
        self._leave(self._zygote.end)

    def reap(self) -> int | None:
        """End it, which may have ended by itself; return its exit status where it is known."""
        return self._leave(self._zygote.reap)

    def _leave(self, how: Callable[[int], int]) -> int | None:
        self.ours.close()
        try:
            return how(self.pid)
        except Gone:
            return None  # it ends when it notices that its socket is closed


def _fork(theirs: socket.socket) -> tuple[Zygote, int]:
    """Return a new process that works with this end of a socket, and what it was forked from."""
    with _zygotes_lock:
        for zygote in list(_zygotes):
            try:
                return zygote, zygote.make(theirs)
            except Gone:
                _zygotes.remove(zygote)
                zygote.close()
        zygote = Zygote(strangers.main)
        _zygotes.append(zygote)
        return zygote, zygote.make(theirs)


def _without_weights(graph):
    """Return a graph whose weights have their shapes and no numbers."""
    return replace(graph, device=torch.device('cpu'), constants={
        name: tensor.cpu() if tensor.nbytes <= SMALL_BYTES or not tensor.is_floating_point()
        else torch.empty_like(tensor, device='meta')
        for name, tensor in graph.constants.items()})
