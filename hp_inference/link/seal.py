# SPDX-License-Identifier: Apache-2.0
"""
Seals: how those who share a key know each other's messages from everybody else's.

A seal is a keyed BLAKE2b over the topic, the message and three things more, which stand in it in
the clear: the *start* (a random number that a participant draws when it starts), a counter of all
that it has sent since, and the counter of the first message with that content. A forged or changed
message, or one of another topic, has no valid seal.

A valid seal may be old, so starts have to meet. Everybody says, in sealed messages on the topic
``meeting``, which starts it has heard there. Who finds its own start, which nobody could know
before, in a meeting message knows that the message is of this run; from then on it takes messages
of that sender whose counter is above that one's, and on each topic above the one before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b
from hmac import compare_digest
from itertools import count
import secrets
import struct
import threading

#: Topic on which starts meet.
MEETING = 'meeting'
START_BYTES, TAG_BYTES = 16, 16
# Start, counter, counter of the first message with this content; the tag follows.
_CLEAR = struct.Struct(f'<{START_BYTES}sQQ')
SEAL_BYTES = _CLEAR.size + TAG_BYTES

#: Starts that are remembered of those that have met this one, and of those that have not.
MOST_STARTS = 16

Parts = Iterable[bytes | memoryview]


class Verdict(Enum):
    """What a seal says of its message; all but TAKEN are dropped, and the last five counted."""

    TAKEN = 'taken'
    OWN = 'own'              # the receiver sent it itself
    AGAIN = 'again'          # sent again for somebody who has come since, known here
    UNSEALED = 'unsealed'
    FORGED = 'forged'        # not made with this key, or not for this topic
    UNMET = 'unmet'          # of a start that this one has not met, or of before they met
    REPLAYED = 'replayed'    # its counter is not above that of the one before on its topic
    ELSEWHERE = 'elsewhere'  # a meeting message of another place


#: Verdicts that are counted.
DROPPED = (Verdict.UNSEALED, Verdict.FORGED, Verdict.UNMET, Verdict.REPLAYED, Verdict.ELSEWHERE)


@dataclass(frozen=True)
class Meeting:
    """
    What a participant says on the topic ``meeting``.

    ``role`` is what it is, ``place`` the full name of the topic ``meeting`` there: one key may
    serve several robots, whose messages must not be mixed up either. ``heard`` are the starts that
    it has heard of, ``met`` those that it knows to be of this run.
    """

    role: str
    place: str
    heard: tuple[bytes, ...] = ()
    met: tuple[bytes, ...] = ()


@dataclass
class _Peer:
    """A participant that has been met."""

    role: str
    floor: int  # counter of the message that showed it to be of this run
    last: dict[str, int] = field(default_factory=dict)   # by topic
    first: dict[str, int] = field(default_factory=dict)  # by topic
    knows_us: bool = False


class Seals:
    """
    The seals of one participant, whose start is drawn here; any thread may make and check them.

    Who makes seals for a topic on several threads must publish them in the order of their making.
    """

    def __init__(self, key: bytes, role: str, place: str):
        self.role, self.place = role, place
        self.start = secrets.token_bytes(START_BYTES)
        self._key = key
        self._counter = count(1)
        self._heard: OrderedDict[bytes, int] = OrderedDict()  # counters of their newest meeting
        self._met: OrderedDict[bytes, _Peer] = OrderedDict()  # who has just spoken comes last
        self._hashes: dict[str, object] = {}
        self._lock = threading.Lock()

    @property
    def roles(self) -> tuple[str, ...]:
        """Return the roles of those that have been met."""
        with self._lock:
            return tuple(peer.role for peer in self._met.values())

    def count(self) -> int:
        """Return the counter of the next message."""
        return next(self._counter)

    def make(self, topic: str, parts: Parts, counter: int, first: int = 0) -> bytes:
        """
        Return the seal of a message of which ``parts`` are all bytes.

        ``first`` is the counter of the first message with this content, 0: this one is it.
        """
        clear = _CLEAR.pack(self.start, counter, first or counter)
        return clear + self._tag(topic, clear, parts)

    def check(self, topic: str, parts: Parts, seal: bytes) -> Verdict:
        """Judge the seal of a message on any topic but ``meeting``."""
        verdict = self._judge(topic, parts, seal)
        if verdict is not None:
            return verdict
        start, counter, first = _CLEAR.unpack_from(seal)
        with self._lock:
            peer = self._met.get(start)
            if peer is None or counter <= peer.floor:
                return Verdict.UNMET
            if counter <= peer.last.get(topic, 0):
                return Verdict.REPLAYED
            self._met.move_to_end(start)
            peer.last[topic] = counter
            if first <= peer.first.get(topic, 0):
                return Verdict.AGAIN
            peer.first[topic] = first
            return Verdict.TAKEN

    def told(self) -> Meeting:
        """Return what is to be said on ``meeting`` now."""
        with self._lock:
            return Meeting(self.role, self.place, tuple(self._heard), tuple(self._met))

    def meet(self, parts: Parts, seal: bytes,
             read: Callable[[], Meeting]) -> tuple[Verdict, bool, bool]:
        """
        Take in a message of ``meeting``, which ``read`` returns once it is known to be genuine.

        Returns the verdict, whether there is something new to tell there, and whether its sender
        takes our messages from now on, so that those which hold on must be sent again.
        """
        verdict = self._judge(MEETING, parts, seal)
        if verdict is not None:
            return verdict, False, False
        told = read()
        if told.place != self.place:
            return Verdict.ELSEWHERE, False, False
        start, counter, _ = _CLEAR.unpack_from(seal)
        with self._lock:
            peer, news = self._met.get(start), False
            before = self._heard.get(start, 0) if peer is None else peer.last[MEETING]
            if counter <= before:
                return Verdict.REPLAYED, False, False
            if peer is None and self.start in (*told.heard, *told.met):
                peer, news = _Peer(told.role, counter), True
                self._heard.pop(start, None)
                self._met[start] = peer
                self._shorten(self._met)
            if peer is None:
                news = start not in self._heard
                self._heard[start] = counter
                self._shorten(self._heard)
                return Verdict.TAKEN, news, False
            self._met.move_to_end(start)
            peer.last[MEETING] = counter
            known, peer.knows_us = peer.knows_us, self.start in told.met
            return Verdict.TAKEN, news, peer.knows_us and not known

    def _judge(self, topic: str, parts: Parts, seal: bytes) -> Verdict | None:
        """Return what a seal alone says; None: it is valid."""
        if len(seal) != SEAL_BYTES:
            return Verdict.FORGED if seal else Verdict.UNSEALED
        if topic == MEETING and seal.startswith(self.start):
            return Verdict.OWN
        clear, tag = seal[:_CLEAR.size], seal[_CLEAR.size:]
        return None if compare_digest(self._tag(topic, clear, parts), tag) else Verdict.FORGED

    def _tag(self, topic: str, clear: bytes, parts: Parts) -> bytes:
        if topic not in self._hashes:
            # BLAKE2b takes up to 16 bytes that say what the hash is for: 'downlink_report' fits.
            self._hashes[topic] = blake2b(key=self._key, digest_size=TAG_BYTES,
                                          person=topic.encode())
        made = self._hashes[topic].copy()
        made.update(clear)
        for part in parts:
            made.update(part)
        return made.digest()

    @staticmethod
    def _shorten(starts: OrderedDict) -> None:
        while len(starts) > MOST_STARTS:
            starts.popitem(last=False)
