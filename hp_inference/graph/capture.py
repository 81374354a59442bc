# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch module to a Graph: torch.export, normalisation first, constants folded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import operator

import torch
from torch.utils import _pytree as pytree

from hp_inference.graph.build import Builder
from hp_inference.graph.errors import CaptureError, first_line, LONGEST_REASON
from hp_inference.graph.ir import (
    Const,
    encode,
    Graph,
    leaves,
    Ref,
    substitute,
    Value,
    weights_digest,
)
from hp_inference.graph.passes import fold_batch_norm, split_reductions
from hp_inference.graph.quiet import quiet, tame
from hp_inference.graph.state import example_images, lazy_part, named_leaves, run
from hp_inference.graph.stateless import ask_in_a_row, check_capture, copied, stateful
from hp_inference.graph.table import overload
from hp_inference.text import line, MOST

# What these return does not depend on the elements of their first argument, only on its shape.
SHAPE_ONLY = {f'aten.{name}' for name in (
    'new_zeros.default', 'new_ones.default', 'new_full.default', 'new_empty.default',
    'zeros_like.default', 'ones_like.default', 'full_like.default', 'empty_like.default')}
# These return their first argument in inference.
IDENTITY = {f'aten.{name}' for name in (
    'clone.default', 'contiguous.default', 'alias.default', 'detach.default', 'detach_.default',
    'lift_fresh_copy.default', 'lift_fresh.default', 'dropout.default', 'feature_dropout.default',
    'alpha_dropout.default', 'view_as.default', 'positive.default')}
# Strides are not part of the graph (slices and channels_last change them): views may copy.
VIEWS = ('aten.view.default', 'aten._unsafe_view.default')
# These return several pieces of their argument; each piece becomes an operator of its own.
PIECES = {f'aten.{name}' for name in (
    'split.Tensor', 'split.sizes', 'split.default', 'split_with_sizes.default', 'chunk.default',
    'tensor_split.sections', 'tensor_split.indices')}
# Of these no two calls agree, so no split could.
RANDOM = ('aten.rand', 'aten.normal', 'aten.bernoulli', 'aten.multinomial', 'aten.poisson')


@dataclass(frozen=True)
class Preprocessing:
    """
    The normalisation that turns the uint8 image into the model's input.

    Per channel: ``(pixel / 255 - mean) / std``, in the model's own float type.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def default(cls, channels: int) -> Preprocessing:
        """Return ImageNet's mean and deviation for colour, plain scaling to [0, 1] otherwise."""
        if channels == 3:
            return cls((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return cls((0.0,) * channels, (1.0,) * channels)


class ImageModel(torch.nn.Module):
    """The unsplit model with its normalisation: the answer that every plan has to give."""

    def __init__(self, module: torch.nn.Module, pre: Preprocessing | None,
                 dtype: torch.dtype = torch.float32):
        """
        Wrap a module; ``pre`` None means that the module takes the uint8 image itself.

        ``dtype`` is the float type of a module that has no float parameter to tell it.
        """
        super().__init__()
        self.module = module
        self.plain = pre is None
        if pre is not None:
            dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), dtype)
            std = torch.tensor(pre.std, dtype=torch.float64)
            shift = -torch.tensor(pre.mean, dtype=torch.float64) / std
            self.register_buffer('scale', (1 / (255 * std)).reshape(1, -1, 1, 1).to(dtype))
            self.register_buffer('shift', shift.reshape(1, -1, 1, 1).to(dtype))

    def forward(self, image):
        """Run on a uint8 image [1, C, H, W]."""
        if self.plain:
            return self.module(image)
        return self.module(image.to(self.scale.dtype) * self.scale + self.shift)


def as_image_model(module: torch.nn.Module, shape: Sequence[int],
                   pre: Preprocessing | None = None,
                   dtype: torch.dtype = torch.float32) -> ImageModel:
    """
    Return the unsplit model for images of ``shape`` (1, C, H, W), in inference state.

    ``dtype`` is the float type of a module that has no float parameter to tell it.
    Raises CaptureError for a shape or a normalisation that does not fit.
    """
    if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
        raise CaptureError(f'the input is [{",".join(map(str, shape))}], expected 1,C,H,W: '
                           'one image at the size that the model takes')
    exported_for = getattr(module, 'input_shape', None) or tuple(shape)
    if tuple(shape) != exported_for:
        raise CaptureError(f'the input is [{",".join(map(str, shape))}], but the program was '
                           f'exported for [{",".join(map(str, exported_for))}]: take that size, '
                           'or export it for the other one')
    takes_pixels = getattr(module, 'takes_pixels', False)
    if takes_pixels and pre is not None:
        raise CaptureError('the model takes the uint8 image itself: a mean and a std do not go '
                           'with it')
    pre = pre or Preprocessing.default(shape[1])
    if len(pre.mean) != shape[1] or len(pre.std) != shape[1] or 0 in pre.std:
        raise CaptureError(f'mean {pre.mean} and std {pre.std} do not fit {shape[1]} channels: '
                           'give one number per channel, std not 0')
    unmade = lazy_part(module)
    if unmade:
        raise CaptureError(f'its part {unmade} makes its weights at the first call: call the '
                           'module once on an image before it is given away')
    wrapped = ImageModel(module, None if takes_pixels else pre, dtype)
    try:
        wrapped.eval()
    except (RuntimeError, NotImplementedError):
        pass  # an exported program is in inference state already and refuses to be told
    for tensor in (*wrapped.parameters(), *wrapped.buffers()):
        # Not module.to(memory_format=...), which fails on the weights of a 3D convolution.
        tensor.data = _laid_out(tensor)
    return wrapped.requires_grad_(False)


def capture(model: ImageModel, shape: Sequence[int], name: str, fold: bool = True) -> Graph:
    """
    Return the graph of a model for uint8 images of ``shape`` (1, C, H, W).

    The digest covers the graph as exported and the weights before folding. ``fold`` False keeps
    batch norms apart. A copy of the model is exported, and run on several images, so that the model
    is left as it was. Raises CaptureError when torch.export refuses the model, and when its answer
    depends on earlier images.
    """
    images, failed = example_images(shape), ''
    exported = copied(model, name)
    try:
        run(exported, images[0])  # what is made at the first call is a constant from then on
        answers = ask_in_a_row(model, name, images)
    except CaptureError:
        raise
    except Exception as error:  # the user's code may raise anything; torch.export says it better
        failed = line(error, LONGEST_REASON)
    try:
        with quiet(), tame():
            program = torch.export.export(exported, (images[0],)).run_decompositions({})
    except Exception as error:  # torch.export raises many types; all mean the same to a user
        raise CaptureError(
            f'{name} can not be captured by torch.export for an image of '
            f'{",".join(map(str, shape))}: {first_line(error)}. If it has '
            'control flow that depends on the image (a detection head, say), it has to be split '
            'before that: name its backbone, like torchvision:NAME.backbone') from error
    if failed:
        raise CaptureError(f'{name} itself fails on an image of {",".join(map(str, shape))}: '
                           f'{failed}')
    with torch.inference_mode():
        graph = _read(program, name, shape)
        check_capture(graph, name, images[1:], answers)
        if fold:
            graph = fold_batch_norm(graph)
        return split_reductions(graph)


def _read(program: torch.export.ExportedProgram, name: str, shape: Sequence[int]) -> Graph:
    """Translate the exported program operator by operator."""
    changed = [spec.target or 'its input' for spec in program.graph_signature.output_specs
               if 'MUTATION' in spec.kind.name]
    if changed:
        raise stateful(name, changed)
    tensors = {**program.state_dict, **program.constants}
    weights = {spec.arg.name: (spec.target, tensors[spec.target])
               for spec in program.graph_signature.input_specs if spec.target is not None}
    builder = Builder(name, Value(0, 'image', tuple(shape), 'uint8'), {})
    stands: dict = {}
    for node in program.graph.nodes:
        if node.op == 'placeholder':
            if node.name in weights:
                target, tensor = weights[node.name]
                if not isinstance(tensor, torch.Tensor):
                    raise CaptureError(f'{name} keeps a {type(tensor).__name__} ({target}), which '
                                       'is no tensor: take it out for inference')
                stands[node] = builder.constant(target, _laid_out(tensor))
            else:
                stands[node] = Ref(0)
        elif node.op == 'call_function':
            stands[node] = _operator(node, stands, builder)
        elif node.op == 'output':
            outputs = _named_outputs(program, node, stands, name)
    graph = builder.finish(outputs)
    graph.digest = _digest(graph, builder)
    return graph


def _digest(graph: Graph, builder: Builder) -> str:
    """Return the digest of a graph; for a folded constant stand what it is made of, and how."""
    folded, weights, names = {}, {}, list(graph.constants)
    for name in names:  # grows
        if name in builder.recipes:
            recipe = builder.recipes[name]
            folded[name] = encode(recipe)
            names += [leaf.name for leaf in leaves(recipe)
                      if isinstance(leaf, Const) and leaf.name not in names]
        else:
            weights[name] = builder.constants[name]
    return weights_digest({**graph.to_json(), 'folded': folded}, weights)


def _laid_out(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _operator(node, stands: dict, builder: Builder):
    """Return what stands for a node: a Ref, a Const, or the node of a tuple for getitem to pick."""
    target = str(node.target)
    if node.target is operator.getitem:
        return _picked(node, stands, builder)
    if isinstance(node.target, torch._ops.HigherOrderOperator):
        raise CaptureError(f'operator {target} is control flow that depends on the image: only '
                           'what computes the same operators for every image can be split')
    args, kwargs = _translated(node.args, stands), _translated(node.kwargs, stands)
    kwargs.pop('device', None), kwargs.pop('pin_memory', None)
    if target in VIEWS:
        target = 'aten.reshape.default'
    if target.startswith(RANDOM) or ('dropout' in target and args[2]):
        raise CaptureError(f'operator {target} ({_name(node)}) draws random numbers: its answer '
                           'is another one at every call; take it out for inference')
    if target in IDENTITY or (target.startswith('aten._assert') or 'sym_' in target):
        return args[0] if args else None
    if target == 'aten.expand_as.default':
        node_shape = list(node.meta['val'].shape)
        return builder.add('aten.expand.default', (args[0], node_shape), name=_name(node),
                           shape=node_shape, dtype=_dtype(node.meta['val']))
    if target in SHAPE_ONLY:
        like = torch.zeros(node.args[0].meta['val'].shape, dtype=node.args[0].meta['val'].dtype)
        return builder.constant(node.name, node.target(like, *args[1:], **kwargs))
    if not isinstance(node.target, torch._ops.OpOverload):
        return _arithmetic(node, args, kwargs)
    if not any(isinstance(leaf, Ref) for leaf in leaves((args, kwargs))):
        made = _call_constant(target, args, kwargs, builder)
        if not isinstance(made, torch.Tensor):  # several tensors, or a number that goes on as such
            return made
        return builder.constant(node.name, made, (target, args, kwargs))
    meta = node.meta['val']
    if isinstance(meta, (tuple, list)):
        return node  # its getitems will ask
    if not isinstance(meta, torch.Tensor):
        raise CaptureError(f'operator {target} returns a {type(meta).__name__} that depends on '
                           'the image; only tensors of fixed shape can be split')
    if not all(isinstance(size, int) for size in meta.shape):
        raise CaptureError(f'the size of what {target} ({_name(node)}) makes depends on the image; '
                           'only tensors of fixed shape can be split')
    return builder.add(target, args, kwargs, name=_name(node), shape=meta.shape,
                       dtype=_dtype(meta))


def _arithmetic(node, args, kwargs):
    """Return a number that Python, not an operator, makes of others that are no tensors."""
    if any(isinstance(leaf, (Ref, Const)) for leaf in leaves((args, kwargs))):
        raise CaptureError(f'{node.target} ({_name(node)}) is computed of the image outside of '
                           'operators; only tensors can be split')
    return node.target(*args, **kwargs)


def _translated(item, stands: dict):
    """Return a node's arguments with nodes replaced; fx's own list types become plain ones."""
    if isinstance(item, (tuple, list)):
        return type(item)(_translated(p, stands) for p in item) if type(item) in (
            tuple, list) else [_translated(p, stands) for p in item]
    if isinstance(item, dict):
        return {key: _translated(part, stands) for key, part in item.items()}
    return stands[item] if isinstance(item, torch.fx.Node) else item


def _call_constant(target: str, args, kwargs, builder: Builder):
    def tensor(leaf):
        return builder.constants[leaf.name] if isinstance(leaf, Const) else leaf
    return overload(target)(*substitute(args, tensor), **substitute(kwargs, tensor))


def _picked(node, stands: dict, builder: Builder):
    """Return one tensor of an operator that yields several."""
    source, item = node.args
    made = stands[source]
    target, meta = str(source.target), node.meta['val']
    args, kwargs = _translated(source.args, stands), _translated(source.kwargs, stands)
    if isinstance(made, (tuple, list)):  # of constants
        return builder.constant(node.name, made[item], (target, args, kwargs, item))
    shown = {'name': _name(source), 'shape': meta.shape, 'dtype': _dtype(meta)}
    if target in PIECES or target == 'aten.unbind.int':
        place = 1 if target == 'aten.unbind.int' else 2
        dim = args[place] if len(args) > place else kwargs.get('dim', 0)
        if target == 'aten.unbind.int':
            return builder.add('aten.select.int', (args[0], dim, item), **shown)
        pieces = [piece.shape[dim] for piece in source.meta['val']]
        begin = sum(pieces[:item])
        return builder.add('aten.slice.Tensor', (args[0], dim, begin, begin + pieces[item]),
                           **shown)
    return builder.add(target, args, kwargs, item=item, **shown)


def _name(node) -> str:
    """Return the path of the module that the operator belongs to, or the node's own name."""
    stack = node.meta.get('nn_module_stack') or {}
    paths = [path for path, _ in stack.values() if path]
    path = paths[-1] if paths else ''
    path = path.removeprefix('module.')
    return path if path and path != 'module' else node.name


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix('torch.')


def _named_outputs(program, node, stands: dict, name: str) -> dict[str, Ref]:
    """Return the outputs by the path that they have in the model's return value."""
    flat = [stands.get(leaf, leaf) if isinstance(leaf, torch.fx.Node) else leaf
            for leaf in node.args[0]]
    places = pytree.tree_unflatten(list(range(len(flat))), program.call_spec.out_spec)
    outputs = {}
    for label, place in named_leaves(places):
        if label in outputs:
            raise CaptureError(f'{name} returns two outputs that are both named {label!r}')
        if label != line(label):
            raise CaptureError(f'{name} returns an output named {label!r}: expected a name of '
                               f'at most {MOST} characters that print')
        if isinstance(flat[place], Ref):
            outputs[label] = flat[place]
        elif flat[place] is not None:
            raise CaptureError(f'output {label!r} of {name} does not depend on the image')
    if not outputs:
        raise CaptureError(f'{name} returns no tensor')
    return outputs
