# SPDX-License-Identifier: Apache-2.0
"""Measure what a device draws while it waits and while it computes, where it has a meter."""

from __future__ import annotations

from collections.abc import Callable
import time

from hp_inference.profile.device import digits
from hp_inference.runtime.meters import Meter, Power, watts_over

# A state holds for so long before it is measured: NVML averages over up to a second.
SETTLE_S, STATE_S = 1.5, 4.0


def measure_power(meter: Meter, compute: Callable[[], object], settle_s: float = SETTLE_S,
                  state_s: float = STATE_S) -> Power:
    """
    Return the power by state: waiting asleep, computing with ``compute`` again and again.

    Nobody here talks on the radio, so communicating counts as waiting, which ``source`` says.
    Raises MeterFailed.
    """
    def computing(seconds: float) -> None:
        until = time.monotonic() + seconds
        compute()
        while time.monotonic() < until:
            compute()
    watts = []
    for state in (time.sleep, computing):
        state(settle_s)
        watts.append(digits(watts_over(meter, lambda: state(state_s))))
    return Power(watts[0], watts[0], watts[1],
                 f'measured: {meter.source}; communicating taken as waiting')
