# SPDX-License-Identifier: Apache-2.0
"""One folder that is named at start: files that are named later lie in it, or are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
import stat

from hp_inference import files
from hp_inference.files import FileError

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Folder:
    """
    A folder, and nothing outside it.

    ``path``: '' is where the process was started. Files are named from there, or in full. A name
    that leads out, in full or by '..', is refused before anything is looked for, so that nobody can
    find out what there is elsewhere. Links below the folder are not followed: every step of the way
    is opened from the one before, so none can be put in between, either. All methods raise
    FileError.
    """

    def __init__(self, path: str = ''):
        try:
            self.path = os.path.abspath(path)
        except OSError:  # it was started in a folder that is gone: nothing lies in it
            self.path = ''
        # In full it may be named as its user sees it: through a link, which the shell's $PWD keeps.
        seen = os.path.normpath(os.path.join(os.environ.get('PWD', ''), path))
        real = os.path.realpath(self.path) if self.path else ''
        self._names = [name for name in {self.path, real, seen}
                       if os.path.isabs(name) and os.path.realpath(name) == real]

    def check_read(self, name: str) -> None:
        """Refuse what is no regular file in here; it is not opened."""
        with self._around('read', name) as (folder, last):
            _check_regular(last, folder)

    def check_write(self, name: str) -> None:
        """Refuse a place outside, and one that something other than a regular file has taken."""
        with self._around('write', name) as (folder, last):
            try:
                _check_regular(last, folder)
            except FileNotFoundError:
                pass

    def read_text(self, name: str, most: int) -> str:
        """Return what is in a text file of ``most`` bytes at most."""
        with self._around('read', name) as (folder, last):
            return files.read_text(last, most, folder)

    def write(self, name: str, text: str, replaces: Callable[[str], bool], most: int) -> None:
        """Write a file whole, over one that is there only if ``replaces`` says so of its text."""
        with self._around('write', name) as (folder, last):
            try:
                _check_regular(last, folder)
            except FileNotFoundError:
                there = None
            else:
                there = files.read_text(last, most, folder)
            if there is not None and not replaces(there):
                raise files.refusal('write', name, 'what is there is something else, which stays')
            # Only who may write into the folder can put something else there just now.
            files.write(last, text, folder)

    @contextmanager
    def _around(self, what: str, name: str) -> Iterator[tuple[int, str]]:
        """Open the folder that a file lies in, for a while; gives it and the file's name in it."""
        *above, last = self._parts(what, name)
        folder = None
        try:
            folder = os.open(self.path, _FOLDER)
            for part in above:
                below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder, last
        except FileError as error:  # which knows the file without the way to it
            raise files.refusal(what, name, error.why) from error.__cause__
        except NotADirectoryError as error:
            raise files.refusal(what, name, 'the way to it has a link or a file in it') from error
        except (OSError, ValueError) as error:
            raise files.refusal(what, name, error) from error
        finally:
            if folder is not None:
                os.close(folder)

    def _parts(self, what: str, name: str) -> list[str]:
        inside = name
        if os.path.isabs(name):
            inside = next((name[len(mine):] for mine in self._names
                           if name.startswith(f'{mine.rstrip("/")}/')), '')
        parts = [part for part in inside.split('/') if part not in ('', '.')]
        if not parts or '..' in parts:
            raise files.refusal(what, name, f'it is not in the folder {self.path}')
        return parts


def _check_regular(name: str, folder: int) -> None:
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise files.refusal('use', name, 'it is no regular file')
