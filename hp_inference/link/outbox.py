# SPDX-License-Identifier: Apache-2.0
"""A sender of its own, so that computing, compressing and sending overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
import logging
import threading
import time

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


@dataclass(slots=True, eq=False)
class _Item:
    tensor: torch.Tensor
    spec: SliceSpec
    head: Head
    on_done: Callable[[SentSlice], None] | None
    unsent_bytes: int
    cancelled: bool = False


class Outbox:
    """
    Sends slices in the order in which they are given, on one daemon thread.

    ``publish`` is called with each chunk, on that thread; it may block. If it raises, the rest of
    the slice is given up (the receiver could not complete it any more), ``on_error`` gets the
    slice's spec, its head and the exception (None: it is logged), and the next slice follows.
    ``pacer`` says when the next chunk may go (None: at once).
    """

    def __init__(self, publish: Callable[[Chunk], None], name: str = 'outbox',
                 on_error: Callable[[SliceSpec, Head, Exception], None] | None = None,
                 pacer: Pacer | None = None):
        self._publish = publish
        self._pacer = pacer
        self._name = name
        self._on_error = on_error
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

    def send(self, tensor: torch.Tensor, spec: SliceSpec, head: Head,
             on_done: Callable[[SentSlice], None] | None = None) -> None:
        """
        Queue a slice; returns at once and copies nothing.

        The tensor must not change until ``on_done`` is called (on the sender's thread), which does
        not happen for a slice that is cancelled or fails. Raises ValueError for a tensor that does
        not fit its spec, LinkError once the outbox is closed.
        """
        spec.check(tensor)
        with self._changed:
            if self._closing:
                raise LinkError(f'{self._name} is closed; {spec} cannot be sent')
            self._queue.append(_Item(tensor, spec, head, on_done, spec.nbytes))
            self._queued_bytes += spec.nbytes
            self._changed.notify()

    def cancel(self, session: int, frame: int) -> int:
        """Drop what is not yet published of a frame; return how many slices that cut short."""
        with self._changed:
            dropped = self._drop(lambda item: (item.head.session, item.head.frame)
                                 == (session, frame))
        self._wake()
        return dropped

    def close(self, timeout: float | None = None) -> bool:
        """
        Take no more slices, send those queued for up to ``timeout`` seconds, drop the rest.

        Returns whether all of them went out. A ``publish`` that blocks is not waited for longer.
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
            self._report(item, error)
        with self._changed:
            self._current = None
            self._settle(item, item.unsent_bytes)
        if sent is not None and item.on_done is not None:
            try:
                item.on_done(sent)
            except Exception:
                _log.exception('%s: the callback for %s failed', self._name, item.spec)
        return True

    def _transmit(self, item: _Item) -> SentSlice | None:
        """Publish the chunks of a slice; return None when it was cancelled on the way."""
        start = time.monotonic()
        encoded = 0
        for chunk in chunk_slice(item.tensor, item.spec, item.head):
            if self._pacer is not None:
                self._pacer.admit(chunk, lambda: item.cancelled)
            if item.cancelled:
                return None
            self._publish(chunk)
            encoded += len(chunk.payload)
            with self._changed:
                self._settle(item, chunk.raw_bytes)
        if item.cancelled:
            return None
        return SentSlice(item.spec, item.head, start, time.monotonic(), item.spec.nbytes, encoded)

    def _report(self, item: _Item, error: Exception) -> None:
        if self._on_error is None:
            _log.error('%s: sending %s of frame %s failed: %s; the rest of it is dropped',
                       self._name, item.spec, item.head.frame, error, exc_info=error)
            return
        try:
            self._on_error(item.spec, item.head, error)
        except Exception:
            _log.exception('%s: the error callback for %s failed', self._name, item.spec)
