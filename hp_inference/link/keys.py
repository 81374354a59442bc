# SPDX-License-Identifier: Apache-2.0
"""Files that hold the keys with which messages are sealed, and which robot has which."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hp_inference.files import FileError, read
from hp_inference.text import line

KEY_BYTES = 32

#: What makes a key file that is taken; for error messages and the documentation.
HOW = "(umask 077; python3 -c 'import secrets; print(secrets.token_hex(32))' > robot1.key)"

# Of random bytes there are nearly as many different ones as bytes; of a made-up key there are not.
_LEAST_DIFFERENT = 12
# Room for the digits and a line end.
_MOST_BYTES = 2 * KEY_BYTES + 2


class KeyFileError(ValueError):
    """A key file that is not used, or one that is missing; the text says what to do."""


def read_key(path: str | Path) -> bytes:
    """
    Return the key in a file: 32 random bytes as 64 hexadecimal digits, alone on one line.

    Refused by KeyFileError where others than its owner may read or write the file, or where it
    belongs to somebody other than this process's user and root.
    """
    shown = line(path)
    try:
        text = read(path, _MOST_BYTES, private=True)
        key = bytes.fromhex(text.decode('ascii'))
        if len(text.strip()) != 2 * KEY_BYTES or len(key) != KEY_BYTES:
            raise ValueError('another length')
    except FileError as error:
        raise KeyFileError(f'key file: {error}; make one by {HOW}') from error
    except ValueError:  # whatever it holds is not shown: it may be a secret
        raise KeyFileError(f'key file {shown} is no key, expected {2 * KEY_BYTES} hexadecimal '
                           f'digits: make one by {HOW}') from None
    if len(set(key)) < _LEAST_DIFFERENT:
        raise KeyFileError(f'key file {shown}: the key is not random, as bytes repeat: make one '
                           f'by {HOW}')
    return key


def own_key(key_file: str) -> bytes | None:
    """Return the key that a node was given, None where it was given no file."""
    return read_key(key_file) if key_file else None


def keys_of(namespaces: Iterable[str], key_file: str, keys_dir: str) -> dict[str, bytes | None]:
    """
    Return each robot's key by its namespace (in full, such as '/fleet/r1'); None: without keys.

    A robot's file in ``keys_dir`` comes before ``key_file``. Where there are keys, every robot
    must have one; KeyFileError otherwise.
    """
    if not (key_file or keys_dir):
        return dict.fromkeys(namespaces)
    common, keys = own_key(key_file), {}
    for namespace in namespaces:
        path = Path(keys_dir, file_name(namespace)) if keys_dir and namespace.strip('/') else None
        # Also a link to nowhere is a file that somebody meant.
        if path is not None and (path.exists() or path.is_symlink()):
            keys[namespace] = read_key(path)
        elif common is not None:
            keys[namespace] = common
        elif path is None:
            raise KeyFileError(f"the robot of namespace {line(namespace)!r} has no name that a "
                               "file in 'keys_dir' could have: give its key by 'key_file'")
        else:
            raise KeyFileError(f'robot {line(namespace)} has no key: {line(path)} is missing, and '
                               f"no 'key_file' is given; make one by {HOW}, for both sides")
    return keys


def file_name(namespace: str) -> str:
    """Return the name of a robot's file in ``keys_dir``: '/fleet/r1' has fleet.r1.key."""
    return namespace.strip('/').replace('/', '.') + '.key'
