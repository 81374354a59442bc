# SPDX-License-Identifier: Apache-2.0
"""A robot whose chunks are given to a server's engine by hand."""

from contextlib import contextmanager
import threading

from engine_pair import carried, table
from nets import random_image, whole
import torch
from waits import until, WAIT_S

from hp_inference.link.chunks import chunk_slice
from hp_inference.link.transport import ChunkTransport
from hp_inference.link.wire import Chunk, Head
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.frames import inbox_for, OK
from hp_inference.runtime.server import ServerEngine
from hp_inference.split.shares import ROBOT

ROBOT_SESSION = 7


class Robot:
    """What a robot needs to have frames computed by hand: its chunks, and what comes back."""

    def __init__(self, layout, pacer=None, **options):
        self.layout, self.table = layout, table(layout, 'layer:3', 'full_offload', 'uniform:0.5')
        self.chunks: list[Chunk] = []
        self.reports = []
        self.link = ChunkTransport(lambda chunk, tag: self.chunks.append(carried(chunk)),
                                   pacer=pacer)
        self.engine = ServerEngine(layout, self.link, self.reports.append,
                                   **{'session_timeout_s': WAIT_S, **options})
        self.engine.use(self.table)

    def uplink(self, frame, index=0, session=ROBOT_SESSION) -> list[Chunk]:
        """Return what a robot sends before it waits: 3 chunks of value 3 under plan 0."""
        program, image = self.table.programs[index][ROBOT], random_image(self.layout)
        head = Head(session, frame, self.table.digest, index)
        sent = []

        class Collect:
            def send(self, spec, rows):
                sent.extend(map(carried, chunk_slice(rows, spec, head)))

            def receive(self, spec):
                raise StopIteration

        try:
            Executor(self.layout, program).run(Collect(), image)
        except StopIteration:
            return sent

    def give(self, chunks) -> None:
        for chunk in chunks:
            self.engine.on_chunk(chunk)

    def answer(self, frame, index=0, session=ROBOT_SESSION) -> None:
        """Have a frame computed and fail unless its rows come back right, all and once."""
        head = Head(session, frame, self.table.digest, index)
        inbox = inbox_for(self.layout, self.table.programs[index][ROBOT], head)
        self.give(self.uplink(frame, index, session))
        self.settled()
        for chunk in [chunk for chunk in self.chunks if chunk.head == head]:
            assert inbox.put(chunk), 'a chunk came twice'
        assert inbox.complete
        expected = whole(self.layout.graph, random_image(self.layout))
        for name, value in self.layout.graph.outputs.items():
            assert torch.equal(inbox.get(value, 0, self.layout.rows[value]), expected[name])
        assert [report.status for report in self.reports
                if (report.session, report.frame) == (session, frame)] == [OK]

    def settled(self) -> None:
        """Wait until no frame is in flight."""
        until(lambda: not self.engine._sessions and self.link.outbox.idle)

    def close(self) -> None:
        self.engine.close()
        self.link.close(1.0)

    def ends(self) -> list[tuple[int, int]]:
        return [(report.frame, report.status) for report in self.reports]


@contextmanager
def stuck(monkeypatch):
    """Keep every server thread that begins a frame busy, as a long operator would."""
    run, go_on = Executor.run, threading.Event()

    def slow(self, *args, **kwargs):
        if threading.current_thread().name.startswith('server frames'):
            assert go_on.wait(WAIT_S)
        return run(self, *args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(Executor, 'run', slow)
        try:
            yield go_on
        finally:
            go_on.set()
