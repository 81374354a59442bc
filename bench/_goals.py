# SPDX-License-Identifier: Apache-2.0
"""What a bench must come to: a name, a figure, a bound; a table of them, and an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

#: Exit statuses of a bench: every goal held; one fell short; nothing could be measured here.
HELD, FELL_SHORT, SKIPPED = 0, 1, 77


@dataclass(frozen=True)
class Goal:
    """
    A figure that must be at most, or at least, ``bound``.

    ``value`` None: it should have been measured and was not, which is falling short.
    """

    name: str
    value: float | None
    bound: float
    least: bool = False

    @property
    def held(self) -> bool:
        """Whether the figure is there and within the bound."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.least else self.value <= self.bound

    def __str__(self) -> str:
        """Say what was reached and what was wanted."""
        value = 'nothing measured' if self.value is None else f'{self.value:.4g}'
        return f'{self.name}: {value}, wanted {self.wanted}'

    @property
    def wanted(self) -> str:
        """The bound in words."""
        return f'at {"least" if self.least else "most"} {self.bound:.4g}'

    def to_json(self) -> dict:
        """Return the goal as JSON data."""
        return {**asdict(self), 'held': self.held}


def at_most(name: str, value: float | None, bound: float) -> Goal:
    """Return the goal that a figure is at most so large."""
    return Goal(name, None if value is None else float(value), bound)


def at_least(name: str, value: float | None, bound: float) -> Goal:
    """Return the goal that a figure is at least so large."""
    return Goal(name, None if value is None else float(value), bound, least=True)


def none(name: str, count: float | None) -> Goal:
    """Return the goal that there are none of something."""
    return at_most(name, count, 0.0)


def short(goals: Sequence[Goal]) -> list[Goal]:
    """Return the goals that did not hold."""
    return [goal for goal in goals if not goal.held]


def status(goals: Sequence[Goal], quick: bool) -> int:
    """Return the exit status; a quick run judges nothing, no goals at all are a fault."""
    if quick:
        return HELD
    return FELL_SHORT if short(goals) or not goals else HELD


def verdict(goals: Sequence[Goal], quick: bool) -> str:
    """Return the line or lines under the table of goals."""
    missed = short(goals)
    if quick:
        return 'quick: too few repeats to judge by, the exit status says nothing of the goals'
    if not goals:
        return 'fell short: there was nothing to judge'
    if not missed:
        return f'all {len(goals)} goals held'
    return '\n'.join([f'fell short, {len(missed)} of {len(goals)} goals:',
                      *(f'  {goal}' for goal in missed)])
