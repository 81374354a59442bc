# SPDX-License-Identifier: Apache-2.0

import json
import os
from pathlib import Path
import subprocess
import sys
import time

from cli_runner import complaint_of, data_of, NETWORKS, runner, save_plans
from PIL import Image
import pytest
import torch
from waits import WAIT_S

from hp_cli.main import main
import hp_inference
from hp_inference.runtime import local
from hp_inference.runtime.executor import Executor


@pytest.fixture
def hp(capsys, monkeypatch, tmp_path):
    return runner(capsys, monkeypatch, tmp_path)


def test_help_and_version_do_not_wait_for_pytorch():
    code = ('import sys\nfrom hp_cli.main import main\n'
            'assert main(["--help"]) == 0 == main(["--version"]) == main(["check", "--help"])\n'
            'assert "torch" not in sys.modules')
    done = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
    assert f'hp {hp_inference.__version__}\n' in done.stdout
    assert all(name in done.stdout for name in ('graph', 'check', 'program', 'run', '--plans'))


def test_graph_counts_the_operators_by_rule(hp):
    data = data_of(hp('graph tiny.py:classes --input 1,3,24,32 --json'))
    # Normalisation (cast, mul, add), conv, relu and the mean within rows are by rows; the mean
    # over the rows, the reshape and the linear layer are not.
    assert data == {'model': 'tiny.py:classes', 'digest': data['digest'], 'ops': 9, 'local': 6,
                    'partial': 0, 'global': 3, 'unsupported': {}}
    assert len(data['digest']) == 64


def test_graph_names_what_is_not_in_the_table(hp):
    line = 'graph tiny.py:unsupported --input 1,3,8,8'
    data = data_of(hp(f'{line} --json'))
    assert data['unsupported'] == {'aten.linalg_matrix_exp.default': 2}
    assert data['global'] == 2 == data['ops'] - data['local']
    status, out, _ = hp(line)
    assert status == 0
    assert 'not in the table: aten.linalg_matrix_exp.default (2)' in out


def test_graph_lists_every_operator_with_its_rule(hp):
    status, out, _ = hp('graph tiny.py:classes --input 1,3,24,32')
    assert status == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith('%')}
    assert list(rows) == [f'%{value}' for value in range(10)]
    assert rows['%0'] == ['%0', 'image', 'input', '2', '24', '1,3,24,32', str(3 * 24 * 32)]
    assert rows['%4'][2:] == ['conv2d.default', 'local', '2', '12', '1,6,12,16', '4608']
    assert rows['%9'][2:] == ['linear.default', 'global', '-', '-', '1,7', '28']
    assert 'outputs: output = %9' in out
    assert 'random unless' in out


def test_digest_follows_the_seed_of_the_weights(hp):
    one, same, other = (data_of(hp(f'graph tiny.py:classes --input 1,3,24,32 --json '
                                   f'--weights-seed {seed}'))['digest'] for seed in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(('dtype', 'tolerance'), [('float32', 1e-5), ('float64', 1e-12)])
def test_check_finds_that_random_plans_agree(hp, dtype, tolerance):
    data = data_of(hp(f'check tiny.py:classes --input 1,3,23,31 --plans 5 --seed 7 '
                      f'--dtype {dtype} --json'))
    assert data['ok'] is True
    assert (data['plans'], data['tolerance'], data['dtype']) == (5, tolerance, dtype)
    assert 0 <= data['worst_relative_error'] <= tolerance
    assert data['sent_bytes'] > 0
    assert data['worst_plan'] in [f'random:{seed}' for seed in range(7, 12)]


@pytest.mark.long
def test_check_of_resnet18_agrees_in_float64(hp):
    data = data_of(hp('check torchvision:resnet18 --input 1,3,67,91 --plans 4 --dtype float64 '
                      '--json'))
    assert data['ok'] is True
    assert data['worst_relative_error'] <= data['tolerance'] == 1e-12
    assert data['sent_bytes'] > 100_000


def test_check_says_that_torchvision_weights_are_random(hp):
    status, out, err = hp('check torchvision:squeezenet1_1 --input 1,3,32,32 --plans 1')
    assert (status, err) == (0, '')
    assert 'weights: random (seed 0' in out
    assert 'ok: every plan gives the answer of the unsplit model' in out


def test_check_compares_dictionaries_masks_and_images_from_files(hp):
    data = data_of(hp('check tiny.py:mask --input 1,3,20,20 --plans 3 --image image.png --json'))
    assert data['ok'] is True
    # The plan and the image decide what travels, and how small it becomes.
    assert data['sent_bytes'] == data_of(hp('check tiny.py:mask --input 1,3,20,20 --plans 3 '
                                            '--image image.png --json'))['sent_bytes']


def test_check_lets_a_split_be_nan_where_the_model_is_and_says_so(hp):
    result = hp('check tiny.py:strange --input 1,3,16,16 --plans 3 --dtype float64 --json')
    assert data_of(result)['ok'] is True
    assert 'numbers of the unsplit answer are NaN or infinite' in result[2]


def test_check_computes_in_float64_without_any_parameter_to_say_so(hp):
    data = data_of(hp('check tiny.py:parameterless --input 1,3,17,19 --plans 3 --dtype float64 '
                      '--json'))
    assert data['worst_relative_error'] <= 1e-12


def spoiled(change):
    """Return run_both with its outputs changed."""
    def run(*args, **kwargs):
        frame = local.run_both(*args, **kwargs)
        for name, tensor in frame.outputs.items():
            frame.outputs[name] = change(tensor)
        return frame
    return run


@pytest.mark.parametrize(('change', 'error'), [
    (lambda x: x * 1.001, pytest.approx(1e-3, rel=0.01)),
    (lambda x: x * float('nan'), None),
    (lambda x: x[:, 1:], None),
    (lambda x: x.double(), None),
])
def test_check_fails_on_a_wrong_answer(hp, monkeypatch, change, error):
    monkeypatch.setattr('hp_cli.commands.check.run_both', spoiled(change))
    data = data_of(hp('check tiny.py:classes --input 1,3,24,32 --plans 2 --json'), status=1)
    assert data['ok'] is False
    assert data['worst_relative_error'] == error
    status, out, _ = hp('check tiny.py:classes --input 1,3,24,32 --plans 2')
    assert status == 1
    assert 'WRONG: 2 plans' in out


def test_check_fails_on_a_plan_that_can_not_run_and_goes_on(hp, monkeypatch):
    def run(layout, programs, image):
        if programs[0].plan == 'random:1':
            raise RuntimeError('lost rows')
        return local.run_both(layout, programs, image)
    monkeypatch.setattr('hp_cli.commands.check.run_both', run)
    result = hp('check tiny.py:classes --input 1,3,24,32 --plans 3 --json')
    data = data_of(result, status=1)
    assert (data['ok'], data['worst_plan'], data['worst_relative_error']) == (
        False, 'random:1', None)
    assert 'plan random:1 failed: RuntimeError: lost rows' in result[2]
    assert 'random:2 failed' not in result[2]


@pytest.mark.parametrize('codec', ['none', 'shuffle_zstd'])
def test_check_judges_an_exact_codec_as_it_judges_a_split(hp, codec):
    data = data_of(hp(f'check tiny.py:classes --input 1,3,24,32 --plans 4 --codec {codec} --json'))
    assert (data['ok'], data['codec'], data['lossy'], data['images']) == (True, codec, False, 2)
    assert data['worst_relative_error'] <= data['tolerance'] == 1e-5


@pytest.mark.parametrize('codec, most', [
    ('float16_shuffle_zstd', 0.01), ('uint8_zstd', 0.1), ('jpeg', 0.5)])
def test_check_says_what_a_lossy_codec_changes_and_does_not_judge_it(hp, codec, most):
    line = f'check tiny.py:classes --input 1,3,64,80 --plans 6 --seed 2 --codec {codec}'
    data = data_of(hp(f'{line} --json'))
    assert (data['ok'], data['lossy'], data['images'], data['tolerance']) == (True, True, 6, None)
    assert 1e-5 < data['worst_relative_error'] < most
    assert 0.5 < data['top1_agreement'] <= 1
    status, out, _ = hp(line)
    assert status == 0
    assert f'6 random plans (random:2 to random:7) under {codec}, 6 image(s)' in out
    assert 'which is reported, not judged' in out
    assert 'the class with the greatest score is the same in ' in out and ' of 6 answers' in out


def test_check_says_that_nothing_is_shown_where_the_answer_hardly_depends_on_the_image(hp):
    line = 'check tiny.py:Faint --input 1,3,24,32 --plans 2'
    data = data_of(hp(f'{line} --json'), status=1)
    assert (data['ok'], data['images']) == (False, 2)
    assert data['worst_relative_error'] <= data['tolerance']  # no error, as none could show
    status, out, err = hp(line)
    assert status == 1 and 'NOTHING SHOWN: the unsplit answer hardly depends on the image' in out
    assert 'differ by no more than rounding explains in output: no error can show there' in err


def test_check_draws_a_second_image_beside_a_single_one(hp, monkeypatch):
    asked = []

    def run(layout, programs, image):
        asked.append(image)
        return local.run_both(layout, programs, image)
    monkeypatch.setattr('hp_cli.commands.check.run_both', run)
    for given in ('--image image.png', '--image image.png --image image.png', ''):
        asked.clear()
        data = data_of(hp(f'check tiny.py:mask --input 1,3,20,20 --plans 1 --json {given}'))
        assert data['ok'] is True and data['images'] == len(asked) == 2 + given.count('g --i')
        assert not torch.equal(asked[0], asked[-1])


def test_check_tells_how_far_the_unsplit_model_is_from_the_float64_answer(hp):
    line = 'check tiny.py:Cancels --input 1,3,16,16 --plans 3'
    data = data_of(hp(f'{line} --json'))
    assert data['reference_error'] > 1e-5 and data['tolerance'] == 2 * data['reference_error']
    assert data['worst_relative_error'] <= data['tolerance']
    assert f'the unsplit model is {data["reference_error"]:.3g} from it' in hp(line)[1]
    data = data_of(hp('run tiny.py:Cancels --input 1,3,16,16 --image image.png --plan uniform:0.5 '
                      '--json'))
    assert data['ok'] is True and data['tolerance'] == 2 * data['reference_error'] > 1e-5
    data = data_of(hp('check tiny.py:classes --input 1,3,16,16 --plans 1 --dtype float64 --json'))
    assert (data['reference_error'], data['tolerance']) == (None, 1e-12)


def test_check_says_where_a_model_does_not_run_in_float64(hp):
    result = hp('check tiny.py:Only32 --input 1,3,16,16 --plans 2 --json')
    data = data_of(result)
    assert (data['ok'], data['reference_error'], data['tolerance']) == (True, None, 1e-5)
    assert 'note: the model does not run in float64: ' in result[2]


def test_check_refuses_a_model_that_keeps_something_and_one_that_would_end_it(hp):
    assert "changes attribute 'memory' from frame to frame" in complaint_of(
        hp('check tiny.py:Remembers --input 1,3,16,16'))
    assert 'can not be captured' in complaint_of(hp('check tiny.py:Exits --input 1,3,16,16'))


def test_check_asks_each_of_several_images_in_turn(hp, monkeypatch):
    asked = []

    def run(layout, programs, image):
        asked.append(image)
        return local.run_both(layout, programs, image)
    monkeypatch.setattr('hp_cli.commands.check.run_both', run)
    Image.new('RGB', (20, 30), 'white').save('white.png')
    data = data_of(hp('check tiny.py:mask --input 1,3,20,20 --plans 3 --codec jpeg --json '
                      '--image image.png --image white.png'))
    assert (data['images'], data['top1_agreement']) == (2, None)
    assert torch.equal(asked[0], asked[2]) and (asked[1] == 255).all()


@pytest.mark.parametrize('change', [lambda x: x * float('nan'), lambda x: x[:, 1:]])
def test_check_fails_under_a_lossy_codec_on_what_is_no_answer(hp, monkeypatch, change):
    monkeypatch.setattr('hp_cli.commands.check.run_both', spoiled(change))
    line = 'check tiny.py:classes --input 1,3,24,32 --plans 2 --codec uint8_zstd'
    assert data_of(hp(f'{line} --json'), status=1)['ok'] is False
    assert 'WRONG: 2 plans failed or gave what the unsplit model never would' in hp(line)[1]


def test_program_shows_both_sides(hp):
    line = 'program tiny.py:classes --input 1,3,24,32 --plan uniform:0.5'
    status, out, _ = hp(line)
    assert status == 0
    assert 'robot program of plan uniform:0.5' in out
    assert 'server program of plan uniform:0.5' in out
    data = data_of(hp(f'{line} --json'))
    steps = {side: data[side]['steps'] for side in ('robot', 'server')}
    for side, other in (('robot', 'server'), ('server', 'robot')):
        travels = [[(step['value'], step['begin'], step['end']) for step in steps[end]
                    if step['step'] == what] for end, what in ((side, 'send'), (other, 'receive'))]
        assert sorted(travels[0]) == sorted(travels[1]) != []
    assert {'step': 'compute', 'value': 4, 'name': '1', 'begin': 0, 'end': 6,
            'operator': 'aten.conv2d.default'} in steps['robot']
    assert data['plan']['name'] == 'uniform:0.5'


def test_program_of_the_robot_alone_sends_nothing(hp):
    data = data_of(hp('program tiny.py:classes --input 1,3,24,32 --plan robot_only --json'))
    assert {step['step'] for step in data['robot']['steps']} == {'compute'}
    assert data['server']['steps'] == []


def test_program_takes_a_plan_out_of_a_file(hp, tmp_path):
    table = save_plans(tmp_path / 'table.json', 'tiny.py:classes', ['robot_only', 'random:5'])
    (tmp_path / 'plan.json').write_text(json.dumps(table.plans[1].to_json()))
    line = 'program tiny.py:classes --input 1,3,24,32 --json --plan'
    assert data_of(hp(f'{line} table.json'))['plan'] == table.plans[0].to_json()
    assert data_of(hp(f'{line} table.json --index 1'))['plan'] == table.plans[1].to_json()
    assert data_of(hp(f'{line} plan.json'))['plan'] == table.plans[1].to_json()


def test_run_gives_the_classes_in_front(hp, tmp_path):
    line = 'run tiny.py:classes --input 1,3,24,32 --image image.png --plan uniform:0.5'
    data = data_of(hp(f'{line} --json'))
    assert data['ok'] is True
    assert data['worst_relative_error'] <= 1e-5
    top = data['outputs']['output']['top']
    assert len({entry['class'] for entry in top}) == 5
    assert [entry['score'] for entry in top] == sorted(
        (entry['score'] for entry in top), reverse=True)
    assert 0 < sum(entry['probability'] for entry in top) < 1
    assert data['latency_s'] > 0
    assert data['sent_bytes'] > 0
    status, out, _ = hp(line)
    assert status == 0
    assert f'class {top[0]["class"]}' in out
    assert 'agrees with the unsplit model' in out


def test_run_sums_up_other_outputs_and_counts_the_classes_of_a_mask(hp):
    line = 'run tiny.py:mask --input 1,3,20,28 --image image.png --plan random:4'
    outputs = data_of(hp(f'{line} --json'))['outputs']
    assert outputs['out']['shape'] == [1, 4, 20, 28]
    assert outputs['out']['min'] < outputs['out']['mean'] < outputs['out']['max']
    assert outputs['mask']['dtype'] == 'int64'
    # The mask is the argmax of the other output, so both count the same.
    assert outputs['out']['pixels'] == outputs['mask']['pixels']
    assert sum(outputs['mask']['pixels'].values()) == 20 * 28
    assert 'mask: class' in hp(line)[1]


def test_run_fails_when_the_split_disagrees(hp, monkeypatch):
    monkeypatch.setattr('hp_cli.commands.run.run_both', spoiled(lambda x: x + 0.1))
    line = 'run tiny.py:classes --input 1,3,24,32 --image image.png --plan full_offload'
    assert data_of(hp(f'{line} --json'), status=1)['ok'] is False
    status, out, _ = hp(line)
    assert status == 1
    assert 'DISAGREES' in out


def test_normalisation_is_an_option(hp):
    def scores(more):
        data = data_of(hp('run tiny.py:classes --input 1,3,24,32 --image image.png --json '
                          f'--plan robot_only {more}'))
        return sorted((entry['class'], entry['score']) for entry in
                      data['outputs']['output']['top'])
    assert scores('') == scores('--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225')
    assert scores('') != scores('--mean 0,0,0 --std 1,1,1')
    assert scores('--mean 0.5,0.5,0.5') == scores(
        '--mean 0.5,0.5,0.5 --std 0.229,0.224,0.225')


def test_weights_come_from_a_file(hp, tmp_path):
    save_weights(tmp_path / 'weights.pt')
    line = 'graph tiny.py:classes --input 1,3,24,32'
    drawn, read, again = (data_of(hp(f'{line} --json {more}'))['digest'] for more in (
        '', '--weights weights.pt', '--weights weights.pt --weights-seed 9'))
    assert drawn != read == again
    assert 'weights: weights.pt' in hp(f'{line} --weights weights.pt')[1]


def save_weights(path):
    """Write weights that no seed gives."""
    from hp_inference.graph.models import load_model
    net = load_model(f'{NETWORKS}:classes')
    torch.save({name: torch.ones_like(tensor) for name, tensor in net.state_dict().items()}, path)


def test_a_model_file_may_import_the_files_beside_it(hp, tmp_path):
    (tmp_path / 'widths_of_the_test.py').write_text('WIDTH = 2\n')
    (tmp_path / 'other.py').write_text(
        'import torch\nfrom widths_of_the_test import WIDTH\n'
        'def net():\n    return torch.nn.Conv2d(3, WIDTH, 3)\n')
    assert data_of(hp('graph other.py:net --input 1,3,8,8 --json'))['ops'] == 4


def test_a_model_may_be_a_module_in_the_working_directory(hp, tmp_path):
    (tmp_path / 'module_of_the_test.py').write_text(
        'import torch\nnet = torch.nn.Conv2d(3, 2, 3)\n')
    assert data_of(hp('graph module_of_the_test:net --input 1,3,8,8 --json'))['ops'] == 4


class Pixels(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, image):
        return {'scores': self.net(image.float() / 128 - 1)}


def export(folder):
    """Write programs that take the normalised image and the uint8 image."""
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(),
                              torch.nn.Linear(4 * 11 * 9, 6)).eval()
    for name, model, dtype in (('float', net, torch.float32), ('uint8', Pixels(net), torch.uint8)):
        torch.export.save(torch.export.export(model, (torch.zeros(1, 3, 24, 20).to(dtype),)),
                          folder / f'{name}.pt2')


def test_exported_programs_run_at_their_own_size_in_both_float_types(hp, tmp_path):
    export(tmp_path)
    for model in ('float.pt2', 'uint8.pt2'):
        for dtype in ('float32', 'float64'):
            assert data_of(hp(f'check {model} --plans 2 --dtype {dtype} --json'))['ok'] is True
    digests = {data_of(hp(f'graph {model} --json'))['digest'] for model in (
        'float.pt2', 'uint8.pt2', 'uint8.pt2')}
    assert len(digests) == 2
    assert 'exported for [1,3,24,20]' in complaint_of(hp('graph float.pt2 --input 1,3,24,32'))
    assert 'takes the uint8 image' in complaint_of(hp('graph uint8.pt2 --mean 0,0,0'))


def test_ctrl_c_in_the_middle_of_a_frame_ends_at_once(hp, monkeypatch):
    real = Executor.run

    def run(self, io, image=None, trace=None):
        if image is None:
            return real(self, io, image, trace)  # the server, which waits for the image
        time.sleep(0.2)
        raise KeyboardInterrupt
    monkeypatch.setattr(Executor, 'run', run)
    begun = time.monotonic()
    status, out, err = hp('run tiny.py:classes --input 1,3,24,32 --image image.png '
                          '--plan full_offload')
    assert (status, out) == (130, '')
    assert err.endswith('hp: interrupted\n')
    assert time.monotonic() - begun < 3 * WAIT_S, 'it waits for the frame as long as it may take'


def test_a_reader_who_has_seen_enough_is_no_error(hp, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, 'w') as closed:
        monkeypatch.setattr(sys, 'stdout', closed)
        assert main('graph tiny.py:classes --input 1,3,24,32'.split()) == 0
    assert 'hp:' not in capsys.readouterr().err


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='needs /dev/full')
def test_an_answer_that_can_not_be_written_is_an_error(hp, monkeypatch, capsys):
    with open('/dev/full', 'w') as full:
        monkeypatch.setattr(sys, 'stdout', full)
        assert main('graph tiny.py:classes --input 1,3,24,32'.split()) == 2
    assert 'hp: can not write the answer: No space left' in capsys.readouterr().err
    monkeypatch.setattr(sys, 'stdout', None)  # closed before it began
    assert main('graph tiny.py:classes --input 1,3,24,32'.split()) == 2
    assert 'hp: can not write the answer: there is no standard output' in capsys.readouterr().err
