# SPDX-License-Identifier: Apache-2.0
"""`hp report`: the pictures of a plan table; needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

from hp_inference.commands import Outcome, UserError
from hp_inference.text import line
from hp_planner.report.pictures import write_pictures
from hp_planner.report.table_file import read_table_file


def run(args) -> Outcome:
    """Write the pictures of a table to a folder."""
    table = read_table_file(args.table)
    try:
        files = write_pictures(table, Path(args.out), args.bandwidths or ())
    except OSError as error:
        raise UserError(f'can not write the pictures to {line(args.out)}: '
                        f'{error.strerror}') from error
    data = {'table': str(args.table), 'model': table.model, 'objective': table.record.objective,
            'files': [str(path) for path in files]}
    return Outcome(data, '\n'.join(data['files']))
