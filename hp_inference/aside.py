# SPDX-License-Identifier: Apache-2.0
"""What is done beside the answers, such as telling of them: it may fail, and costs none."""

from __future__ import annotations

from collections.abc import Callable

from hp_inference.text import why


class Aside:
    """
    Does things that no answer may depend on.

    What they raise is counted in ``failures`` and said once of each kind, by ``say``.
    """

    def __init__(self, say: Callable[[str], object]):
        self.failures = 0
        self._say, self._said = say, set()

    def __call__(self, do: Callable, *args, otherwise=None, **named):
        """Return what ``do`` returns, or ``otherwise`` where it raises."""
        try:
            return do(*args, **named)
        except Exception as error:
            self.failures += 1
            name = getattr(do, '__qualname__', type(do).__name__)
            if (name, type(error)) not in self._said:
                self._said.add((name, type(error)))
                self(self._say, f'{name} failed and is done without, which is said once: '
                     f'{type(error).__name__}: {why(error)}')
            return otherwise
