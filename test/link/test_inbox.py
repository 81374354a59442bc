# SPDX-License-Identifier: Apache-2.0
"""The inbox takes what the plan says, and nothing else."""

from dataclasses import replace
import random
import threading
import time
from zlib import crc32

import pytest
import torch
from waits import WAIT_S

from hp_inference.link import inbox as inbox_module
from hp_inference.link.chunks import chunk_slice
from hp_inference.link.errors import Aborted, BadChunk, DeadlinePassed
from hp_inference.link.inbox import Inbox
from hp_inference.link.wire import Head, SliceSpec

HEAD = Head(session=7, frame=3, table_digest=bytes(range(32)), plan_index=2)
SPEC = SliceSpec(11, 4, 8, (1, 16, 4, 500), 2, torch.float32, 'zstd')  # 3 chunks
OTHER = SliceSpec(12, 0, 1, (1, 10), None, torch.int64, 'zstd')
FLAGS = SliceSpec(13, 0, 2, (2, 50), 0, torch.bool, 'zstd')
TENSOR = torch.randn(SPEC.shape).relu()


def make_chunks(codec='zstd', tensor=TENSOR, spec=SPEC):
    return list(chunk_slice(tensor, replace(spec, codec=codec), HEAD))


def make_inbox():
    return Inbox([SPEC, OTHER, FLAGS], HEAD)


def in_thread(call):
    """Start a call; return its thread and the list that will hold its result or exception."""
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


@pytest.mark.parametrize('codec', ['none', 'zstd'])
def test_a_slice_is_complete_after_its_last_chunk_in_any_order(codec):
    inbox = Inbox([SPEC], HEAD)
    chunks = make_chunks(codec)
    for chunk in reversed(chunks):
        assert not inbox.complete
        assert inbox.put(chunk)
    assert inbox.complete
    assert torch.equal(inbox.get(11, 4, 8, time.monotonic()), TENSOR)
    assert inbox.received_bytes == sum(len(chunk.payload) for chunk in chunks)
    assert inbox.allocated_bytes == SPEC.nbytes


@pytest.mark.parametrize('codec', ['none', 'zstd'])
def test_uncompressed_chunks_are_taken_under_any_codec_others_only_under_their_own(codec):
    inbox = Inbox([replace(SPEC, codec='shuffle_zstd')], HEAD)
    chunk = make_chunks(codec)[0]
    if codec == 'none':
        assert inbox.put(chunk)
    else:
        with pytest.raises(BadChunk, match="codec is 'zstd', expected shuffle_zstd or none"):
            inbox.put(chunk)


def test_nothing_is_allocated_before_the_first_chunk_and_then_only_its_slice():
    inbox = make_inbox()
    assert inbox.allocated_bytes == 0
    inbox.put(make_chunks()[0])
    assert inbox.allocated_bytes == SPEC.nbytes


def test_an_inbox_that_expects_nothing_is_complete():
    assert Inbox([]).complete


def test_an_empty_slice_is_complete_after_its_one_chunk():
    spec = SliceSpec(1, 0, 1, (1, 0, 4), None, torch.float32, 'zstd')
    inbox = Inbox([spec])
    for chunk in chunk_slice(torch.empty(1, 0, 4), spec, HEAD):
        inbox.put(chunk)
    assert inbox.complete and inbox.get(1, 0, 1).shape == (1, 0, 4)


def test_the_same_rows_cannot_be_expected_twice():
    with pytest.raises(ValueError, match=r'value 11 rows \[4, 8\) is to be received twice'):
        Inbox([SPEC, SPEC])


WRONG = {
    'version': (2, 'version 2, expected 3; both sides must run the same release'),
    'session': (8, 'session 8, expected 7'),
    'frame': (2, 'frame 2, expected 3'),
    'table_digest': (b'\xff' * 32, 'table_digest ffffffffffffffff, expected 0001020304050607'),
    'plan_index': (1, 'plan_index 1, expected 2'),
    'value_id': (99, r'value 99 rows [4, 8) are not to come under this plan; '
                     r'expected value 11 rows [4, 8), value 12 rows [0, 1)'),
    'row_begin': (3, 'value 11 rows [3, 8) are not to come under this plan; '
                     'expected value 11 rows [4, 8)'),
    'row_end': (2 ** 60, 'value 11 rows [4, 1152921504606846976) are not to come'),
    'chunk_index': (3, 'value 11 rows [4, 8): chunk_index is 3, expected 0 to 2'),
    'chunk_count': (4, 'value 11 rows [4, 8): chunk_count is 4, expected 3'),
    'dtype': (8, 'value 11 rows [4, 8): dtype is torch.bfloat16, expected torch.float32'),
    'codec': (5, "value 11 rows [4, 8) chunk 0: codec is 'jpeg', expected zstd or none"),
    'scale': (0.5, 'scale is 0.5 and zero_point 0, expected 1 and 0'),
    'zero_point': (3, 'scale is 1.0 and zero_point 3, expected 1 and 0'),
    'raw_bytes': (2 ** 40, 'chunk 0: raw_bytes is 1099511627776, expected 60000'),
    'payload': (b'', 'value 11 rows [4, 8) chunk 0: zstd payload of 0 bytes has no valid frame'),
}


@pytest.mark.parametrize('field', WRONG)
def test_a_wrong_field_is_named_and_nothing_is_allocated(field):
    value, text = WRONG[field]
    inbox = make_inbox()
    with pytest.raises(BadChunk) as refusal:
        inbox.put(replace(make_chunks()[0], **{field: value}))
    assert text in str(refusal.value)
    assert (inbox.allocated_bytes, inbox.received_bytes, inbox.duplicates) == (0, 0, 0)


@pytest.mark.parametrize('change, text', [
    ({'dtype': 77}, 'dtype is the unknown code 77'),
    ({'codec': 99}, '99 is no codec code'),
    ({'codec': 0}, 'uncompressed payload has'),
    ({'chunk_index': -1}, 'chunk_index is -1'),
    ({'chunk_index': 0.0}, 'chunk_index is 0.0, expected 0 to 2'),
    ({'chunk_index': 2}, 'raw_bytes is 60000, expected 8000'),
    ({'scale': float('nan')}, 'scale is nan'),
    ({'payload': bytes(60_363)}, 'has 60363 bytes, expected at most 60362'),
    ({'payload': None}, 'bytes-like'),
    ({'payload': 'text'}, 'bytes-like'),
])
def test_other_impossible_fields_are_refused_too(change, text):
    inbox = make_inbox()
    with pytest.raises(BadChunk, match=text):
        inbox.put(replace(make_chunks()[0], **change))
    assert inbox.allocated_bytes == 0


def test_a_payload_that_would_decode_to_more_is_refused_before_allocation():
    bomb = make_chunks(tensor=torch.zeros(1, 16, 4, 500))[0]
    small = SliceSpec(11, 4, 8, (1, 16, 4, 10), 2, torch.float32, 'zstd')
    inbox = Inbox([small])
    with pytest.raises(BadChunk, match='declares 60000 bytes, expected 2560'):
        inbox.put(replace(bomb, chunk_count=1, raw_bytes=2_560))
    assert inbox.allocated_bytes == 0


def test_without_a_head_the_frame_is_the_callers_business():
    inbox = Inbox([SPEC])
    assert inbox.put(replace(make_chunks()[0], frame=99))


def test_an_error_lists_only_the_first_expected_slices():
    specs = [SliceSpec(value, 0, 1, (1,), None, torch.uint8) for value in range(100, 300)]
    with pytest.raises(BadChunk, match=r'value 107 rows \[0, 1\) and 192 more$'):
        Inbox(specs).put(make_chunks()[0])


def test_a_chunk_that_comes_twice_is_counted_and_never_decoded_again(monkeypatch):
    inbox = Inbox([SPEC], HEAD)
    for chunk in make_chunks():
        inbox.put(chunk)
    result = inbox.get(11, 4, 8)
    before = inbox.received_bytes
    monkeypatch.setattr(inbox_module, 'decode_into', lambda *_: pytest.fail('decoded twice'))
    for chunk in make_chunks('none', torch.ones(SPEC.shape)):
        assert inbox.put(chunk) is False
    assert inbox.duplicates == 3 and inbox.received_bytes == before
    assert torch.equal(result, TENSOR)


@pytest.mark.parametrize('codec, crc_too', [('none', False), ('zstd', False), ('zstd', True)])
def test_a_good_repeat_completes_a_slice_after_a_damaged_chunk(codec, crc_too):
    inbox = Inbox([SPEC], HEAD)
    chunks = make_chunks(codec)
    damaged = bytearray(chunks[1].payload)
    damaged[len(damaged) // 2] ^= 0xff
    inbox.put(chunks[0])
    crc = crc32(damaged) if crc_too else chunks[1].crc
    with pytest.raises(BadChunk, match=r'value 11 rows \[4, 8\) chunk 1: .*payload .* damaged'):
        inbox.put(replace(chunks[1], payload=bytes(damaged), crc=crc))
    inbox.put(chunks[2])
    assert not inbox.complete
    assert inbox.put(chunks[1])
    assert inbox.complete and inbox.duplicates == 0
    assert torch.equal(inbox.get(11, 4, 8), TENSOR)


def test_a_byte_that_is_no_bool_is_refused():
    flags = torch.rand(2, 50) > 0.5
    chunk = make_chunks('none', flags, FLAGS)[0]
    inbox = make_inbox()
    with pytest.raises(BadChunk, match='chunk 0: a bool has the value 7, expected 0 or 1'):
        wrong = b'\x07' + bytes(chunk.payload)[1:]
        inbox.put(replace(chunk, payload=wrong, crc=crc32(wrong)))
    inbox.put(chunk)
    assert torch.equal(inbox.get(13, 0, 2), flags)


def test_get_waits_for_the_rows():
    inbox = Inbox([SPEC], HEAD)
    chunks = make_chunks()
    inbox.put(chunks[0])
    thread, outcome = in_thread(lambda: inbox.get(11, 4, 8))
    inbox.put(chunks[1])
    thread.join(0.05)
    assert thread.is_alive()
    inbox.put(chunks[2])
    thread.join(WAIT_S)
    assert torch.equal(outcome[0], TENSOR)


def test_get_does_not_wait_for_other_slices():
    inbox = make_inbox()
    numbers = torch.arange(10).reshape(1, 10)
    inbox.put(make_chunks('zstd', numbers, OTHER)[0])
    assert torch.equal(inbox.get(12, 0, 1, time.monotonic()), numbers)
    assert not inbox.complete


def test_a_passed_deadline_names_the_missing_rows():
    inbox = make_inbox()
    inbox.put(make_chunks()[1])
    start = time.monotonic()
    with pytest.raises(DeadlinePassed) as passed:
        inbox.get(11, 4, 8, start + 0.05)
    assert time.monotonic() - start >= 0.05
    assert 'value 11 rows [4, 8) are missing: 1 of 3 chunks came' in str(passed.value)
    error = passed.value
    assert (error.value_id, error.row_begin, error.row_end) == (11, 4, 8)
    assert (error.received, error.expected) == (1, 3)


def test_a_deadline_in_the_past_does_not_wait():
    with pytest.raises(DeadlinePassed):
        make_inbox().get(11, 4, 8, time.monotonic() - 10)


def test_abort_wakes_everybody_who_waits_and_stops_who_comes_later():
    inbox = make_inbox()
    waiters = [in_thread(lambda: inbox.get(11, 4, 8)), in_thread(lambda: inbox.get(12, 0, 1))]
    inbox.abort('server is gone')
    inbox.abort('a later reason')
    for thread, outcome in waiters:
        thread.join(WAIT_S)
        assert isinstance(outcome[0], Aborted) and outcome[0].reason == 'server is gone'
    with pytest.raises(Aborted, match='frame aborted: server is gone'):
        inbox.get(11, 4, 8)
    assert inbox.put(make_chunks()[0]) is False
    assert inbox.allocated_bytes == 0


def test_get_of_rows_that_are_not_to_come_is_refused_at_once():
    with pytest.raises(ValueError, match=r'value 11 rows \[0, 4\) are not to come .* expected '
                                         r'value 11 rows \[4, 8\)$'):
        make_inbox().get(11, 0, 4)


def test_many_threads_put_every_chunk_and_all_waiters_get_the_slices():
    specs = [SliceSpec(value, 0, 40, (40, 1_000), 0, torch.float32, 'zstd') for value in range(6)]
    tensors = {spec.value_id: torch.randn(40, 1_000).relu() for spec in specs}
    chunks = [chunk for spec in specs
              for chunk in chunk_slice(tensors[spec.value_id], spec, HEAD)]
    inbox = Inbox(specs, HEAD)
    waiters = [(value, in_thread(lambda value=value: inbox.get(value, 0, 40)))
               for value in tensors for _ in range(2)]

    def put_all(seed):
        for chunk in random.Random(seed).sample(chunks, len(chunks)):
            inbox.put(chunk)

    putters = [in_thread(lambda seed=seed: put_all(seed)) for seed in range(4)]
    for thread, outcome in putters:
        thread.join(WAIT_S)
        assert outcome == [None]
    for value, (thread, outcome) in waiters:
        thread.join(WAIT_S)
        assert torch.equal(outcome[0], tensors[value])
    assert inbox.complete and inbox.duplicates == 3 * len(chunks)
    assert inbox.received_bytes == sum(len(chunk.payload) for chunk in chunks)


def test_a_repeat_that_comes_while_a_damaged_chunk_is_decoded_is_not_lost(monkeypatch):
    inbox = Inbox([OTHER], HEAD)
    numbers = torch.arange(10).reshape(1, 10)
    chunk = make_chunks('none', numbers, OTHER)[0]
    decoding, go_on = threading.Event(), threading.Event()
    real = inbox_module.decode_into

    def slow_and_bad(*_):
        monkeypatch.setattr(inbox_module, 'decode_into', real)
        decoding.set()
        assert go_on.wait(WAIT_S)
        raise BadChunk('damaged')

    monkeypatch.setattr(inbox_module, 'decode_into', slow_and_bad)
    first, first_outcome = in_thread(lambda: inbox.put(chunk))
    assert decoding.wait(WAIT_S)
    second, second_outcome = in_thread(lambda: inbox.put(chunk))
    second.join(0.05)
    assert second.is_alive()
    go_on.set()
    first.join(WAIT_S)
    second.join(WAIT_S)
    assert isinstance(first_outcome[0], BadChunk) and second_outcome == [True]
    assert torch.equal(inbox.get(12, 0, 1), numbers)


def test_decoding_does_not_hold_the_lock(monkeypatch):
    inbox = make_inbox()
    decoding, go_on = threading.Event(), threading.Event()
    real = inbox_module.decode_into

    def slow(*arguments):
        monkeypatch.setattr(inbox_module, 'decode_into', real)
        decoding.set()
        assert go_on.wait(WAIT_S)
        real(*arguments)

    monkeypatch.setattr(inbox_module, 'decode_into', slow)
    thread, outcome = in_thread(lambda: inbox.put(make_chunks()[0]))
    assert decoding.wait(WAIT_S)
    inbox.put(make_chunks('none', torch.arange(10).reshape(1, 10), OTHER)[0])
    assert inbox.get(12, 0, 1, time.monotonic() + WAIT_S).shape == (1, 10)
    go_on.set()
    thread.join(WAIT_S)
    assert outcome == [True]
