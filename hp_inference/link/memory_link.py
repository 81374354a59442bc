# SPDX-License-Identifier: Apache-2.0
"""A link between two sides in one process: for checks without ROS, benches and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
import time

from hp_inference.link.errors import BadChunk
from hp_inference.link.transport import ChunkTransport
from hp_inference.link.wire import Chunk

Deliver = Callable[[Chunk], object]
Tap = Callable[[Chunk], Iterable[Chunk]]


class MemoryLink:
    """
    Connects a robot side and a server side by a transport each.

    ``link.robot`` is the robot's: its chunks go to ``to_server``, and those of ``link.server`` to
    ``to_robot``, on the transport's thread and with a copy of the payload, as a real link would.
    ``mbit_s`` (1e6 bits per second, each direction) delays a chunk until its payload has passed at
    that rate. ``tap`` maps each chunk to those that arrive in its place: none, others, several or
    earlier ones. A BadChunk that a side raises is kept in ``refused``, because the sender of a real
    link would not hear of it either.
    """

    def __init__(self, to_server: Deliver, to_robot: Deliver, *,
                 mbit_s: float | None = None, tap: Tap | None = None):
        if mbit_s is not None and not mbit_s > 0:
            raise ValueError(f'mbit_s is {mbit_s}, expected more than 0, or None for no limit')
        self.refused: list[BadChunk] = []
        self._up = _Direction(to_server, mbit_s, tap, self.refused)
        self._down = _Direction(to_robot, mbit_s, tap, self.refused)
        self.robot = ChunkTransport(self._up.carry, 'uplink')
        self.server = ChunkTransport(self._down.carry, 'downlink')

    @property
    def sent_bytes(self) -> int:
        """Encoded payload bytes sent so far, in both directions."""
        return self._up.sent_bytes + self._down.sent_bytes

    def close(self, timeout: float | None = 1.0) -> bool:
        """Close both transports, each within ``timeout`` seconds; return whether all went out."""
        return all([self.robot.close(timeout), self.server.close(timeout)])

    def __enter__(self) -> MemoryLink:
        """Return the link itself; it closes at the end of the block."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close both transports."""
        self.close()


class _Direction:
    """One direction of the link; used by one transport's thread."""

    def __init__(self, deliver: Deliver, mbit_s: float | None, tap: Tap | None,
                 refused: list[BadChunk]):
        self._deliver = deliver
        self._bytes_per_s = None if mbit_s is None else mbit_s * 1e6 / 8
        self._tap = tap
        self._refused = refused
        self._free_at = 0.0
        self.sent_bytes = 0

    def carry(self, chunk: Chunk, _tag: object) -> None:
        chunk = replace(chunk, payload=bytes(chunk.payload))
        self.sent_bytes += len(chunk.payload)
        if self._bytes_per_s is not None:
            self._pass(len(chunk.payload) / self._bytes_per_s)
        for arriving in [chunk] if self._tap is None else self._tap(chunk):
            try:
                self._deliver(arriving)
            except BadChunk as error:
                self._refused.append(error)

    def _pass(self, duration_s: float) -> None:
        """Sleep until the line, busy with what came before, has carried this too."""
        self._free_at = max(self._free_at, time.monotonic()) + duration_s
        time.sleep(max(0.0, self._free_at - time.monotonic()))
