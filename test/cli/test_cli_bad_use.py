# SPDX-License-Identifier: Apache-2.0

import json

from cli_runner import complaint_of, runner, save_plans
import pytest
import torch


@pytest.fixture
def hp(capsys, monkeypatch, tmp_path):
    return runner(capsys, monkeypatch, tmp_path)


@pytest.mark.parametrize(('line', 'says'), [
    ('', 'COMMAND'),
    ('graph', 'MODEL'),
    ('dance tiny.py:classes', "'dance'"),
    ('graph tiny.py:classes --input 3,24,32', "'3,24,32' is not 1,C,H,W"),
    ('graph tiny.py:classes --input 2,3,24,32', "'2,3,24,32' is not 1,C,H,W"),
    ('graph tiny.py:classes --input 1,3,x,32', "'1,3,x,32' is not 1,C,H,W"),
    ('graph tiny.py:classes --input 1,3,24,99999', 'sizes up to 16384'),
    ('graph tiny.py:classes --threads 0', "'0' is not a whole number from 1 to 1024"),
    ('graph tiny.py:classes --mean 1,nan,2', "'1,nan,2' is not one number per channel"),
    ('graph tiny.py:classes --mean 1,2', 'do not fit 3 channels'),
    ('graph tiny.py:classes --std 1,0,1', 'std not 0'),
    ('graph tiny.py:pixels --std 1,1,1', 'takes the uint8 image itself'),
    ('graph tiny.py:classes --input 1,4,24,32', 'to have 3 channels, but got 4 channels'),
    ('graph resnet18', "'resnet18' is not of a known form: expected torchvision:NAME"),
    ('graph torchvision:resnt18', 'the nearest names that it has are resnet18'),
    ('graph torchvision:resnet18.bakbone', "no part 'bakbone'; it has conv1"),
    ('graph gone.py:net', 'there is no file gone.py'),
    ('graph gone.pt2', 'there is no file gone.pt2'),
    ('graph no.such.package:net', 'there is no module no.such.package'),
    ('graph :net', 'not the name of a module'),
    ('graph tiny.py:gone', "has no 'gone'"),
    ('graph tiny.py:gives_text', 'gave a str, expected a torch.nn.Module'),
    ('graph tiny.py:raises', "KeyError: 'no such thing'"),
    ('graph tiny.py:leaves', 'SystemExit'),
    ('graph tiny.py:branches', 'data-dependent'),
    ('graph tiny.py:conditional --input 1,3,8,8', 'control flow that depends on the image'),
    ('graph tiny.py:random --input 1,3,8,8', 'draws random numbers'),
    ('graph tiny.py:constant --input 1,3,8,8', "output '1' of tiny.py:constant does not"),
    ('graph tiny.py:Counting --input 1,3,8,8', "changes attribute 'calls' from frame to frame"),
    ('graph tiny.py:classes --weights gone.pt', 'weights: can not read gone.pt: No such file'),
    ('graph tiny.py:classes --weights image.png', 'image.png does not load as plain weights'),
    ('check tiny.py:classes --plans 0', "'0' is not a whole number from 1 to 10000"),
    ('check tiny.py:classes --plans 99999999999', 'is not a whole number from 1 to 10000'),
    ('check tiny.py:classes --seed -1', "'-1' is not a whole number from 0 on"),
    ('check tiny.py:classes --dtype float16', 'float16'),
    ('check tiny.py:classes --image gone.png', 'can not read gone.png: No such file'),
    ('check tiny.py:classes --codec gzip', '--codec gzip: expected one of none, zstd, shuffle'),
    ('check tiny.py:parameterless --input 1,4,24,32 --codec jpeg', 'an image of 4 channels'),
    ('program tiny.py:classes', '--plan'),
    ('program tiny.py:classes --plan half', "plan 'half' is not known"),
    ('program tiny.py:classes --plan uniform:2', 'a number from 0 to 1'),
    ('program tiny.py:classes --plan layer:99', 'a value number from 0 to 9'),
    ('program tiny.py:classes --plan gone.json', 'there is no such file'),
    ('program tiny.py:classes --plan ./image.png', 'is not text'),
    ('program tiny.py:classes --plan uniform:0.5 --index 1', 'expected 0 to 0'),
    ('run tiny.py:classes --plan robot_only', '--image'),
    ('run tiny.py:classes --plan robot_only --image tiny.py', 'neither JPEG nor PNG'),
    ('run tiny.py:classes --plan robot_only --image .', 'can not read .: it is no regular file'),
    ('run tiny.py:classes --plan robot_only --image cut.png', 'truncated or corrupt'),
    ('run tiny.py:classes --plan robot_only --image empty.png', 'is empty'),
])
def test_bad_use_is_one_line_that_says_what_is_wrong(hp, tmp_path, line, says):
    (tmp_path / 'cut.png').write_bytes((tmp_path / 'image.png').read_bytes()[:1000])
    (tmp_path / 'empty.png').touch()
    assert says in complaint_of(hp(line))


@pytest.mark.parametrize(('state', 'says'), [
    ({}, '8 (0.weight, 0.bias, 1.weight, ...) missing, 0 too many'),
    ({'state_dict': {}}, '1 (state_dict) too many'),
    ([1, 2], 'dict-like'),
    ({'0.weight': torch.zeros(1, 3, 3, 3)}, 'size mismatch for 0.weight'),
])
def test_weights_of_another_model_are_refused(hp, tmp_path, state, says):
    torch.save(state, tmp_path / 'other.pt')
    message = complaint_of(hp('graph tiny.py:classes --weights other.pt'))
    assert 'other.pt does not hold the weights of tiny.py:classes' in message
    assert says in message


def test_weights_that_would_run_code_are_refused(hp, tmp_path):
    torch.save(torch.nn.Conv2d(3, 6, 3), tmp_path / 'module.pt')
    assert 'Unsupported global' in complaint_of(hp(
        'graph tiny.py:classes --weights module.pt'))


def test_a_broken_program_file_is_refused(hp, tmp_path):
    (tmp_path / 'broken.pt2').write_bytes(b'not a zip file')
    assert 'broken.pt2 is not a program saved by torch.export.save' in complaint_of(hp(
        'graph broken.pt2'))


def test_a_table_of_another_model_is_refused(hp, tmp_path):
    save_plans(tmp_path / 'other.json', 'tiny.py:mask', ['robot_only'])
    message = complaint_of(hp('program tiny.py:classes --input 1,3,24,32 --plan other.json'))
    assert "is for model 'tiny.py:mask'" in message


def test_an_answer_that_can_show_no_error_is_not_ok(hp, tmp_path):
    (tmp_path / 'dead.py').write_text(
        'import torch\n\n\nclass Net(torch.nn.Module):\n'
        '    def forward(self, x):\n        return torch.log(x - 50)\n')
    status, out, err = hp(f'check {tmp_path}/dead.py:Net --input 1,3,16,16 --plans 2 --json')
    assert status == 1
    assert json.loads(out)['ok'] is False
    assert 'no error can show' in err
