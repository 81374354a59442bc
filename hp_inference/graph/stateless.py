# SPDX-License-Identifier: Apache-2.0
"""Holds a model, and what was captured of it, to this: its answer depends on the image alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hp_inference.graph.errors import CaptureError, first_line
from hp_inference.graph.ir import Graph
from hp_inference.graph.quiet import tame
from hp_inference.graph.state import (
    distance,
    named_leaves,
    rounding,
    run,
    run_whole,
    Snapshot,
    twin,
)
from hp_inference.text import line

# How far, of its largest number, an answer may be from what was captured: state is no rounding.
_APART = 1e-3


def copied(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """Return a copy of a model that shares its weights; raises CaptureError."""
    try:
        with tame():
            return twin(model)
    except Exception as error:  # a user's class may forbid it in many ways
        raise CaptureError(f'{name} can not be copied, which capturing needs so as to leave it as '
                           f'it is: {first_line(error)}. Give its factory a module that '
                           'copy.deepcopy takes') from error


def ask_in_a_row(model: torch.nn.Module, name: str, images: Sequence[torch.Tensor]) -> list[dict]:
    """
    Return what a copy of the model says of the second image, the third, and the second again.

    Raises CaptureError for what changes in it after the first call, which may fill caches.
    """
    asked, answers, before = copied(model, name), [], None
    for place in (1, 2, 1):
        answers.append({label: leaf.clone() for label, leaf in named_leaves(
            run(asked, images[place])) if isinstance(leaf, torch.Tensor)})
        now = Snapshot.of(asked)
        changed = before.changed(now) if before else ''
        if changed:
            raise stateful(name, [changed])
        before = now
    return answers


def stateful(name: str, places: Sequence[str]) -> CaptureError:
    """Return the refusal of a model that keeps something at these places."""
    named = ', '.join(repr(line(place.removeprefix('module.'), 200)) for place in places)
    return CaptureError(f'{name} changes attribute {named} from frame to frame: a model whose '
                        'answer depends on earlier images can not be split; take what it keeps '
                        'out of the model')


def check_capture(graph: Graph, name: str, images: Sequence[torch.Tensor],
                  answers: list[dict]) -> None:
    """Hold the captured graph to the model's answers, and those to one image to each other."""
    for label, first in answers[0].items():
        if distance(answers[2][label], first) > rounding(first):
            raise CaptureError(
                f'output {label!r} of {name} is another one when the same image comes again, by '
                f'{distance(answers[2][label], first):.3g} of its largest number: only a model '
                'whose answer depends on the image alone can be split')
    for image, answer in zip(images, answers):
        try:
            got = run_whole(graph, image)
        except Exception as error:  # operators raise many types
            raise CaptureError(f'{name} was captured, but its operators do not run: '
                               f'{first_line(error)}') from error
        for label, tensor in got.items():
            wanted = answer.get(label)
            if wanted is None or wanted.shape != tensor.shape or distance(
                    tensor, wanted) > max(_APART, 2 * rounding(wanted)):
                raise CaptureError(
                    f'output {label!r} of {name} is not what was captured: it depends on something '
                    'besides the image, on an earlier image or on what is kept outside of the '
                    'model; only a model whose answer depends on the image alone can be split')
