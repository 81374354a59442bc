# SPDX-License-Identifier: Apache-2.0
"""Floats of a chunk with fewer bits: as float16, or as 256 levels between least and greatest."""

from __future__ import annotations

import numpy as np
import torch

from hp_inference.link.errors import BadChunk

FLOATS = {torch.float32: np.float32, torch.float64: np.float64}
"""What is quantised, and as NumPy names it. Elements of other types stay as they are."""

HALF_MAX = 65504.0
LEVELS_HEAD_BYTES = 8
_HEAD = np.dtype('<f4')  # two of these: the least value, and the step from level to level
_LEAST_STEP = float(np.finfo(np.float32).tiny)  # below, its reciprocal is not finite


def to_half(raw: memoryview, dtype: torch.dtype) -> np.ndarray:
    """
    Return float32 or float64 elements rounded to float16, as their bytes (1-D uint8).

    Numbers beyond the range of float16 become its greatest; NaN and infinities stay what they are.
    """
    source = np.frombuffer(raw, FLOATS[dtype])
    if not source.flags.writeable:  # PyTorch warns of memory that must not be written
        source = source.copy()
    whole = torch.from_numpy(source)
    half = whole.to(torch.float16)
    beyond = half.isinf()
    if beyond.any():
        beyond &= whole.isfinite()
        half[beyond] = whole[beyond].sign().to(torch.float16) * HALF_MAX
    return half.view(torch.uint8).numpy()


def from_half(halves: np.ndarray, dtype: torch.dtype, out: memoryview) -> None:
    """Write float16 elements, given as bytes, to ``out`` as ``dtype``."""
    target = torch.frombuffer(out, dtype=dtype)
    target.copy_(torch.from_numpy(halves).view(torch.float16))


def to_levels(raw: memoryview, dtype: torch.dtype) -> np.ndarray | None:
    """
    Return float32 or float64 elements as the nearest of 256 levels: head, then a byte for each.

    The levels go in equal steps from the least to the greatest element. Where that cannot be
    (NaN, infinities, a range that float32 does not hold) returns None.
    """
    source = np.frombuffer(raw, FLOATS[dtype])
    with np.errstate(all='ignore'):  # what overflows is found by the next line
        least, greatest = np.float32(source.min()), np.float32(source.max())
        step = np.float32((greatest - least) / np.float32(255))
    if not np.isfinite([least, greatest, step]).all() or (
            least < greatest and step < _LEAST_STEP):
        return None
    content = np.empty(LEVELS_HEAD_BYTES + source.size, np.uint8)
    content[:LEVELS_HEAD_BYTES].view(_HEAD)[:] = least, step
    levels = content[LEVELS_HEAD_BYTES:]
    if least == greatest:
        levels[:] = 0
        return content
    places = source - least
    places *= np.float32(1) / step
    np.rint(places, out=places)
    np.clip(places, 0, 255, out=places)  # rounding the least of float64 may have raised it
    np.copyto(levels, places, casting='unsafe')
    return content


def from_levels(content: np.ndarray, dtype: torch.dtype, out: memoryview) -> None:
    """Write the elements that ``to_levels`` made bytes of to ``out``; raises BadChunk."""
    least, step = content[:LEVELS_HEAD_BYTES].view(_HEAD)
    if not (np.isfinite(least) and np.isfinite(step) and step >= 0):
        raise BadChunk(f'uint8_zstd payload goes from {least} in steps of {step}, '
                       'expected finite numbers and no negative step')
    target = np.frombuffer(out, FLOATS[dtype])
    with np.errstate(over='ignore'):  # a sender may say what it likes
        np.multiply(content[LEVELS_HEAD_BYTES:], step, out=target, dtype=target.dtype)
        target += least
