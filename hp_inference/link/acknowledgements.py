# SPDX-License-Identifier: Apache-2.0
"""Acknowledgements: which chunks or probes have arrived, and when; the receiver gathers them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import math
import secrets
import time

from hp_inference.link.errors import LinkError

MOST = 64
"""Arrivals in one acknowledgement at most."""

GATHERED, GATHERED_BYTES = 8, 60_000
"""As many arrivals, or more bytes than these, are not gathered before they are reported ..."""

GATHERED_S = 0.01
"""... nor does an arrival wait that comes so long after the report before it."""


SESSIONS = 4
"""Senders that are gathered for at once; the one that was heard least lately is forgotten."""

LONGEST_HELD_S = 10.0
"""An arrival longer ago than this is not believed: its clock has been set."""


class BadAck(LinkError, ValueError):
    """An acknowledgement that contradicts itself; the text says how and what was expected."""


@dataclass(frozen=True, slots=True)
class Ack:
    """
    Arrivals of one session's chunks or probes at one receiver, in the order in which they came.

    ``seq``, ``payload_bytes``, ``sent_s`` and ``arrived_s`` have an entry per arrival: its number
    as its sender counts, its size, when it was sent on the sender's clock and when it arrived on
    the receiver's [s]. ``held_s`` passed from the last arrival to the report. A number stands for
    all before it, too. Raises BadAck for what no receiver would say; clocks may jump, so times need
    only be finite.
    """

    session: int
    receiver: int
    seq: Sequence[int]
    payload_bytes: Sequence[int]
    sent_s: Sequence[float]
    arrived_s: Sequence[float]
    held_s: float

    def __post_init__(self):
        """Refuse what contradicts itself."""
        counts = {name: len(getattr(self, name))
                  for name in ('seq', 'payload_bytes', 'sent_s', 'arrived_s')}
        if len(set(counts.values())) != 1 or not 1 <= len(self.seq) <= MOST:
            raise BadAck(f'an acknowledgement with {counts} entries, expected as many of each, '
                         f'1 to {MOST}')
        for name in ('sent_s', 'arrived_s'):
            for time_s in getattr(self, name):
                if not math.isfinite(time_s):
                    raise BadAck(f'an acknowledgement with {name} {time_s}, expected a finite time')
        if min(self.seq) < 1 or min(self.payload_bytes) < 0:
            raise BadAck(f'an acknowledgement of number {min(self.seq)} and '
                         f'{min(self.payload_bytes)} bytes, expected numbers from 1 on and no '
                         'negative size')
        if not 0 <= self.held_s < math.inf:
            raise BadAck(f'an acknowledgement held for {self.held_s} s, expected a finite time, '
                         'not negative')


class Acknowledger:
    """
    Gathers what arrives and says when a report of it is due; the receiving side of one sender.

    A report per chunk would cost more than it tells, one too late holds up the sender. So the
    first arrival after a pause is reported at once, then what comes in 10 ms, or more than one
    full chunk; the last chunk of a slice or probe of a train always is. What is not reported yet
    thus is at most a full chunk: a sender that may have two in flight can always send the one that
    brings the report, and nothing here needs a timer.

    ``receiver`` tells this start of the receiver from any other; by default it is drawn.
    """

    def __init__(self, receiver: int | None = None):
        self._receiver = secrets.randbits(64) if receiver is None else receiver
        self._gathered: dict[int, _Gathered] = {}

    def took(self, session: int, seq: int, payload_bytes: int, sent_s: float, arrived_s: float,
             last: bool) -> Ack | None:
        """
        Note an arrival; return the acknowledgement of its session that is now due, or None.

        ``arrived_s`` is of this machine's monotonic or system clock, the same one each time. What
        a sender says that can't be (a number under 1, a time that is not finite) is not noted.
        """
        if seq < 1 or not (math.isfinite(sent_s) and math.isfinite(arrived_s)):
            return None
        gathered = self._gathered.pop(session, None) or _Gathered()
        self._gathered[session] = gathered  # the newest last
        if len(self._gathered) > SESSIONS:
            del self._gathered[next(iter(self._gathered))]
        gathered.entries.append((seq, payload_bytes, sent_s, arrived_s))
        # A clock that was set back makes this negative: report then, too.
        since = arrived_s - gathered.reported_s
        if not (last or len(gathered.entries) >= GATHERED or not 0 <= since < GATHERED_S
                or sum(entry[1] for entry in gathered.entries) > GATHERED_BYTES):
            return None
        ack = Ack(session, self._receiver, *zip(*gathered.entries), _age(arrived_s))
        gathered.entries, gathered.reported_s = [], arrived_s
        return ack


@dataclass(slots=True)
class _Gathered:
    """Arrivals of one session that are not reported yet, and when the last report went."""

    entries: list[tuple[int, int, float, float]] = field(default_factory=list)
    reported_s: float = -math.inf


def _age(arrived_s: float) -> float:
    """Return how long ago an arrival was [s], by that clock of this machine that it came from."""
    age = min((clock() - arrived_s for clock in (time.monotonic, time.time)), key=abs)
    return age if 0 <= age < LONGEST_HELD_S else 0.0
