# SPDX-License-Identifier: Apache-2.0
"""
Imports torchvision beside a PyTorch that its compiled operators were not built for.

torchvision's wheel is built for one PyTorch build. Beside another one (the CPU build, a board's
own) its compiled operators do not load, and the import fails on the missing `torchvision::nms`,
although the models themselves need none of them.
"""

import functools
import importlib
import sys

import torch

_NEEDED_TO_IMPORT = ('nms', 'qnms')
_SIGNATURE = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'
_libraries = []  # a declaration lives as long as the library that made it


@functools.lru_cache(maxsize=None)
def import_torchvision():
    """
    Return the module torchvision, whose models can be built and exported.

    Call it before code that says `import torchvision` itself, such as a user's model file. Where
    the compiled operators are absent, calling one of them (box suppression, ROI pooling) raises
    torchvision's own RuntimeError.

    Raises ModuleNotFoundError where torchvision is not installed, and RuntimeError where its import
    fails for another reason than those operators.
    """
    try:
        return importlib.import_module('torchvision')
    except ModuleNotFoundError as error:
        if error.name != 'torchvision':
            raise
        raise ModuleNotFoundError(
            'models named torchvision:... need torchvision, which is not installed: install the '
            f'release that belongs to PyTorch {torch.__version__} (pip install --no-deps '
            'torchvision keeps this PyTorch)', name='torchvision') from error
    except RuntimeError as error:
        if 'torchvision::' not in str(error):
            raise
    # Only now: declaring an operator that a working torchvision declares aborts the process.
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for operator in _NEEDED_TO_IMPORT:
        library.define(operator + _SIGNATURE)
    _libraries.append(library)
    for name in [n for n in sys.modules if n.partition('.')[0] == 'torchvision']:
        del sys.modules[name]
    return importlib.import_module('torchvision')
