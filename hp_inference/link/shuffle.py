# SPDX-License-Identifier: Apache-2.0
"""Bytes of equal significance side by side: floats compress better so, and nothing is lost."""

from __future__ import annotations

import numpy as np


def shuffle(elements: np.ndarray, size: int) -> np.ndarray:
    """Return the bytes (1-D uint8) of elements of ``size`` bytes, their first ones first."""
    if size == 1:
        return elements
    return np.ascontiguousarray(elements.reshape(-1, size).T).reshape(-1)


def unshuffle(shuffled: np.ndarray, size: int, out: np.ndarray) -> None:
    """Write shuffled bytes to ``out`` as they were; both are 1-D uint8 of the same length."""
    planes, elements = shuffled.reshape(size, -1), out.reshape(-1, size)
    for place in range(size):  # several times as fast as one transposed copy
        elements[:, place] = planes[place]
