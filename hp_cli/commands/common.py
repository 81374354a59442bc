# SPDX-License-Identifier: Apache-2.0
"""What the subcommands share: the model, the plan and the image that the command line names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
import os
from pathlib import Path

import torch

from hp_cli.commands import UserError
from hp_inference import files
from hp_inference.graph.capture import ImageModel
from hp_inference.graph.layout import Layout
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.runtime import pixels
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import ask, Judgement, reference, Unsplit
from hp_inference.split.plan import make_plan, Plan
from hp_inference.split.program import compile_plan
from hp_inference.split.source import read_plans
from hp_inference.text import line

MAX_IMAGE_BYTES = 64 << 20


@dataclass(frozen=True)
class Subject:
    """The model that a command is about: unsplit, as a graph with its layout, and in words."""

    model: ImageModel
    layout: Layout
    title: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the image, (1, C, H, W)."""
        return self.layout.graph.input.shape

    def ask(self, images: Sequence[torch.Tensor], dtype: torch.dtype,
            lossy: bool = False) -> list[Unsplit]:
        """
        Return the unsplit answers and what is needed to judge others by; UserError when it fails.

        lossy: what is lost is not judged, so that the float64 answer is not needed.
        """
        programs = compile_plan(self.layout, make_plan('robot_only', self.layout))
        try:
            if lossy:
                return [Unsplit(image, reference(self.model, image), dtype, None, {})
                        for image in images]
            return ask(self.model, images, lambda image: run_both(
                self.layout, programs, image).outputs, dtype)
        except Exception as error:  # the user's code may raise anything
            raise UserError(f'{self.layout.graph.model} itself fails on the image: '
                            f'{type(error).__name__}: {line(error)}') from error


def open_subject(args, dtype: torch.dtype = torch.float32) -> Subject:
    """Return the model that the arguments name, captured; raises ModelError, CaptureError."""
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    model, layout = open_model(ModelSpec(args.model, args.input, args.weights, args.weights_seed,
                                         args.mean, args.std, dtype))
    graph = layout.graph
    title = (f'{graph.model}  input {",".join(map(str, graph.input.shape))}  '
             f'{str(dtype).removeprefix("torch.")}  digest {graph.digest[:12]}\n'
             f'weights: {_weights(args)}')
    return Subject(model, layout, title)


def _weights(args) -> str:
    """Return where the weights come from."""
    if args.weights:
        return args.weights
    if args.model.endswith('.pt2'):
        return args.model
    drawn = f'seed {args.weights_seed}; trained ones: --weights FILE'
    if args.model.startswith('torchvision:'):
        return f'random ({drawn})'
    return f'what the factory gives, random unless it loads some ({drawn})'


def open_plan(args, layout: Layout) -> Plan:
    """
    Return the plan that the arguments name: one made by name, or one from a plan or table file.

    Raises PlanError, and UserError for a plan that is not there.
    """
    plans = read_plans(args.plan, layout)
    if args.index >= len(plans):
        raise UserError(f'--index {args.index}: {args.plan} is {len(plans)} plan(s), expected '
                        f'0 to {len(plans) - 1}')
    return plans[args.index]


def open_image(path: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return an image file as a model's input, uint8 ``shape``; raises FileError, BadImage."""
    _, channels, height, width = shape
    return pixels.fit(pixels.decode(files.read(path, MAX_IMAGE_BYTES)), channels, height, width)


def writable(name: str) -> Path:
    """
    Return the file to write at the end of links, nothing made yet.

    Raises UserError for one that can't be written, before minutes are spent on it.
    """
    try:
        path = Path(os.path.realpath(name))
        fits = path.is_file() if path.exists() else path.name != ''
        fits = fits and path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)
    except (OSError, ValueError):  # a name that is too long, or can be none
        fits = False
    if not fits:
        raise UserError(f'can not write {line(name)}: give --out a file in a folder that exists '
                        'and may be written to')
    return path


def random_image(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return an image of noise, uint8 ``shape``."""
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    return image.contiguous(memory_format=torch.channels_last)


def measured(worst: Judgement, place: str = '') -> str:
    """Return an error, what it is an error from, and what it may be, for people."""
    text = f'worst relative error {worst.worst_relative_error:.3g}{place}'
    if worst.reference_error is None:
        return f'{text}, tolerance {worst.tolerance:g}'
    return (f'{text} from the float64 answer, the unsplit model is {worst.reference_error:.3g} '
            f'from it, tolerance {worst.tolerance:.3g}')


def number(value: float | None) -> float | None:
    """Return a number for JSON, which has no infinities and no NaN: None stands for them."""
    return value if value is not None and math.isfinite(value) else None


def columns(rows: list[list[str]]) -> list[str]:
    """Return lines in which the columns of a table stand one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows]
