# SPDX-License-Identifier: Apache-2.0
"""
What a module keeps from one image to the next: found by running a copy of it on several images.

torch.export reports a buffer that is written to, but no attribute that is set, no list that grows
and nothing that a function has closed over. Such a model is captured as if it kept nothing, and its
answers are wrong from the second image on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
import copy
from dataclasses import dataclass
import functools
import types

import numpy as np
import torch
from torch.utils import _pytree as pytree

from hp_inference.graph.ir import Const, Graph, Ref, substitute
from hp_inference.graph.quiet import tame
from hp_inference.graph.table import overload

# Of the largest number: what the same operators on the same image may differ by.
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
_HALF_UNITS = 4
_CONTAINERS = (dict, list, tuple, set, frozenset, deque)
_DEEPEST, _MOST = 50, 200_000
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)


def twin(module: torch.nn.Module) -> torch.nn.Module:
    """
    Return a copy of a module that shares its parameters and nothing that it could write to.

    What can't be copied (a lock, an open file) is shared, too. Raises what copying raises.
    """
    with torch.inference_mode(False), torch.no_grad():
        held = [item for _, item in walk(module)]  # kept, so that no id is used again meanwhile
        shared = {id(parameter): parameter for parameter in module.parameters()}
        for item in held:
            if isinstance(item, torch.Tensor) and id(item) not in shared:
                # Neither a tensor with a history nor one of inference_mode is copied by deepcopy.
                shared[id(item)] = item.detach().clone()
        try:
            return copy.deepcopy(module, dict(shared))
        except Exception:
            for item in reversed(held):  # what lies deepest first
                if not isinstance(item, (torch.nn.Module, torch.Tensor, *_CONTAINERS)):
                    try:
                        copy.deepcopy(item, dict(shared))
                    except Exception:
                        shared[id(item)] = item
            return copy.deepcopy(module, shared)


def walk(item, path: str = '') -> Iterator[tuple[str, object]]:
    """Yield what a module holds and where: containers and objects before their parts."""
    seen: set[int] = set()
    waiting = deque([(path, item, 0)])
    while waiting and len(seen) < _MOST:
        path, item, depth = waiting.popleft()
        if not isinstance(item, _PLAIN):
            if id(item) in seen:
                continue
            seen.add(id(item))
        yield path, item
        if depth < _DEEPEST:
            waiting.extend((place, part, depth + 1) for place, part in _parts(item, path))


def _parts(item, path: str) -> list[tuple[str, object]]:
    if isinstance(item, torch.nn.Module):
        own = dict(vars(item))
        for inner in ('_parameters', '_buffers', '_modules'):
            own.update(own.pop(inner, None) or {})
        return [*_named(path, own), *_of_class(item, path)]
    if isinstance(item, dict):
        return [(f'{path}[{_key(key)}]', part) for key, part in list(item.items())]
    if isinstance(item, (list, tuple, deque)):
        return [(f'{path}[{place}]', part) for place, part in enumerate(item)]
    if isinstance(item, functools.partial):
        return [(path, part) for part in (item.func, *item.args, *item.keywords.values())]
    if isinstance(item, types.MethodType):
        return [(path, item.__self__), (path, item.__func__)]
    if isinstance(item, types.FunctionType):
        cells = zip(item.__code__.co_freevars, item.__closure__ or ())
        held = {name: cell.cell_contents for name, cell in cells if _full(cell)}
        return [*_named(path, held), *((path, part) for part in item.__defaults__ or ())]
    if _of_torch(type(item)) or isinstance(item, (type, types.ModuleType, np.ndarray)):
        return []
    return [*_named(path, getattr(item, '__dict__', {})), *_of_class(item, path)]


def _named(path: str, attributes) -> list[tuple[str, object]]:
    return [(f'{path}.{name}' if path else str(name), part)
            for name, part in list(attributes.items())]


def _of_class(item, path: str) -> list[tuple[str, object]]:
    """Return what the classes of an object hold in common for all of them, functions apart."""
    own = {}
    for kind in type(item).__mro__:
        if not _of_torch(kind):
            own.update({name: part for name, part in vars(kind).items()
                        if isinstance(part, (*_PLAIN, torch.Tensor, list, dict, set, deque))
                        and not name.startswith('__')})
    return _named(path, {name: part for name, part in own.items()
                         if name not in getattr(item, '__dict__', {})})


def _of_torch(kind: type) -> bool:
    return kind.__module__.partition('.')[0] in ('torch', 'torchvision', 'builtins', 'numpy')


def _full(cell) -> bool:
    try:
        cell.cell_contents
    except ValueError:
        return False
    return True


def _key(key) -> str:
    return repr(key) if isinstance(key, (str, int)) else f'<{type(key).__name__}>'


@dataclass(frozen=True)
class Snapshot:
    """What a module held at one time, by place; of parameters only how often they were written."""

    held: dict[str, object]

    @classmethod
    def of(cls, module: torch.nn.Module) -> Snapshot:
        """Take it; tensors and arrays are copied."""
        held: dict[str, object] = {}
        for path, item in walk(module):
            while path in held:  # parts that share a place, as the arguments of a partial do
                path += "'"
            held[path] = _kept(item)
        return cls(held)

    def changed(self, later: Snapshot) -> str:
        """Return the place of what a later one holds otherwise, '' where it is the same."""
        for path in [*self.held, *later.held]:
            if path not in self.held or path not in later.held or not _same(
                    self.held[path], later.held[path]):
                return path.rstrip("'")
        return ''


def _kept(item):
    if isinstance(item, torch.nn.Parameter):
        return ('parameter', id(item), None if item.is_inference() else item._version)
    if isinstance(item, torch.Tensor):
        return item.detach().clone()
    if isinstance(item, np.ndarray):
        return item.copy()
    if isinstance(item, torch.Generator):
        return item.get_state()
    if isinstance(item, _PLAIN):
        return item
    if isinstance(item, (set, frozenset)):
        return frozenset(part for part in item if isinstance(part, _PLAIN)), len(item)
    size = len(item) if isinstance(item, (dict, list, tuple, deque)) else 0
    return (type(item).__name__, size)


def _same(one, other) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and not distance(one, other)
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and bool(np.array_equal(
            one, other, equal_nan=one.dtype.kind in 'fc'))
    return one == other or (one != one and other != other)


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far two tensors of a shape are apart, of the largest number; NaN equals NaN."""
    if not one.is_floating_point():
        return (one != other).double().mean().item() if one.numel() else 0.0
    one, other = one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())
    if bool(same.all()):
        return 0.0
    finite = one.isfinite() & other.isfinite()
    if not bool((same | finite).all()):
        return float('inf')
    return ((one - other)[finite].abs().max() / other[finite].abs().max()).item()


def rounding(tensor: torch.Tensor) -> float:
    """Return the distance of two tensors of this type up to which rounding may explain it."""
    if not tensor.is_floating_point():
        return 0.0
    return _ROUNDING.get(tensor.dtype, _HALF_UNITS * torch.finfo(tensor.dtype).eps)


def example_images(shape: Sequence[int]) -> list[torch.Tensor]:
    """Return three images that differ much, uint8 ``shape``, the same ones at every call."""
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randint(0, 256, tuple(shape), dtype=torch.uint8, generator=generator)
             for _ in range(3)]
    noise[2] = 255 - noise[2] // 4
    return [image.contiguous(memory_format=torch.channels_last) for image in noise]


def run(model: torch.nn.Module, image: torch.Tensor):
    """Return what a module says of an image, in tensors that may be exported later."""
    with tame(), torch.inference_mode(False), torch.no_grad():
        return model(image)


def lazy_part(module: torch.nn.Module) -> str:
    """Return the name of a parameter that is made at the first call, '' where there is none."""
    return next((name for name, tensor in (*module.named_parameters(), *module.named_buffers())
                 if torch.nn.parameter.is_lazy(tensor)), '')


def run_whole(graph: Graph, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the outputs of a graph, operator by operator on whole values, as PyTorch has them."""
    values: list = [image, *(None for _ in graph.ops)]
    last = {ref: op.output for op in graph.ops for ref in op.refs}
    kept = set(graph.outputs.values())

    def tensor(leaf):
        if isinstance(leaf, Ref):
            return values[leaf.value]
        return graph.constants[leaf.name] if isinstance(leaf, Const) else leaf
    with torch.inference_mode():
        for op in graph.ops:
            args, kwargs = substitute((op.args, op.kwargs), tensor)
            made = overload(op.target)(*args, **kwargs)
            values[op.output] = made if op.item is None else made[op.item]
            for ref in op.refs:
                if last[ref] == op.output and ref not in kept:
                    values[ref] = None
    return {name: values[value] for name, value in graph.outputs.items()}


def named_leaves(tree) -> Iterator[tuple[str, object]]:
    """Yield what a model returned, with the name that each part has as an output of the graph."""
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        yield '.'.join(str(getattr(key, 'key', getattr(key, 'idx', getattr(key, 'name', key))))
                       for key in path) or 'output', leaf
