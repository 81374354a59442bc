# SPDX-License-Identifier: Apache-2.0
"""What holds for every test of an operator rule."""

import gc

import pytest


@pytest.fixture(autouse=True, scope='session')
def quick_captures():
    # A capture makes and drops so much that a third of its time goes into looking through all
    # that PyTorch holds for what else may be dropped.
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
