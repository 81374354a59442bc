# SPDX-License-Identifier: Apache-2.0
"""
Opens the file of torch.export.save without running what is in it.

torch.export.load unpickles the sample inputs and what the file marks as pickled, loads libraries
that lie in the file, and treats names in its JSON as Python. So each member of the archive is
checked first, and torch.export gets an archive written anew of what was checked, never the file.
"""

from __future__ import annotations

import io
import re
import zipfile

import torch

from hp_inference import files
from hp_inference.graph.program_text import clean_config, clean_program, UnsafeText
from hp_inference.graph.quiet import quiet
from hp_inference.text import line

#: Bytes of a file, and of what it unpacks to: torch writes its members as they are.
MOST_BYTES = 16 << 30
_LEAST_ROOM, _GROWTH, _MOST_MEMBERS = 64 << 20, 4, 100_000

_ROOT = 'program'
_PROGRAM, _CONFIG, _PICKLED, _TENSOR, _MARK, _SPARE = range(6)
# What torch.export.load reads of today's archives, and what it only carries.
_TODAY = (
    (r'models/model\.json', _PROGRAM),
    (r'data/(weights|constants)/model_\w*config\.json', _CONFIG),
    (r'data/sample_inputs/model\.pt', _PICKLED),
    (r'data/(weights|constants)/model\.pt', _PICKLED),
    (r'data/(weights/weight|constants/tensor)_\d+', _TENSOR),
    (r'archive_format|archive_version|byteorder|version|\.data/version', _MARK),
    (r'\.data/serialization_id|\.format_version|\.storage_alignment|extra/.*', _SPARE),
)
# The same of those that PyTorch wrote up to 2.7; the .json of tensors is a pickle, too.
_BEFORE = (
    (r'serialized_exported_program\.json', _PROGRAM),
    (r'serialized_(state_dict|constants|example_inputs)\.(pt|json)', _PICKLED),
    (r'version', _MARK),
    (r'extra_files/.*', _SPARE),
)


class ExportError(ValueError):
    """A file that is no exported program, or holds more than one; the text says why."""


def load_exported(path: str) -> torch.export.ExportedProgram:
    """Return the program of a file of torch.export.save; raises FileError and ExportError."""
    data = files.read(path, MOST_BYTES)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            safe = _rewritten(archive, len(data))
    except UnsafeText as error:
        raise ExportError(f'{line(path)} is not opened, as it may run code: {error}') from error
    except Exception as error:  # a broken archive raises many types
        raise _not_exported(path, error) from error
    del data
    try:
        with quiet():
            return torch.export.load(safe)
    except Exception as error:  # a broken program raises many types
        raise _not_exported(path, error) from error


def _not_exported(path: str, error: Exception) -> ExportError:
    reason = next((text for text in str(error).splitlines() if text.strip()), repr(error))
    return ExportError(f'{line(path)} is not a program saved by torch.export.save: '
                       f'{line(reason.strip(), 200)}')


def _rewritten(archive: zipfile.ZipFile, size: int) -> io.BytesIO:
    """Return the archive with each member checked; raises UnsafeText for one that is not safe."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    room = min(MOST_BYTES, max(_LEAST_ROOM, _GROWTH * size))
    if len(infos) > _MOST_MEMBERS or sum(info.file_size for info in infos) > room:
        raise UnsafeText(f'it unpacks to {len(infos)} members of more than {room} bytes, expected '
                         'about the size of the file')
    names = [info.filename for info in infos]
    kinds, root = (_BEFORE, '') if 'serialized_exported_program.json' in names else (
        _TODAY, names[0].partition('/')[0] + '/' if names else '')
    if not any(re.fullmatch(kinds[0][0], name.removeprefix(root)) for name in names):
        raise ValueError('it holds no program')
    members = {}
    for info in infos:
        name = info.filename.removeprefix(root)
        kind = next((kind for pattern, kind in kinds if re.fullmatch(pattern, name)), None)
        if kind is None or name in members or not info.filename.startswith(root):
            raise UnsafeText(f'its member {line(repr(info.filename), 120)} is not known, or is '
                             'there twice')
        members[name] = (info, kind)
    made, pickled = io.BytesIO(), set()
    with zipfile.ZipFile(made, 'w') as copy:
        # First what says which of the others are pickled.
        for name, (info, kind) in sorted(members.items(), key=lambda m: m[1][1] != _CONFIG):
            if kind == _SPARE:
                continue
            try:
                data = archive.read(info)
                if kind == _CONFIG:
                    data, named = clean_config(data)
                    pickled |= {f'{name.rpartition("/")[0]}/{own}' for own in named}
                elif kind == _PROGRAM:
                    data = clean_program(data)
                elif kind == _PICKLED or name in pickled:
                    data = _repickled(data)
                elif kind == _MARK and len(data) > 100:
                    raise UnsafeText('it is too long')
            except UnsafeText as error:
                raise UnsafeText(f'its member {name}: {error}') from error
            copy.writestr(f'{_ROOT}/{name}' if root else name, data)
    missing = pickled - members.keys()
    if missing:
        raise UnsafeText(f'it names a member {line(repr(min(missing)), 120)} that it does not have')
    made.seek(0)
    return made


def _repickled(data: bytes) -> bytes:
    """Return what a member holds, if it is plain tensors and numbers, as a pickle of our own."""
    if not data:
        return data
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            room = max(_LEAST_ROOM, _GROWTH * len(data))
            if sum(info.file_size for info in archive.infolist()) > room:
                raise UnsafeText(f'it unpacks to more than {room} bytes')
    try:
        with quiet():
            held = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except Exception as error:  # broken and refused contents raise many types
        reason = str(error).rpartition('WeightsUnpickler error:')[2].partition('. Please use')[0]
        raise UnsafeText('it is pickled and does not load as plain tensors: '
                         f'{line(" ".join(reason.split()), 200)}') from error
    made = io.BytesIO()
    torch.save(held, made)
    return made.getvalue()
