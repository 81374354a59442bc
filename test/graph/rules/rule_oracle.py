# SPDX-License-Identifier: Apache-2.0
"""The oracle of the operator table: an interval made from just its rows is that of the whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hp_inference.graph.capture import as_image_model, capture, named_leaves
from hp_inference.graph.ir import Const, Graph, Op, Ref, substitute, Value
from hp_inference.graph.layout import Layout
from hp_inference.graph.rows import Rows
from hp_inference.graph.table import Block, LOCAL, OpView, Rule, TABLE, whole_rule

# These do no arithmetic that depends on which rows stand beside a row: not one bit may differ.
BITWISE = tuple(f'aten.{name}.' for name in """
    abs add alias bitwise_not bitwise_and cat channel_shuffle clamp clamp_min clamp_max
    constant_pad_nd eq expand flip ge gt hardtanh index index_select le leaky_relu lt masked_fill
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d maximum minimum mul ne
    neg pad permute pixel_shuffle pixel_unshuffle prelu relu repeat repeat_interleave reshape roll
    rsub select slice squeeze stack sub t threshold tile topk transpose unsqueeze where _to_copy
    amax amin argmax argmin sort upsample_nearest2d _upsample_nearest_exact2d
""".split())
# Only these have output rows that no input row goes into: the others have a tensor to run on.
MAY_NEED_NOTHING = ('aten.cat.default', 'aten.pad.default', 'aten.constant_pad_nd.default',
                    'aten.type_as.default')
# Of max|whole|, where a sum may be taken in another order.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


def random(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    """Return normal numbers, the same at every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@dataclass(frozen=True)
class Case:
    """One operator of a graph with its whole inputs and its whole output."""

    view: OpView
    rule: Rule
    inputs: tuple[torch.Tensor, ...]
    whole: torch.Tensor
    kind: str

    @property
    def rows(self) -> int:
        return 1 if self.rule.axis is None else self.whole.shape[self.rule.axis]

    def needs(self, begin: int, end: int) -> list[list[tuple[int, int]]]:
        """Return the intervals that rows [begin, end) need, per tensor argument."""
        return [list(rows) for rows in self.rule.block(begin, end).needs]


class Net:
    """A captured net, each of its values computed whole from one random image."""

    def __init__(self, model: torch.nn.Module, graph: Graph):
        self.graph, self.layout = graph, Layout(graph)
        generator = torch.Generator().manual_seed(1)
        image = torch.randint(0, 256, graph.input.shape, dtype=torch.uint8, generator=generator)
        values, self.cases = [image], []
        with torch.inference_mode():
            for op, rule in zip(graph.ops, self.layout.rules[1:]):
                view = OpView(op, graph, self.layout.axes)
                inputs = tuple(values[v] for v in op.refs)
                values.append(view.call()(*inputs))
                self.cases.append(Case(view, rule, inputs, values[-1],
                                       self.layout.kind(op.output)))
            wanted = dict(named_leaves(model(image)))
        assert list(wanted) == list(graph.outputs)
        for name, value in graph.outputs.items():
            assert_same(values[value], wanted[name], exact=False)

    def ops(self, skip: int = 3) -> list[str]:
        """Return the names of the operators behind the three of the normalisation."""
        return [case.view.op.target.split('.', 1)[1] for case in self.cases[skip:]]

    def case(self, name: str, number: int = 0) -> Case:
        """Return the operator whose name begins so, the number-th of several."""
        places = [i for i, own in enumerate(self.ops()) if own.startswith(name)]
        assert places, f'{name} is not among {self.ops()}'
        return self.cases[3 + places[number]]


    def output(self, name: str) -> Case:
        """Return the operator that makes an output."""
        return self.cases[self.graph.outputs[name] - 1]


class Chain(torch.nn.Module):
    """Modules and functions one after the other."""

    def __init__(self, *steps):
        super().__init__()
        self.steps = steps
        self.parts = torch.nn.ModuleList(s for s in steps if isinstance(s, torch.nn.Module))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class _Each(torch.nn.Module):
    """Modules and functions of the same input, by name."""

    def __init__(self, branches: dict):
        super().__init__()
        self.branches = branches
        self.parts = torch.nn.ModuleList(b for b in branches.values()
                                         if isinstance(b, torch.nn.Module))

    def forward(self, x):
        return {name: branch(x) for name, branch in self.branches.items()}


def captured(*steps, shape=(1, 3, 8, 6), fold: bool = True) -> Net:
    """Return a chain in float64 through the real path: normalisation, torch.export, passes."""
    module = Chain(*steps)
    module.register_parameter('unit', torch.nn.Parameter(torch.ones(())))  # it sets the dtype
    module.double()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_floating_point():
            tensor.data.normal_(generator=generator)
        if name.endswith('running_var'):
            tensor.abs_().add_(0.5)
    model = as_image_model(module, shape)
    return Net(model, capture(model, shape, 'tiny', fold))


def tiny_nets(entries: dict, **settings) -> Net:
    """Return one capture of many tiny nets {name: (module or function, what expect takes ...)}."""
    return captured(_Each({name: entry[0] for name, entry in entries.items()}), **settings)


@dataclass(frozen=True)
class Given:
    """A tensor argument that is a value of the graph, with its row axis (None: whole)."""

    tensor: torch.Tensor
    axis: int | None = 2


def applied(target: str, *args, item: int | None = None, **kwargs) -> Case:
    """Return one operator on Given values and on constants, which are the plain tensors."""
    given: list[Given] = []
    constants: dict[str, torch.Tensor] = {}

    def leaf(part):
        if isinstance(part, Given):
            given.append(part)
            return Ref(len(given) - 1)
        if isinstance(part, torch.Tensor):
            constants[f'c{len(constants)}'] = part
            return Const(f'c{len(constants) - 1}')
        return part
    op = Op(f'aten.{target}', substitute(args, leaf), substitute(kwargs, leaf), len(given), item)
    tensors = [part.tensor for part in given]
    graph = Graph('one', [_value(i, t) for i, t in enumerate([*tensors, tensors[0]])], [op], {},
                  constants)
    axes = [part.axis for part in given]
    inputs = tuple(tensors[v] for v in op.refs)
    whole = OpView(op, graph, axes).call()(*inputs)
    graph.values[-1] = _value(len(given), whole)
    view = OpView(op, graph, axes)
    rule = TABLE[op.target](view) or whole_rule(view)
    return Case(view, rule, inputs, whole, rule.kind)


def _value(number: int, tensor: torch.Tensor) -> Value:
    return Value(number, f'v{number}', tuple(tensor.shape), str(tensor.dtype)[6:])


def expect(case: Case, wanted: dict, kind: str = LOCAL) -> Case:
    """
    Check the kind, the needs and the blocks of one operator, wherever its rows lie; return it.

    wanted: {(begin, end): intervals}, a list of intervals per tensor where there are several.
    """
    assert case.kind == kind
    for span, intervals in wanted.items():
        several = len(case.inputs) > 1
        assert case.needs(*span) == (intervals if several else [intervals]), f'rows {span}'
    check_blocks(case)
    for axis in (None, *range(max(tensor.dim() for tensor in case.inputs))):
        moved = _with_rows_along(case, axis)
        few = {(0, 1), (moved.rows // 3, 2 * moved.rows // 3 + 1), (0, moved.rows)}
        check_blocks(moved, few)
    return case


def _with_rows_along(case: Case, axis: int | None) -> Case:
    """Return the same operator with the rows of its inputs along another dimension, or none."""
    op = case.view.op
    axes = {ref: None if axis is None or axis >= tensor.dim() else axis
            for ref, tensor in zip(op.refs, case.inputs)}
    view = OpView(op, case.view.graph, axes)
    handler = TABLE.get(op.target)
    rule = (handler(view) if handler else None) or whole_rule(view)
    return Case(view, rule, case.inputs, case.whole, rule.kind)


def spans(rows: int) -> list[tuple[int, int]]:
    """Return all intervals of few rows, of many those between about ten bounds."""
    bounds = sorted({0, 1, rows - 1, rows, *range(0, rows, max(1, rows // 8))})
    return [(a, b) for a in bounds for b in bounds if a < b]


def check(net: Net) -> None:
    """Check every operator of a net behind the normalisation."""
    for case in net.cases[3:]:
        check_blocks(case)


def check_blocks(case: Case, intervals=None) -> None:
    """Compare intervals, each made from just the rows that it needs, with the whole output."""
    known: dict[tuple[int, int], tuple[Rows, ...]] = {}
    for a, b in intervals or spans(case.rows):
        block = case.rule.block(a, b)
        assert len(block.needs) == len(case.inputs)
        for need, operand in zip(block.needs, case.view.inputs):
            assert need <= operand.all, f'rows {need} of {operand.all} for [{a},{b})'
            assert need or case.view.op.target in MAY_NEED_NOTHING
        _check_grows(known, a, b, block.needs)
        fed = [cut(tensor, operand.axis, need) for tensor, operand, need
               in zip(case.inputs, case.view.inputs, block.needs)]
        wanted = cut(case.whole, case.rule.axis, Rows.of(a, b))
        exact = case.view.op.target.startswith(BITWISE)
        with torch.inference_mode():
            before = [None if t is None else t.clone() for t in fed]
            made = block.run(*fed)
            assert_same(made, wanted, exact)
            assert case.rule.view or not any(
                t is not None and _memory(t) == _memory(made) for t in fed), 'a view, not said so'
            for tensor, old in zip(fed, before):
                assert tensor is None or torch.equal(tensor.nan_to_num(), old.nan_to_num())
            if block.out is not None:
                _check_out(block, before, wanted, case.rule.axis, exact)


def _check_out(block: Block, fed, wanted: torch.Tensor, axis: int, exact: bool) -> None:
    """Write into the middle rows of a larger tensor, and over each of the inputs."""
    shape = list(wanted.shape)
    shape[axis] += 2
    for memory in (torch.contiguous_format, torch.channels_last)[:1 + (len(shape) == 4)]:
        around = torch.full(shape, 7).to(wanted.dtype).contiguous(memory_format=memory)
        block.out(*fed, out=around.narrow(axis, 1, wanted.shape[axis]))
        assert_same(around.narrow(axis, 1, wanted.shape[axis]), wanted, exact)
        rims = torch.cat([around.narrow(axis, row, 1) for row in (0, -1)])
        assert bool((rims == torch.full((), 7).to(wanted.dtype)).all())
    for place in range(len(fed)):
        again = [tensor.clone() for tensor in fed]
        made = block.out(*again, out=again[place])
        assert made.data_ptr() == again[place].data_ptr()
        assert_same(again[place], wanted, exact)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _check_grows(known, a: int, b: int, needs) -> None:
    """Check that a longer interval needs at least what the intervals within it need."""
    for (c, d), less in known.items():
        if a <= c and d <= b:
            assert all(x <= y for x, y in zip(less, needs)), f'[{c},{d}) needs more than [{a},{b})'
        elif c <= a and b <= d:
            assert all(y <= x for x, y in zip(less, needs)), f'[{a},{b}) needs more than [{c},{d})'
    known[a, b] = needs


def cut(tensor: torch.Tensor, axis: int | None, rows: Rows) -> torch.Tensor | None:
    """Return just some rows, joined; all of a whole value; None for no rows."""
    if not rows:
        return None
    if axis is None:
        return tensor.clone()
    return torch.cat([tensor.narrow(axis, a, b - a) for a, b in rows], axis)


def assert_same(made: torch.Tensor, wanted: torch.Tensor, exact: bool) -> None:
    """Compare shape, dtype and elements; not exact: up to TOLERANCE of the largest."""
    assert made.shape == wanted.shape and made.dtype == wanted.dtype, (
        f'{made.dtype} {tuple(made.shape)}, expected {wanted.dtype} {tuple(wanted.shape)}')
    same = (made == wanted) | ((made != made) & (wanted != wanted))
    if bool(same.all()):
        return
    limit = 0 if exact or wanted.dtype not in TOLERANCE else (
        TOLERANCE[wanted.dtype] * wanted[wanted.isfinite()].abs().max().item())
    worst = (made.double() - wanted.double()).abs()[~same].max().item()
    assert worst <= limit, f'differs by {worst}, at most {limit} expected'


def check_tight(case: Case, begin: int, end: int, slack: int = 0) -> None:
    """
    Check that [begin, end) asks for no rows beyond the first and last that it depends on.

    ``slack``: how many more there may be at either end. Where it depends on none, one is allowed.
    """
    for place, need in enumerate(case.rule.block(begin, end).needs):
        first, last = _depends_on(case, place, begin, end).hull
        if first == last:
            # A window that reads nothing but padding; in the columns it does so in every row.
            assert need.count <= 1 + slack or not _depends_on(case, place, 0, case.rows)
        else:
            assert need <= Rows.of(first - slack, last + slack), (
                f'[{begin},{end}) needs {need}, depends on [{first},{last})')


def _depends_on(case: Case, place: int, begin: int, end: int) -> Rows:
    """Return the rows of an input that make NaN of some of the whole output's [begin, end)."""
    tensor, axis = case.inputs[place], case.view.inputs[place].axis
    rows = []
    for row in range(case.view.inputs[place].rows):
        spoilt = tensor.clone()
        (spoilt if axis is None else spoilt.select(axis, row)).fill_(float('nan'))
        inputs = [*case.inputs[:place], spoilt, *case.inputs[place + 1:]]
        made = cut(case.view.call()(*inputs), case.rule.axis, Rows.of(begin, end))
        if bool(made.isnan().any()):
            rows.append((row, row + 1))
    return Rows(rows)
