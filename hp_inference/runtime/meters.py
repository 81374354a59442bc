# SPDX-License-Identifier: Apache-2.0
"""
What this machine draws: the meters that it has, and watts by what it does.

A Jetson's INA3221 measures the whole board; a GPU's own meter (NVML, through the package
nvidia-ml-py) and RAPL measure the GPU or the processor alone, which ``source`` says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import threading
import time
from typing import Protocol

import numpy as np

from hp_inference.split.errors import shown

BOARD_LABEL = 'VDD_IN'  # of a Jetson's three channels the one that feeds all
SAMPLE_S = 0.05
# How far back a Recording knows, in samples: 100 s, and no frame has a deadline over 60 s.
REMEMBERED = 2000
MOST_W = 1e9
UNKNOWN = 'unknown'  # the source of watts that nobody measured or gave


class BadPower(ValueError):
    """Watts that can't be; the text says what was expected."""


class MeterFailed(OSError):
    """A meter that can't be read, or no more; the text says which and why."""


@dataclass(frozen=True)
class Power:
    """
    Board power in watts by what the device does; ``source``: who says so.

    Waiting (idle, nothing on the radio), communicating (the radio is busy), computing.
    """

    waiting_w: float
    communicating_w: float
    computing_w: float
    source: str = 'given'

    def __post_init__(self):
        """Refuse what is no power; raises BadPower."""
        for name in ('waiting_w', 'communicating_w', 'computing_w'):
            watts = getattr(self, name)
            if (isinstance(watts, bool) or not isinstance(watts, (int, float))
                    or not 0 <= watts <= MOST_W):
                raise BadPower(f'power {name} is {shown(watts)}, expected a finite number '
                               f'from 0 on (watts), up to {MOST_W:g}')
        if not isinstance(self.source, str):
            raise BadPower(f'power source is {shown(self.source)}, expected text')

    @property
    def known(self) -> bool:
        """Whether anybody measured or gave these watts."""
        return self.source != UNKNOWN


NO_POWER = Power(0.0, 0.0, 0.0, UNKNOWN)


# Returns the time (time.monotonic seconds) and the joules until then.
Counter = Callable[[], tuple[float, float]]


class Meter(Protocol):
    """Says what a device draws; ``source`` names the meter and what it covers."""

    source: str

    def counter(self) -> Counter:
        """
        Return a counter of the energy from now on.

        It must be called often, from one thread at a time; raises what reading raises.
        """


@dataclass
class SampledMeter:
    """A meter that says how many watts there are right now."""

    source: str
    read_watts: Callable[[], float]

    def counter(self) -> Counter:
        """Return a counter that takes the power between two calls for a straight line."""
        last_s, last_w, joules = time.monotonic(), self.read_watts(), 0.0

        def count() -> tuple[float, float]:
            nonlocal last_s, last_w, joules
            now_s, now_w = time.monotonic(), self.read_watts()
            joules += (now_s - last_s) * (now_w + last_w) / 2
            last_s, last_w = now_s, now_w
            return now_s, joules
        return count


@dataclass
class EnergyMeter:
    """Counters of microjoules: (file, at how many it begins anew at 0), added up."""

    source: str
    counters: list[tuple[Path, int]]

    def counter(self) -> Counter:
        """Return a counter that adds up how far the files have gone on, each past its end once."""
        last, joules = self._read(), 0.0

        def count() -> tuple[float, float]:
            nonlocal last, joules
            now_s, now = time.monotonic(), self._read()
            joules += 1e-6 * sum((b - a) % around for a, b, (_, around) in
                                 zip(last, now, self.counters))
            last = now
            return now_s, joules
        return count

    def _read(self) -> list[int]:
        return [_number(path) for path, _ in self.counters]


class Recording:
    """
    The joules that a meter counts, by time, from now until it is closed.

    A thread asks the meter every SAMPLE_S. Raises MeterFailed when it can't be read at all.
    """

    def __init__(self, meter: Meter):
        self._source = meter.source
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        try:
            self._count = meter.counter()
            self._samples = deque([self._count()], REMEMBERED)
        except Exception as error:
            raise self._failed(error) from error
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name='power samples', daemon=True)
        self._thread.start()

    def now(self) -> tuple[float, float]:
        """Return the present time and the joules until now; raises MeterFailed."""
        with self._lock:
            self._sample()
            return self._samples[-1]

    def joules(self, *times_s: float) -> list[float]:
        """
        Return the joules since the start at each of some times (time.monotonic seconds).

        Linear between samples; a time after the newest sample is answered by a new one, times to
        come and long past by the nearest. Raises MeterFailed.
        """
        with self._lock:
            if self._failure or max(times_s) > self._samples[-1][0]:
                self._sample()
            since = []  # newest first: a frame needs few of all that are remembered
            for sample in reversed(self._samples):
                since.append(sample)
                if sample[0] <= min(times_s):
                    break
            return np.interp(times_s, *zip(*reversed(since))).tolist()

    def close(self) -> None:
        """Stop asking the meter."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(SAMPLE_S):
            try:
                self.now()
            except MeterFailed:  # told to whoever asks next
                return

    def _failed(self, error: Exception) -> MeterFailed:
        return MeterFailed(f'the meter {self._source} failed: {error}')

    def _sample(self) -> None:
        try:
            if not self._failure:
                self._samples.append(self._count())
        except Exception as error:
            self._failure = error
        if self._failure:
            raise self._failed(self._failure) from self._failure


def watts_over(meter: Meter, run: Callable[[], object]) -> float:
    """Return the mean power in watts while ``run`` runs; raises MeterFailed, and what it does."""
    recording = Recording(meter)
    try:
        begin_s, before_j = recording.now()
        run()
        end_s, after_j = recording.now()
    finally:
        recording.close()
    return (after_j - before_j) / (end_s - begin_s)


def find_meter(device: str = 'cpu', root: str | Path = '/sys') -> Meter | None:
    """
    Return the meter of this machine that sees most of what ``device`` draws, None without one.

    ``root``: where sysfs is. A meter that may not be read (RAPL is root's alone) is none.
    """
    meters = [*_boards(Path(root)), *_gpus(device), *_processors(Path(root))]
    return meters[0] if meters else None


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
    import torch  # here: profiles and tables hold watts, and need no PyTorch to be read
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
