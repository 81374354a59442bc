# SPDX-License-Identifier: Apache-2.0
"""What the tests of the hp command share."""

import json
from pathlib import Path
import sys

import numpy as np
from PIL import Image

from hp_cli.main import main
from hp_inference.graph.capture import capture

NETWORKS = Path(__file__).parent / 'cli_networks.py'
# What the networks print, as a user's code may.
CHATTER = ('a model file may print', 'so may its factory', 'so may its forward')


_captured: dict = {}


def captured_once(model, shape, name, fold=True):
    """Return the graph of one of the networks, captured the first time that it is asked for."""
    if not name.startswith('tiny.py:'):
        return capture(model, shape, name, fold)
    key = (name, tuple(shape), fold, model.plain, *(
        (place, tensor.dtype, tensor.numpy().tobytes())
        for place, tensor in model.state_dict().items()))
    if key not in _captured:
        _captured[key] = capture(model, shape, name, fold)
    return _captured[key]


def runner(capsys, monkeypatch, folder):
    """
    Return how to run hp in a folder with a picture and the networks as ``tiny.py``.

    What it returns takes a command line and gives exit status, standard output and error. A network
    is captured once, which would else take longer than all that a command does with it.
    """
    monkeypatch.setattr('hp_inference.graph.load.capture', captured_once)
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)  # into the folder
    monkeypatch.chdir(folder)
    (folder / 'tiny.py').symlink_to(NETWORKS)
    draw = np.random.default_rng(3)
    Image.fromarray(draw.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / 'image.png')

    def run(line):
        capsys.readouterr()
        status = main(line.split())
        shown = capsys.readouterr()
        return status, shown.out, shown.err
    return run


def data_of(result, status=0):
    """Return the JSON object that is all of standard output."""
    assert result[0] == status, result[2]
    assert result[1].count('\n') == 1
    return json.loads(result[1])


def complaint_of(result):
    """Return the one line that a user sees of what is wrong."""
    status, out, err = result
    lines = [line for line in err.splitlines() if line not in CHATTER]
    assert (status, out, len(lines)) == (2, '', 1), result
    assert lines[0].startswith('hp: ')
    return lines[0]


def save_plans(path, model, plans):
    """Write a plan table of a model for images of 24 by 32, and return it."""
    from hp_inference.graph.load import ModelSpec, open_model
    from hp_inference.split.plan import make_plan
    from hp_inference.split.table import PlanTable
    _, layout = open_model(ModelSpec(model, (1, 3, 24, 32)))
    table = PlanTable(layout, [make_plan(plan, layout) for plan in plans])
    path.write_text(table.dumps())
    return table
