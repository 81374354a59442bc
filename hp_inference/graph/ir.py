# SPDX-License-Identifier: Apache-2.0
"""The graph of a model as plain data: values, operators, outputs, and the weights beside them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import hashlib
import json

import torch


@dataclass(frozen=True)
class Ref:
    """An operator argument that is a value of the graph."""

    value: int


@dataclass(frozen=True)
class Const:
    """An operator argument that is a constant (a weight or a folded tensor) of the graph."""

    name: str


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its number, its name in the model, its shape and its torch dtype."""

    id: int
    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """The size of the whole value in bytes."""
        count = 1
        for size in self.shape:
            count *= size
        return count * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True)
class Op:
    """
    One operator: an ATen overload name, its arguments and the value that it makes.

    ``args`` and ``kwargs`` hold numbers, strings, lists, Ref and Const. ``item`` picks one tensor
    of an overload that returns several.
    """

    target: str
    args: tuple
    kwargs: dict
    output: int
    item: int | None = None

    @property
    def refs(self) -> tuple[int, ...]:
        """The values that the operator reads, in argument order, repeats kept."""
        return tuple(leaf.value for leaf in leaves((self.args, self.kwargs))
                     if isinstance(leaf, Ref))


@dataclass
class Graph:
    """
    A model as data. Value 0 is the input image (uint8, N C H W); operator k makes value k + 1.

    ``constants`` are not part of the JSON: the digest stands for them.
    """

    model: str
    values: list[Value]
    ops: list[Op]
    outputs: dict[str, int]
    constants: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    digest: str = ''
    device: torch.device = torch.device('cpu')

    @property
    def input(self) -> Value:
        """The input image."""
        return self.values[0]

    def to_json(self) -> dict:
        """Return the graph without its weights; equal graphs give equal JSON."""
        return {
            'values': [{'id': v.id, 'name': v.name, 'shape': list(v.shape), 'dtype': v.dtype}
                       for v in self.values],
            'ops': [{'op': op.target, 'args': encode(op.args), 'kwargs': encode(op.kwargs),
                     'output': op.output, **({} if op.item is None else {'item': op.item})}
                    for op in self.ops],
            'outputs': self.outputs,
        }

    def to(self, device: str | torch.device) -> Graph:
        """Return the graph with its constants on a device, where its operators then compute."""
        device = torch.device(device)
        moved = {name: tensor.to(device) for name, tensor in self.constants.items()}
        return replace(self, constants=moved, device=device)

    def consumers(self) -> list[list[Op]]:
        """Return, for each value, the operators that read it."""
        readers: list[list[Op]] = [[] for _ in self.values]
        for op in self.ops:
            for value in dict.fromkeys(op.refs):
                readers[value].append(op)
        return readers


def leaves(item):
    """Yield what lies in nested tuples, lists and dicts, depth first."""
    if isinstance(item, (tuple, list)):
        for part in item:
            yield from leaves(part)
    elif isinstance(item, dict):
        for part in item.values():
            yield from leaves(part)
    else:
        yield item


def substitute(item, change):
    """Return nested ``item`` with every leaf replaced by ``change(leaf)``."""
    if isinstance(item, (tuple, list)):
        return type(item)(substitute(part, change) for part in item)
    if isinstance(item, dict):
        return {key: substitute(part, change) for key, part in item.items()}
    return change(item)


def encode(item):
    """Return an argument as JSON data; torch dtypes, layouts and devices become their names."""
    def leaf(part):
        if isinstance(part, Ref):
            return {'value': part.value}
        if isinstance(part, Const):
            return {'constant': part.name}
        if part is None or isinstance(part, (bool, int, str)):
            return part
        if isinstance(part, float):
            # JSON has no infinities; their names keep the text canonical.
            return part if part - part == 0 else repr(part)
        return str(part)
    return substitute(item, leaf)


def canonical(data) -> bytes:
    """Return JSON data as the bytes that digests are taken of."""
    return json.dumps(data, sort_keys=True, separators=(',', ':'), allow_nan=False).encode()


def weights_digest(graph_json: dict, weights: dict[str, torch.Tensor]) -> str:
    """
    Return the model digest: SHA-256 of the canonical graph JSON and the weight bytes by name.

    The weights are those before folding, so that rounding in the folding cannot tell two machines
    apart that hold the same model.
    """
    sha = hashlib.sha256(canonical(graph_json))
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        sha.update(canonical([name, list(tensor.shape), str(tensor.dtype)]))
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return sha.hexdigest()
