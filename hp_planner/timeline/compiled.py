# SPDX-License-Identifier: Apache-2.0
"""How functions are compiled: by numba, without Python's lock, and kept on disk between runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from numba import njit


def forget_stale(folder: Path) -> None:
    """
    Drop what was compiled before any source in a folder changed.

    numba looks at the file that holds a function, but not at those whose functions it calls.
    """
    newest = max((path.stat().st_mtime for path in folder.glob('*.py')), default=0.0)
    for index in (folder / '__pycache__').glob('*.nbi'):
        with suppress(OSError):  # another process may have been quicker, or own the files
            if index.stat().st_mtime < newest:
                index.unlink()


forget_stale(Path(__file__).parent)
compiled = njit(cache=True, nogil=True)
