# SPDX-License-Identifier: Apache-2.0
"""Meters, on a sysfs made up in a folder, and what they record."""

from functools import partial
import math
import threading
import time

import pytest
from simulated_time import SimulatedTime
import torch
from waits import until

from hp_inference.runtime import meters
from hp_inference.runtime.meters import (
    BadPower,
    EnergyMeter,
    find_meter,
    MeterFailed,
    Power,
    Recording,
    SampledMeter,
    watts_over,
)

moment = partial(time.sleep, 1e-3)


@pytest.fixture
def clock(monkeypatch):
    """Return the time by which meters go; it stands still but for what a run says it takes."""
    clock = SimulatedTime()
    monkeypatch.setattr(meters, 'time', clock)
    return clock


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f'{content}\n')
    return folder


def board(root, number=0, channel=1, label='VDD_IN', millivolts=5000, milliamperes=1200):
    return write(root / f'class/hwmon/hwmon{number}',
                 **{f'in{channel}_label': label, f'in{channel}_input': millivolts,
                    f'curr{channel}_input': milliamperes})


def processor(root, number=0, name='package-0', energy=1_000_000, around=10_000_000):
    return write(root / f'class/powercap/intel-rapl:{number}', name=name, energy_uj=energy,
                 max_energy_range_uj=around)


def count(clock, folder, microjoules, seconds=0.1):
    """Return a run in which a counter goes on by so much, back to 0 at its end."""
    def run():
        clock.sleep(seconds)
        file = folder / 'energy_uj'
        around = int((folder / 'max_energy_range_uj').read_text())
        # Renamed into place: the meter reads at any moment, and sysfs is never half written.
        (folder / 'next').write_text(str((int(file.read_text()) + microjoules) % around))
        (folder / 'next').rename(file)
    return run


def test_a_machine_without_meters_has_none(tmp_path):
    assert find_meter('cpu', tmp_path) is None
    assert find_meter('cuda:0', tmp_path) is None


def test_a_jetson_is_measured_as_a_whole_board(tmp_path):
    board(tmp_path, channel=2, label='VDD_CPU_GPU_CV', milliamperes=400)
    board(tmp_path)
    processor(tmp_path)
    meter = find_meter('cuda:0', tmp_path)
    assert 'VDD_IN (the whole board)' in meter.source
    assert watts_over(meter, moment) == pytest.approx(6.0)


def test_samples_are_taken_for_as_long_as_it_runs(clock):
    watts, samples = [5.0], []

    def seen():
        """Wait until a sample was begun after all that is so by now."""
        count = len(samples)
        until(lambda: len(samples) > count + 1)

    def run():
        clock.sleep(0.3)
        seen()
        watts[0] = 15.0
        seen()
        clock.sleep(0.1)
        seen()
    meter = SampledMeter('a meter', lambda: samples.append(watts[0]) or watts[0])
    assert watts_over(meter, run) == pytest.approx((0.3 * 5 + 0.1 * 15) / 0.4)


@pytest.mark.parametrize('broken', ['in1_input', 'curr1_input'])
def test_a_board_meter_that_can_not_be_read_is_none(tmp_path, broken):
    (board(tmp_path) / broken).write_text('no number')
    assert find_meter('cpu', tmp_path) is None
    (tmp_path / 'class/hwmon/hwmon0' / broken).unlink()
    assert find_meter('cpu', tmp_path) is None


def test_energy_counters_of_all_processors_add_up(tmp_path, clock):
    folder = processor(tmp_path)
    processor(tmp_path, 1, 'package-1')
    processor(tmp_path, 2, 'psys')
    meter = find_meter('cpu', tmp_path)
    assert 'processor alone' in meter.source
    assert [path.parent.name for path, _ in meter.counters] == ['intel-rapl:0', 'intel-rapl:1']
    assert watts_over(meter, count(clock, folder, 2_000_000)) == pytest.approx(20)


def test_an_energy_counter_that_begins_anew_loses_nothing(tmp_path, clock):
    folder = processor(tmp_path, energy=9_500_000)
    run = count(clock, folder, 1_000_000)
    assert watts_over(find_meter('cpu', tmp_path), run) == pytest.approx(10)
    assert int((folder / 'energy_uj').read_text()) == 500_000


@pytest.mark.parametrize('missing', ['energy_uj', 'max_energy_range_uj'])
def test_an_energy_counter_that_may_not_be_read_is_none(tmp_path, missing):
    (processor(tmp_path) / missing).unlink()
    assert find_meter('cpu', tmp_path) is None


def test_a_gpu_is_measured_by_its_own_meter(tmp_path, monkeypatch):
    processor(tmp_path)
    monkeypatch.setattr(torch.cuda, 'power_draw', lambda device: {'cuda:1': 75_000}[device])
    assert 'GPU alone' in find_meter('cuda:1', tmp_path).source
    assert watts_over(find_meter('cuda:1', tmp_path), moment) == pytest.approx(75)
    assert 'RAPL' in find_meter('cuda:0', tmp_path).source
    assert 'RAPL' in find_meter('cpu', tmp_path).source


@pytest.mark.parametrize('watts', [(-1, 0, 0), (0, math.nan, 0), (0, 0, '12'), (0, math.inf, 0)])
def test_power_is_three_finite_numbers(watts):
    with pytest.raises(BadPower, match='power .*expected a finite number from 0 on'):
        Power(*watts)


def test_what_goes_wrong_while_measuring_is_raised():
    def fail():
        raise OSError('gone')
    for meter, run in ((SampledMeter('broken', fail), moment),
                       (SampledMeter('fine', lambda: 1.0), fail),
                       (EnergyMeter('fine', []), fail)):
        with pytest.raises(OSError, match='gone'):
            watts_over(meter, run)


class Counted:
    """A meter that has counted as many joules as there have been seconds, and can break."""

    source, broken = 'a meter', False

    def counter(self):
        begin = time.monotonic()

        def count():
            if self.broken:
                raise ValueError('no number')
            now = time.monotonic()
            return now, now - begin
        return count


@pytest.fixture
def recorded():
    recording = Recording(Counted())
    yield recording
    recording.close()


def test_between_samples_energy_is_interpolated(recorded):
    begin = time.monotonic()
    time.sleep(0.25)
    end = time.monotonic()
    middle = (begin + end) / 2
    a, b, c = recorded.joules(begin, middle, end)
    assert b - a == pytest.approx(middle - begin, abs=0.01)
    assert c - a == pytest.approx(end - begin, abs=0.01)


def test_times_that_nobody_recorded_count_as_the_nearest_that_somebody_did(recorded):
    now = time.monotonic()
    before, here, later = recorded.joules(now - 1e3, now, now + 1e3)
    assert 0 <= before <= here <= later <= here + time.monotonic() - now


def test_a_meter_that_breaks_is_named_with_its_reason():
    meter = Counted()
    recording = Recording(meter)
    recording.joules(time.monotonic())
    meter.broken = True
    with pytest.raises(MeterFailed, match='a meter failed: no number'):
        recording.joules(time.monotonic())
    recording.close()


def test_a_closed_recording_leaves_no_thread():
    before = threading.active_count()
    Recording(Counted()).close()
    assert threading.active_count() == before
