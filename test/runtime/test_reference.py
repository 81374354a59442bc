# SPDX-License-Identifier: Apache-2.0

import math

import pytest
import torch

from hp_inference.graph.capture import as_image_model, capture
from hp_inference.runtime.reference import reference, relative_error, worst_error

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
