# SPDX-License-Identifier: Apache-2.0
"""What was freed is given back where it is much, and not all the time."""

from hp_inference.runtime import memory
from hp_inference.runtime.memory import LATEST_S, SOONEST_S, SPARE_BYTES, Trimmer

MB = 1 << 20


class Heap:
    """A process with some memory in use, and some that it has freed and still holds."""

    def __init__(self):
        self.used, self.free, self.trims = 100 * MB, 0, 0
        self.trimmer = Trimmer(lambda: 50 * MB + self.used + self.free, lambda: self.used,
                               self.trim)

    def trim(self):
        self.free, self.trims = 0, self.trims + 1

    def pass_by(self, now_s, seconds, again=0):
        while seconds > 0:
            self.free = max(self.free, again)
            self.trimmer.look(now_s)
            now_s, seconds = now_s + 0.5, seconds - 0.5
        return now_s


def test_much_that_was_freed_is_given_back_within_seconds():
    heap = Heap()
    heap.used += 700 * MB
    now = heap.pass_by(0.0, 20.0)
    assert heap.trims == 0  # it is in use
    heap.used, heap.free = 100 * MB, 700 * MB
    heap.pass_by(now, LATEST_S + 1)
    assert (heap.trims, heap.free) == (1, 0)


def test_what_frames_need_is_left_to_them():
    heap = Heap()
    heap.pass_by(0.0, 60.0, again=SPARE_BYTES)
    assert heap.trims == 0


def test_frames_that_need_more_lose_it_rarely():
    heap = Heap()
    heap.pass_by(0.0, 80.0, again=10 * SPARE_BYTES)
    assert 80 / LATEST_S - 1 <= heap.trims <= 80 / LATEST_S + LATEST_S / SOONEST_S


def test_what_is_allocated_and_what_is_freed_shows_in_the_figures():
    if memory.allocated_bytes() is None:
        return
    before = memory.allocated_bytes()
    block = bytearray(48 * MB)
    assert memory.allocated_bytes() - before > 47 * MB
    del block
    assert memory.allocated_bytes() - before < 40 * MB
    assert memory.trim()
