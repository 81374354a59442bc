# SPDX-License-Identifier: Apache-2.0
"""
Prints requirements that leave alone what is installed: for a machine that brings its own ROS 2.

ROS 2's compiled packages and a board's PyTorch are built against the machine's own NumPy, so what
is there keeps its version. What is missing comes in whatever version fits to that, except where
nothing of the machine's depends on it: there the pins of the given requirements files hold.
"""

from importlib import metadata
from pathlib import Path
import sys

PINNED = {'ruff', 'setuptools', 'torch'}

for path in sys.argv[1:]:
    for line in Path(path).read_text(encoding='utf-8').splitlines():
        requirement = line.partition('#')[0].strip()
        if not requirement:
            continue
        name = requirement.partition('==')[0]
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = None
        if installed and name != 'setuptools':
            # A local version label (2.3.0+nv24.5) is part of what must be kept.
            print(f'{name}=={installed}')
        else:
            print(requirement if name in PINNED else name)
