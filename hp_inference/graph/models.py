# SPDX-License-Identifier: Apache-2.0
"""From a model's name to the module that it means."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from pathlib import Path

import torch

from hp_inference.graph.torchvision_shim import import_torchvision

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
    return module.to(dtype)


def _torchvision(attribute: str) -> torch.nn.Module:
    import_torchvision()
    from torchvision import models
    name, *parts = attribute.split('.')
    try:
        builder = models.get_model_builder(name)
    except ValueError as error:
        raise ModelError(f'torchvision has no model {name!r}; it has, for example, '
                         f'{", ".join(models.list_models()[:5])} ...') from error
    options = {'weights': None}
    if 'weights_backbone' in inspect.signature(builder).parameters:
        options['weights_backbone'] = None
    module = builder(**options)
    for part in parts:
        if not hasattr(module, part):
            children = ', '.join(child for child, _ in module.named_children())
            raise ModelError(f'torchvision:{name} has no part {part!r}; it has {children}')
        module = getattr(module, part)
    return module.eval()


def _factory(source: str, attribute: str) -> torch.nn.Module:
    try:
        if source.endswith('.py'):
            path = Path(source)
            if not path.is_file():
                raise ModelError(f'there is no file {source}')
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(source)
    except ImportError as error:
        raise ModelError(f'can not import {source}: {error}; expected {FORMS}') from error
    factory = getattr(module, attribute, None)
    if factory is None:
        raise ModelError(f'{source} has no {attribute!r}: expected a function that returns a '
                         'torch.nn.Module')
    made = factory() if not isinstance(factory, torch.nn.Module) else factory
    return made.eval() if isinstance(made, torch.nn.Module) else made


def _exported(name: str) -> torch.nn.Module:
    if not Path(name).is_file():
        raise ModelError(f'there is no file {name}')
    try:
        program = torch.export.load(name)
    except Exception as error:  # a broken archive raises many types
        raise ModelError(f'{name} is not a program saved by torch.export.save: {error}') from error
    module = program.module()
    inputs = [node.meta['val'] for node in program.graph.nodes if node.op == 'placeholder'
              and node.name in program.graph_signature.user_inputs]
    # A program that takes the uint8 image does its own normalisation.
    module.takes_pixels = len(inputs) == 1 and inputs[0].dtype is torch.uint8
    return module


def _load_weights(module: torch.nn.Module, weights: str, name: str) -> None:
    if not Path(weights).is_file():
        raise ModelError(f'there is no weights file {weights}')
    try:
        state = torch.load(weights, map_location='cpu', weights_only=True)
    except Exception as error:  # broken files and refused contents raise many types
        raise ModelError(f'{weights} does not load as plain weights: {error}') from error
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        lines = str(error).splitlines()
        raise ModelError(f'{weights} does not hold the weights of {name}: '
                         f'{" ".join(line.strip() for line in lines[:3])}') from error
