# SPDX-License-Identifier: Apache-2.0
"""`hp profile` writes a profile that fits its model, and refuses before it measures."""

from cli_runner import complaint_of, data_of, runner
import pytest
import torch

from hp_cli.commands import profile as command
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.profile import measure
from hp_inference.profile.device import DeviceProfile
from hp_inference.runtime.meters import Power, SampledMeter

LINE = 'profile tiny.py:classes --input 1,3,24,32 --out p.json'


@pytest.fixture
def hp(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(measure, 'MOST_ROUNDS', 15)
    monkeypatch.setattr(command, 'find_meter', lambda device: None)
    return runner(capsys, monkeypatch, tmp_path)


def test_the_profile_fits_the_model_and_the_answer_sums_it_up(hp):
    data = data_of(hp(f'{LINE} --threads 1 --json'))
    made = DeviceProfile.load('p.json')
    _, layout = open_model(ModelSpec('tiny.py:classes', (1, 3, 24, 32)))
    made.check(layout)
    assert data['profile'] == 'p.json'
    assert (data['operators'], data['threads'], data['device']) == (9, 1, 'cpu')
    assert (data['whole_s'], data['scale']) == (made.whole_s, made.scale)
    assert len(data['slowest']) == 8
    assert data['slowest'][0]['seconds'][-1] == max(o.seconds[-1] for o in made.operators)
    assert list(data['time_share_by_row_share']) == ['0.25', '0.5', '0.75']
    assert data['power']['source'] == 'unknown'


def test_the_text_says_what_matters(hp):
    status, out, _ = hp(f'{LINE} --threads 1')
    assert status == 0
    for part in ('whole frame', '% for 75 % of their rows', 'conv2d.default', 'zstd',
                 'power unknown', '9 operators in', 'p.json'):
        assert part in out


def test_an_image_gives_the_ratios(hp, tmp_path):
    from PIL import Image
    Image.new('RGB', (32, 24), (9, 9, 9)).save(tmp_path / 'plain.png')
    hp(LINE)
    noisy = DeviceProfile.load('p.json').ratios['zstd'][0]
    hp(f'{LINE} --image plain.png')
    assert DeviceProfile.load('p.json').ratios['zstd'][0] < 0.2 < noisy


def test_given_power_is_taken(hp):
    data = data_of(hp(f'{LINE} --json --waiting-w 4.7 --communicating-w 5 --computing-w 14'))
    assert data['power'] == {'waiting_w': 4.7, 'communicating_w': 5.0, 'computing_w': 14.0,
                             'source': 'given'}
    assert DeviceProfile.load('p.json').power == Power(4.7, 5.0, 14.0)


def test_power_is_measured_where_there_is_a_meter_and_nothing_else_is_given(hp, monkeypatch):
    computed = []
    monkeypatch.setattr(command, 'find_meter', lambda device: SampledMeter('a meter', lambda: 9.0))

    def measured(meter, compute):
        computed.append(compute())
        return Power(meter.read_watts(), 9.0, 20.0, 'measured: a meter')
    monkeypatch.setattr(command, 'measure_power', measured)
    power = data_of(hp(f'{LINE} --json --communicating-w 11'))['power']
    assert power == {'waiting_w': 9.0, 'communicating_w': 11.0, 'computing_w': 20.0,
                     'source': 'measured: a meter, communicating_w given'}
    assert set(computed[0]) == {'output'}


def test_a_meter_that_fails_is_named(hp, monkeypatch):
    def broken(meter, compute):
        raise OSError('no such device')
    monkeypatch.setattr(command, 'find_meter', lambda device: SampledMeter('a meter', lambda: 1.0))
    monkeypatch.setattr(command, 'measure_power', broken)
    complaint = complaint_of(hp(LINE))
    assert 'a meter failed: no such device; give --waiting-w' in complaint


@pytest.mark.parametrize(('more', 'complaint'), [
    ('--waiting-w 4', 'give all of --waiting-w, --communicating-w and --computing-w'),
    ('--waiting-w -4', 'not a number from 0 on'),
    ('--computing-w nan', 'not a number from 0 on'),
    ('--device tpu', 'no device, expected cpu, cuda or cuda:N'),
    ('--device meta', 'no device, expected cpu, cuda or cuda:N'),
    ('--threads 0', 'whole number from 1 to 1024'),
    ('--image none.png', 'can not read none.png'),
])
def test_bad_options_are_refused(hp, more, complaint):
    assert complaint in complaint_of(hp(f'{LINE} {more}'))


def test_a_gpu_that_is_not_there_is_refused(hp, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    complaint = complaint_of(hp(f'{LINE} --device cuda'))
    assert f'PyTorch {torch.__version__} sees 0 GPUs here' in complaint
    assert 'give --device cpu' in complaint


@pytest.mark.parametrize('out', ['none/p.json', '.', 'image.png/p.json'])
def test_a_file_that_can_not_be_written_is_refused_before_measuring(hp, monkeypatch, out):
    monkeypatch.setattr(command, 'profile', lambda *args, **kwargs: pytest.fail('measured'))
    line = LINE.replace('p.json', out)
    assert f'can not write {out}: give --out a file in a folder' in complaint_of(hp(line))


def test_a_bad_model_is_refused(hp):
    assert "tiny.py has no 'none'" in complaint_of(hp('profile tiny.py:none --out p.json'))
    assert complaint_of(hp('profile tiny.py:classes')).startswith('hp: the following arguments')
