# SPDX-License-Identifier: Apache-2.0
"""A sender of its own, so that computing, compressing and sending overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading
import time
from typing import Protocol

import torch

from hp_inference.link.chunks import chunk_slice
from hp_inference.link.errors import LinkError
from hp_inference.link.pacer import Pacer
from hp_inference.link.wire import Chunk, Head, SliceSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SentSlice:
    """What sending one slice took: monotonic seconds, bytes before and after encoding."""

    spec: SliceSpec
    head: Head
    start_s: float
    end_s: float
    raw_bytes: int
    encoded_bytes: int


class OutgoingFrame(Protocol):
    """The frame whose slices an outbox sends; all of it is called on the outbox's thread."""

    head: Head

    def publish(self, chunk: Chunk) -> None:
        """Let a chunk go; may block. What it raises ends its slice."""

    def sent(self, slice_: SentSlice) -> None:
        """Take note of a slice that has gone, whole."""

    def failed(self, spec: SliceSpec, error: Exception) -> None:
        """Take note of a slice whose rest is given up: nobody could complete it any more."""


@dataclass(slots=True, eq=False)
class _Item:
    tensor: torch.Tensor
    spec: SliceSpec
    frame: OutgoingFrame
    unsent_bytes: int
    cancelled: bool = False


class Outbox:
    """
    Sends slices in the order in which they are given, on one daemon thread.

    ``pacer`` says when the next chunk may go (None: at once). A slice that fails does not keep
    those after it.
    """

    def __init__(self, name: str = 'outbox', pacer: Pacer | None = None):
        self._name, self._pacer = name, pacer
        self._queue: deque[_Item] = deque()
        self._current: _Item | None = None
        self._queued_bytes = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def queued_bytes(self) -> int:
        """Raw bytes that are given to send but not yet published."""
        return self._queued_bytes

    @property
    def idle(self) -> bool:
        """Whether all that was given to it has gone, or was given up."""
        return not self._queued_bytes and self._current is None

    def send(self, tensor: torch.Tensor, spec: SliceSpec, frame: OutgoingFrame) -> None:
        """
        Queue a slice; returns at once and copies nothing.

        The tensor must not change until ``frame.sent`` is called, which does not happen for a
        slice that is cancelled or fails. Raises ValueError for a tensor that does not fit its
        spec, LinkError once the outbox is closed.
        """
        spec.check(tensor)
        with self._changed:
            if self._closing:
                raise LinkError(f'{self._name} is closed; {spec} cannot be sent')
            self._queue.append(_Item(tensor, spec, frame, spec.nbytes))
            self._queued_bytes += spec.nbytes
            self._changed.notify()

    def cancel(self, frame: OutgoingFrame) -> int:
        """Drop what is not yet published of a frame; return how many slices that cut short."""
        with self._changed:
            dropped = self._drop(lambda item: item.frame is frame)
        self._wake()
        return dropped

    def close(self, timeout: float | None = None) -> bool:
        """
        Take no more slices, send those queued for up to ``timeout`` seconds, drop the rest.

        Returns whether all of them went out. What blocks is not waited for longer.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            dropped = self._drop(lambda item: True)
        self._wake()
        return dropped == 0

    def _wake(self) -> None:
        """Have the slice that waits for its turn look whether it is still wanted."""
        if self._pacer is not None:
            self._pacer.wake()

    def _drop(self, unwanted: Callable[[_Item], bool]) -> int:
        """Take unwanted slices off the queue and stop the one being sent; the lock is held."""
        dropped = [item for item in self._queue if unwanted(item)]
        self._queue = deque(item for item in self._queue if not unwanted(item))
        if self._current is not None and unwanted(self._current):
            self._current.cancelled = True
            dropped.append(self._current)
        for item in dropped:
            self._settle(item, item.unsent_bytes)
        return len(dropped)

    def _settle(self, item: _Item, nbytes: int) -> None:
        """Take bytes that are published or given up off the books; the lock is held."""
        settled = min(nbytes, item.unsent_bytes)
        item.unsent_bytes -= settled
        self._queued_bytes -= settled

    def _run(self) -> None:
        while self._send_next():
            pass

    def _send_next(self) -> bool:
        """Wait for a slice and send it; return False when closed and the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            if not self._queue:
                return False
            item = self._current = self._queue.popleft()
        sent = None
        try:
            sent = self._transmit(item)
        except Exception as error:
            self._tell(item, item.frame.failed, item.spec, error)
        with self._changed:
            self._current = None
            self._settle(item, item.unsent_bytes)
        if sent is not None:
            self._tell(item, item.frame.sent, sent)
        return True

    def _transmit(self, item: _Item) -> SentSlice | None:
        """Publish the chunks of a slice; return None when it was cancelled on the way."""
        start = time.monotonic()
        encoded = 0
        for chunk in chunk_slice(item.tensor, item.spec, item.frame.head):
            if self._pacer is not None:
                self._pacer.admit(chunk, lambda: item.cancelled)
            if item.cancelled:
                return None
            item.frame.publish(chunk)
            encoded += len(chunk.payload)
            with self._changed:
                self._settle(item, chunk.raw_bytes)
        if item.cancelled:
            return None
        return SentSlice(item.spec, item.frame.head, start, time.monotonic(), item.spec.nbytes,
                         encoded)

    def _tell(self, item: _Item, callback: Callable, *what: object) -> None:
        try:
            callback(*what)
        except Exception:
            _log.exception('%s: the callback for %s of frame %s failed', self._name, item.spec,
                           item.frame.head.frame)
