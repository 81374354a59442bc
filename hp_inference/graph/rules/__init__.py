# SPDX-License-Identifier: Apache-2.0
"""The entries of the operator table; importing this package fills it."""

from hp_inference.graph.rules import (  # noqa: F401
    elementwise, product, reduce, resample, shape, window)
