# SPDX-License-Identifier: Apache-2.0
"""The sender thread: order, records, cancelling, failures, closing."""

import gc
import threading
import time
import weakref

import pytest
import torch
from waits import WAIT_S

from hp_inference.link.errors import LinkError
from hp_inference.link.outbox import Outbox
from hp_inference.link.wire import Head, SliceSpec

DIGEST = bytes(32)


class Frame:
    """A frame that keeps what it is told; ``publish`` lets its chunks go."""

    def __init__(self, publish=lambda chunk: None, number=1):
        self.head, self.publish = Head(5, number, DIGEST, 0), publish
        self.records, self.failures = [], []
        self.sent = self.records.append

    def failed(self, spec, error):
        self.failures.append((spec, str(error)))

    @property
    def values(self):
        return [record.spec.value_id for record in self.records]


def spec(value_id=1, chunks=3, codec='none'):
    return SliceSpec(value_id, 0, chunks, (chunks, 60_000), 0, torch.uint8, codec)


def tensor(chunks=3):
    return torch.zeros(chunks, 60_000, dtype=torch.uint8)


class Gate:
    """A publish that keeps the chunks and can be held shut; ``entered`` counts its calls."""

    def __init__(self, opened=True):
        self.chunks = []
        self.entered = threading.Semaphore(0)
        self._passes = threading.Semaphore(0)
        self._opened = opened

    def __call__(self, chunk):
        self.entered.release()
        if not self._opened:
            assert self._passes.acquire(timeout=WAIT_S)
        self.chunks.append((chunk.frame, chunk.value_id, chunk.chunk_index))

    def let_pass(self, count=1):
        self._passes.release(count)

    def open(self):
        self._opened = True
        self._passes.release(100)


def test_slices_go_out_in_order_and_chunks_within_them():
    gate, outbox = Gate(), Outbox()
    frame = Frame(gate)
    for value_id in (4, 2, 3):
        outbox.send(tensor(2), spec(value_id, 2), frame)
    assert outbox.close(WAIT_S)
    assert gate.chunks == [(1, value_id, index) for value_id in (4, 2, 3) for index in (0, 1)]


def test_send_returns_while_publish_blocks_and_counts_the_queued_bytes():
    gate, outbox = Gate(opened=False), Outbox()
    frame = Frame(gate)
    outbox.send(tensor(), spec(1), frame)
    assert gate.entered.acquire(timeout=WAIT_S)
    outbox.send(tensor(), spec(2), frame)  # what it waited for would only come below
    assert gate.chunks == [] and outbox.queued_bytes == 6 * 60_000
    gate.let_pass()
    assert gate.entered.acquire(timeout=WAIT_S)
    assert outbox.queued_bytes == 5 * 60_000
    gate.open()
    assert outbox.close(WAIT_S) and outbox.queued_bytes == 0


def test_a_record_says_when_and_how_much_was_sent():
    before, outbox = time.monotonic(), Outbox()
    frame = Frame(lambda chunk: time.sleep(0.01))
    outbox.send(tensor(), spec(codec='zstd'), frame)
    assert outbox.close(WAIT_S)
    [record] = frame.records
    assert before <= record.start_s and record.end_s - record.start_s >= 0.03
    assert record.end_s <= time.monotonic()
    assert (record.spec, record.head) == (spec(codec='zstd'), frame.head)
    assert record.raw_bytes == 180_000 and 0 < record.encoded_bytes < 1_000


def test_cancel_drops_queued_slices_of_that_frame_only():
    gate, outbox = Gate(opened=False), Outbox()
    first, second, third = (Frame(gate, number) for number in (1, 2, 3))
    outbox.send(tensor(1), spec(0, 1), first)
    assert gate.entered.acquire(timeout=WAIT_S)
    for value_id in (1, 2):
        outbox.send(tensor(1), spec(value_id, 1), second)
    outbox.send(tensor(1), spec(4, 1), third)
    assert outbox.cancel(second) == 2
    assert outbox.queued_bytes == 2 * 60_000
    gate.open()
    assert outbox.close(WAIT_S)
    assert [value_id for _, value_id, _ in gate.chunks] == [0, 4]
    assert (first.values, second.values, third.values) == ([0], [], [4])


def test_cancel_stops_a_slice_between_its_chunks():
    gate, outbox = Gate(opened=False), Outbox()
    first, second = Frame(gate, 1), Frame(gate, 2)
    outbox.send(tensor(9), spec(1, 9), first)
    outbox.send(tensor(1), spec(2, 1), second)
    gate.let_pass()
    assert gate.entered.acquire(timeout=WAIT_S) and gate.entered.acquire(timeout=WAIT_S)
    assert outbox.cancel(first) == 1
    assert outbox.queued_bytes == 60_000
    gate.open()
    assert outbox.close(WAIT_S)
    assert gate.chunks == [(1, 1, 0), (1, 1, 1), (2, 2, 0)]
    assert (first.values, second.values) == ([], [2])
    assert outbox.queued_bytes == 0


def test_a_slice_cancelled_during_its_last_chunk_is_not_reported_as_done():
    gate, outbox = Gate(opened=False), Outbox()
    frame = Frame(gate)
    outbox.send(tensor(1), spec(1, 1), frame)
    assert gate.entered.acquire(timeout=WAIT_S)
    assert outbox.cancel(frame) == 1
    gate.open()
    assert outbox.close(WAIT_S)
    assert frame.records == [] and outbox.idle


def test_a_failing_publish_gives_up_the_slice_but_not_the_thread():
    published = []

    def publish(chunk):
        published.append((chunk.value_id, chunk.chunk_index))
        if chunk.value_id == 1 and chunk.chunk_index == 1:
            raise OSError('no route')

    frame, outbox = Frame(publish), Outbox()
    outbox.send(tensor(), spec(1), frame)
    outbox.send(tensor(1), spec(2, 1), frame)
    assert outbox.close(WAIT_S)
    assert published == [(1, 0), (1, 1), (2, 0)]
    assert frame.failures == [(spec(1), 'no route')]
    assert frame.values == [2] and outbox.idle


@pytest.mark.parametrize('failing', ['sent', 'failed'])
def test_a_failing_callback_is_logged_and_the_next_slice_follows(failing, caplog):
    sent = []

    def publish(chunk):
        sent.append(chunk.value_id)
        if failing == 'failed' and chunk.value_id == 1:
            raise OSError('no route')

    def broken(*_):
        raise RuntimeError('callback is broken')

    frame, outbox = Frame(publish), Outbox('uplink')
    setattr(frame, failing, broken)
    outbox.send(tensor(1), spec(1, 1), frame)
    outbox.send(tensor(1), spec(2, 1), frame)
    assert outbox.close(WAIT_S)
    assert sent == [1, 2] and 'callback is broken' in caplog.text
    assert 'uplink: the callback for value 1 rows [0, 1) of frame 1 failed' in caplog.text


def test_close_gives_up_in_time_when_publish_hangs():
    gate, outbox = Gate(opened=False), Outbox()
    frame = Frame(gate)
    outbox.send(tensor(2), spec(1, 2), frame)
    outbox.send(tensor(2), spec(2, 2), frame)
    assert gate.entered.acquire(timeout=WAIT_S)
    assert outbox.close(0.05) is False
    assert gate.chunks == [] and outbox.queued_bytes == 0
    gate.open()
    assert outbox.close(WAIT_S)
    assert gate.chunks == [(1, 1, 0)]


def test_a_closed_outbox_refuses_to_send():
    outbox = Outbox('uplink')
    assert outbox.close(WAIT_S)
    with pytest.raises(LinkError, match=r'uplink is closed; value 1 rows \[0, 3\) cannot be sent'):
        outbox.send(tensor(), spec(), Frame())


def test_a_mistake_of_the_caller_is_raised_in_the_caller():
    outbox = Outbox()
    with pytest.raises(ValueError, match=r'got \(3, 5\) torch.float32, expected \(3, 60000\)'):
        outbox.send(torch.zeros(3, 5), spec(), Frame())
    assert outbox.queued_bytes == 0 and outbox.close(WAIT_S)


def test_an_idle_outbox_keeps_no_tensor():
    outbox, last, sent = Outbox(), Frame(), threading.Event()
    last.sent = lambda _: sent.set()
    rows = tensor()
    watch = weakref.ref(rows)
    outbox.send(rows, spec(codec='zstd'), Frame())
    del rows
    outbox.send(tensor(1), spec(2, 1), last)
    assert sent.wait(WAIT_S)
    gc.collect()
    assert watch() is None
    outbox.close(WAIT_S)
