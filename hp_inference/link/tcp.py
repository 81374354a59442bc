# SPDX-License-Identifier: Apache-2.0
"""
Bounds how long this process's TCP connections stay silent after the link was gone.

TCP doubles the time between its tries: after a blackout of 7 s it tries again 6 s later, with all
chunks waiting behind it. The connections belong to the middleware, which has no setting for this
and does not get over a connection that breaks, so the sockets are looked up among the process's
own and told to try at least once in a while. Linux only; elsewhere nothing is done.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time

PERIOD_S = 0.25
"""How often the sockets are looked at."""

RETRY_MS = 1000
"""The longest silence between two tries; Linux takes no less."""

LONGEST_SILENCE_MS = 24 * 3600 * 1000
"""A connection without answers breaks after this; by the number of tries it would after 15 s."""

# From linux/tcp.h; Python does not name the newest. TCP_RTO_MAX_MS needs Linux 6.15.
_TCP_INFO, _TCP_USER_TIMEOUT, _TCP_RTO_MAX_MS = 11, 18, 44
_INFO_BYTES, _RETRANSMITS_AT, _LAST_ACK_MS_AT = 104, 2, 56

# Older kernels try no later than when the connection is to be given up for lack of answers. That
# time is moved on for as long as there is no answer; this much ahead, in case this thread is late.
_AHEAD_S = 1.5


class Tender:
    """
    Looks after the TCP sockets of this process until it is closed; one a process is enough.

    A daemon thread; costs some 0.1 ms four times a second.
    """

    def __init__(self):
        self._known: set[str] = set()           # sockets that need no more
        self._silent_since: dict[str, float] = {}  # connections that wait for an answer
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name='tcp tender', daemon=True)
        if sys.platform == 'linux':
            self._thread.start()

    def close(self) -> None:
        """Stop; sockets keep what they have been told."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(2)

    def _run(self) -> None:
        while not self._closed.wait(PERIOD_S):
            self.look()

    def look(self) -> int:
        """Tell every TCP socket of this process; return how many there are."""
        found: dict[str, str] = {}
        for number in os.listdir('/proc/self/fd'):
            try:
                name = os.readlink(f'/proc/self/fd/{number}')
            except OSError:
                continue  # closed in the meantime
            if name.startswith('socket:'):
                found[name] = number
        count = 0
        self._known &= found.keys()
        self._silent_since = {name: since for name, since in self._silent_since.items()
                              if name in found}
        for name, number in found.items():
            if name not in self._known:
                count += self._tell(name, int(number))
        return count

    def _tell(self, name: str, number: int) -> bool:
        """Set what the kernel takes; what needs no second look becomes known."""
        try:
            # A duplicate: the number may be closed and given to something else at any time.
            with socket.socket(fileno=os.dup(number)) as one:
                if one.family not in (socket.AF_INET, socket.AF_INET6) or \
                        one.type != socket.SOCK_STREAM:
                    self._known.add(name)
                    return False
                try:
                    one.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, RETRY_MS)
                    one.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, LONGEST_SILENCE_MS)
                    self._known.add(name)
                except OSError:
                    info = one.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _INFO_BYTES)
                    one.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT,
                                   self._patience_ms(name, info, time.monotonic()))
                return True
        except OSError:
            return False  # closed in the meantime

    def _patience_ms(self, name: str, info: bytes, now: float) -> int:
        """
        Return the TCP_USER_TIMEOUT of a connection in this state; 0: the kernel's own.

        The kernel counts from the first retransmission, which is not told. The last answer before
        it is, but only now: while the link comes back, answers come that end nothing.
        """
        if info[_RETRANSMITS_AT] == 0:
            self._silent_since.pop(name, None)
            return 0
        silent_ms, = struct.unpack_from('=I', info, _LAST_ACK_MS_AT)
        since = self._silent_since.setdefault(name, now - silent_ms / 1e3)
        return round((now - since + _AHEAD_S) * 1e3)
