# SPDX-License-Identifier: Apache-2.0
"""Records in the format of the published ones: of running modules, and put together by hand."""

from __future__ import annotations

import json

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class Recorder(TorchFunctionMode):
    """Notes every torch function that makes a tensor of recorded ones, with made-up times."""

    def __init__(self, image: torch.Tensor):
        super().__init__()
        self.ops = [entry('_start', [], image.shape)]
        self.made = {id(image): [0]}
        self.alive = [image]  # an id must not come back

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        outs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        reads = [number for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
                 for number in self.made.get(id(leaf), ())]
        if outs and reads:
            number = len(self.ops)
            self.ops.append({**entry(function.__name__, reads, *(o.shape for o in outs)),
                             'robot_ms': (number % 7 + 1) / 8, 'server_ms': (number % 3 + 1) / 64})
            for tensor in outs:  # what an in-place call returns stands for both
                self.made.setdefault(id(tensor), []).append(number)
                self.alive.append(tensor)
        return out


def entry(op: str, inputs: list[int], *shapes, robot_ms: float = 0.0,
          server_ms: float = 0.0) -> dict:
    return {'op': op, 'inputs': inputs, 'output_shapes': [list(shape) for shape in shapes],
            'robot_ms': robot_ms, 'server_ms': server_ms}


def record_of(module: torch.nn.Module, image: torch.Tensor, name: str) -> dict:
    """Return the record of a module's run on an image, as JSON data."""
    with torch.inference_mode(), Recorder(image) as recorder:
        answer = module.eval()(image)
    end = entry('_end', recorder.made[id(answer)], answer.shape)
    return record_with([*recorder.ops, end], name)


def record_with(ops: list[dict], name: str = 'net', **more) -> dict:
    """Return a record of these operators, as JSON data."""
    return {'model': name, 'source': 'a test', 'robot': 'a board', 'server': 'a desktop',
            'input_dtype': 'float32', 'robot_forward_ms': 20.0, 'server_forward_ms': 2.0,
            'input_mbytes': 0.5, 'output_mbytes': 0.25, 'ops': ops, **more}


def chain(*calls: tuple, shape=(1, 2, 8, 8), **more) -> dict:
    """Return a record of calls (name, shape or None for the last one), each of the one before."""
    ops = [entry('_start', [], shape)]
    for name, made in calls:
        ops.append(entry(name, [len(ops) - 1], made or ops[-1]['output_shapes'][0], robot_ms=1.0,
                         server_ms=0.25))
    ops.append(entry('_end', [len(ops) - 1], ops[-1]['output_shapes'][0]))
    return record_with(ops, **more)


def written(folder, data, name: str = 'net'):
    """Write a record into a folder; return its path."""
    path = folder / f'{name}.json'
    path.write_text(json.dumps(data))
    return path
