# SPDX-License-Identifier: Apache-2.0
"""What goes wrong while a model becomes a graph, and how little of it is told."""

from __future__ import annotations

from hp_inference.text import line

#: Characters that are told of what torch, or the user's code, says of an error.
LONGEST_REASON = 300


class CaptureError(ValueError):
    """The model can't be captured; the text says why and what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type where it says nothing."""
    try:
        said = str(error)
    except BaseException as raised:  # the error of a user's class may raise anything in str()
        if type(raised) is KeyboardInterrupt:
            raise
        said = ''
    return next((line(text.strip(), LONGEST_REASON) for text in said.splitlines() if text.strip()),
                type(error).__name__)
