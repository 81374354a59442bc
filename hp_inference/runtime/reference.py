# SPDX-License-Identifier: Apache-2.0
"""
The unsplit model's answer, how far another answer is from it, and how far it may be.

Two right answers in float32 differ by rounding, in some networks by more than any fixed bound. So a
split is measured by its distance from the float64 answer, as the unsplit model is, and may be twice
as far from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import math

import torch

from hp_inference.graph.capture import ImageModel, named_leaves
from hp_inference.graph.models import in_float64
from hp_inference.graph.quiet import tame
from hp_inference.text import line

Answer = Mapping[str, torch.Tensor]

#: The relative error at which an answer counts as the unsplit model's, whatever that one's own.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5,
             torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
             torch.float16: 4 * torch.finfo(torch.float16).eps}
#: How many times further from the float64 answer than the unsplit models a split may be.
SLACK = 2.0
# An unsplit Program that is more times further from it than the module is not rounding, but wrong.
_MOST_OF_PROGRAM = 4.0
#: The answers to two images must differ by this many tolerances, or no error could show in them.
SHOWS = 10.0


@dataclass(frozen=True)
class Unsplit:
    """
    What the unsplit model says of an image, and how far from the truth it is itself.

    answer: in the model's own float type ``dtype``. exact: the float64 answer; None where the model
    is in float64 itself, or can't be, and ``note`` then says why. errors: how far from the exact
    answer the unsplit models are at most, over all images that were asked together.
    """

    image: torch.Tensor
    answer: Answer
    dtype: torch.dtype
    exact: Answer | None
    errors: Mapping[str, float]
    note: str = ''

    def tolerance(self, name: str) -> float:
        """Return how far from the truth an output may be, of its largest number."""
        return max(SLACK * self.errors.get(name, 0.0), TOLERANCE[self.dtype])


@dataclass(frozen=True)
class Judgement:
    """
    Whether an answer is the unsplit model's, by the output that is worst of what it may be.

    worst_relative_error: its distance from the float64 answer; from the unsplit answer where there
    is none. reference_error: that of the unsplit models, None where there is no float64 answer.
    """

    ok: bool
    worst_relative_error: float
    reference_error: float | None
    tolerance: float

    @property
    def times(self) -> float:
        """The error in tolerances."""
        return self.worst_relative_error / self.tolerance


def reference(model: ImageModel, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    Return what the unsplit model says of an image, by the names of the graph's outputs.

    image: uint8 [1, C, H, W]. Raises what the model raises.
    """
    with torch.inference_mode(), tame():
        return {name: leaf for name, leaf in named_leaves(model(image))
                if isinstance(leaf, torch.Tensor)}


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """
    Return how far a tensor is from the wanted one.

    Floats: ``max|got - wanted| / max|wanted|`` over the finite elements; integers: the fraction of
    elements that differ. Infinity where the shapes or types differ, and where an element that is
    NaN or infinite in one is not the same in the other.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return math.inf
    if wanted.numel() == 0:
        return 0.0
    got, wanted = got.cpu(), wanted.cpu()
    if not wanted.is_floating_point():
        return (got != wanted).double().mean().item()
    got, wanted = got.double(), wanted.double()
    finite = wanted.isfinite()
    same = (got == wanted) | (got.isnan() & wanted.isnan())
    if not (same | (finite & got.isfinite())).all():
        return math.inf
    error = (got - wanted)[finite].abs().max().item() if finite.any() else 0.0
    scale = wanted[finite].abs().max().item() if finite.any() else 0.0
    return error / scale if scale else (math.inf if error else 0.0)


def worst_error(got: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> float:
    """Return the largest relative error of the outputs; infinity when their names differ."""
    if got.keys() != wanted.keys():
        return math.inf
    return max((relative_error(got[name], wanted[name]) for name in wanted), default=0.0)


def ask(model: ImageModel, images: Sequence[torch.Tensor],
        program: Callable[[torch.Tensor], Answer] | None = None,
        dtype: torch.dtype | None = None) -> list[Unsplit]:
    """
    Return what the unsplit model says of each image, with what is needed to judge other answers.

    program: the unsplit model as the sides run it; its rounding counts as the module's does. dtype:
    the model's float type, by default that of its weights. Raises what the model raises; where only
    its copy in float64 fails, the fixed bound holds.
    """
    answers = [reference(model, image) for image in images]
    dtype = dtype or next((tensor.dtype for tensor in (*model.parameters(), *model.buffers())
                           if tensor.is_floating_point()), torch.float32)
    if dtype is torch.float64:
        return [Unsplit(image, answer, dtype, None, {}) for image, answer in zip(images, answers)]
    try:
        copy = in_float64(model)
        exact = [reference(copy, image) for image in images]
        del copy
    except Exception as error:  # a user's code may raise anything
        note = f'the model does not run in float64: {type(error).__name__}: {line(error, 200)}'
        return [Unsplit(image, answer, dtype, None, {}, note)
                for image, answer in zip(images, answers)]
    errors = _worst(answers, exact)
    if program is not None:
        for name, own in _worst([program(image) for image in images], exact).items():
            if name in errors and own <= _MOST_OF_PROGRAM * errors[name]:
                errors[name] = max(errors[name], own)
    return [Unsplit(image, answer, dtype, truth, errors)
            for image, answer, truth in zip(images, answers, exact)]


def judge(got: Answer, unsplit: Unsplit) -> Judgement:
    """Return whether an answer is right, as Judgement has it; names and shapes count too."""
    tolerance = TOLERANCE[unsplit.dtype]
    if got.keys() != unsplit.answer.keys():
        return Judgement(False, math.inf, None, tolerance)
    judged = [_judged(got[name], name, unsplit) for name in got]
    return max(judged, key=lambda each: each.times, default=Judgement(True, 0.0, None, tolerance))


def _judged(got: torch.Tensor, name: str, unsplit: Unsplit) -> Judgement:
    plain = relative_error(got, unsplit.answer[name])
    own = unsplit.errors.get(name)
    if own is None or plain == math.inf:
        tolerance = TOLERANCE[unsplit.dtype]
        return Judgement(plain <= tolerance, plain, None, tolerance)
    error, tolerance = _from_exact(got, unsplit.exact[name]), unsplit.tolerance(name)
    return Judgement(error <= tolerance, error, own, tolerance)


def _from_exact(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the relative error of a tensor of any float type."""
    return relative_error(got.double() if got.is_floating_point() else got,
                          exact.double() if exact.is_floating_point() else exact)


def _worst(answers: Sequence[Answer], exact: Sequence[Answer]) -> dict[str, float]:
    """Return how far answers are from the exact ones at most; not of what can't be compared."""
    errors = {}
    for name in answers[0]:
        own = [_from_exact(answer[name], truth[name]) if name in answer and name in truth
               else math.inf for answer, truth in zip(answers, exact)]
        if max(own) < math.inf:
            errors[name] = max(own)
    return errors


def showing(asked: Sequence[Unsplit]) -> list[str]:
    """
    Return the outputs in which an error could show: that depend on the image by more than rounding.

    An output that says the same of all images would say it of wrong rows, too.
    """
    first = asked[0]
    return [name for name in first.answer
            if any(_difference(other.answer[name], first.answer[name])
                   > SHOWS * first.tolerance(name) for other in asked[1:])]


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far two answers are apart, of the largest number, where both are numbers."""
    if one.shape != other.shape:
        return math.inf
    if not other.is_floating_point():
        return relative_error(one, other)
    one, other = one.double(), other.double()
    both = one.isfinite() & other.isfinite()
    if not both.any():
        return 0.0
    scale = max(one[both].abs().max().item(), other[both].abs().max().item())
    return (one - other)[both].abs().max().item() / scale if scale else 0.0
