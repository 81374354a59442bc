# SPDX-License-Identifier: Apache-2.0
"""What the service ~/profile of a node does: profile the device of its model, power included."""

from __future__ import annotations

from hp_inference.graph.layout import Layout
from hp_inference.profile.device import DeviceProfile
from hp_inference.profile.measure import profile, Progress
from hp_inference.profile.power import measure_power
from hp_inference.profile.sample import sample_image
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.meters import find_meter, NO_POWER, Power
from hp_inference.split.plan import robot_only
from hp_inference.split.program import compile_plan


def profile_this_device(layout: Layout, progress: Progress) -> DeviceProfile:
    """
    Return the profile of the device that a model is on; its power where a meter tells it.

    What ``progress(what, done, of)`` raises ends it, as do errors of the model's operators.
    """
    return profile(layout, power=_power(layout, progress), progress=progress)


def _power(layout: Layout, progress: Progress) -> Power:
    meter = find_meter(str(layout.graph.device))
    if meter is None:
        return NO_POWER
    frame = Executor(layout, compile_plan(layout, robot_only(layout))[0])
    image = sample_image(layout.graph.input.shape)

    def compute() -> None:
        progress('power', 0, 1)
        frame.run(None, image, Trace())
    try:
        return measure_power(meter, compute)
    except OSError:  # a profile without power serves every objective but energy
        return NO_POWER
