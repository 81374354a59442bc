# SPDX-License-Identifier: Apache-2.0
"""Files that people name: read without waiting and without believing them, written in one go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import errno
import os
from pathlib import Path
import secrets
import stat
from typing import BinaryIO

from hp_inference.text import line


class FileError(ValueError):
    """
    A file that can't be read or written; the text names it and says why.

    ``why``: that without the name, '' where it is not known apart.
    """

    why = ''


def read(path: str | os.PathLike, most: int, at: int | None = None, *,
         private: bool = False) -> bytes:
    """
    Return what is in a regular file of ``most`` bytes at most.

    ``at``: an open folder that the path counts from; then a link is refused, not followed.
    Never waits: a pipe, a device or a folder is refused before it is opened for good. A file that
    says it is empty is not read, as what grows under the reader (/proc, /sys) says so, too. Where
    it is to be ``private``, only its owner may have access, who is this process's user or root.
    Raises FileError.
    """
    handle, told = _open(path, at)
    try:
        if private:
            _check_private(path, told)
        data = bytearray()
        # The size that it tells is not believed: it may grow, or be something else in disguise.
        while told.st_size and len(data) <= most:
            piece = os.read(handle, min(most + 1 - len(data), 1 << 20))
            if not piece:
                break
            data += piece
    except OSError as error:
        raise refusal('read', path, error) from error
    finally:
        os.close(handle)
    if len(data) > most:
        raise refusal('read', path, f'it has more than {most} bytes')
    return bytes(data)


def _open(path: str | os.PathLike, at: int | None = None) -> tuple[int, os.stat_result]:
    """Return a descriptor of a regular file and what it tells of itself; raises FileError."""
    try:
        # Without O_NONBLOCK opening a pipe waits for somebody to write to it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
                         | (0 if at is None else os.O_NOFOLLOW), dir_fd=at)
    except (OSError, ValueError) as error:  # the latter for a name that can be none
        raise refusal('read', path, error) from error
    told = os.fstat(handle)
    if not stat.S_ISREG(told.st_mode):
        os.close(handle)
        raise refusal('read', path, 'it is no regular file')
    return handle, told


def read_text(path: str | os.PathLike, most: int, at: int | None = None) -> str:
    """Return what is in a regular file of text (UTF-8, a leading mark is left out), as ``read``."""
    try:
        return read(path, most, at).decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise refusal('read', path, f'it is not text: {error}') from error


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[tuple[BinaryIO, int]]:
    """
    Yield a regular file and its size, for what reads pieces of it by itself.

    Raises FileError, also for a file that says that it is empty: /proc/kmsg does, and waits.
    """
    handle, told = _open(path)
    with open(handle, 'rb') as file:
        if not told.st_size:
            raise refusal('read', path, 'it is empty')
        yield file, told.st_size


def write(path: str | os.PathLike, data: bytes | str, at: int | None = None) -> None:
    """
    Put a file in its place whole: nobody ever sees half of it, and a failure leaves the old one.

    ``at``: an open folder that the path counts from. A link at ``path`` is replaced, not followed.
    Raises FileError.
    """
    place = Path(path)
    made = place.parent / f'.{place.name[:50]}.{secrets.token_hex(8)}'
    try:
        # Renaming over a device or a pipe would do away with it, for root even with /dev/null.
        if at is None and place.exists() and not place.is_file():
            raise refusal('write', path, 'it is no regular file')
        data = data.encode() if isinstance(data, str) else data
        handle = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666,
                         dir_fd=at)
        try:
            with os.fdopen(handle, 'wb') as file:
                file.write(data)
                file.flush()
                os.fsync(handle)
            os.replace(made, place, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            os.unlink(made, dir_fd=at)
            raise
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise refusal('write', path, error) from error


def refusal(what: str, path: str | os.PathLike, why: object) -> FileError:
    """Return the error of whom a file can't be read, written, ...; ``why``: words or an error."""
    if isinstance(why, OSError):
        why = 'it is a link, which is not followed' if why.errno == errno.ELOOP else why.strerror
    error = FileError(f'can not {what} {line(path)}: {line(why)}')
    error.why = line(why)
    return error


def _check_private(path: str | os.PathLike, told: os.stat_result) -> None:
    """Refuse a file that is open to others than this process's user and root."""
    mode, owner, own = stat.S_IMODE(told.st_mode), told.st_uid, os.geteuid()
    if mode & 0o077:
        raise FileError(f'will not use {line(path)}: others than its owner have access (mode '
                        f'{mode:03o}): chmod 600 it')
    if owner not in (0, own):
        raise FileError(f'will not use {line(path)}: it belongs to user {owner}, expected {own}, '
                        'who runs this, or root')
