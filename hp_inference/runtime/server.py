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
from hp_inference.link.errors import Aborted, BadChunk, LinkError
from hp_inference.link.inbox import Inbox
from hp_inference.link.transport import FrameIO, Transport
from hp_inference.link.wire import Chunk, Head, VERSION
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.executor_cache import ExecutorCache
from hp_inference.runtime.fair_queue import FairQueue, Turn
from hp_inference.runtime.frames import (
    ABORTED,
    compute_spans,
    FrameReport,
    inbox_for,
    OK,
    REFUSED,
)
from hp_inference.runtime.server_io import ServerIO
from hp_inference.runtime.threads import name_thread
from hp_inference.split.plan import Plan
from hp_inference.split.program import Program
from hp_inference.split.shares import SERVER
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import MAX_PLANS

_log = logging.getLogger(__name__)

# Tables that stay usable after a newer one came, so that frames on their way find theirs.
KEPT_TABLES = 4
# Frames remembered as over, so that their late chunks begin nothing. Not the highest number:
# a single false chunk of frame 2**64 - 1 would then end all frames to come.
KEPT_OVER = 1024
# What a frame that came to nothing counts, of chunks that were of no use.
FRAME_WEIGHT = 2
# A plan that is made ready waits for its turn no longer: then it takes it.
TURN_S = 60.0
# A frame in the middle of an operator is not waited for longer.
STOP_S = 1.0
STOPPING = 'the server is stopping'

Key = tuple[int, int]  # the robot's session, the frame


@dataclass(eq=False)
class _Session:
    head: Head
    executor: Executor
    inbox: Inbox
    io: FrameIO
    begun_s: float
    refusal: str = ''  # what is wrong with a chunk of it
    given_up: bool = False
    trace: Trace = field(default_factory=Trace)

    @property
    def key(self) -> Key:
        """What its chunks say of themselves."""
        return self.head.session, self.head.frame

    def give_up(self, reason: str) -> None:
        """Let it end as soon as it can; who may wait in line for it must be woken."""
        self.given_up = True
        self.inbox.abort(reason)


@dataclass
class Computed:
    """Sums over the frames that a thread has had in hand; times in seconds."""

    frames: int = 0
    turn_wait_s: float = 0.0
    compute_s: float = 0.0


class ServerEngine:
    """
    Computes the server's share of one robot's frames.

    ``transport`` carries rows back; report(FrameReport) tells how each frame ended, on the
    engine's and the transport's threads, also in ``on_chunk``. Engines of
    one layout share ``cache``, engines of one device ``queue``; alone, an engine computes as
    many frames at once as are in flight.
    """

    def __init__(self, layout: Layout, transport: Transport,
                 report: Callable[[FrameReport], None], max_sessions: int = 4,
                 session_timeout_s: float = 2.0, cache: ExecutorCache | None = None,
                 queue: FairQueue | None = None):
        self.layout = layout
        self.max_sessions, self.session_timeout_s = max_sessions, session_timeout_s
        self.frames = {OK: 0, REFUSED: 0, ABORTED: 0}
        self.chunks = 0
        self.stray_chunks = 0  # chunks of frames that are over, or that came again
        self.computed = Computed()
        self._report, self._transport = report, transport
        self._cache = cache or ExecutorCache(layout, SERVER)
        self._line = (queue or FairQueue(max_sessions)).line()
        self._robot_session: int | None = None
        self._tables: dict[bytes, list[Executor]] = {}
        self._sessions: dict[Key, _Session] = {}
        self._over: dict[Key, None] = {}  # the oldest first
        self._queue: deque[_Session] = deque()
        self._lock = threading.Condition()
        self._closing = False
        self._threads = [threading.Thread(target=self._run, name=f'server frames {i}', daemon=True)
                         for i in range(max_sessions)]
        for thread in self._threads:
            thread.start()

    @property
    def in_flight(self) -> int:
        """Frames that have begun and not ended."""
        return len(self._sessions)

    @property
    def useless(self) -> int:
        """How many chunks were of no use so far; a frame that came to nothing counts as some."""
        return self.stray_chunks + FRAME_WEIGHT * (self.frames[REFUSED] + self.frames[ABORTED])

    @property
    def tables(self) -> list[bytes]:
        """The digests of the tables under which frames are accepted, the newest last."""
        with self._lock:
            return list(self._tables)

    def use(self, table: PlanTable) -> None:
        """
        Accept frames under a table; the last KEPT_TABLES stay accepted.

        Raises Aborted when the engine is stopped meanwhile.
        """
        self.accept(table.digest, [self.executor(*each)
                                   for each in zip(table.plans, table.programs)])

    def executor(self, plan: Plan, programs: tuple[Program, Program]) -> Executor:
        """
        Return what computes a plan, made in this robot's turn as one of its frames would be.

        So however many plans a robot sends, frames of others wait for one at most.
        """
        turn = Turn(self._line, lambda: self._closing, TURN_S)
        try:
            turn.enter()
            self._check_open()
            return self._cache.executor(plan, programs)
        finally:
            turn.leave()

    def accept(self, digest: bytes, executors: list[Executor]) -> None:
        """Accept frames under a table whose executors are there."""
        with self._lock:
            self._tables.pop(digest, None)
            self._tables[digest] = executors
            # Of large tables fewer are kept: what a robot can have here is bounded.
            while len(self._tables) > 1 and (len(self._tables) > KEPT_TABLES or sum(
                    map(len, self._tables.values())) > MAX_PLANS):
                del self._tables[next(iter(self._tables))]

    def again(self, digest: bytes) -> bool:
        """Make a table that is still accepted the newest one; return whether it is."""
        with self._lock:
            executors = self._tables.get(digest)
        if executors is not None:
            self.accept(digest, executors)
        return executors is not None

    def on_chunk(self, chunk: Chunk) -> None:
        """Take in a chunk; the first of a frame begins its session. Never raises for a bad one."""
        self.chunks += 1
        try:
            session = self._session(chunk)
            if session is None or not session.inbox.put(chunk):
                self.stray_chunks += 1
        except BadChunk as error:
            self._refuse((chunk.session, chunk.frame), str(error))

    def stop(self) -> None:
        """Give up all frames and take no more; returns at once."""
        with self._lock:
            self._closing = True
            sessions = list(self._sessions.values())
            self._lock.notify_all()
        for session in sessions:
            session.give_up(STOPPING)
        self._line.wake()

    def close(self) -> None:
        """Give up all frames, and wait until their threads have ended, but not for long."""
        self.stop()
        deadline = time.monotonic() + STOP_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _check_open(self) -> None:
        if self._closing:
            raise Aborted(STOPPING)

    def _session(self, chunk: Chunk) -> _Session | None:
        """Return the chunk's session, begun if it is new; None for a frame that is over."""
        key = (chunk.session, chunk.frame)
        with self._lock:
            if key in self._sessions:
                return self._sessions[key]
            if key in self._over or self._closing:
                return None
            executor, head = self._executor(chunk), chunk.head
            inbox = inbox_for(self.layout, executor.program, head)
            session = _Session(head, executor, inbox, self._transport.open_frame(
                head, inbox, unsent=lambda reason: self._unsent(head, reason)), time.monotonic())
            reason = (f'frame {head.frame} came while {self.max_sessions} were in flight; the '
                      'oldest is given up')
            unbegun = self._make_room(reason)
            if head.session != self._robot_session:
                self._transport.restart()
            self._robot_session = head.session
            self._sessions[key] = session
            self._queue.append(session)
            self._lock.notify()
        if unbegun:
            self._end(unbegun, ABORTED, reason)
        return session

    def _make_room(self, reason: str) -> _Session | None:
        """Give up the oldest session when there are too many; return it if no thread has it."""
        if len(self._sessions) < self.max_sessions:
            return None
        oldest = next(iter(self._sessions.values()))
        self._forget(oldest.key)
        oldest.give_up(reason)
        self._line.wake()
        if oldest not in self._queue:
            return None
        self._queue.remove(oldest)
        return oldest

    def _executor(self, chunk: Chunk) -> Executor:
        """Return the executor of a chunk's plan; raises BadChunk. The lock is held."""
        if chunk.version != VERSION:
            raise BadChunk(f'chunk has version {chunk.version}, expected {VERSION}: run the same '
                           'release on both sides')
        digest = bytes(chunk.table_digest)
        executors = self._tables.get(digest)
        if executors is None:
            held = ', '.join(held.hex()[:12] for held in self._tables) or 'none'
            raise BadChunk(f'the frame runs under plan table {digest.hex()[:12]}, this server '
                           f'holds {held}')
        if chunk.plan_index >= len(executors):
            raise BadChunk(f'the frame runs under plan {chunk.plan_index}, its table has plans 0 '
                           f'to {len(executors) - 1}')
        return executors[chunk.plan_index]

    def _forget(self, key: Key) -> None:
        """Note that a frame is over; the lock is held."""
        self._sessions.pop(key, None)
        self._over[key] = None
        if len(self._over) > KEPT_OVER:
            del self._over[next(iter(self._over))]

    def _refuse(self, key: Key, text: str) -> None:
        """End a frame because of a bad chunk, and say so once."""
        with self._lock:
            session = self._sessions.get(key)
            if session is not None:
                session.refusal = session.refusal or text
            elif key in self._over:
                return
            else:
                self._forget(key)
                self.frames[REFUSED] += 1
        if session is not None:
            session.give_up(text)
            self._line.wake()
        else:
            self._tell(FrameReport(*key, REFUSED, text))

    def _run(self) -> None:
        name_thread('server frames')
        while self._next():
            pass  # a frame's variables, and with them its memory, are gone by now

    def _next(self) -> bool:
        """Compute the next frame; return False when there is none any more."""
        with self._lock:
            self._lock.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return False
            session = self._queue.popleft()
        status, text = OK, ''
        timeout_s = self.session_timeout_s
        turn = Turn(self._line, lambda: session.given_up, timeout_s)
        try:
            io = ServerIO(session.io, session.inbox, session.executor.program, timeout_s, turn,
                          lambda: self._report_done(session))
            session.executor.run(io, trace=session.trace)
        except Aborted as error:
            status, text = ABORTED, error.reason
        except LinkError as error:
            status, text = ABORTED, str(error)
        except Exception as error:  # the next frame comes all the same
            status, text = ABORTED, f'the server failed: {type(error).__name__}: {error}'
            _log.exception('frame %s failed', session.head.frame)
        finally:
            turn.leave()
        with self._lock:
            self.computed.frames += 1
            self.computed.turn_wait_s += turn.waited_s
            self.computed.compute_s += session.trace.compute_s
        self._end(session, status, text)
        return True

    def _end(self, session: _Session, status: int, text: str) -> None:
        if status != OK and session.refusal:
            status, text = REFUSED, session.refusal
        with self._lock:
            self._forget(session.key)
            self.frames[status] += 1
        if status != OK:
            session.io.cancel()
            self._tell(self._summary(session, status, text))

    def _report_done(self, session: _Session) -> None:
        """Report before the last rows go, so that the robot has both at the same time."""
        session.trace.mark()
        self._tell(self._summary(session))

    def _summary(self, session: _Session, status: int = OK, text: str = '') -> FrameReport:
        trace, now = session.trace, time.monotonic()
        return FrameReport(*session.key, status, text, trace.compute_s, trace.wait_s,
                           now - session.begun_s, session.inbox.received_bytes,
                           compute_spans('server', trace, session.begun_s))

    def _tell(self, report: FrameReport) -> None:
        try:
            self._report(report)
        except Exception:  # without its report a frame costs the robot its deadline, no more
            _log.exception('the report of frame %s failed', report.frame)

    def _unsent(self, head: Head, reason: str) -> None:
        self._tell(FrameReport(head.session, head.frame, ABORTED, reason))
