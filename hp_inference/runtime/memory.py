# SPDX-License-Identifier: Apache-2.0
"""How this process gives memory back, and how much of it there is."""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import math
import os
from pathlib import Path
import resource
import sys
import time

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEEP_BYTES = 1 << 30
# More than this above what was held after the last time is given back.
SPARE_BYTES = 64 << 20
# Not more often than this; as often as this is enough, however soon it grows again.
SOONEST_S, LATEST_S = 2.0, 8.0


def keep_freed_memory() -> bool:
    """
    Let glibc keep freed blocks instead of returning them to the system; return whether it will.

    A network frees and allocates the same blocks of some MB for every frame. By default glibc maps
    each anew, and the faults on its pages can take longer than the operator. All threads share what
    is kept, as frames are computed by one thread or another: by default each would keep as much.
    What is kept beyond what frames need is given back by ``Trimmer``.
    """
    mallopt = _libc('mallopt')
    return bool(mallopt and mallopt(M_MMAP_THRESHOLD, KEEP_BYTES)
                and mallopt(M_TRIM_THRESHOLD, KEEP_BYTES) and mallopt(M_ARENA_MAX, 1))


def trim() -> bool:
    """Give all freed memory back to the system; return whether this C library can."""
    function = _libc('malloc_trim')
    if function is None:
        return False
    function(0)
    return True


def _libc(name: str):
    """Return a function of the GNU C library, None with another one."""
    if not sys.platform.startswith('linux'):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None


class _Mallinfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        'arena', 'ordblks', 'smblks', 'hblks', 'hblkhd', 'usmblks', 'fsmblks', 'uordblks',
        'fordblks', 'keepcost')]


def allocated_bytes() -> int | None:
    """Return what C and C++ code has allocated and not freed; None where nobody can say."""
    function = _libc('mallinfo2')  # since glibc 2.33
    if function is None:
        return None
    function.restype = _Mallinfo
    info = function()
    return info.uordblks + info.hblkhd


class Trimmer:
    """
    Gives back what a process has freed and still holds, where that is much.

    A message or an image of some 100 MB would otherwise be paid for ever. ``look`` is to be called
    about once a second. A model whose frames need more than SPARE_BYTES beside its weights gets
    them taken away again and again, and has to fault them in anew: ever more rarely, so that of
    hundreds of frames one takes longer. ``held()`` and ``used()`` return bytes.
    """

    def __init__(self, held: Callable[[], int] | None = None,
                 used: Callable[[], int | None] | None = None,
                 give_back: Callable[[], object] = trim):
        self._held, self._used = held or resident_bytes, used or allocated_bytes
        self._give_back = give_back
        self._floor, self._last_s, self._wait_s = self._idle(), -math.inf, SOONEST_S

    def look(self, now_s: float | None = None) -> bool:
        """Give back where it is time and worth it; return whether it was."""
        now_s = time.monotonic() if now_s is None else now_s
        since_s = now_s - self._last_s
        if since_s < self._wait_s:
            return False
        idle = self._idle()
        if idle <= self._floor + SPARE_BYTES:
            self._floor = min(self._floor, idle)
            if since_s > LATEST_S:
                self._wait_s = SOONEST_S
            return False
        self._give_back()
        self._floor, self._last_s = self._idle(), now_s
        self._wait_s = min(LATEST_S, 2 * self._wait_s)
        return True

    def _idle(self) -> int:
        """Return what is held beside what is allocated: programs, and what was freed."""
        return self._held() - (self._used() or 0)


def resident_bytes() -> int:
    """Return the memory that this process holds; where there is no /proc, the most it has held."""
    statm = Path('/proc/self/statm')
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == 'darwin' else most * 1024
