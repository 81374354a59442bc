# SPDX-License-Identifier: Apache-2.0
"""How this process gives memory back, and how much of it there is."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEEP_BYTES = 1 << 30


def keep_freed_memory() -> bool:
    """
    Let glibc keep freed blocks instead of returning them to the system; return whether it will.

    A network frees and allocates the same blocks of some MB for every frame. By default glibc maps
    each anew, and the faults on its pages can take longer than the operator. All threads share what
    is kept, as frames are computed by one thread or another: by default each would keep as much.
    """
    if not sys.platform.startswith('linux'):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False  # another C library
    return bool(mallopt(M_MMAP_THRESHOLD, KEEP_BYTES) and mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)
                and mallopt(M_ARENA_MAX, 1))
