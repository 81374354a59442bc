# SPDX-License-Identifier: Apache-2.0
"""Files that people name: read without waiting and without believing them, written in one go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import stat
import tempfile
from typing import BinaryIO

from hp_inference.text import line


class FileError(ValueError):
    """A file that can't be read or written; the text names it and says why."""


def read(path: str | os.PathLike, most: int) -> bytes:
    """
    Return what is in a regular file of ``most`` bytes at most.

    Never waits: a pipe, a device or a folder is refused before it is opened for good. A file that
    says it is empty is not read, as what grows under the reader (/proc, /sys) says so, too. Raises
    FileError.
    """
    handle, told = _open(path)
    try:
        data = bytearray()
        # The size that it tells is not believed: it may grow, or be something else in disguise.
        while told and len(data) <= most:
            piece = os.read(handle, min(most + 1 - len(data), 1 << 20))
            if not piece:
                break
            data += piece
    except OSError as error:
        raise _refusal('read', path, error) from error
    finally:
        os.close(handle)
    if len(data) > most:
        raise FileError(f'can not read {line(path)}: it has more than {most} bytes')
    return bytes(data)


def _open(path: str | os.PathLike) -> tuple[int, int]:
    """Return a descriptor of a regular file and the size that it tells; raises FileError."""
    try:
        # Without O_NONBLOCK opening a pipe waits for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:  # the latter for a name that can be none
        raise _refusal('read', path, error) from error
    told = os.fstat(handle)
    if not stat.S_ISREG(told.st_mode):
        os.close(handle)
        raise FileError(f'can not read {line(path)}: it is no regular file')
    return handle, told.st_size


def read_text(path: str | os.PathLike, most: int) -> str:
    """Return what is in a regular file of text (UTF-8, a leading mark is left out), as ``read``."""
    try:
        return read(path, most).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise FileError(f'can not read {line(path)}: it is not text: {error}') from error


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[BinaryIO, int]]:
    """
    Yield a regular file and its size, for what reads pieces of it by itself.

    Raises FileError, also for a file that says that it is empty: /proc/kmsg does, and waits.
    """
    handle, size = _open(path)
    with open(handle, 'rb') as file:
        if not size:
            raise FileError(f'can not read {line(path)}: it is empty')
        yield file, size


def write(path: str | os.PathLike, data: bytes | str) -> None:
    """
    Put a file in its place whole: nobody ever sees half of it, and a failure leaves the old one.

    A link at ``path`` is replaced, not followed. Raises FileError.
    """
    place = Path(path)
    data = data.encode() if isinstance(data, str) else data
    try:
        # Renaming over a device or a pipe would do away with it, for root even with /dev/null.
        if place.exists() and not place.is_file():
            raise FileError(f'can not write {line(path)}: it is no regular file')
        handle, made = tempfile.mkstemp(prefix=f'.{place.name[:50]}.', dir=place.parent)
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(made, 0o666 & ~umask)
            os.replace(made, place)
        except BaseException:
            os.unlink(made)
            raise
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise _refusal('write', path, error) from error


def _refusal(what: str, path: str | os.PathLike, error: Exception) -> FileError:
    why = getattr(error, 'strerror', None) or error
    return FileError(f'can not {what} {line(path)}: {line(why)}')
