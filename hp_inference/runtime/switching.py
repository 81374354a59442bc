# SPDX-License-Identifier: Apache-2.0
"""
Which plan the next frame runs under: what the table chooses for what the link carries just now.

No handshake: every frame says under which plan it runs, and both sides hold the same table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math
import threading
import time

from hp_inference.runtime.prediction_bias import PredictionBias, SLOW
from hp_inference.split.curves import Curve
from hp_inference.split.table import PlanTable

#: A bandwidth above this is taken for a mistake. [bytes/s]
MOST_BYTES_PER_S = 1.25e11
#: What was measured longer ago than this says nothing about now. [s]
OLDEST_S = 5.0
#: Without a word about the bandwidth for so long there is none: who published it is gone. [s]
SILENCE_S = 3.0
#: Where several say it, all that was said in this time counts. [s]
TOGETHER_S = 1.0
#: The plan in force stays while the table still chooses it this much above or below the bandwidth,
#: so that a rate that swings around a boundary does not swing the plans.
HYSTERESIS = 0.1
#: Another plan than the table's choice must be expected to be better by this part.
GAIN = 0.03


@dataclass(frozen=True)
class Pick:
    """
    The plan for a frame, by its index.

    ``why`` it; ``bytes_per_s``: the bandwidth that it was picked for, None where none counts;
    ``predicted_s``: the latency that planning predicts with it, None where that is not known.
    """

    index: int
    why: str
    bytes_per_s: float | None = None
    predicted_s: float | None = None


FORCED = 'forced'


@dataclass(frozen=True)
class _Heard:
    bytes_per_s: float
    at_s: float
    source: str


class BadBandwidth(ValueError):
    """A bandwidth that can't be believed; the text says what it is and what was expected."""


@dataclass(frozen=True)
class _Expected:
    """What planning predicts of a table's plans, and what frames under them took."""

    table: PlanTable | None
    curves: Mapping[str, Curve]
    least_latency: bool
    bias: PredictionBias

    def predicted_s(self, index: int, mbit_s: float) -> float:
        """Return what planning predicts for a plan; infinity where it says nothing."""
        curve = self.curves.get(self.table.plans[index].name)
        return math.inf if curve is None else curve.at(mbit_s)

    def best(self, chosen: int, mbit_s: float) -> tuple[int, float]:
        """Return the plan to run instead of the table's choice, and how much slower that is."""
        self.bias.carries(mbit_s)
        names = [plan.name for plan in self.table.plans]
        known = {name: factor for name in names if name in self.curves
                 and (factor := self.bias.factor(name)) is not None}
        over = known.get(names[chosen], 1.0)
        factors = [known[name] if name in known else self._guess(name, known) for name in names]

        def expected_s(index: int) -> float:
            return self.predicted_s(index, mbit_s) * factors[index]
        # One that is just as wrong would be better by planning alone, which chose another.
        others = [i for i in range(len(names)) if factors[i] < over]
        best = min(others, key=expected_s, default=chosen)
        if over < SLOW or expected_s(best) > (1 - GAIN) * expected_s(chosen):
            return chosen, over
        return best, over

    def _guess(self, name: str, known: Mapping[str, float]) -> float:
        """Return a factor for a plan that has none: half of those which compute where it does."""
        curve = self.curves.get(name)
        alike = [factor for other, factor in known.items()
                 if curve is not None and self.curves[other].computes == curve.computes]
        return math.sqrt(min(alike, default=1.0))


class Switching:
    """
    Picks the plan for each frame; asked on the frames' thread, told things on any.

    In this order: ``force`` (the name of a plan of the table), ``hold`` (whatever is in force),
    the table's choice at ``fixed_mbit_s`` (above 0) or at the bandwidth heard, the plan ``named``,
    the first. ``on_change(table, before, pick)`` is called, on the frames' thread, with the index
    before when a frame's plan is another one. ``several``: more than one says what the link
    carries; the least of what they said lately counts then, as a plan for a slower link still works
    on a faster one.
    """

    def __init__(self, on_change: Callable[[PlanTable, int, Pick], None]
                 = lambda table, before, pick: None):
        self.force, self.hold, self.fixed_mbit_s, self.named = '', False, 0.0, ''
        self.several = False
        self._expected = _Expected(None, {}, False, PredictionBias())
        self._on_change = on_change
        self._heard: deque[_Heard] = deque(maxlen=100)
        self._lock = threading.Lock()

    def hear(self, bytes_per_s: float, age_s: float = 0.0, source: str = '') -> None:
        """Note what the link carries, as somebody says; raises BadBandwidth."""
        if not 0 <= bytes_per_s <= MOST_BYTES_PER_S:
            raise BadBandwidth(f'a bandwidth of {bytes_per_s} bytes/s, expected 0 to '
                               f'{MOST_BYTES_PER_S:g}: it is ignored')
        if not 0 <= age_s <= OLDEST_S:
            raise BadBandwidth(f'a bandwidth that is {age_s} s old, expected 0 to {OLDEST_S:g} s: '
                               'it is ignored')
        with self._lock:
            self._heard.append(_Heard(bytes_per_s, time.monotonic(), source))

    def bandwidth(self) -> tuple[float, str] | None:
        """Return the bandwidth that counts in bytes/s, and whence; None where none is known yet."""
        if self.fixed_mbit_s > 0:
            return self.fixed_mbit_s * 1e6 / 8, 'parameter bandwidth_mbit_s'
        with self._lock:
            heard = list(self._heard)
        if not heard:
            return None
        newest, now = heard[-1], time.monotonic()
        if now - newest.at_s > SILENCE_S:
            return 0.0, f'no bandwidth heard for {SILENCE_S:g} s'
        lately = [one for one in heard if now - one.at_s <= TOGETHER_S] if self.several else []
        least = min([newest, *lately], key=lambda one: one.bytes_per_s)
        return least.bytes_per_s, least.source

    def pick(self, table: PlanTable, index: int) -> Pick:
        """Return the plan for the next frame under a table whose plan ``index`` is in force."""
        pick = self.choose(table, index)
        if pick.index != index:
            self._on_change(table, index, pick)
        return pick

    def expect(self, table: PlanTable, curves: Mapping[str, Curve],
               least_latency: bool = False) -> None:
        """
        Expect of a table's plans, by name, what planning predicts, and forget what frames took.

        ``least_latency``: that is what the table is for. Where frames under its choice take longer
        than predicted, a plan that is better than what they really take is picked then.
        """
        self._expected = _Expected(table, curves, least_latency, PredictionBias())

    def took(self, table: PlanTable, pick: Pick, seconds: float) -> None:
        """Note how long a frame took under a pick, once its image was at hand."""
        expected = self._expected
        # Whoever forces plans compares them himself.
        if pick.predicted_s and pick.why != FORCED and table is expected.table:
            expected.bias.note(table.plans[pick.index].name, pick.bytes_per_s * 8e-6,
                                     seconds / pick.predicted_s)

    def choose(self, table: PlanTable, index: int) -> Pick:
        """Return the same, and tell nobody."""
        expected = self._expected
        if table is not expected.table:
            expected = _Expected(table, {}, False, PredictionBias())
        known = self.bandwidth() if table.choices else None
        chosen, why = self._choose(expected, index, known)
        bytes_per_s = None if known is None else known[0]
        predicted = expected.predicted_s(chosen, (bytes_per_s or 0.0) * 8e-6)
        return Pick(chosen, why, bytes_per_s,
                    predicted if known is not None and math.isfinite(predicted) else None)

    def _choose(self, expected: _Expected, index: int,
                known: tuple[float, str] | None) -> tuple[int, str]:
        table = expected.table
        forced = table.index(self.force) if self.force else None
        if forced is not None:
            return forced, FORCED
        if self.hold:
            return index, 'held'
        if known is None:
            named = table.index(self.named)
            return (0, 'the first of the table') if named is None else (named, 'named')
        bytes_per_s, whence = known
        mbit_s = bytes_per_s * 8e-6
        why = f'{mbit_s:.3g} Mbit/s ({whence})'
        near = [table.choose(mbit_s * factor) for factor in (1 - HYSTERESIS, 1, 1 + HYSTERESIS)]
        # A bandwidth that somebody sets does not swing.
        chosen = index if index in near and not self.fixed_mbit_s > 0 else near[1]
        if not expected.least_latency:
            return chosen, why
        best, over = expected.best(chosen, mbit_s)
        name = table.plans[chosen].name
        if best != chosen:
            why += f'; {name} takes {over:.2f} times what was predicted'
        elif chosen != index and expected.bias.tries(name):
            why += f'; {name} is tried again'
        return best, why
