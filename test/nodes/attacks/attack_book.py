# SPDX-License-Identifier: Apache-2.0
"""The kinds of attack, and what is noted of each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
import time


@dataclass(frozen=True)
class Kind:
    """
    A kind of attack.

    ``tries``: so many in a short run. ``obeyed``: what it asks for may be asked for, so that robots
    may be alone meanwhile, and the attacked one without answers. ``forges``: answers may be wrong,
    as nothing shows who wrote them.
    """

    name: str
    what: str
    tries: int = 250
    obeyed: bool = False
    forges: bool = False


KINDS = [
    Kind('random', 'random and extreme values in every field of every message type'),
    Kind('mutated', 'real messages with one field changed'),
    Kind('raw', 'bytes that are no message, cut short, or with lengths that lie'),
    Kind('replayed', 'real messages earlier, again and in another order'),
    Kind('forged', 'rows, acknowledgements and reports as if they were real', forges=True),
    Kind('tables', 'plan tables and profiles that are large, deep, or of many plans', 20),
    Kind('texts', 'plan tables and profiles with names that break lines, or are no text', 20),
    Kind('earlier', 'a plan table of before, as from a second robot', 3),
    Kind('status', 'what a server says that is not ready or holds another table', 10),
    Kind('chunks', 'chunks and probes of 16 MB', 40),
    Kind('large', '8 MB in one field of a message', 20),
    Kind('images', 'images with contradicting sizes, damaged, bombs', 40),
    Kind('peers', 'nodes that come and go on the same topics and by the same names', 6),
    Kind('parameters', 'every parameter set to values of all types, paths among them', 60,
         obeyed=True),
    Kind('services', 'bursts of requests with random values to every service', 200, obeyed=True),
    Kind('lifecycle', 'transitions in any order', 30, obeyed=True)]


@dataclass
class Found:
    """What an attack did; MB in the node that grew most, seconds until all was as before."""

    kind: str
    tried: int = 0
    crashed: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    wrong: int = 0
    forged: int = 0
    answers: int = 0
    starved: int = 0
    honest: int = 0
    grown_mb: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    log_bytes: int = 0
    back_s: float = 0.0


def written(book: list[Found]) -> dict:
    """Return what was found, as JSON data."""
    return {'date': time.strftime('%Y-%m-%d'), 'kinds': [asdict(found) for found in book]}


def markdown(book: list[Found]) -> str:
    """Return the table of docs/security.md."""
    what = {kind.name: kind.what for kind in KINDS}
    lines = ['| attack | tried | crashed | hung | wrong | forged | starved | memory |',
             '|---|---|---|---|---|---|---|---|']
    for found in book:
        grown = max(found.grown_mb.values(), default=0.0)
        starved = f'{found.starved} of {found.honest}' if found.honest else '-'
        lines.append(f'| {what[found.kind]} | {found.tried} | {len(found.crashed)} | '
                     f'{len(found.hung)} | {found.wrong} | {found.forged or "-"} | {starved} | '
                     f'{grown:+.0f} MB |')
    return '\n'.join(lines) + '\n'
