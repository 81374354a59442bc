# SPDX-License-Identifier: Apache-2.0
"""
How the rows of a frame get from one side to the other.

Who computes opens a frame on a transport and knows nothing of what is behind it: chunks on paced
ROS topics between two hosts, or memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from hp_inference.link.inbox import Inbox
from hp_inference.link.outbox import Outbox, SentSlice
from hp_inference.link.pacer import Pacer
from hp_inference.link.wire import Chunk, Head, SliceSpec


class FrameIO(Protocol):
    """
    The rows of one frame, as one side sends and receives them.

    ``give_up_s``: until when rows are waited for (monotonic seconds, None: for ever).
    ``slices`` have gone, in ``sent_bytes`` of payload, which counts those on their way, too.
    """

    give_up_s: float | None
    slices: list[SentSlice]
    sent_bytes: int

    def send(self, spec: SliceSpec, rows: torch.Tensor) -> None:
        """Hand rows over, without waiting; they must not change. Raises what ends the frame."""

    def receive(self, spec: SliceSpec) -> torch.Tensor:
        """Wait for rows; raises DeadlinePassed, or what ends the frame."""

    def cancel(self) -> None:
        """Send nothing more of the frame."""


class Transport(Protocol):
    """One side's way to the other."""

    def open_frame(self, head: Head, inbox: Inbox, tag: object = None,
                   unsent: Callable[[str], None] | None = None) -> FrameIO:
        """
        Begin a frame whose rows come in by ``inbox``.

        ``tag`` is for who carries its chunks. ``unsent(reason)`` is told where rows can't be sent;
        by default the inbox gives the frame up.
        """

    def restart(self) -> None:
        """Take note that the other side was started anew: what was learnt of the way is void."""

    def close(self, timeout: float | None = None) -> bool:
        """Send what is queued for up to ``timeout`` seconds; return whether all went out."""


class ChunkTransport:
    """
    Sends rows as chunks, one after the other, as its pacer lets them go.

    carry(chunk, tag) takes a chunk on its way: publishes it on a topic, or copies it. It is called
    on a thread of the transport's own, and may block.
    """

    def __init__(self, carry: Callable[[Chunk, object], None], name: str = 'outbox',
                 pacer: Pacer | None = None):
        self.carry, self.pacer = carry, pacer
        self.outbox = Outbox(name, pacer)

    def open_frame(self, head: Head, inbox: Inbox, tag: object = None,
                   unsent: Callable[[str], None] | None = None) -> ChunkIO:
        """Begin a frame; see Transport."""
        return ChunkIO(self, head, inbox, tag, unsent or inbox.abort)

    def restart(self) -> None:
        """Pace from the beginning."""
        if self.pacer is not None:
            self.pacer.reset()

    def close(self, timeout: float | None = None) -> bool:
        """Send what is queued; see Transport."""
        return self.outbox.close(timeout)


class ChunkIO:
    """A frame of a ChunkTransport; see FrameIO."""

    def __init__(self, transport: ChunkTransport, head: Head, inbox: Inbox, tag: object,
                 unsent: Callable[[str], None]):
        self.head, self.give_up_s = head, None
        self.slices: list[SentSlice] = []
        self.sent_bytes = 0
        self._transport, self._inbox, self._tag, self._unsent = transport, inbox, tag, unsent

    def send(self, spec: SliceSpec, rows: torch.Tensor) -> None:
        """Queue rows; raises Aborted when the frame has been given up."""
        self._inbox.check()
        self._transport.outbox.send(rows, spec, self)

    def receive(self, spec: SliceSpec) -> torch.Tensor:
        """Wait for rows; raises DeadlinePassed or Aborted."""
        return self._inbox.get(spec.value_id, spec.row_begin, spec.row_end, self.give_up_s)

    def cancel(self) -> None:
        """Send nothing more of the frame."""
        self._transport.outbox.cancel(self)

    # For the outbox

    def publish(self, chunk: Chunk) -> None:
        """Let a chunk go; counted first, since it may be answered before this returns."""
        self.sent_bytes += len(chunk.payload)
        self._transport.carry(chunk, self._tag)

    def sent(self, slice_: SentSlice) -> None:
        """Keep what sending a slice took."""
        self.slices.append(slice_)

    def failed(self, spec: SliceSpec, error: Exception) -> None:
        """Say why rows can't be sent."""
        self._unsent(f'sending {spec} failed: {type(error).__name__}: {error}')
