# SPDX-License-Identifier: Apache-2.0
"""Tests that try few cases in the quick run, and many in the run of the long tests."""

import os

from hypothesis import settings
import pytest

# Set by .ci/test.sh where it runs the long tests; without it `pytest -m long` takes those alone
# that are always long.
MANY = bool(os.environ.get('HP_LONG_TESTS'))


def again_when_long(test):
    """Let a test that tries more where MANY is set be among the long ones then."""
    return pytest.mark.long(test) if MANY else test


def drawn(few: int, many: int, anew: bool = False):
    """
    Return a decorator of a property test: how many examples it draws, in the long run many.

    They are the same at every run unless they are to be drawn ``anew``.
    """
    def decorate(test):
        return again_when_long(settings(max_examples=many if MANY else few, deadline=None,
                                        derandomize=not anew)(test))
    return decorate


def first(few: int, many: int) -> list:
    """Return the numbers below ``many`` as parameters, those from ``few`` on for the long run."""
    return [*range(few), *(pytest.param(number, marks=pytest.mark.long)
                           for number in range(few, many))]
