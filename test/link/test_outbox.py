# SPDX-License-Identifier: Apache-2.0
"""The sender thread: order, records, cancelling, failures, closing."""

import gc
import logging
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


def head(frame=1, session=5):
    return Head(session, frame, DIGEST, 0)


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
    gate = Gate()
    outbox = Outbox(gate)
    for value_id in (4, 2, 3):
        outbox.send(tensor(2), spec(value_id, 2), head())
    assert outbox.close(WAIT_S)
    assert gate.chunks == [(1, value_id, index) for value_id in (4, 2, 3) for index in (0, 1)]


def test_send_returns_while_publish_blocks_and_counts_the_queued_bytes():
    gate = Gate(opened=False)
    outbox = Outbox(gate)
    outbox.send(tensor(), spec(1), head())
    assert gate.entered.acquire(timeout=WAIT_S)
    outbox.send(tensor(), spec(2), head())  # what it waited for would only come below
    assert gate.chunks == [] and outbox.queued_bytes == 6 * 60_000
    gate.let_pass()
    assert gate.entered.acquire(timeout=WAIT_S)
    assert outbox.queued_bytes == 5 * 60_000
    gate.open()
    assert outbox.close(WAIT_S) and outbox.queued_bytes == 0


def test_a_record_says_when_and_how_much_was_sent():
    records = []
    before = time.monotonic()
    outbox = Outbox(lambda chunk: time.sleep(0.01))
    outbox.send(tensor(), spec(codec='zstd'), head(), records.append)
    assert outbox.close(WAIT_S)
    [record] = records
    assert before <= record.start_s and record.end_s - record.start_s >= 0.03
    assert record.end_s <= time.monotonic()
    assert (record.spec, record.head) == (spec(codec='zstd'), head())
    assert record.raw_bytes == 180_000 and 0 < record.encoded_bytes < 1_000


def test_cancel_drops_queued_slices_of_that_frame_only():
    gate = Gate(opened=False)
    done = []
    outbox = Outbox(gate)
    outbox.send(tensor(1), spec(0, 1), head(1), done.append)
    assert gate.entered.acquire(timeout=WAIT_S)
    for value_id in (1, 2):
        outbox.send(tensor(1), spec(value_id, 1), head(2), done.append)
    outbox.send(tensor(1), spec(3, 1), head(2, session=6), done.append)
    outbox.send(tensor(1), spec(4, 1), head(3), done.append)
    assert outbox.cancel(5, 2) == 2
    assert outbox.queued_bytes == 3 * 60_000
    gate.open()
    assert outbox.close(WAIT_S)
    assert [value_id for _, value_id, _ in gate.chunks] == [0, 3, 4]
    assert [record.spec.value_id for record in done] == [0, 3, 4]


def test_cancel_stops_a_slice_between_its_chunks():
    gate = Gate(opened=False)
    done = []
    outbox = Outbox(gate)
    outbox.send(tensor(9), spec(1, 9), head(1), done.append)
    outbox.send(tensor(1), spec(2, 1), head(2), done.append)
    gate.let_pass()
    assert gate.entered.acquire(timeout=WAIT_S) and gate.entered.acquire(timeout=WAIT_S)
    assert outbox.cancel(5, 1) == 1
    assert outbox.queued_bytes == 60_000
    gate.open()
    assert outbox.close(WAIT_S)
    assert gate.chunks == [(1, 1, 0), (1, 1, 1), (2, 2, 0)]
    assert [record.spec.value_id for record in done] == [2]
    assert outbox.queued_bytes == 0


def test_a_slice_cancelled_during_its_last_chunk_is_not_reported_as_done():
    gate = Gate(opened=False)
    done = []
    outbox = Outbox(gate)
    outbox.send(tensor(1), spec(1, 1), head(), done.append)
    assert gate.entered.acquire(timeout=WAIT_S)
    assert outbox.cancel(5, 1) == 1
    gate.open()
    assert outbox.close(WAIT_S)
    assert done == [] and outbox.queued_bytes == 0


def test_a_failing_publish_gives_up_the_slice_but_not_the_thread():
    published, failures, done = [], [], []

    def publish(chunk):
        published.append((chunk.value_id, chunk.chunk_index))
        if chunk.value_id == 1 and chunk.chunk_index == 1:
            raise OSError('no route')

    outbox = Outbox(publish, on_error=lambda *failure: failures.append(failure))
    outbox.send(tensor(), spec(1), head(), done.append)
    outbox.send(tensor(1), spec(2, 1), head(), done.append)
    assert outbox.close(WAIT_S)
    assert published == [(1, 0), (1, 1), (2, 0)]
    [(failed_spec, failed_head, error)] = failures
    assert (failed_spec, failed_head, str(error)) == (spec(1), head(), 'no route')
    assert [record.spec.value_id for record in done] == [2]
    assert outbox.queued_bytes == 0


def test_a_failure_that_nobody_listens_to_is_logged(caplog):
    def publish(_):
        raise OSError('no route')

    with caplog.at_level(logging.ERROR):
        outbox = Outbox(publish, name='uplink')
        outbox.send(tensor(1), spec(2, 1), head(9))
        assert outbox.close(WAIT_S)
    assert 'uplink: sending value 2 rows [0, 1) of frame 9 failed: no route' in caplog.text


@pytest.mark.parametrize('failing', ['on_done', 'on_error'])
def test_a_failing_callback_is_logged_and_the_next_slice_follows(failing, caplog):
    sent = []

    def publish(chunk):
        sent.append(chunk.value_id)
        if failing == 'on_error' and chunk.value_id == 1:
            raise OSError('no route')

    def broken(*_):
        raise RuntimeError('callback is broken')

    outbox = Outbox(publish, on_error=broken)
    outbox.send(tensor(1), spec(1, 1), head(), broken)
    outbox.send(tensor(1), spec(2, 1), head())
    assert outbox.close(WAIT_S)
    assert sent == [1, 2] and 'callback is broken' in caplog.text


def test_close_gives_up_in_time_when_publish_hangs():
    gate = Gate(opened=False)
    outbox = Outbox(gate)
    outbox.send(tensor(2), spec(1, 2), head())
    outbox.send(tensor(2), spec(2, 2), head())
    assert gate.entered.acquire(timeout=WAIT_S)
    assert outbox.close(0.05) is False
    assert gate.chunks == [] and outbox.queued_bytes == 0
    gate.open()
    assert outbox.close(WAIT_S)
    assert gate.chunks == [(1, 1, 0)]


def test_a_closed_outbox_refuses_to_send():
    outbox = Outbox(lambda _: None, name='uplink')
    assert outbox.close(WAIT_S)
    with pytest.raises(LinkError, match=r'uplink is closed; value 1 rows \[0, 3\) cannot be sent'):
        outbox.send(tensor(), spec(), head())


def test_a_mistake_of_the_caller_is_raised_in_the_caller():
    outbox = Outbox(lambda _: None)
    with pytest.raises(ValueError, match=r'got \(3, 5\) torch.float32, expected \(3, 60000\)'):
        outbox.send(torch.zeros(3, 5), spec(), head())
    assert outbox.queued_bytes == 0 and outbox.close(WAIT_S)


def test_an_idle_outbox_keeps_no_tensor():
    outbox = Outbox(lambda _: None)
    sent = threading.Event()
    rows = tensor()
    watch = weakref.ref(rows)
    outbox.send(rows, spec(codec='zstd'), head())
    del rows
    outbox.send(tensor(1), spec(2, 1), head(), lambda _: sent.set())
    assert sent.wait(WAIT_S)
    gc.collect()
    assert watch() is None
    outbox.close(WAIT_S)
