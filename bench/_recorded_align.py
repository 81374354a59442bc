# SPDX-License-Identifier: Apache-2.0
"""Which operator of a captured graph each operator of a record is, by kind and order."""

from __future__ import annotations

from math import prod

from _recorded import Record, RecordError
from _recorded_build import build
from _recorded_layers import plain, SAME, VIEWS

from hp_inference.graph.capture import as_image_model, capture
from hp_inference.graph.ir import Const, Graph, leaves, Op
from hp_inference.graph.layout import Layout
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.graph.torchvision_shim import import_torchvision

# Operators that cost nothing of their own: they may stand on one side only.
FREE = {'_to_copy', 'reshape', 'permute', 'transpose', 't', 'slice', 'select', 'unsqueeze',
        'squeeze', 'expand'}
# What a torch function of that plain name is called in a graph; by its own name otherwise.
ATEN = {
    'adaptive_avg_pool2d': ('adaptive_avg_pool2d', 'mean'),
    'adaptive_max_pool2d': ('adaptive_max_pool2d', 'amax'),
    'relu6': ('hardtanh', 'relu6'), 'concat': ('cat',), 'matmul': ('matmul', 'mm', 'bmm'),
    'interpolate': ('upsample_nearest2d', 'upsample_bilinear2d', 'upsample_bicubic2d'),
    'upsample': ('upsample_nearest2d', 'upsample_bilinear2d', 'upsample_bicubic2d'),
    'softmax': ('softmax', '_softmax'), 'log_softmax': ('log_softmax', '_log_softmax'),
    'logsigmoid': ('log_sigmoid',), 'pad': ('pad', 'constant_pad_nd'),
}


def layout_of(record: Record) -> Layout:
    """
    Return the layout of the record's model: torchvision's of that name, else built from the record.

    Raises RecordError for a model that can't be built, ModelError or CaptureError for one that
    torchvision has but that can't be captured at the record's input size.
    """
    if is_torchvision(record.model):
        return open_model(ModelSpec(f'torchvision:{record.model}', record.input_shape))[1]
    module = build(record)
    model = as_image_model(module, module.input_shape)
    return Layout(capture(model, module.input_shape, record.model))


def is_torchvision(name: str) -> bool:
    """Return whether torchvision has a model of that name."""
    import_torchvision()
    from torchvision import models
    return name in models.list_models()


def align(record: Record, graph: Graph) -> list[int]:
    """
    Return for every operator of a record the value of the graph that its time goes to.

    Operators that compute pair up in order, each with one of its kind that makes as many elements;
    a batch norm that was folded goes to its convolution, a reduction taken in two steps to the
    first. Casts, views and dropouts go to the view that they are in the graph, else to what made
    their input, at the start to the first operator that computes. 0 for ``_start`` and ``_end``.
    Raises RecordError naming both sides where one has an operator that the other has not.
    """
    place = [0] * len(record.ops)
    following = _normalisation(graph)  # the next operator of the graph that is not taken
    early = []  # arranges the input before anything is computed
    for number, op in enumerate(record.ops[1:-1], 1):
        kind = plain(op.name)
        source = place[op.inputs[-1]]
        if kind in SAME | VIEWS:
            value = _free(record, number, graph, following)
            place[number] = value or source
            if value:
                following = value
            elif not source:
                early.append(number)
            continue
        found = _next(graph, following)
        if kind == 'batch_norm' and not _same_kind(kind, found, graph, source):
            if not _folded(record, number, graph, source):
                raise _mismatch(record, number, graph, found)
            place[number] = source
            continue
        if found is None or _base(found) not in ATEN.get(kind, (kind,)):
            raise _mismatch(record, number, graph, found)
        place[number] = following = found.output
        while not _makes(record, number, graph, following):
            # A reduction in two steps: within rows, then over them.
            last, found = found, _next(graph, following)
            if found is None or _base(last) not in ('mean', 'sum', 'amax', 'amin') or (
                    found.target != last.target):
                raise _mismatch(record, number, graph, last)
            following = found.output
        for waiting in early:
            place[waiting] = place[number]
        early.clear()
    found = _next(graph, following)
    if found is not None:
        raise RecordError(f'the graph of {record.model} has {_described(graph, found)}, which the '
                          'record has no operator for')
    return place


def _base(op: Op) -> str:
    return op.target.split('.')[1]


def _normalisation(graph: Graph) -> int:
    """Return the last value of the normalisation that was put before the model, 0 for none."""
    last = 0
    for op in graph.ops[:3]:
        if any(isinstance(leaf, Const) and leaf.name in ('scale', 'shift')
               for leaf in leaves((op.args, op.kwargs))):
            last = op.output
    return last


def _next(graph: Graph, following: int) -> Op | None:
    """Return the first operator behind a value that computes."""
    return next((op for op in graph.ops[following:] if _base(op) not in FREE), None)


def _makes(record: Record, number: int, graph: Graph, value: int) -> bool:
    """Return whether a value has as many elements as a tensor that an operator recorded made."""
    return prod(graph.values[value].shape) in map(prod, record.ops[number].shapes)


def _free(record: Record, number: int, graph: Graph, following: int) -> int:
    """Return the value of the cast or view among those that come next in the graph, 0 for none."""
    for op in graph.ops[following:]:
        if _base(op) not in FREE:
            break
        if _makes(record, number, graph, op.output):
            return op.output
    return 0


def _same_kind(kind: str, found: Op | None, graph: Graph, source: int) -> bool:
    """Return whether the next operator is one of that kind and reads what the recorded one read."""
    return found is not None and _base(found) == kind and source in (*found.refs, found.output)


def _folded(record: Record, number: int, graph: Graph, source: int) -> bool:
    return bool(source) and _base(graph.ops[source - 1]).startswith('conv') and _makes(
        record, number, graph, source)


def _described(graph: Graph, op: Op) -> str:
    value = graph.values[op.output]
    return f'value {value.id} ({op.target}, {list(value.shape)}, {value.name})'


def _mismatch(record: Record, number: int, graph: Graph, found: Op | None) -> RecordError:
    there = _described(graph, found) if found else 'nothing more'
    return RecordError(f'{record.described(number)} does not go with the graph of {record.model}, '
                       f'which has {there} in its place')
