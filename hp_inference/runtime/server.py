# SPDX-License-Identifier: Apache-2.0
"""
The server's side of the frames of one robot: a session per frame, from its first chunk on.

No ROS here: chunks and reports go through callables. One ServerEngine serves one robot, so that
one robot's bad input can't reach another's frames.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
import logging
import threading
import time

from hp_inference.graph.layout import Layout
from hp_inference.link.errors import Aborted, BadChunk, DeadlinePassed
from hp_inference.link.inbox import Inbox
from hp_inference.link.outbox import Outbox
from hp_inference.link.wire import Chunk, Head, VERSION
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.frames import (
    ABORTED,
    compute_spans,
    FrameReport,
    inbox_for,
    LinkIO,
    OK,
    REFUSED,
)
from hp_inference.runtime.prepared import Prepared
from hp_inference.split.program import Send
from hp_inference.split.shares import SERVER
from hp_inference.split.table import PlanTable

_log = logging.getLogger(__name__)

# Tables that stay usable after a newer one came, so that frames on their way find theirs.
KEPT_TABLES = 4
# Refusals of this many past frames are remembered, so that each is reported once.
KEPT_REFUSALS = 64


@dataclass
class _Session:
    head: Head
    executor: Executor
    inbox: Inbox
    begun_s: float
    trace: Trace = field(default_factory=Trace)


class ServerEngine:
    """
    Computes the server's share of one robot's frames.

    publish(chunk) sends rows back; report(FrameReport) tells how each frame ended. Both are called
    on the engine's threads.
    """

    def __init__(self, layout: Layout, publish: Callable[[Chunk], None],
                 report: Callable[[FrameReport], None], max_sessions: int = 4,
                 session_timeout_s: float = 2.0):
        self.layout = layout
        self.max_sessions, self.session_timeout_s = max_sessions, session_timeout_s
        self.frames = {OK: 0, REFUSED: 0, ABORTED: 0}
        self.stray_chunks = 0
        self._report = report
        self._tables: dict[bytes, PlanTable] = {}
        self._prepared = Prepared(layout, SERVER)
        self._sessions: dict[tuple[int, int], _Session] = {}
        self._ended: tuple[int, int] = (0, -1)  # robot session, newest frame that is over
        self._refused: deque[tuple[int, int]] = deque(maxlen=KEPT_REFUSALS)
        self._queue: deque[_Session] = deque()
        self._lock = threading.Condition()
        self._closing = False
        self._outbox = Outbox(publish, 'server outbox')
        self._threads = [threading.Thread(target=self._run, name=f'server frames {i}', daemon=True)
                         for i in range(max_sessions)]
        for thread in self._threads:
            thread.start()

    def use(self, table: PlanTable) -> None:
        """Accept frames under a table; the last KEPT_TABLES stay accepted."""
        self._prepared.prepare(table, KEPT_TABLES)
        with self._lock:
            self._tables.pop(table.digest, None)
            self._tables[table.digest] = table
            while len(self._tables) > KEPT_TABLES:
                del self._tables[next(iter(self._tables))]

    def on_chunk(self, chunk: Chunk) -> None:
        """Take in a chunk; the first of a frame begins its session. Never raises for a bad one."""
        key = (chunk.session, chunk.frame)
        try:
            session = self._session(chunk)
            if session is None:
                self.stray_chunks += 1
            else:
                session.inbox.put(chunk)
        except BadChunk as error:
            self._refuse(key, str(error))

    def close(self) -> None:
        """Give up all frames and stop."""
        with self._lock:
            self._closing = True
            for session in self._sessions.values():
                session.inbox.abort('the server is stopping')
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(5.0)
        self._outbox.close(0.2)

    def _session(self, chunk: Chunk) -> _Session | None:
        """Return the chunk's session, begun if it is new; None for a frame that is over."""
        key = (chunk.session, chunk.frame)
        with self._lock:
            session = self._sessions.get(key)
            if session is not None:
                if chunk.head != session.head:
                    raise BadChunk(
                        f'frame {chunk.frame} came under plan {session.head.plan_index} of table '
                        f'{session.head.table_digest.hex()[:12]}, now a chunk of it says plan '
                        f'{chunk.plan_index} of table {bytes(chunk.table_digest).hex()[:12]}')
                return session
            if key in self._refused or self._closing or (
                    chunk.session == self._ended[0] and chunk.frame <= self._ended[1]):
                return None
            executor = self._executor(chunk)
            head = chunk.head
            session = _Session(head, executor, inbox_for(self.layout, executor.program, head),
                               time.monotonic())
            while len(self._sessions) >= self.max_sessions:
                oldest = next(iter(self._sessions.values()))
                self._sessions.pop((oldest.head.session, oldest.head.frame))
                oldest.inbox.abort(f'frame {head.frame} came while {self.max_sessions} were in '
                                   'flight; the oldest is given up')
            self._sessions[key] = session
            self._queue.append(session)
            self._lock.notify()
            return session

    def _executor(self, chunk: Chunk) -> Executor:
        """Return the executor of a chunk's plan; raises BadChunk. The lock is held."""
        if chunk.version != VERSION:
            raise BadChunk(f'chunk has version {chunk.version}, expected {VERSION}: run the same '
                           'release on both sides')
        digest = bytes(chunk.table_digest)
        table = self._tables.get(digest)
        if table is None:
            held = ', '.join(held.hex()[:12] for held in self._tables) or 'none'
            raise BadChunk(f'the frame runs under plan table {digest.hex()[:12]}, this server '
                           f'holds {held}')
        if chunk.plan_index >= len(table.plans):
            raise BadChunk(f'the frame runs under plan {chunk.plan_index}, its table has plans 0 '
                           f'to {len(table.plans) - 1}')
        return self._prepared.of(table, chunk.plan_index)

    def _refuse(self, key: tuple[int, int], text: str) -> None:
        """End a frame because of a bad chunk, and say so once."""
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                if key in self._refused:
                    return
                self._refused.append(key)
                self.frames[REFUSED] += 1
        _log.warning('frame %s refused: %s', key[1], text)
        if session is not None:
            session.inbox.abort(text)
        else:
            self._report(FrameReport(*key, REFUSED, text))

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._queue or self._closing)
                if self._closing:
                    return
                session = self._queue.popleft()
            status, text = OK, ''
            try:
                session.executor.run(_ServerIO(self, session), trace=session.trace)
            except (Aborted, DeadlinePassed) as error:
                status, text = ABORTED, str(error)
            except Exception as error:  # the next frame comes all the same
                status, text = ABORTED, f'the server failed: {type(error).__name__}: {error}'
                _log.exception('frame %s failed', session.head.frame)
            self._end(session, status, text)

    def _end(self, session: _Session, status: int, text: str) -> None:
        key = (session.head.session, session.head.frame)
        with self._lock:
            self._sessions.pop(key, None)
            if key[0] != self._ended[0] or key[1] > self._ended[1]:
                self._ended = key
            self.frames[status] += 1
        if status != OK:
            self._outbox.cancel(*key)
            self._report(self._summary(session, status, text))

    def _summary(self, session: _Session, status: int = OK, text: str = '') -> FrameReport:
        trace, now = session.trace, time.monotonic()
        return FrameReport(session.head.session, session.head.frame, status, text,
                           trace.compute_s, trace.wait_s, now - session.begun_s,
                           session.inbox.received_bytes,
                           compute_spans('server', trace, session.begun_s))


class _ServerIO(LinkIO):
    """Reports just before the last rows go, so that the robot has both at the same time."""

    def __init__(self, engine: ServerEngine, session: _Session):
        super().__init__(engine.layout, session.inbox, engine._outbox, session.head,
                         session.begun_s + engine.session_timeout_s)
        self._engine, self._session_of = engine, session
        self._last = next((step for step in reversed(session.executor.program.steps)
                           if isinstance(step, Send)), None)

    def send(self, step, rows) -> None:
        """Queue rows, after the report when they are the last."""
        if step is self._last:
            self._inbox.check()
            self._session_of.trace.mark()
            self._engine._report(self._engine._summary(self._session_of))
        super().send(step, rows)
