# SPDX-License-Identifier: Apache-2.0
"""What import_torchvision does; most of it in other processes, as an import happens once."""

import json
import subprocess
import sys

import pytest

from hp_inference.graph.torchvision_shim import import_torchvision

BROKEN = """
import torch
def on_import():
    torch.library.register_fake('torchvision::nms')(lambda dets, scores, iou_threshold: scores)
on_import()
"""
WORKING = """
import torch
library = torch.library.Library('torchvision', 'DEF')
library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
"""
# What torchvision is, None for what is installed, and what is run beside it.
CASES = {
    'lacks its operators': (BROKEN, """
assert import_torchvision().on_import
assert torch.ops.torchvision.qnms
"""),
    'works': (WORKING, """
assert import_torchvision().library
assert not hasattr(torch.ops.torchvision, 'qnms')
"""),
    'absent': (None, """
sys.modules['torchvision'] = None
import_torchvision()
"""),
    'fails otherwise': ("raise RuntimeError('no driver')", 'import_torchvision()'),
}
# Imports PyTorch, which takes long, once; each case is a fork of that.
EACH = """
import json, os, sys, tempfile, traceback
import torch
from hp_inference.graph.torchvision_shim import import_torchvision

assert 'torchvision' not in sys.modules
ends = {}
for name, (module, code) in json.load(sys.stdin).items():
    with tempfile.TemporaryFile('w+') as said, tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 2)
            try:
                if module:
                    open(f'{folder}/torchvision.py', 'w').write(module)
                    sys.path.insert(0, folder)
                exec(code)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        ends[name] = status, said.read().strip()
json.dump(ends, sys.stdout)
"""


@pytest.fixture(scope='module')
def ends():
    """Return how each case ended: its exit status and what it said."""
    done = subprocess.run([sys.executable, '-c', EACH], input=json.dumps(CASES),
                          capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)


@pytest.mark.parametrize('torchvision', ['lacks its operators', 'works'])
def test_operators_are_declared_where_torchvision_lacks_them_and_nowhere_else(ends, torchvision):
    status, said = ends[torchvision]
    assert status == 0, said


def test_an_absent_torchvision_is_named_with_what_to_install(ends):
    status, said = ends['absent']
    assert status == 1
    assert 'need torchvision, which is not installed: install' in said


def test_another_failure_of_its_import_is_passed_on(ends):
    status, said = ends['fails otherwise']
    assert status == 1
    assert said.endswith('RuntimeError: no driver')


def test_a_later_plain_import_gives_the_same_module():
    made = import_torchvision()
    import torchvision
    assert import_torchvision() is made is torchvision


INSTALLED = """
from hp_inference.graph.torchvision_shim import import_torchvision
torchvision = import_torchvision()
import torch
model = torchvision.models.squeezenet1_1(weights=None).eval()
image = torch.zeros(1, 3, 64, 64)
exported = torch.export.export(model, (image,)).run_decompositions({}).module()
with torch.inference_mode():
    assert torch.equal(exported(image), model(image))
"""


@pytest.mark.long
def test_models_run_and_export():
    done = subprocess.run([sys.executable, '-c', INSTALLED], capture_output=True, text=True,
                          timeout=250)
    assert done.returncode == 0, done.stderr
