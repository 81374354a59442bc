# SPDX-License-Identifier: Apache-2.0
"""Names of threads as the operating system knows them."""

from __future__ import annotations

import ctypes
import sys

PR_SET_NAME = 15
LONGEST = 15  # bytes of a name


def name_thread(name: str) -> None:
    """
    Give the calling thread its name in ``top -H``, ``perf`` and /proc (Linux; elsewhere nothing).

    So that the thread that computes can be seen, pinned and given a share of the processor apart
    from those that send. Python itself names threads only for Python (before 3.14).
    """
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode()[:LONGEST], 0, 0, 0)
