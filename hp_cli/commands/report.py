# SPDX-License-Identifier: Apache-2.0
"""`hp report`: the pictures of a plan table; needs no PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

from hp_cli.commands import Outcome, UserError
from hp_inference.text import line
from hp_planner.report.pictures import write_pictures
from hp_planner.report.table_file import read_table_file


def _check_folder(name: str) -> None:
    """Raise UserError for a folder that can't be written to or made, before anything is drawn."""
    try:
        path = Path(os.path.realpath(name))
        place = next(each for each in (path, *path.parents) if each.exists())
        fits = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except (OSError, ValueError):  # a name that is too long, or can be none
        fits = False
    if not fits:
        raise UserError(f'can not write the pictures to {line(name)}: give --out a folder that '
                        'may be written to, or made')


def run(args) -> Outcome:
    """Write the pictures of a table to a folder."""
    table = read_table_file(args.table)
    _check_folder(args.out)
    try:
        files = write_pictures(table, Path(args.out), args.bandwidths or ())
    except OSError as error:
        raise UserError(f'can not write the pictures to {line(args.out)}: '
                        f'{error.strerror}') from error
    data = {'table': str(args.table), 'model': table.model, 'objective': table.record.objective,
            'files': [str(path) for path in files]}
    return Outcome(data, '\n'.join(data['files']))
