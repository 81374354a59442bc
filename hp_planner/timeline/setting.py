# SPDX-License-Identifier: Apache-2.0
"""What a plan is judged in: a model, two devices, a link between them, the robot's power."""

from __future__ import annotations

from dataclasses import dataclass, field
import math

from hp_inference.graph.layout import Layout
from hp_inference.profile.device import DeviceProfile
from hp_inference.runtime.meters import Power


class SettingError(ValueError):
    """A link, a rate or a bound that makes no sense; the text says which and what is expected."""


@dataclass(frozen=True)
class LinkModel:
    """
    What a message costs besides its bytes at the link's rate.

    ``duplex``: 'half' (one radio for both directions, first come first served) or 'full'.
    ``message_s`` per message and ``byte_s`` per encoded byte occupy the link; half of
    ``round_trip_s`` is added to each arrival and occupies nothing. Seconds.
    """

    duplex: str = 'half'
    message_s: float = 0.001
    byte_s: float = 0.0
    round_trip_s: float = 0.002

    def __post_init__(self):
        """Refuse what is not a link."""
        if self.duplex not in ('half', 'full'):
            raise SettingError(f"link duplex is {self.duplex!r}, expected 'half' or 'full'")
        for name in ('message_s', 'byte_s', 'round_trip_s'):
            number = getattr(self, name)
            if not (isinstance(number, (int, float)) and 0 <= number < math.inf):
                raise SettingError(f'link {name} is {number!r}, expected seconds from 0 on')


@dataclass(frozen=True)
class Setting:
    """
    A model on two devices with a link between them.

    ``power`` is the robot's, in watts by state (its profile's where none is given). Raises
    ProfileError where a profile is not of this model.
    """

    layout: Layout
    robot: DeviceProfile
    server: DeviceProfile
    link: LinkModel = field(default_factory=LinkModel)
    power: Power | None = None

    def __post_init__(self):
        """Check both profiles against the model."""
        self.robot.check(self.layout)
        self.server.check(self.layout)
        if self.power is None:
            object.__setattr__(self, 'power', self.robot.power)


@dataclass(frozen=True)
class Prediction:
    """
    What the timeline says of one frame under one plan at one rate.

    Seconds, joules (of the robot), encoded bytes. ``radio_busy_s``: in full duplex that of the
    busier direction. Peak bytes are of the values held at once, without weights.
    """

    latency_s: float
    energy_j: float
    robot_busy_s: float
    server_busy_s: float
    radio_busy_s: float
    up_bytes: float
    down_bytes: float
    robot_peak_bytes: float
    server_peak_bytes: float

    @property
    def throughput(self) -> float:
        """Frames per second with several in flight: the slowest of robot, radio and server."""
        return 1 / max(self.robot_busy_s, self.server_busy_s, self.radio_busy_s)


def bytes_per_s(mbit_s: float) -> float:
    """Return a rate in bytes per second; raises SettingError for what is not a rate."""
    if not (isinstance(mbit_s, (int, float)) and 0 <= mbit_s < math.inf):
        raise SettingError(f'a bandwidth is {mbit_s!r}, expected Mbit/s, finite, from 0 on')
    return mbit_s * 1e6 / 8
