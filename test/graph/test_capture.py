# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch module to a graph: what it holds, what its digest covers, what is refused."""

import functools
import subprocess
import sys

from nets import whole
import pytest
import torch
from torch import nn
import torch.nn.functional as F

from hp_inference.graph.capture import as_image_model, capture, CaptureError, Preprocessing
from hp_inference.runtime.reference import reference

SHAPE = (1, 3, 10, 8)
NORMALISATION = ['_to_copy.default', 'mul.Tensor', 'add.Tensor']


class Function(nn.Module):
    """A function of the image and of weights, as a module in float64."""

    def __init__(self, function, **weights):
        super().__init__()
        self.function = function
        self.unit = nn.Parameter(torch.ones(()))
        for name, weight in weights.items():
            if isinstance(weight, torch.Tensor):
                self.register_buffer(name, weight)
            else:
                setattr(self, name, weight)
        self.double()

    def forward(self, x):
        return self.function(self, x)


def function(body, **weights):
    torch.manual_seed(0)
    return Function(body, **weights)


def image(shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def captured(module, shape=SHAPE, pre=None, fold=True):
    """Return the graph of a module, checked against what the module says of an image."""
    model = as_image_model(module, shape, pre)
    wanted = reference(model, image(shape))
    graph = capture(model, shape, 'net', fold)
    got = whole(graph, image(shape))
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert got[name].shape == tensor.shape and got[name].dtype == tensor.dtype
        scale = tensor.double().abs().max()
        assert scale > 0, 'an answer of zeros proves nothing'
        assert (got[name].double() - tensor.double()).abs().max() <= 1e-12 * scale
    return graph


def ops(graph, skip=len(NORMALISATION)):
    """Return the operators behind the normalisation."""
    names = [op.target.split('.', 1)[1] for op in graph.ops]
    assert skip == 0 or names[:skip] == NORMALISATION
    return names[skip:]


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).double()


# What the graph holds

def test_the_input_is_the_uint8_image():
    graph = captured(function(lambda m, x: x.exp()))
    assert (graph.input.dtype, graph.input.shape) == ('uint8', SHAPE)
    assert graph.ops[0].target == 'aten._to_copy.default' and graph.ops[0].refs == (0,)


@pytest.mark.parametrize('channels, pre', [
    (3, Preprocessing((0.5, 0.25, 0.125), (0.5, 2.0, 0.3))), (3, None), (1, None), (4, None),
    (2, Preprocessing((10.0, -1.0), (-3.0, 100.0)))])
def test_normalisation_comes_first_and_is_pixels_by_255_less_mean_by_deviation(channels, pre):
    shape = (1, channels, 6, 5)
    graph = captured(function(lambda m, x: x.contiguous()), shape, pre)
    assert ops(graph) == [] and graph.outputs == {'output': 3}
    used = pre or Preprocessing.default(channels)
    mean, std = (torch.tensor(part, dtype=torch.float64).reshape(1, -1, 1, 1)
                 for part in (used.mean, used.std))
    wanted = (image(shape).double() / 255 - mean) / std
    got = whole(graph, image(shape))['output']
    assert (got - wanted).abs().max() <= 1e-15 * wanted.abs().max() * 10


@pytest.mark.long  # what comes before the first operator is tested above
@pytest.mark.parametrize('channels', [1, 4])
def test_models_of_gray_and_of_four_channels(channels):
    torch.manual_seed(0)
    graph = captured(nn.Conv2d(channels, 2, 3).double(), (1, channels, 9, 7))
    assert ops(graph) == ['conv2d.default'] and graph.input.shape == (1, channels, 9, 7)


def test_default_normalisation_is_imagenets_for_colour_and_none_otherwise():
    assert Preprocessing.default(3) == Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert Preprocessing.default(1) == Preprocessing((0.0,), (1.0,))
    assert Preprocessing.default(4) == Preprocessing((0.0,) * 4, (1.0,) * 4)


@pytest.mark.parametrize('dtype', [
    torch.float32, pytest.param(torch.float64, marks=pytest.mark.long)])
def test_the_graph_computes_in_the_models_float_type(dtype):
    model = as_image_model(small().to(dtype), SHAPE)
    graph = capture(model, SHAPE, 'net')
    assert {value.dtype for value in graph.values[1:]} == {str(dtype)[6:]}
    assert {tensor.dtype for tensor in graph.constants.values()} == {dtype}


def test_a_module_without_weights_computes_in_the_type_that_it_is_given():
    for dtype in (torch.float32, torch.float64):
        model = as_image_model(nn.ReLU(), SHAPE, None, dtype)
        assert capture(model, SHAPE, 'net').values[-1].dtype == str(dtype)[6:]


def test_names_are_those_of_the_modules():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 2, 1)))
    graph = captured(model.double())
    assert [value.name for value in graph.values[4:]] == ['0', '1.0', '1.1']


def test_four_dimensional_weights_are_channels_last():
    graph = captured(small())
    weights = [tensor for tensor in graph.constants.values() if tensor.dim() == 4]
    assert weights and all(tensor.is_contiguous(memory_format=torch.channels_last)
                           for tensor in weights)


def test_dropout_and_what_returns_its_argument_is_gone():
    module = nn.Sequential(nn.Dropout(0.5), nn.Identity(), nn.Dropout2d(), nn.AlphaDropout(),
                           Function(lambda m, x: x.clone().contiguous().detach()), nn.ReLU(),
                           Function(lambda m, x: F.dropout(x, 0.3, training=m.training)))
    assert ops(captured(module.double())) == ['relu.default']


def test_what_does_not_depend_on_the_image_is_computed_once():
    def body(m, x):
        rows = torch.arange(x.shape[2], dtype=x.dtype)[:, None]
        mask = (rows % 3 == 0) | (torch.arange(x.shape[3]) > 5)
        scale = torch.softmax(m.logits, 0).reshape(1, 3, 1, 1)
        a, b = m.pair.chunk(2)
        return torch.where(mask, x, torch.zeros_like(x)) * scale + a * b + x.new_ones(3, 1, 1)
    weights = {'logits': torch.tensor([1., 2., 3.]), 'pair': torch.randn(2, 8)}
    graph = captured(function(body, **weights))
    assert ops(graph) == ['where.self', 'mul.Tensor', 'add.Tensor', 'add.Tensor']


def test_views_and_pieces_become_plain_operators():
    def body(m, x):
        a, b, c = x.split([1, 1, 1], 1)
        d, e = x.chunk(2, 2)
        first = x.unbind(3)[0]
        return a.view(1, 10, 8), b.expand_as(x), c * d[:, :, :1], e, first
    graph = captured(function(body))
    assert ops(graph) == ['slice.Tensor'] * 5 + [
        'select.int', 'reshape.default', 'expand.default', 'slice.Tensor', 'mul.Tensor']
    values = {name: graph.values[value].shape for name, value in graph.outputs.items()}
    assert list(values.values()) == [
        (1, 10, 8), (1, 3, 10, 8), (1, 3, 10, 8), (1, 3, 5, 8), (1, 3, 10)]


# Outputs

def test_outputs_are_named_by_their_place_in_what_the_model_returns():
    def body(m, x):
        return {'out': x.relu(), 'more': [x.sigmoid(), (x.tanh(), {'deep': x.exp()})]}
    graph = captured(function(body))
    assert list(graph.outputs) == ['out', 'more.0', 'more.1.0', 'more.1.1.deep']
    assert list(captured(function(lambda m, x: [x.relu()])).outputs) == ['0']
    assert list(captured(function(lambda m, x: x.relu())).outputs) == ['output']


def test_the_input_can_be_returned_as_it_is():
    graph = captured(function(lambda m, x: (x, x.relu())))
    assert ops(graph) == ['relu.default'] and list(graph.outputs.items()) == [('0', 3), ('1', 4)]


def test_one_tensor_can_be_two_outputs():
    def body(m, x):
        y = x.relu()
        return {'a': y, 'b': y, 'none': None}
    assert captured(function(body)).outputs == {'a': 4, 'b': 4}


@pytest.mark.parametrize('body, said', [
    (lambda m, x: {'a': x, 'b': m.unit * 2}, "output 'b' of net does not depend on the image"),
    (lambda m, x: (x, 5), "output '1' of net does not depend on the image"),
    (lambda m, x: torch.ones(3), "output 'output' of net does not depend on the image"),
    (lambda m, x: None, 'net returns no tensor'),
    (lambda m, x: {'a': {'b': x}, 'a.b': x}, "net returns two outputs that are both named 'a.b'"),
    *((lambda m, x, label=label: {label: x}, 'net returns an output named .*: expected a name of '
       'at most 1000 characters that print')
      for label in ('\ud800', 'a\nb', '\x1b[31m', 'a' * 1001)),
])
def test_outputs_that_are_none(body, said):
    with pytest.raises(CaptureError, match=said):
        capture(as_image_model(function(body), SHAPE), SHAPE, 'net')


def test_a_generator_of_random_numbers_is_refused():
    def drawn(m, x):
        return x + torch.rand(1, generator=torch.Generator().manual_seed(0))
    with pytest.raises(CaptureError, match='net keeps a Generator .* which is no tensor'):
        capture(as_image_model(function(drawn), SHAPE), SHAPE, 'net')


# Batch norm and reductions: long, as rules/test_batch_norm.py and test_reductions.py say the same.

def batch_norm(channels):
    norm = nn.BatchNorm2d(channels)
    for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)
    return norm


@pytest.mark.long
def test_batch_norm_is_folded_into_the_convolution_before_it():
    torch.manual_seed(0)
    module = nn.Sequential(*(layer for bias in (False, True) for layer in (
        nn.Conv2d(3, 4, 3, 2, 2, bias=bias), batch_norm(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2, padding=1, bias=bias), batch_norm(6),
        nn.Conv2d(6, 3, 1)))).double()
    folded = ['conv2d.default', 'relu.default', 'conv2d.default', 'conv2d.default']
    assert ops(captured(module)) == folded * 2
    kept = ops(captured(module, fold=False))
    assert sum('batch_norm' in name for name in kept) == 4 and len(kept) == 2 * 6


@pytest.mark.long
def test_batch_norm_after_anything_else_stays():
    torch.manual_seed(0)
    parts = {'first': batch_norm(3), 'second': batch_norm(3), 'third': batch_norm(4),
             'up': nn.ConvTranspose2d(3, 4, 2)}
    graph = captured(function(
        lambda m, x: (m.first(x.relu()), m.second(x), m.third(m.up(x))), **parts))
    assert {graph.ops[value - 1].target for value in graph.outputs.values()} == {
        'aten.batch_norm.default'}


@pytest.mark.long
def test_batch_norm_stays_where_the_convolution_is_read_elsewhere_too():
    def body(m, x):
        y, z = m.conv(x), m.other(x)
        return m.norm(y) + y, m.norm(z), z
    parts = {'conv': nn.Conv2d(3, 4, 1), 'other': nn.Conv2d(3, 4, 1), 'norm': batch_norm(4)}
    assert ops(captured(function(body, **parts))) == ['conv2d.default'] * 2 + [
        'batch_norm.default', 'add.Tensor', 'batch_norm.default']


@pytest.mark.long
def test_a_convolution_that_is_used_twice_is_folded_with_each_of_its_norms():
    parts = {'conv': nn.Conv2d(3, 3, 3, padding=1), 'first': batch_norm(3), 'second': batch_norm(3)}
    graph = captured(function(lambda m, x: m.second(m.conv(m.first(m.conv(x)))), **parts))
    assert ops(graph) == ['conv2d.default', 'conv2d.default']


@pytest.mark.long
def test_batch_norm_without_weights_of_its_own():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, affine=False)
    norm.running_mean.normal_()
    graph = captured(nn.Sequential(nn.Conv2d(3, 4, 3), norm).double())
    assert ops(graph) == ['conv2d.default']


@pytest.mark.long
def test_squeeze_excite_reduces_in_two_steps():
    parts = {'conv': nn.Conv2d(3, 3, 1)}

    def body(m, x):
        return x * torch.sigmoid(m.conv(F.adaptive_avg_pool2d(x, 1)))
    graph = captured(function(body, **parts))
    assert ops(graph) == ['mean.dim', 'mean.dim', 'conv2d.default', 'sigmoid.default', 'mul.Tensor']
    assert [graph.values[op.output].shape for op in graph.ops[3:5]] == [(1, 3, 10, 1), (1, 3, 1, 1)]


# The digest

def digest(module, shape=SHAPE, pre=None):
    return capture(as_image_model(module, shape, pre), shape, 'net').digest


@functools.cache
def usual_digest():
    return digest(small())


def test_the_digest_is_the_same_at_every_capture():
    assert digest(small()) == usual_digest()


@pytest.mark.long
def test_the_digest_is_the_same_in_another_process():
    code = ('import test_capture as t, torch; '
            'print(t.capture(t.as_image_model(t.small(), t.SHAPE), t.SHAPE, "elsewhere").digest)')
    path = ':'.join(filter(None, sys.path))
    made = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                          env={'PYTHONHASHSEED': '1', 'PYTHONPATH': path})
    assert made.stdout.strip() == captured(small()).digest


def with_another(name):
    """Return the small net with the last bits of the last element of a weight changed."""
    changed = small()
    changed.state_dict()[name].view(-1)[-1] += 1e-12
    return changed


WEIGHTS = [name for name in small().state_dict() if not name.endswith('num_batches_tracked')]


@pytest.mark.parametrize('names', [
    pytest.param(['0.weight', '1.running_var'], id='a weight and a buffer'),
    pytest.param(WEIGHTS, id='each', marks=pytest.mark.long)])
def test_the_digest_changes_with_every_weight(names):
    digests = {usual_digest(), *(digest(with_another(name)) for name in names)}
    assert len(digests) == 1 + len(names)


def test_the_digest_changes_with_the_size_the_normalisation_and_the_type():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    digests = {
        usual_digest(), digest(small(), (1, 3, 11, 8)), digest(small(), (1, 3, 10, 9)),
        digest(small(), pre=Preprocessing(mean, (1., 1., 1.))),
        digest(small(), pre=Preprocessing((0., 0., 0.), std)), digest(small().float())}
    assert len(digests) == 6


def test_the_digest_does_not_change_with_weights_that_nothing_reads():
    def with_spare(number):
        torch.manual_seed(0)
        return function(lambda m, x: m.conv(x), conv=nn.Conv2d(3, 2, 3),
                        spare=torch.full((4,), number), other=nn.Linear(2, 2))
    graph = captured(with_spare(1.0))
    assert graph.digest == captured(with_spare(2.0)).digest
    assert not [name for name in graph.constants if 'spare' in name or 'other' in name]


def test_the_digest_is_of_the_weights_before_folding():
    # sqrt and exp may round differently on another machine; the weights are the same on both.
    def body(m, x):
        halves = (m.weight.exp() + 1).sqrt().reshape(2, 3, 1, 1).unbind(0)
        return x * halves[0] + halves[1]
    weight = torch.randn(6)
    first = captured(function(body, weight=weight)).digest
    assert first == digest(function(body, weight=weight))
    assert first != digest(function(body, weight=weight * (1 + 1e-6)))

    def swapped(m, x):
        halves = (m.weight.exp() + 1).sqrt().reshape(2, 3, 1, 1).unbind(0)
        return x * halves[1] + halves[0]

    def another(m, x):
        halves = (m.weight.sin() + 1).sqrt().reshape(2, 3, 1, 1).unbind(0)
        return x * halves[0] + halves[1]
    others = {digest(function(each, weight=weight)) for each in (swapped, another)}
    assert len({first, *others}) == 3


def test_rounding_in_folding_leaves_the_digest(monkeypatch):
    def body(m, x):
        return x * m.weight.exp()
    module = function(body, weight=torch.randn(8))
    usual = captured(module).digest
    exp = torch.ops.aten.exp.default
    monkeypatch.setattr('hp_inference.graph.capture.overload',
                        lambda target: lambda x: exp(x) * (1 + 1e-7))
    assert digest(module) == usual


# What is refused

class Branches(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('calls', torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Dims(nn.Module):
    def forward(self, x):
        return x[x > 0]


@pytest.mark.parametrize('module, said', [
    (Branches(), 'net can not be captured by torch.export for an image of 1,3,10,8'),
    (Dims(), 'the size of what aten.index.Tensor .* makes depends on the image'),
    (nn.Linear(5, 5), 'net can not be captured by torch.export .*: Expected size for first two'),
    (nn.Conv2d(1, 2, 3), 'expected input.* to have 1 channels, but got 3'),
    (Counts(), "net changes attribute 'calls' from frame to frame: a model whose answer depends"),
    (Function(lambda m, x: x + torch.rand_like(x)), 'draws random numbers'),
    (Function(lambda m, x: F.dropout(x, 0.5, training=True)), 'draws random numbers'),
])
def test_a_model_that_can_not_be_split_is_refused_in_one_line(module, said):
    with pytest.raises(CaptureError, match=said) as error:
        capture(as_image_model(module, SHAPE), SHAPE, 'net')
    assert '\n' not in str(error.value) and len(str(error.value)) < 600


class Ends(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class Bare(BaseException):
    pass


class Unspeakable(RuntimeError):
    def __str__(self):
        raise SystemExit(0)


@pytest.mark.parametrize('error', [SystemExit(0), GeneratorExit(), Bare('x'), Unspeakable()])
def test_a_forward_that_would_end_the_program_is_refused_in_one_line(error):
    with pytest.raises(CaptureError, match='net can not be captured by torch.export') as refused:
        capture(as_image_model(Ends(error), SHAPE), SHAPE, 'net')
    assert '\n' not in str(refused.value)


def test_weights_that_are_made_at_the_first_call_are_refused_by_name():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.LazyConv2d(2, 1))
    with pytest.raises(CaptureError, match='its part 1.weight makes its weights at the first call'):
        as_image_model(module, SHAPE)


def test_numbers_that_do_not_depend_on_the_image_are_computed_once():
    def body(m, x):
        sizes = torch.tensor([x.shape[2], x.shape[3]])
        torch._check_tensor_all(sizes > 0, lambda: 'sizes')
        return x * torch.tensor([2.0, 3.0], dtype=torch.float64).sum().item()
    graph = captured(function(body))
    assert ops(graph) == ['mul.Tensor'] and graph.ops[-1].args[1] == 5.0


@pytest.mark.parametrize('shape', [(3, 10, 8), (1, 3, 10), (2, 3, 10, 8), (1, 3, 0, 8), (), (1,)])
def test_a_shape_that_is_no_image_is_refused(shape):
    with pytest.raises(CaptureError, match=r'the input is \[.*\], expected 1,C,H,W: one image'):
        as_image_model(nn.ReLU(), shape)


@pytest.mark.parametrize('pre', [
    Preprocessing((0.5,), (0.5,)), Preprocessing((0.5,) * 3, (0.5,) * 2),
    Preprocessing((0.5,) * 3, (0.5, 0.0, 0.5)), Preprocessing((), ())])
def test_a_normalisation_that_does_not_fit_is_refused(pre):
    with pytest.raises(CaptureError, match='do not fit 3 channels: give one number per channel'):
        as_image_model(nn.ReLU(), SHAPE, pre)
