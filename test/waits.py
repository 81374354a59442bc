# SPDX-License-Identifier: Apache-2.0
"""
Waiting for what another thread or process does, on a machine that has much else to do.

A wait ends as soon as what it waits for is there, so its limit costs nothing where all is well; it
only says when to give up. No test may rely on how fast this machine is: what must be quick is shown
in simulated time, or by the order in which things happen.
"""

from __future__ import annotations

from collections.abc import Callable
import time

WAIT_S = 120.0
"""For all that must come about, whatever else the machine does."""


def until(done: Callable[[], object], seconds: float = WAIT_S,
          what: str | Callable[[], object] = 'it'):
    """Wait until something holds and return it; fail after a time, with what did not come."""
    end = time.monotonic() + seconds
    while not (held := done()):
        if time.monotonic() > end:
            raise AssertionError(
                f'{what() if callable(what) else what} did not come about in {seconds:g} s')
        time.sleep(0.002)
    return held
