# SPDX-License-Identifier: Apache-2.0
"""A module with the operators, shapes and connections of the record of an unpublished model."""

from __future__ import annotations

from math import prod
import re

from _recorded import MIB, Record, RecordError
from _recorded_layers import BINARY, joined_along, JOINS, MAKERS, plain, SAME, VIEWS
import torch
from torch import nn

# Calls that may return their very input, of which some have an in-place kind of the same name.
MAYBE_IN_PLACE = SAME | {'relu', 'relu6', 'hardswish', 'hardsigmoid', 'hardtanh', 'silu',
                         'leaky_relu', 'elu', 'mish'}
IN_PLACE = re.compile(r'__i\w+__|[a-z]\w*_')  # add_, __iadd__


def operands(record: Record) -> list[list[int]]:
    """
    Return, for every operator, which earlier operators it really reads.

    The lists of a record hold aliases: after x = conv, y = relu_(x) a reader of y lists both, in
    ascending order, first operand first. So of what an operator that may have been in place wrote
    over, the first operand and its aliases, only that operator itself is kept. An addition
    to a branch, x + relu(x), would so lose an operand: a call of two operands that lists just two
    keeps both unless one is certainly in place, and a concatenation keeps all that it lists where
    only their sizes add up.
    """
    read: list[list[int]] = []
    written: list[list[int]] = []  # per operator, what it may have written over
    for op in record.ops:
        kind, listed = plain(op.name), list(dict.fromkeys(op.inputs))
        gone = {old for later in listed for old in written[later]}
        kept = [source for source in listed if source not in gone]
        certain = any(IN_PLACE.fullmatch(record.ops[source].name) for source in listed)
        shapes = [record.ops[source].shapes[0] for source in kept]
        if (kind in BINARY and len(listed) == 2 and not certain) or (
                kind in JOINS and joined_along(shapes, op.shapes[0]) is None):
            kept = listed
        read.append(kept)
        may_write = kind in MAYBE_IN_PLACE or IN_PLACE.fullmatch(op.name)
        written.append(listed[:listed.index(kept[0]) + 1] if may_write and kept else [])
    return read


class RecordedModule(nn.Module):
    """
    The module of a record: takes a uint8 image (``input_shape``) and computes every operator.

    The calls before the first that computes (casts, permutes ...) are not part of it: the image
    is what they leave, a 5-dimensional one with its channels and depth as channels.
    """

    takes_pixels = True

    def __init__(self, record: Record):
        """Build the layers, on no device; raises RecordError for what can't be built."""
        super().__init__()
        self.record = record
        self.first = _first_computing(record)
        self.start_shape = record.ops[self.first - 1].shapes[0]
        if len(self.start_shape) not in (4, 5) or self.start_shape[0] != 1:
            raise RecordError(f'{record.described(self.first)} takes {list(self.start_shape)}, '
                              'expected one image [1, C, H, W] or [1, C, D, H, W]')
        *front, height, width = self.start_shape
        self.input_shape = (1, prod(front), height, width)
        self.layers = nn.ModuleDict()
        self.calls, self.reads = {}, {}
        self.operands = [[max(source, self.first - 1) for source in sources]
                         for sources in operands(record)]
        for number in range(self.first, len(record.ops) - 1):
            self._add(number)
        self.outputs = self.operands[-1]
        elements = sum(prod(record.ops[number].shapes[0]) for number in self.outputs)
        # What is sent shows whether a last cast was to one byte or to four.
        self.small = record.output_mbytes * MIB < 2 * elements

    def _add(self, number: int) -> None:
        op = self.record.ops[number]
        kind, where = plain(op.name), self.record.described(number)
        if kind not in MAKERS:
            raise RecordError(f'{where} is of a kind that is not known; known are '
                              f'{", ".join(sorted(MAKERS))}')
        if len(op.shapes) != 1:
            raise RecordError(f'{where} makes several tensors: which of them goes where is not '
                              'recorded')
        reads = self.operands[number]
        joins = 2 if kind in BINARY else len(reads) if kind in JOINS else 1
        if len(reads) > joins:
            raise RecordError(f'{where} lists inputs {list(op.inputs)}, of which {reads} are no '
                              f'aliases of others; expected {joins}')
        shapes = [self.record.ops[source].shapes[0] for source in reads]
        try:
            with torch.device('meta'):
                call = MAKERS[kind](kind, shapes, op.shapes[0])
                made = call(*(torch.empty(shape) for shape in shapes))
        except (RecordError, RuntimeError, ValueError, IndexError, KeyError) as error:
            raise RecordError(f'{where} can not be built: {error}') from error
        if tuple(made.shape) != op.shapes[0]:
            raise RecordError(f'{where} can not be built: it would make {list(made.shape)}')
        if isinstance(call, nn.Module):
            self.layers[str(number)] = call
        self.calls[number], self.reads[number] = call, reads

    def forward(self, image):
        """Run every operator in order."""
        x = image.float()
        if self.start_shape != self.input_shape:
            x = x.reshape(self.start_shape)
        made = {self.first - 1: x}
        for number, reads in self.reads.items():
            x = self.calls[number](*(made[source] for source in reads))
            if plain(self.record.ops[number].name) == 'type' and number in self.outputs:
                x = x.to(torch.uint8 if self.small else torch.float32)
            made[number] = x
        answers = tuple(made[number] for number in self.outputs)
        return answers[0] if len(answers) == 1 else answers


def _first_computing(record: Record) -> int:
    """Return the first operator that is more than a cast or a view of the whole input."""
    for number, op in enumerate(record.ops[1:-1], 1):
        if plain(op.name) not in SAME | VIEWS or prod(op.shapes[0]) != prod(record.input_shape):
            return number
    raise RecordError('it has no operator that computes')


def build(record: Record) -> RecordedModule:
    """Return the module of a record with all weights 0, in inference state; raises RecordError."""
    module = RecordedModule(record).to_empty(device='cpu').eval()
    for name, tensor in module.state_dict().items():
        tensor.fill_(1 if name.endswith('running_var') else 0)
    return module
