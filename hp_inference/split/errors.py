# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a plan, in one short line; needs no PyTorch."""

from __future__ import annotations

import reprlib

_brief = reprlib.Repr()
_brief.maxstring = 80
shown = _brief.repr  # for what came in from outside, however long it is


class PlanError(ValueError):
    """A plan that can't be made, read or carried out; the text says where and why."""
