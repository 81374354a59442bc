# SPDX-License-Identifier: Apache-2.0
"""Meters, on a sysfs made up in a folder."""

import time

import pytest
import torch

from hp_planner.profile.power import EnergyMeter, find_meter, measure_power, SampledMeter


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


def count(folder, microjoules, seconds=0.1):
    """Return a run in which a counter goes on by so much, back to 0 at its end."""
    def run():
        time.sleep(seconds)
        file = folder / 'energy_uj'
        around = int((folder / 'max_energy_range_uj').read_text())
        file.write_text(str((int(file.read_text()) + microjoules) % around))
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
    assert meter.watts_over(lambda: None) == pytest.approx(6.0)


def test_samples_are_taken_for_as_long_as_it_runs(tmp_path):
    folder = board(tmp_path, milliamperes=1000)

    def run():
        time.sleep(0.3)
        (folder / 'curr1_input').write_text('3000')
        time.sleep(0.3)
    assert 6 < find_meter('cpu', tmp_path).watts_over(run) < 14


@pytest.mark.parametrize('broken', ['in1_input', 'curr1_input'])
def test_a_board_meter_that_can_not_be_read_is_none(tmp_path, broken):
    (board(tmp_path) / broken).write_text('no number')
    assert find_meter('cpu', tmp_path) is None
    (tmp_path / 'class/hwmon/hwmon0' / broken).unlink()
    assert find_meter('cpu', tmp_path) is None


def test_energy_counters_of_all_processors_add_up(tmp_path):
    folder = processor(tmp_path)
    processor(tmp_path, 1, 'package-1')
    processor(tmp_path, 2, 'psys')
    meter = find_meter('cpu', tmp_path)
    assert 'processor alone' in meter.source
    assert [path.parent.name for path, _ in meter.counters] == ['intel-rapl:0', 'intel-rapl:1']
    assert meter.watts_over(count(folder, 2_000_000)) == pytest.approx(20, rel=0.2)


def test_an_energy_counter_that_begins_anew_loses_nothing(tmp_path):
    folder = processor(tmp_path, energy=9_500_000)
    assert find_meter('cpu', tmp_path).watts_over(count(folder, 1_000_000)) == pytest.approx(
        10, rel=0.2)
    assert int((folder / 'energy_uj').read_text()) == 500_000


@pytest.mark.parametrize('missing', ['energy_uj', 'max_energy_range_uj'])
def test_an_energy_counter_that_may_not_be_read_is_none(tmp_path, missing):
    (processor(tmp_path) / missing).unlink()
    assert find_meter('cpu', tmp_path) is None


def test_a_gpu_is_measured_by_its_own_meter(tmp_path, monkeypatch):
    processor(tmp_path)
    monkeypatch.setattr(torch.cuda, 'power_draw', lambda device: {'cuda:1': 75_000}[device])
    assert 'GPU alone' in find_meter('cuda:1', tmp_path).source
    assert find_meter('cuda:1', tmp_path).watts_over(lambda: None) == 75
    assert 'RAPL' in find_meter('cuda:0', tmp_path).source
    assert 'RAPL' in find_meter('cpu', tmp_path).source


def test_power_is_measured_by_state(tmp_path):
    folder = board(tmp_path, milliamperes=1000)

    def compute():
        # Renamed into place: the meter reads at any moment, and sysfs is never half written.
        (folder / 'next').write_text('3000')
        (folder / 'next').rename(folder / 'curr1_input')
        time.sleep(0.01)
    power = measure_power(find_meter('cpu', tmp_path), compute, settle_s=0.05, state_s=0.2)
    assert (power.waiting_w, power.communicating_w, power.computing_w) == (5, 5, 15)
    assert 'VDD_IN' in power.source
    assert 'communicating taken as waiting' in power.source


def test_what_goes_wrong_while_measuring_is_raised():
    def fail():
        raise OSError('gone')
    with pytest.raises(OSError, match='gone'):
        SampledMeter('broken', fail).watts_over(lambda: None)
    with pytest.raises(OSError, match='gone'):
        SampledMeter('fine', lambda: 1.0).watts_over(fail)
    with pytest.raises(OSError, match='gone'):
        EnergyMeter('fine', []).watts_over(fail)
