# SPDX-License-Identifier: Apache-2.0
"""Each case runs in a process of its own: an import happens once, and a clash aborts."""

import subprocess
import sys
import textwrap

import pytest

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


def run(code, *, torchvision=None, tmp_path=None):
    """Run `code` after import_torchvision is imported; `torchvision` is a module to find first."""
    if torchvision is not None:
        (tmp_path / 'torchvision.py').write_text(textwrap.dedent(torchvision), encoding='utf-8')
        code = f'import sys; sys.path.insert(0, {str(tmp_path)!r})\n' + textwrap.dedent(code)
    header = 'from hp_inference.graph.torchvision_shim import import_torchvision\n'
    return subprocess.run([sys.executable, '-c', header + textwrap.dedent(code)],
                          capture_output=True, text=True, timeout=120)


def test_models_run_and_export_and_a_later_plain_import_gives_the_same_module():
    pytest.importorskip('torch')
    done = run("""
        torchvision = import_torchvision()
        assert import_torchvision() is torchvision
        import torchvision as plain
        assert plain is torchvision
        import torch
        model = torchvision.models.squeezenet1_1(weights=None).eval()
        image = torch.zeros(1, 3, 64, 64)
        exported = torch.export.export(model, (image,)).run_decompositions({}).module()
        with torch.inference_mode():
            assert torch.equal(exported(image), model(image))
    """)
    assert done.returncode == 0, done.stderr


def test_a_torchvision_that_lacks_its_operators_is_imported_after_declaring_them(tmp_path):
    done = run("""
        assert import_torchvision().on_import
        import torch
        assert torch.ops.torchvision.qnms
    """, torchvision=BROKEN, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr


def test_nothing_is_declared_beside_a_working_torchvision(tmp_path):
    done = run("""
        import torch
        assert import_torchvision().library
        assert not hasattr(torch.ops.torchvision, 'qnms')
    """, torchvision=WORKING, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_absent_torchvision_is_named_with_what_to_install():
    done = run("""
        import sys
        sys.modules['torchvision'] = None
        import_torchvision()
    """)
    assert done.returncode == 1
    assert 'need torchvision, which is not installed: install' in done.stderr


def test_another_failure_of_its_import_is_passed_on(tmp_path):
    done = run('import_torchvision()', torchvision="raise RuntimeError('no driver')",
               tmp_path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().endswith('RuntimeError: no driver')
