# SPDX-License-Identifier: Apache-2.0
"""
The operator table: for each ATen overload, how its output rows follow from its input rows.

An entry is a handler ``handler(op: OpView) -> Rule | None``. The engine below knows no operator.
``None``, or no entry, means: the operator needs everything and yields a whole value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hp_inference.graph.ir import Const, Graph, leaves, Op, Ref, substitute
from hp_inference.graph.rows import Rows

# With oneDNN this writes nothing at all into an ``out`` that is not dense (torch 2.13, CPU).
UNSAFE_OUT = {'aten.gelu.default'}
LOCAL, PARTIAL, GLOBAL = 'local', 'partial', 'global'
WHOLE = Rows.of(0, 1)  # the rows of a value without a row axis: it counts as one row


@dataclass(frozen=True)
class Operand:
    """One tensor argument of an operator: its shape, torch dtype and row axis (None: whole)."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    axis: int | None

    @property
    def rows(self) -> int:
        """The number of rows; 1 for a whole value."""
        return 1 if self.axis is None else self.shape[self.axis]

    @property
    def all(self) -> Rows:
        """Every row."""
        return Rows.of(0, self.rows)


@dataclass(frozen=True)
class Block:
    """
    How to compute one output interval.

    ``needs``: per tensor argument the rows wanted of it. ``run``: takes, per tensor argument, one
    tensor of just those rows (joined along the row axis in ascending order; None where no rows
    are needed) and returns the interval. ``out``: the same with a keyword ``out`` for where the
    result goes, which may be one of the inputs; None where the operator cannot do that.
    """

    needs: tuple[Rows, ...]
    run: Callable[..., torch.Tensor]
    out: Callable[..., torch.Tensor] | None = None


@dataclass(frozen=True)
class Rule:
    """
    The three answers of an operator: the output's row axis, the rows needed, the computation.

    ``view`` marks operators whose output may share memory with an input.
    """

    axis: int | None
    block: Callable[[int, int], Block]
    kind: str = LOCAL
    view: bool = False


Handler = Callable[['OpView'], 'Rule | None']
TABLE: dict[str, Handler] = {}


def register(*targets: str) -> Callable[[Handler], Handler]:
    """Enter a handler for ATen overloads named like 'conv2d.default'."""
    def enter(handler: Handler) -> Handler:
        for target in targets:
            TABLE[f'aten.{target}'] = handler
        return handler
    return enter


def overload(target: str) -> Callable:
    """Return the torch operator that 'aten.name.overload' names."""
    namespace, name, variant = target.split('.')
    return getattr(getattr(getattr(torch.ops, namespace), name), variant)


class OpView:
    """What a handler sees of an operator: arguments by name or place, shapes, row axes, weights."""

    def __init__(self, op: Op, graph: Graph, axes: Sequence[int | None]):
        self.op = op
        self.graph = graph
        self.function = overload(op.target)
        self.inputs = tuple(
            Operand(graph.values[v].shape, getattr(torch, graph.values[v].dtype), axes[v])
            for v in op.refs)
        out = graph.values[op.output]
        self.shape = out.shape
        self.dtype = getattr(torch, out.dtype)
        self._places = {a.name: i for i, a in enumerate(self.function._schema.arguments)}

    def arg(self, name: str):
        """Return an argument by its schema name, its default when it was not given."""
        place = self._places[name]
        if name in self.op.kwargs:
            return self.op.kwargs[name]
        if place < len(self.op.args):
            return self.op.args[place]
        return self.function._schema.arguments[place].default_value

    @property
    def names(self) -> tuple[str, ...]:
        """The argument names of the overload, in order."""
        return tuple(self._places)

    def out_variant(self) -> Callable | None:
        """Return the overload that takes the same arguments and writes into ``out=``, if any."""
        if self.op.target in UNSAFE_OUT:
            return None
        packet = getattr(torch.ops.aten, self.op.target.split('.')[1])
        out = getattr(packet, 'out', None)
        if out is None:
            return None
        own = [(a.name, str(a.type)) for a in self.function._schema.arguments]
        others = [(a.name, str(a.type)) for a in out._schema.arguments]
        return out if others == [*own, ('out', 'Tensor')] else None

    def constant(self, name: str) -> torch.Tensor | None:
        """Return the weight given for an argument, None when the argument is None."""
        given = self.arg(name)
        return self.graph.constants[given.name] if isinstance(given, Const) else None

    @property
    def first(self) -> Operand | None:
        """The first tensor argument when it is a value of the graph."""
        return self.inputs[0] if self.op.args and isinstance(self.op.args[0], Ref) else None

    def call(self, function: Callable | None = None, /, **changes) -> Callable[..., torch.Tensor]:
        """
        Return a function of the operator's tensor arguments, in ``refs`` order.

        ``changes`` replaces constants and other arguments by name, of which 'self' is one.
        """
        function = function or self.function
        op, constants = self.op, self.graph.constants
        args, kwargs = list(op.args), dict(op.kwargs)
        for name, value in changes.items():
            place = self._places[name]
            if place < len(args):
                args[place] = value
            else:
                kwargs[name] = value
        args = substitute(args, lambda leaf: constants[leaf.name]
                          if isinstance(leaf, Const) else leaf)
        kwargs = substitute(kwargs, lambda leaf: constants[leaf.name]
                            if isinstance(leaf, Const) else leaf)
        return _bind(function, args, kwargs, op.item)


def _bind(function, args: list, kwargs: dict, item: int | None) -> Callable[..., torch.Tensor]:
    """Close over everything but the Refs; the common shapes of call get a path of their own."""
    spots = [i for i, a in enumerate(args) if isinstance(a, Ref)]
    nested = sum(isinstance(leaf, Ref) for leaf in leaves((args, kwargs))) != len(spots)
    if item is not None or nested:
        def general(*tensors, **more):
            feed = iter(tensors)
            full = substitute((args, kwargs),
                              lambda leaf: next(feed) if isinstance(leaf, Ref) else leaf)
            result = function(*full[0], **full[1], **more)
            return result if item is None else result[item]
        return general
    if spots == [0]:
        rest = tuple(args[1:])
        return lambda x, **more: function(x, *rest, **kwargs, **more)
    if spots == [0, 1]:
        rest = tuple(args[2:])
        return lambda x, y, **more: function(x, y, *rest, **kwargs, **more)

    def placed(*tensors, **more):
        full = list(args)
        for spot, tensor in zip(spots, tensors):
            full[spot] = tensor
        return function(*full, **kwargs, **more)
    return placed


def whole_rule(op: OpView) -> Rule:
    """Return the rule of an operator that needs all of every input and yields a whole value."""
    needs, run = tuple(operand.all for operand in op.inputs), op.call()
    # Of an operator that is not in the table nobody knows whether it returns a view.
    return Rule(None, lambda a, b: Block(needs, run), GLOBAL, view=True)


def along(op: OpView, axis: int | None, view: bool = False, **changes) -> Rule | None:
    """
    Return the rule of an operator that maps row i of its first argument to row i of its output.

    All other tensor arguments must be constants. ``axis`` is the output's row axis.
    """
    if axis is None or len(op.inputs) != 1:
        return None
    run = op.call(**changes)
    return Rule(axis, lambda a, b: Block((Rows.of(a, b),), run), view=view)
