# SPDX-License-Identifier: Apache-2.0
"""How functions are compiled: by numba, without Python's lock, and kept on disk between runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hp_inference import split

try:
    from numba import njit
except ImportError as error:
    raise ImportError('planning needs numba (requirements/planner.txt): install it, or plan on '
                      'another machine; to use plans takes none') from error


def forget_stale(*folders: Path) -> None:
    """
    Drop what was compiled in the first folder before any source in one of them changed.

    numba looks at the file that holds a function, but not at those whose functions it calls.
    """
    newest = max((path.stat().st_mtime for folder in folders for path in folder.glob('*.py')),
                 default=0.0)
    for index in (folders[0] / '__pycache__').glob('*.nbi'):
        with suppress(OSError):  # another process may have been quicker, or own the files
            if index.stat().st_mtime < newest:
                index.unlink()


# The plan compiler lies in hp_inference, and is compiled with what calls it here.
forget_stale(Path(__file__).parent, Path(split.__file__).parent)
compiled = njit(cache=True, nogil=True)
