# SPDX-License-Identifier: Apache-2.0
"""What a frame costs the robot's board: joules from a meter, else from watts by state."""

from __future__ import annotations

import logging
import time

from hp_inference.runtime.meters import Meter, MeterFailed, Power, Recording, UNKNOWN

_log = logging.getLogger(__name__)


class FrameEnergy:
    """
    Says what each frame, and all time since the start, has cost.

    ``power``: watts by state, None where nobody knows them. ``meter``: comes before them; one
    that fails is given up, which is logged once, and the watts say the rest. ``frame`` is for one
    thread at a time; all times are time.monotonic seconds.
    """

    def __init__(self, power: Power | None, meter: Meter | None):
        self._power = power if power and power.known else None
        self._from_s, self._from_j = time.monotonic(), 0.0  # from here on the watts count
        self._extra_j, self._total_j = 0.0, 0.0
        self._recording: Recording | None = None
        self._modelled = f'watts by state, {self._power.source}' if self._power else UNKNOWN
        self.source = self._modelled
        if meter:
            try:
                self._recording = Recording(meter)
            except MeterFailed as error:
                self._give_up(error)
            else:
                self.source = meter.source

    @property
    def total_j(self) -> float:
        """Joules from the start to the end of the newest frame; 0 where nothing is known."""
        return self._total_j

    def frame(self, begin_s: float, end_s: float, compute_s: float, radio_s: float) -> float:
        """
        Return the joules of the frame from begin to end; 0 where nothing is known.

        ``compute_s``: how long the robot computed meanwhile. ``radio_s``: how long the radio was
        busy while it did not. The rest of the time it waited. Frames come in order of their ends.
        """
        if self._recording:
            try:
                before, after = self._recording.joules(begin_s, end_s)
            except MeterFailed as error:
                self._give_up(error)
            else:
                self._from_s, self._from_j, self._total_j = end_s, after, after
                return after - before
        if not self._power:
            return 0.0
        power, seconds = self._power, max(0.0, end_s - begin_s)
        compute_s = min(compute_s, seconds)
        radio_s = min(radio_s, seconds - compute_s)
        # Above what waiting takes all the time, also between frames and where frames overlap.
        extra = ((power.computing_w - power.waiting_w) * compute_s
                 + (power.communicating_w - power.waiting_w) * radio_s)
        self._extra_j += extra
        self._total_j = (self._from_j + power.waiting_w * max(0.0, end_s - self._from_s)
                         + self._extra_j)
        return power.waiting_w * seconds + extra

    def close(self) -> None:
        """Leave the meter alone."""
        if self._recording:
            self._recording.close()

    def _give_up(self, error: MeterFailed) -> None:
        _log.warning('%s; the energy of frames is now %s', error, self._modelled)
        self.close()
        self._recording, self.source = None, self._modelled
