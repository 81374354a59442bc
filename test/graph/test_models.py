# SPDX-License-Identifier: Apache-2.0
"""From a model's name to a module: every form, and what goes wrong."""

import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from hp_inference.graph.capture import as_image_model, capture, CaptureError, Preprocessing
from hp_inference.graph.models import load_model, ModelError

FILE = """
import torch
from torch import nn


def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


made = nn.Conv2d(3, 2, 1)
number = 5


def none():
    return None


def breaks():
    raise RuntimeError('no such checkpoint')


def leaves():
    raise SystemExit(3)


def closes():
    raise GeneratorExit


class Bare(BaseException):
    pass


def ends():
    raise Bare('of its own')


class Like(KeyboardInterrupt):
    pass


def interrupts():
    raise Like


class Unspeakable(RuntimeError):
    def __str__(self):
        raise self


def unspeakable():
    raise Unspeakable


class Stubborn(nn.Module):
    def train(self, mode=True):
        raise SystemExit('always')


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3))


class Fixed(nn.Conv2d):
    def to(self, *args):
        raise RuntimeError('only float16')


def fixed():
    return Fixed(3, 2, 1)


def interrupted():
    raise KeyboardInterrupt
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / 'nets.py'
    path.write_text(FILE)
    return path


def exported(path, module, example):
    torch.export.save(torch.export.export(module.eval(), (example,)), str(path))
    return str(path)


def small():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


class Pixels(nn.Module):
    """A model that takes the uint8 image itself."""

    def __init__(self):
        super().__init__()
        self.inner = small()

    def forward(self, image):
        return self.inner(image.float() / 128 - 1)


# Where models come from

def test_torchvision_by_name_and_by_part():
    whole = load_model('torchvision:resnet18')
    assert not whole.training and whole.fc.out_features == 1000
    part = load_model('torchvision:resnet18.layer1.0')
    assert type(part).__name__ == 'BasicBlock'


def test_a_factory_in_a_file_or_a_module(file):
    assert len(load_model(f'{file}:small')) == 3
    assert type(load_model(f'{file}:made')) is nn.Conv2d
    assert type(load_model('torch.nn:Identity')) is nn.Identity


def test_weights_follow_the_seed(file):
    for name in (f'{file}:small', 'torchvision:squeezenet1_1'):
        first, again, other = (load_model(name, seed=seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert not all(torch.equal(first[key], other[key]) for key in first)


def test_drawing_weights_leaves_torchs_own_random_numbers_alone(file):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load_model(f'{file}:small', seed=9)
    assert torch.equal(torch.rand(3), wanted)


def test_the_float_type_is_the_one_asked_for(file):
    for dtype in (torch.float32, torch.float64):
        module = load_model(f'{file}:small', dtype=dtype)
        assert {tensor.dtype for tensor in module.parameters()} == {dtype}


def test_an_exported_program_that_takes_the_normalised_image(tmp_path):
    name = exported(tmp_path / 'net.pt2', small(), torch.rand(1, 3, 8, 6))
    module = load_model(name)
    assert not module.takes_pixels and module.input_shape == (1, 3, 8, 6)
    model = as_image_model(module, (1, 3, 8, 6), Preprocessing((0.5,) * 3, (0.5,) * 3))
    image = torch.randint(0, 256, (1, 3, 8, 6), dtype=torch.uint8)
    with torch.inference_mode():
        wanted = small()((image / 255 - 0.5) / 0.5)
        assert (model(image) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    graph = capture(model, (1, 3, 8, 6), name)
    assert [op.target for op in graph.ops][:3] == [
        'aten._to_copy.default', 'aten.mul.Tensor', 'aten.add.Tensor']
    with pytest.raises(CaptureError, match=r'the program was exported for \[1,3,8,6\]: take that'):
        as_image_model(module, (1, 3, 8, 8))


def test_an_exported_program_that_takes_the_pixels(tmp_path):
    image = torch.randint(0, 256, (1, 3, 8, 6), dtype=torch.uint8)
    module = load_model(exported(tmp_path / 'net.pt2', Pixels(), image))
    assert module.takes_pixels
    model = as_image_model(module, (1, 3, 8, 6))
    with torch.inference_mode():
        wanted = Pixels()(image)
        assert (model(image) - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    graph = capture(model, (1, 3, 8, 6), 'net')
    assert [op.target for op in graph.ops][:3] == [
        'aten._to_copy.default', 'aten.div.Tensor', 'aten.sub.Tensor']
    with pytest.raises(CaptureError, match='takes the uint8 image itself'):
        as_image_model(module, (1, 3, 8, 6), Preprocessing.default(3))


def test_two_captures_of_an_exported_file_have_one_digest(tmp_path):
    name = exported(tmp_path / 'net.pt2', small(), torch.rand(1, 3, 8, 6))
    shape = (1, 3, 8, 6)
    assert len({capture(as_image_model(load_model(name), shape), shape, name).digest
                for _ in range(2)}) == 1


# Weights files

@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'weights.pt'
    torch.save(small().state_dict(), path)
    return path


def test_weights_from_a_file(file, weights):
    module = load_model(f'{file}:small', str(weights))
    assert all(torch.equal(tensor, small().state_dict()[name])
               for name, tensor in module.state_dict().items())


class Trap:
    """When a pickle of it is loaded, a folder is made."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('save', [
    lambda trap, path: torch.save({'0.weight': trap}, path),
    lambda trap, path: torch.save(trap, path),
    lambda trap, path: path.write_bytes(pickle.dumps(trap)),
    lambda trap, path: torch.save({'0.weight': trap}, path, _use_new_zipfile_serialization=False)])
def test_weights_that_would_run_code_are_refused_and_do_not(file, tmp_path, save):
    made = tmp_path / 'made'
    save(Trap(str(made)), tmp_path / 'weights.pt')
    with pytest.raises(ModelError, match=(
            'does not load as plain weights, expected the file of '
            r'torch.save\(model.state_dict\(\), ...\): (Trying to load un|Un)supported')) as error:
        load_model(f'{file}:small', str(tmp_path / 'weights.pt'))
    assert not made.exists()
    assert '\n' not in str(error.value) and 'Re-running' not in str(error.value)


def bigger(path):
    torch.save({**small().state_dict(), 'extra': torch.zeros(1)}, path)


def smaller(path):
    state = small().state_dict()
    del state['2.bias']
    torch.save(state, path)


def reshaped(path):
    torch.save({**small().state_dict(), '2.bias': torch.zeros(5)}, path)


def unpacking_to_much(path):
    torch.save({'2.bias': torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize('write, said', [
    (bigger, r'0 missing, 1 \(extra\) too many; expected the state dict of this very model'),
    (smaller, r'does not hold the weights of .*: 1 \(2.bias\) missing, 0 too many'),
    (reshaped, 'does not hold the weights of .*: size mismatch for 2.bias'),
    (lambda path: torch.save([1, 2], path), 'does not hold the weights of'),
    (lambda path: torch.save(small(), path), 'does not load as plain weights'),
    (lambda path: torch.save({1: torch.zeros(1), None: 2}, path), 'does not hold the weights of'),
    (unpacking_to_much, r'has \d+ bytes and unpacks to \d+: torch.save packs nothing'),
    (lambda path: path.write_bytes(b''), 'weights.pt: it is empty'),
    (os.mkfifo, 'weights.pt: it is no regular file'),
    (lambda path: path.symlink_to('/dev/zero'), 'weights.pt: it is no regular file'),
    (lambda path: path.write_bytes(b'not weights at all'), 'does not load as plain weights'),
    (lambda path: None, 'can not read .*weights.pt: No such file'),
])
def test_weights_that_do_not_fit_are_refused_in_one_line(file, tmp_path, write, said):
    path = tmp_path / 'weights.pt'
    write(path)
    with pytest.raises(ModelError, match=said) as error:
        load_model(f'{file}:small', str(path))
    assert '\n' not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize('part', [0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(file, tmp_path, weights, part):
    data = weights.read_bytes()
    weights.write_bytes(data[:int(len(data) * part)])
    with pytest.raises(ModelError, match='does not load as plain weights'):
        load_model(f'{file}:small', str(weights))
    name = exported(tmp_path / 'net.pt2', small(), torch.rand(1, 3, 8, 6))
    data = (tmp_path / 'net.pt2').read_bytes()
    (tmp_path / 'net.pt2').write_bytes(data[:int(len(data) * part)])
    with pytest.raises(ModelError, match='is not a program saved by torch.export.save'):
        load_model(name)


# Names that mean nothing

@pytest.mark.parametrize('name, said', [
    ('resnet18', "model 'resnet18' is not of a known form: expected torchvision:NAME"),
    ('', "model '' is not of a known form"),
    ('torchvision:resnet19', "torchvision has no model 'resnet19'; the nearest names .* resnet1"),
    ('torchvision:', "torchvision has no model ''"),
    ('torchvision:resnet18.head', "torchvision:resnet18 has no part 'head'; it has conv1, bn1"),
    ('no.such.module:net', 'there is no module no.such.module to import: expected torchvision'),
    ('.relative:net', "'.relative' is not the name of a module"),
    (':net', "'' is not the name of a module"),
    ('torch.nn:NoSuchThing', "torch.nn has no 'NoSuchThing': expected a function that returns"),
    ('nothing/here.py:net', 'there is no file nothing/here.py'),
    ('nothing/here.pt2', 'there is no file nothing/here.pt2'),
    ('{file}:missing', "has no 'missing'"),
    ('{file}:', "has no ''"),
    ('{file}:none', 'gave a NoneType, expected a torch.nn.Module'),
    ('{file}:number', "failed with TypeError: 'int' object is not callable"),
    ('{file}:breaks', r'failed with RuntimeError: no such checkpoint \(.*nets.py, line 19\)'),
    ('{file}:leaves', 'failed with SystemExit: 3'),
    ('{file}:closes', 'failed with GeneratorExit: '),
    ('{file}:ends', 'failed with Bare: of its own'),
    ('{file}:interrupts', 'failed with Like: '),
    ('{file}:unspeakable', 'failed with Unspeakable: <Unspeakable>'),
    ('{file}:Stubborn', 'failed with SystemExit: always'),
    ('{file}:lazy', r'has weights that are made at the first call \(0.weight\): let its factory'),
    ('{file}:fixed', 'can not compute in torch.float32: RuntimeError: only float16'),
    ('torchvision:resnet18.forward', "torchvision:resnet18 has no part 'forward'; it has conv1"),
    ('torchvision:resnet18.layer1.training', "has no part 'training'; it has 0, 1"),
])
def test_a_name_that_means_no_model_is_refused_in_one_line(file, name, said):
    with pytest.raises(ModelError, match=said) as error:
        load_model(name.format(file=file))
    assert '\n' not in str(error.value) and len(str(error.value)) < 400


def test_ctrl_c_in_a_factory_is_one(file):
    with pytest.raises(KeyboardInterrupt):
        load_model(f'{file}:interrupted')


def test_a_file_that_is_no_python_is_refused(tmp_path):
    (tmp_path / 'nets.py').write_text('def small(:\n')
    with pytest.raises(ModelError, match='failed with SyntaxError: .*nets.py, line 1'):
        load_model(f'{tmp_path}/nets.py:small')
