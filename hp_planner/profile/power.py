# SPDX-License-Identifier: Apache-2.0
"""
What a device draws while it waits and while it computes, where it has a meter.

A Jetson's INA3221 measures the whole board; a GPU's own meter (NVML, through the package
nvidia-ml-py) and RAPL measure the GPU or the processor alone, which ``source`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
import threading
import time
from typing import Protocol

import torch

from hp_planner.profile.device import digits, Power

BOARD_LABEL = 'VDD_IN'  # of a Jetson's three channels the one that feeds all
SAMPLE_S = 0.05
# A state holds for so long before it is measured: NVML averages over up to a second.
SETTLE_S, STATE_S = 1.5, 4.0


class Meter(Protocol):
    """Says what a device draws; ``source`` names the meter and what it covers."""

    source: str

    def watts_over(self, run: Callable[[], object]) -> float:
        """Return the mean power in watts while ``run`` runs."""


@dataclass
class SampledMeter:
    """A meter that says how many watts there are right now."""

    source: str
    read_watts: Callable[[], float]

    def watts_over(self, run: Callable[[], object]) -> float:
        """Return the mean of samples taken every SAMPLE_S; raises what reading or ``run`` does."""
        samples, failures, done = [], [], threading.Event()

        def sample():
            try:
                samples.append(self.read_watts())
                while not done.wait(SAMPLE_S):
                    samples.append(self.read_watts())
            except Exception as error:
                failures.append(error)
        thread = threading.Thread(target=sample, name='power samples', daemon=True)
        thread.start()
        try:
            run()
        finally:
            done.set()
            thread.join()
        if failures:
            raise failures[0]
        return mean(samples)


@dataclass
class EnergyMeter:
    """Counters of microjoules: (file, at how many it begins anew at 0), added up."""

    source: str
    counters: list[tuple[Path, int]]

    def watts_over(self, run: Callable[[], object]) -> float:
        """Return the energy that the counters count meanwhile over the time."""
        before, begin = self._read(), time.perf_counter()
        run()
        after, seconds = self._read(), time.perf_counter() - begin
        return sum((b - a) % around for a, b, (_, around) in
                   zip(before, after, self.counters)) * 1e-6 / seconds

    def _read(self) -> list[int]:
        return [_number(path) for path, _ in self.counters]


def find_meter(device: str = 'cpu', root: str | Path = '/sys') -> Meter | None:
    """
    Return the meter of this machine that sees most of what ``device`` draws, None without one.

    ``root``: where sysfs is. A meter that may not be read (RAPL is root's alone) is none.
    """
    meters = [*_boards(Path(root)), *_gpus(device), *_processors(Path(root))]
    return meters[0] if meters else None


def measure_power(meter: Meter, compute: Callable[[], object], settle_s: float = SETTLE_S,
                  state_s: float = STATE_S) -> Power:
    """
    Return the power by state: waiting asleep, computing with ``compute`` again and again.

    Nobody here talks on the radio, so communicating counts as waiting, which ``source`` says.
    """
    def computing(seconds: float) -> None:
        until = time.monotonic() + seconds
        compute()
        while time.monotonic() < until:
            compute()
    watts = []
    for state in (time.sleep, computing):
        state(settle_s)
        watts.append(digits(meter.watts_over(lambda: state(state_s))))
    return Power(watts[0], watts[0], watts[1],
                 f'measured: {meter.source}; communicating taken as waiting')


def _boards(root: Path) -> list[Meter]:
    """Return the meters of whole boards: INA3221 chips, in millivolts and milliamperes."""
    meters = []
    for label in sorted(root.glob('class/hwmon/hwmon*/in*_label')):
        channel = label.name[len('in'):-len('_label')]
        volts, amperes = (label.with_name(f'{kind}{channel}_input') for kind in ('in', 'curr'))
        try:
            if label.read_text().strip() != BOARD_LABEL:
                continue
            _number(volts), _number(amperes)
        except (OSError, ValueError):
            continue
        meters.append(SampledMeter(
            f'INA3221 {BOARD_LABEL} (the whole board)',
            lambda volts=volts, amperes=amperes: _number(volts) * _number(amperes) * 1e-6))
    return meters


def _gpus(device: str) -> list[Meter]:
    if not device.startswith('cuda'):
        return []
    try:
        torch.cuda.power_draw(device)
    except Exception:  # no nvidia-ml-py, no driver, a GPU without a meter: there is none
        return []
    return [SampledMeter('NVML (the GPU alone)', lambda: torch.cuda.power_draw(device) * 1e-3)]


def _processors(root: Path) -> list[Meter]:
    """Return the meter of all processor packages, if RAPL has any that may be read."""
    counters = []
    for name in sorted(root.glob('class/powercap/intel-rapl:*/name')):
        try:
            if name.read_text().strip().startswith('package'):
                energy = name.with_name('energy_uj')
                _number(energy)
                counters.append((energy, _number(name.with_name('max_energy_range_uj'))))
        except (OSError, ValueError):
            continue
    return [EnergyMeter('RAPL (the processor alone)', counters)] if counters else []


def _number(path: Path) -> int:
    return int(path.read_text())
