# SPDX-License-Identifier: Apache-2.0
"""The entries of the operator table; importing this package fills it."""

from hp_inference.graph.rules import elementwise, product, reduce, resample, shape, window  # noqa: F401
