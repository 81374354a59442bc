# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace
import math
import threading

import pytest
import torch
from torch import nn

from hp_inference.graph.capture import as_image_model, capture
from hp_inference.graph.layout import Layout
from hp_inference.graph.models import in_float64, load_model
from hp_inference.graph.state import example_images, Snapshot
from hp_inference.link.transport import ChunkIO
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import (
    ask,
    judge,
    reference,
    relative_error,
    showing,
    TOLERANCE,
    Unsplit,
    worst_error,
)
from hp_inference.split.plan import make_plan
from hp_inference.split.program import compile_plan

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(('got', 'wanted', 'error'), [
    ([1.0, -4.0], [1.0, -4.0], 0.0),
    ([1.0, -3.0], [1.0, -4.0], 0.25),  # of the largest number, not of each
    ([0.0, 0.0], [0.0, 0.0], 0.0),
    ([0.0, 1e-30], [0.0, 0.0], INF),
    ([NAN, 2.0], [NAN, 2.0], 0.0),
    ([NAN, 2.0], [1.0, 2.0], INF),
    ([1.0, 2.0], [NAN, 2.0], INF),
    ([INF, -INF, 3.0], [INF, -INF, 4.0], 0.25),
    ([INF, 1.0], [-INF, 1.0], INF),
    ([1e30, 1.0], [INF, 1.0], INF),
    ([NAN], [NAN], 0.0),
    ([], [], 0.0),
    ([1.0], [1.0, 1.0], INF),
])
def test_error_of_floats_is_relative_to_the_largest_wanted_number(got, wanted, error):
    assert relative_error(torch.tensor(got), torch.tensor(wanted)) == error


def test_error_of_integers_is_the_fraction_that_differs():
    wanted = torch.tensor([[0, 7], [200, 3]])
    assert relative_error(wanted.clone(), wanted) == 0
    assert relative_error(torch.tensor([[0, 7], [201, 3]]), wanted) == 0.25
    assert relative_error(torch.tensor([True, False]), torch.tensor([True, True])) == 0.5


def test_another_type_is_not_the_same_answer():
    assert relative_error(torch.ones(2), torch.ones(2, dtype=torch.float64)) == INF
    assert relative_error(torch.ones(2, dtype=torch.int64), torch.ones(2)) == INF


def test_worst_error_is_that_of_the_worst_output_and_infinite_for_other_names():
    ones = torch.ones(3)
    assert worst_error({'a': ones, 'b': ones * 0.5}, {'a': ones, 'b': ones}) == 0.5
    assert worst_error({'a': ones}, {'a': ones, 'b': ones}) == INF
    assert worst_error({'a': ones, 'b': ones}, {'a': ones}) == INF


class Several(torch.nn.Module):
    def forward(self, x):
        return {'mask': x.argmax(1), 'aux': (x * 2, None, [x + 1])}


def test_reference_names_the_outputs_as_the_graph_does():
    model = as_image_model(Several(), (1, 3, 4, 5))
    image = torch.randint(0, 256, (1, 3, 4, 5), dtype=torch.uint8)
    wanted = reference(model, image)
    assert set(wanted) == {'mask', 'aux.0', 'aux.2.0'} == set(
        capture(model, (1, 3, 4, 5), 'several').outputs)
    x = wanted['aux.2.0'] - 1
    assert torch.equal(wanted['mask'], x.argmax(1))
    assert torch.allclose(wanted['aux.0'], x * 2)


# The bound

SHAPE = (1, 3, 24, 20)


def unsplit(answer, exact=None, error=None, dtype=torch.float32):
    """Return an unsplit answer, with its error from an exact one."""
    exact = None if exact is None else {'y': exact}
    errors = {} if error is None else {'y': error}
    return Unsplit(torch.zeros(SHAPE), {'y': answer}, dtype, exact, errors)


ONES = torch.ones(4)


@pytest.mark.parametrize('off, error, ok', [
    (0.9e-5, 0.0, True), (1.1e-5, 0.0, False),  # the floor
    (3.9e-5, 2e-5, True), (4.1e-5, 2e-5, False),  # twice what the unsplit model is off
    (1.1e-5, 0.4e-5, False), (0.99e-5, 0.4e-5, True)])
def test_a_split_may_be_twice_as_far_from_the_float64_answer_as_the_unsplit_model(off, error, ok):
    exact = ONES.double()
    found = judge({'y': (exact * (1 + off)).float()}, unsplit(ONES, exact, error))
    assert found.ok is ok
    assert found.worst_relative_error == pytest.approx(off, rel=0.05)
    assert (found.reference_error, found.tolerance) == (error, max(2 * error, 1e-5))


@pytest.mark.parametrize('dtype, units', [(torch.bfloat16, 2 ** -7), (torch.float16, 2 ** -10)])
def test_half_precision_may_be_four_units_in_the_last_place_off(dtype, units):
    assert TOLERANCE[dtype] == 4 * units
    for times, ok in ((3.5, True), (4.5, False)):
        got = {'y': (ONES.double() * (1 - times * units)).to(dtype)}
        found = judge(got, unsplit(ONES.to(dtype), ONES.double(), 0.0, dtype))
        assert found.ok is (found.worst_relative_error <= 4 * units) is ok


def test_without_a_float64_answer_the_fixed_bound_to_the_unsplit_answer_holds():
    for off, ok in ((0.9e-5, True), (1.1e-5, False)):
        found = judge({'y': ONES * (1 + off)}, unsplit(ONES))
        assert (found.ok, found.reference_error, found.tolerance) == (ok, None, 1e-5)
    for off, ok in ((0.9e-12, True), (1.1e-12, False)):
        double = ONES.double()
        assert judge({'y': double * (1 + off)}, unsplit(double, dtype=torch.float64)).ok is ok


@pytest.mark.parametrize('got', [
    {'y': ONES.double()}, {'y': torch.ones(5)}, {'z': ONES}, {}, {'y': ONES, 'z': ONES},
    {'y': ONES * NAN}])
def test_another_type_shape_or_name_is_wrong_whatever_the_bound(got):
    found = judge(got, unsplit(ONES, ONES.double(), 0.3))
    assert not found.ok and found.worst_relative_error == INF and found.tolerance == 1e-5


def test_the_output_that_is_worst_of_what_it_may_be_is_told():
    wanted = Unsplit(torch.zeros(SHAPE), {'a': ONES, 'b': ONES}, torch.float32,
                     {'a': ONES.double(), 'b': ONES.double()}, {'a': 1e-4, 'b': 1e-7})
    found = judge({'a': ONES * (1 + 1.5e-4), 'b': ONES * (1 + 2e-5)}, wanted)
    assert not found.ok and (found.reference_error, found.tolerance) == (1e-7, 1e-5)


class Cancels(nn.Module):
    """Its answer is the small difference of large numbers: float32 has five places of it left."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return (y + 300) * (y + 300) - 600 * y - 90000


def opened(module, images=2):
    model = as_image_model(module.eval(), SHAPE)
    layout = Layout(capture(model, SHAPE, 'net'))
    images = example_images(SHAPE)[:images]
    programs = compile_plan(layout, make_plan('robot_only', layout))
    return model, layout, ask(model, images, lambda image: run_both(
        layout, programs, image).outputs)


def test_rounding_of_the_model_itself_is_no_error_of_the_split():
    model, layout, asked = opened(Cancels())
    before = Snapshot.of(model)
    assert asked[0].errors['output'] > 1e-5
    for plan in ('uniform:0.5', 'random:0'):
        frame = run_both(layout, compile_plan(layout, make_plan(plan, layout)), asked[0].image)
        assert judge(frame.outputs, asked[0]).ok
    assert before.changed(Snapshot.of(model)) == ''
    wide = in_float64(model)
    assert {tensor.dtype for tensor in wide.parameters()} == {torch.float64}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
                         nn.Conv2d(6, 6, 5, padding=2), nn.SiLU(), nn.Conv2d(6, 4, 3, 2, 1),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def test_one_wrong_row_of_a_halo_is_still_found(monkeypatch):
    _, layout, asked = opened(net())
    real, damaged = ChunkIO.receive, []

    def receive(io, spec):
        rows = real(io, spec).clone()
        if spec.value_id == target and spec.value_id and spec.axis is not None:
            damaged.append(spec.value_id)
            rows.select(spec.axis, 0).copy_(rows.select(spec.axis, -1) * 0.9)
        return rows
    monkeypatch.setattr(ChunkIO, 'receive', receive)
    programs = compile_plan(layout, make_plan('uniform:0.5', layout))
    for target in range(len(layout.rows)):
        count = len(damaged)
        frame = run_both(layout, programs, asked[0].image)
        assert judge(frame.outputs, asked[0]).ok is (len(damaged) == count), target
    assert len(set(damaged)) >= 2


def test_a_rule_that_takes_the_wrong_row_is_still_found():
    _, layout, asked = opened(net())
    programs = compile_plan(layout, make_plan('uniform:0.5', layout))
    wrong = 0
    for value, rule in enumerate(layout.rules):
        if rule is None or rule.axis is None or 'conv' not in layout.graph.ops[value - 1].target:
            continue

        def block(a, b, rule=rule, rows=layout.rows[value]):
            made = rule.block(a, b)
            if (a, b) == (0, rows):
                return made

            def run(*tensors):
                right = made.run(*tensors)
                right.select(rule.axis, 0).copy_(right.select(rule.axis, -1))
                return right
            return replace(made, run=run, out=None)
        layout.rules[value] = replace(rule, block=block)
        assert not judge(run_both(layout, programs, asked[0].image).outputs, asked[0]).ok
        layout.rules[value], wrong = rule, wrong + 1
    assert wrong == 3
    assert judge(run_both(layout, programs, asked[0].image).outputs, asked[0]).ok


def test_a_program_that_is_wrong_does_not_widen_the_bound():
    model, _, asked = opened(net())
    image = asked[0].image
    honest = ask(model, [image])[0]
    wrong = ask(model, [image], lambda image: {'output': honest.answer['output'] * 1.01})[0]
    assert wrong.errors == honest.errors
    assert not judge({'output': honest.answer['output'] * 1.01}, wrong).ok


class Only32(nn.Module):
    def forward(self, x):
        return x @ torch.ones(x.shape[3], 4)


class Uncopied(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 1)
        self.lock = threading.Lock()


@pytest.mark.parametrize('module', [Only32, Uncopied])
def test_a_model_that_does_not_run_in_float64_is_held_to_the_fixed_bound_and_says_so(module):
    model = as_image_model(module().eval(), SHAPE)
    asked = ask(model, example_images(SHAPE)[:1])[0]
    assert asked.exact is None and asked.note.startswith('the model does not run in float64: ')
    assert judge(asked.answer, asked).ok and judge(asked.answer, asked).reference_error is None


def test_an_answer_in_float64_needs_no_other():
    model = as_image_model(net().double(), SHAPE)
    asked = ask(model, example_images(SHAPE)[:1])[0]
    assert (asked.exact, asked.note, asked.tolerance('output')) == (None, '', 1e-12)


# What can show

@pytest.mark.parametrize('other, shows', [
    ([1.0, 2.0], False), ([1.0, 2.0 + 1e-5], False), ([1.0, 2.001], True), ([NAN, 2.0], False),
    ([NAN, NAN], False), ([INF, 3.0], True), ([0.0, 0.0], True)])
def test_an_error_can_show_where_answers_differ_by_more_than_rounding(other, shows):
    asked = [unsplit(torch.tensor([1.0, 2.0])), unsplit(torch.tensor(other))]
    assert showing(asked) == (['y'] if shows else [])


def test_nothing_shows_in_one_answer_in_zeros_and_where_rounding_is_all():
    assert showing([unsplit(ONES)]) == []
    assert showing([unsplit(ONES * 0), unsplit(ONES * 0)]) == []
    assert showing([unsplit(ONES, ONES.double(), 0.04), unsplit(ONES * 1.1)]) == []


# Real networks

def _ssdlite():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).backbone


def _fcos():
    from torchvision.models.detection import fcos_resnet50_fpn
    whole = fcos_resnet50_fpn(weights=None, weights_backbone=None)

    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = whole.backbone, whole.head

        def forward(self, x):
            return self.head(list(self.backbone(x).values()))
    return Heads()


def _efficientnet():
    from torchvision.models import efficientnet_v2_s
    return efficientnet_v2_s(weights=None)


@pytest.mark.long
@pytest.mark.parametrize('make, size', [(_efficientnet, 128), (_ssdlite, 320), (_fcos, 128)])
def test_networks_that_round_by_more_than_a_fixed_bound_are_right(make, size):
    from hp_inference.graph.draw import draw_weights
    load_model('torchvision:squeezenet1_1')  # imports torchvision, where it needs help
    module = make().eval()
    draw_weights(module, 0)
    shape = (1, 3, size, size)
    model = as_image_model(module, shape)
    layout = Layout(capture(model, shape, 'net'))
    alone = compile_plan(layout, make_plan('robot_only', layout))
    asked = ask(model, example_images(shape)[:2], lambda image: run_both(
        layout, alone, image).outputs)
    assert showing(asked) == list(asked[0].answer)
    for number, plan in enumerate(('robot_only', 'uniform:0.5', 'random:0', 'random:1')):
        wanted = asked[number % 2]
        frame = run_both(layout, compile_plan(layout, make_plan(plan, layout)), wanted.image)
        found = judge(frame.outputs, wanted)
        assert found.ok, (plan, found)
