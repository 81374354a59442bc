# SPDX-License-Identifier: Apache-2.0
"""Whether the server can be asked just now, and if not, why."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
import threading
import time

#: A server that says now and then that it is there, and has not for so long, can't be reached. [s]
SILENT_S = 1.5
#: Servers that are remembered at once; a robot has one, and who it is may change.
MOST_SERVERS = 8
#: What seems not to have been heard is said again after this long, and after twice as long each
#: further time, up to MOST_S. [s]
FIRST_S, MOST_S = 1.0, 10.0


@dataclass
class _Server:
    tables: frozenset[bytes]
    heard_s: float


class ServerLiveness:
    """
    What the robot knows of its server; any thread may tell and ask.

    Servers are told apart by a number that each draws when it starts. Nothing that one has said is
    kept for long: what it says next replaces it, and silence ends it, so that neither a server that
    is gone nor a message that no server sent can mislead for longer than that.

    ``retry_s``: after a frame that the server left alone the robot goes alone for so long, or only
    until the next sign of life where that was the first one: the link may just have got slower.
    ``silent_s``: who has given no sign of life for so long can't be reached.
    """

    def __init__(self, retry_s: float, silent_s: float = SILENT_S):
        self.retry_s, self.silent_s = retry_s, silent_s
        self._servers: dict[int, _Server] = {}
        self._text = 'no server has been heard of'
        self._alone_until, self._left_alone = 0.0, 0
        self._lock = threading.Lock()

    def status(self, server: int, digest: bytes, text: str = '') -> None:
        """Note what a server says of a change: the table that it now holds, or why none (b'')."""
        with self._lock:
            self._text = text
            known = self._servers.get(server)
            held = known.tables if known else frozenset()
            self._keep(server, held | {digest} if digest else frozenset())

    def load(self, server: int, tables: Collection[bytes]) -> None:
        """Note a sign of life, and that a server holds these tables and no others."""
        with self._lock:
            now = time.monotonic()
            if tables and (self._left_alone == 1 or all(
                    self._silent(each, now) for each in self._servers.values())):
                self._alone_until = 0.0
            if tables:
                self._text = ''
            self._keep(server, frozenset(tables))

    def gone(self) -> None:
        """Note that there is no server any more."""
        with self._lock:
            self._servers.clear()
            self._text = 'the server is gone'

    def left_alone(self) -> None:
        """Note that the server did not do its share of a frame."""
        with self._lock:
            self._alone_until = time.monotonic() + self.retry_s
            self._left_alone += 1

    def answered(self) -> None:
        """Note that the server did its share of a frame."""
        with self._lock:
            self._left_alone = 0

    def holds(self, digest: bytes) -> bool:
        """Return whether a server that gives signs of life holds a table."""
        with self._lock:
            return self._holds(digest, time.monotonic())

    def why_not(self, digest: bytes) -> str:
        """Return why a frame under this table can't be computed together, '' when it can."""
        with self._lock:
            now = time.monotonic()
            if self._holds(digest, now):
                return 'the server left the last frame alone' if now < self._alone_until else ''
            # What another server has said since counts for more than the silence of one before.
            if not self._text and any(digest in server.tables
                                      for server in self._servers.values()):
                return f'the server can not be reached: no sign of it for {self.silent_s:g} s'
            return self._text or 'the server holds another plan table'

    def _keep(self, server: int, tables: frozenset[bytes]) -> None:
        """Replace what is known of a server; the lock is held."""
        before = self._servers.pop(server, None)
        if not tables:
            return
        if not tables <= (before.tables if before else frozenset()):
            self._alone_until, self._left_alone = 0.0, 0  # a new agreement
        self._servers[server] = _Server(tables, time.monotonic())
        if len(self._servers) > MOST_SERVERS:
            del self._servers[next(iter(self._servers))]  # the one not heard for longest

    def _holds(self, digest: bytes, now: float) -> bool:
        return any(digest in server.tables and not self._silent(server, now)
                   for server in self._servers.values())

    def _silent(self, server: _Server, now: float) -> bool:
        return now - server.heard_s > self.silent_s


class Backoff:
    """When to repeat what a peer seems not to have heard: at once, then ever more rarely."""

    def __init__(self):
        self._said_s, self._wait_s = float('-inf'), FIRST_S

    @property
    def due(self) -> bool:
        """Whether it may be said (again) now."""
        return time.monotonic() - self._said_s >= self._wait_s

    def said(self) -> None:
        """Note that it was said; the next time may come after twice as long as this one."""
        if self._said_s > float('-inf') and self.due:
            self._wait_s = min(2 * self._wait_s, MOST_S)
        self._said_s = time.monotonic()

    def heard(self) -> None:
        """Note that it was understood."""
        self._wait_s = FIRST_S
