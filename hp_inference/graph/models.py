# SPDX-License-Identifier: Apache-2.0
"""From a model's name to the module that it means."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import copy
import difflib
import importlib
import importlib.util
import inspect
from pathlib import Path
import sys
import traceback
from types import ModuleType
from typing import BinaryIO
import warnings
import zipfile

import torch
from torch.fx.node import map_aggregate

from hp_inference import files
from hp_inference.files import FileError
from hp_inference.graph.draw import draw_weights
from hp_inference.graph.exported import ExportError, load_exported
from hp_inference.graph.quiet import quiet, tame
from hp_inference.graph.state import lazy_part
from hp_inference.graph.torchvision_shim import import_torchvision
from hp_inference.text import line

FORMS = ('torchvision:NAME, torchvision:NAME.PART (an attribute, like .backbone), '
         'package.module:factory, path/file.py:factory or file.pt2')


class ModelError(ValueError):
    """A model can't be found or loaded; the text says why and what was expected."""


def load_model(name: str, weights: str = '', seed: int = 0,
               dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """
    Return the module that a name means, in inference state.

    name: one of FORMS. weights: a state dict file (loaded with ``weights_only``), '' for weights
    drawn under ``seed``. Raises ModelError.
    """
    if name.endswith('.pt2'):
        module = _exported(name)
    elif ':' not in name:
        raise ModelError(f'model {name!r} is not of a known form: expected {FORMS}')
    else:
        source, _, attribute = name.rpartition(':')
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            torch.manual_seed(seed)
            if source == 'torchvision':
                module = _torchvision(attribute)
            else:
                module = _factory(source, attribute)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f'{name} gave a {type(module).__name__}, expected a torch.nn.Module')
    if weights:
        _load_weights(module, weights, name)
    elif name.startswith('torchvision:'):
        draw_weights(module, seed)  # other factories know their own weights
    if name.endswith('.pt2'):
        _retype(module, dtype)
    unmade = lazy_part(module)
    if unmade:
        raise ModelError(f'{name} has weights that are made at the first call ({unmade}): let its '
                         'factory call the module once on an image of the right size')
    try:
        with tame():
            return module.to(dtype)
    except Exception as error:  # a module of the user's may forbid it
        raise ModelError(f'{name} can not compute in {dtype}: {type(error).__name__}: '
                         f'{line(error, 300)}') from error


def _retype(module: torch.fx.GraphModule, dtype: torch.dtype) -> None:
    """Let an exported program compute in another float type: its operators name their own."""
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), dtype)
    if own is not dtype:
        _name_type(module, dtype)


def _name_type(module: torch.fx.GraphModule, dtype: torch.dtype) -> None:
    """Let the operators of a program name another float type."""
    for node in module.graph.nodes:
        node.args, node.kwargs = map_aggregate((node.args, node.kwargs), lambda leaf: dtype if (
            isinstance(leaf, torch.dtype) and leaf.is_floating_point) else leaf)
    module.recompile()


def in_float64(model: torch.nn.Module) -> torch.nn.Module:
    """
    Return a copy of a model that computes the same function in float64.

    Weights are widened as they are copied. Raises what copying raises.
    """
    wide = {id(tensor): torch.nn.Parameter(tensor.double(), requires_grad=False)
            if isinstance(tensor, torch.nn.Parameter) else tensor.double()
            for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()}
    made = copy.deepcopy(model, wide)
    for module in made.modules():
        if isinstance(module, torch.fx.GraphModule):
            _name_type(module, torch.float64)
    return made


def _torchvision(attribute: str) -> torch.nn.Module:
    try:
        import_torchvision()
    except (ImportError, RuntimeError) as error:
        raise ModelError(f'can not import torchvision: {error}') from error
    from torchvision import models
    name, *parts = attribute.split('.')
    try:
        builder = models.get_model_builder(name)
    except ValueError as error:
        near = difflib.get_close_matches(name, models.list_models(), n=3, cutoff=0)
        raise ModelError(f'torchvision has no model {name!r}; the nearest names that it has are '
                         f'{", ".join(near)}') from error
    options = {'weights': None}
    if 'weights_backbone' in inspect.signature(builder).parameters:
        options['weights_backbone'] = None
    module = builder(**options)
    for part in parts:
        if part not in dict(module.named_children()):
            children = ', '.join(child for child, _ in module.named_children())
            raise ModelError(f'torchvision:{name} has no part {part!r}; it has {children}')
        module = getattr(module, part)
    return module.eval()


def _factory(source: str, attribute: str) -> torch.nn.Module:
    with contextlib.suppress(ImportError, RuntimeError):
        import_torchvision()  # before the user's code does
    try:
        with _importable_beside(source):
            factory = getattr(_module(source), attribute, None)
            if factory is None:
                raise ModelError(f'{source} has no {attribute!r}: expected a function that '
                                 'returns a torch.nn.Module')
            made = factory if isinstance(factory, torch.nn.Module) else factory()
            return made.eval() if isinstance(made, torch.nn.Module) else made
    except ModelError:
        raise
    except BaseException as error:  # the user's code may raise anything
        if type(error) is KeyboardInterrupt:
            raise
        raise ModelError(f'{source}:{attribute} failed with {type(error).__name__}: '
                         f'{line(error, 300)}{_where(error)}') from error


def _where(error: BaseException) -> str:
    """Return the place in a file where an error came from; a SyntaxError's text has its own."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if frame.filename != __file__ and not frame.filename.startswith('<')]
    if isinstance(error, SyntaxError) or not frames:
        return ''
    return f' ({frames[-1].filename}, line {frames[-1].lineno})'


def _module(source: str) -> ModuleType:
    """Import what a name like package.module or path/file.py means."""
    if not source.endswith('.py'):
        try:
            return importlib.import_module(source)
        except ModuleNotFoundError as error:
            if not error.name or not f'{source}.'.startswith(f'{error.name}.'):
                raise  # found, but something that it imports is missing
            raise ModelError(f'there is no module {source} to import: expected {FORMS}') from error
        except (TypeError, ValueError) as error:  # relative or empty names
            raise ModelError(f'{source!r} is not the name of a module: expected {FORMS}') from error
    path = Path(source)
    if not path.is_file():
        raise ModelError(f'there is no file {source}')
    name = f'hp_model_file_{path.stem}'
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable_beside(source: str) -> Iterator[None]:
    """Let a model file import the files beside it, as a script may."""
    if not source.endswith('.py'):
        yield
        return
    folder = str(Path(source).resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _exported(name: str) -> torch.nn.Module:
    if not Path(name).is_file():
        raise ModelError(f'there is no file {name}')
    try:
        program = load_exported(name)
    except (FileError, ExportError) as error:
        raise ModelError(str(error)) from error
    inputs = [node.meta['val'] for node in program.graph.nodes if node.op == 'placeholder'
              and node.name in program.graph_signature.user_inputs]
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        raise ModelError(f'{name} takes {len(inputs)} inputs, expected one: the image')
    module = program.module()
    # A program that takes the uint8 image does its own normalisation.
    module.takes_pixels = inputs[0].dtype is torch.uint8
    # Of a size of its own, unless it was exported for several.
    module.input_shape = tuple(inputs[0].shape) if all(
        isinstance(size, int) for size in inputs[0].shape) else None
    return module


def _load_weights(module: torch.nn.Module, weights: str, name: str) -> None:
    try:
        with quiet(), files.opened(weights) as (file, size):
            _check_packing(file, size, weights)
            state = torch.load(file, map_location='cpu', weights_only=True)
    except files.FileError as error:
        raise ModelError(f'weights: {error}') from error
    except ModelError:
        raise
    except Exception as error:  # broken files and refused contents raise many types
        # Of a long text about trust, only the line that says what was refused.
        reason = str(error).rpartition('trusted source.')[2]
        reason = reason.rpartition('WeightsUnpickler error:')[2].partition('. Please use')[0]
        raise ModelError(f'{weights} does not load as plain weights, expected the file of '
                         f'torch.save(model.state_dict(), ...): {_first_line(reason)}') from error
    try:
        keys = module.load_state_dict(state, strict=False)
    except Exception as error:  # what is no name, no tensor or of another shape
        reason = str(error).partition('\n')[2] or str(error)  # without the heading
        raise ModelError(f'{weights} does not hold the weights of {name}: '
                         f'{_first_line(reason)}') from error
    if keys.missing_keys or keys.unexpected_keys:
        raise ModelError(
            f'{weights} does not hold the weights of {name}: {_some(keys.missing_keys)} missing, '
            f'{_some(keys.unexpected_keys)} too many; expected the state dict of this very model')


def _check_packing(file: BinaryIO, size: int, weights: str) -> None:
    """Raise ModelError for an archive that unpacks to more than there is of it."""
    if zipfile.is_zipfile(file):
        file.seek(0)
        unpacked = sum(member.file_size for member in zipfile.ZipFile(file).infolist())
        if unpacked > size:
            raise ModelError(f'weights file {line(weights)} has {size} bytes and unpacks to '
                             f'{unpacked}: torch.save packs nothing, save it again')
    file.seek(0)


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), 'no reason given')


def _some(names: list[str]) -> str:
    """Return how many names there are, and the first ones."""
    shown = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
    return f'{len(names)} ({shown})' if names else '0'
