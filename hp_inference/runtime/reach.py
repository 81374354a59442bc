# SPDX-License-Identifier: Apache-2.0
"""Whether the server can be asked just now, and if not, why."""

from __future__ import annotations

import threading
import time

#: A server that says now and then that it is there, and has not for so long, can't be reached. [s]
SILENT_S = 1.5


class Reach:
    """
    What the robot knows of its server; any thread may tell and ask.

    ``retry_s``: after a frame that the server left alone the robot goes alone for so long, or only
    until the next sign of life where that was the first one: the link may just have got slower.
    """

    def __init__(self, retry_s: float):
        self.retry_s = retry_s
        self._table, self._text = b'', 'no server has been heard of'
        self._gone = False
        self._alive_s: float | None = None
        self._alone_until, self._left_alone = 0.0, 0
        self._lock = threading.Lock()

    def holds(self, digest: bytes, text: str = '') -> None:
        """Note which table the server has in force (empty: none, ``text`` says why)."""
        with self._lock:
            if digest != self._table:
                self._alone_until, self._left_alone = 0.0, 0
            self._table, self._text, self._gone = digest, text, False
            self._alive_s = time.monotonic() if digest else None

    def gone(self) -> None:
        """Note that there is no server any more."""
        with self._lock:
            self._gone, self._alive_s = True, None

    def found(self) -> None:
        """
        Note that there is one again.

        What it said before holds until it says something else: a server that was out of reach for
        long may not repeat it.
        """
        with self._lock:
            if self._gone:
                self._gone, self._alone_until, self._left_alone = False, 0.0, 0
                self._alive_s = time.monotonic() if self._table else None

    def alive(self) -> None:
        """Note a sign of life; who holds a table is expected to go on giving them."""
        with self._lock:
            now = time.monotonic()
            if self._silent(now) or self._left_alone == 1:
                self._alone_until = 0.0
            self._alive_s = now

    def left_alone(self) -> None:
        """Note that the server did not do its share of a frame."""
        with self._lock:
            self._alone_until = time.monotonic() + self.retry_s
            self._left_alone += 1

    def answered(self) -> None:
        """Note that the server did its share of a frame."""
        with self._lock:
            self._left_alone = 0

    def why_not(self, digest: bytes) -> str:
        """Return why a frame under this table can't be computed together, '' when it can."""
        with self._lock:
            now = time.monotonic()
            if self._gone:
                return 'the server is gone'
            if self._table != digest:
                return self._text or 'the server holds another plan table'
            if self._silent(now):
                return f'the server can not be reached: no sign of it for {SILENT_S:g} s'
            return 'the server left the last frame alone' if now < self._alone_until else ''

    def _silent(self, now: float) -> bool:
        return self._alive_s is not None and now - self._alive_s > SILENT_S
