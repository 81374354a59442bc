# SPDX-License-Identifier: Apache-2.0
"""A RobotEngine and a ServerEngine wired together, and chunks with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
import math
import queue
import threading

from nets import Net, random_image, whole
import torch
from waits import WAIT_S
import zstandard

from hp_inference.graph.layout import Layout
from hp_inference.link.transport import ChunkTransport
from hp_inference.link.wire import Chunk, VERSION
from hp_inference.runtime.frames import FrameReport, FrameResult
from hp_inference.runtime.robot import RobotEngine
from hp_inference.runtime.server import ServerEngine
from hp_inference.split.plan import make_plan
from hp_inference.split.table import PlanTable


def small_net() -> Layout:
    """Return a net whose answers are whole numbers, equal to the last bit however it is split."""
    net = Net(40, 240, whole_numbers=True)
    x = net.relu(net.conv(net.x))
    x = net.conv(x, 3, 2)
    return net.layout(x, net.linear(net.max_pool(x)))


def table(layout: Layout, *plans: str) -> PlanTable:
    return PlanTable(layout, [make_plan(plan, layout) for plan in plans])


def engine_threads() -> list[str]:
    """Return the names of the engines' threads that are alive."""
    return [thread.name for thread in threading.enumerate()
            if thread.name.startswith(('robot ', 'server '))]


class Pair:
    """
    Both engines; what passes between them goes through ``up``, ``down`` and ``reports``.

    Each maps what was sent to what arrives in its place. ``results`` and ``drops`` are what the
    robot's owner has got, ``told`` all reports of the server.
    """

    def __init__(self, layout: Layout, plans: PlanTable, *, deadline_s: float = WAIT_S,
                 retry_s: float = 0.0, connected: bool = True, pick=None,
                 took=lambda *_: None, **server):
        self.layout = layout
        self.server_options = {'session_timeout_s': WAIT_S, **server}
        self.up: Callable[[Chunk], Iterable[Chunk]] = lambda chunk: [chunk]
        self.down: Callable[[Chunk], Iterable[Chunk]] = lambda chunk: [chunk]
        self.reports: Callable[[FrameReport], Iterable[FrameReport]] = lambda report: [report]
        self.told: list[FrameReport] = []
        self.drops: list[tuple[object, str]] = []
        self.results: queue.Queue[FrameResult] = queue.Queue()
        self._links: list[ChunkTransport] = []
        self.server = self.new_server()
        self.robot = self.new_robot(plans, deadline_s, retry_s, pick=pick, took=took)
        if connected:
            self.agree(plans)

    def agree(self, plans: PlanTable) -> None:
        """Let the server take a table and the robot know."""
        self.server.use(plans)
        self.robot.server.status(0, plans.digest)

    def new_server(self) -> ServerEngine:
        self.server_link = self._link(self._down, 'downlink')
        return ServerEngine(self.layout, self.server_link, self._report, **self.server_options)

    def new_robot(self, plans: PlanTable, deadline_s: float, retry_s: float,
                  **more) -> RobotEngine:
        self.robot_link = self._link(self._up, 'uplink')
        robot = RobotEngine(self.layout, plans, self.robot_link, self.results.put,
                            lambda *drop: self.drops.append(drop), deadline_s, retry_s, **more)
        robot.server.silent_s = math.inf  # nobody gives signs of life here
        return robot

    def ask(self, seed: int = 0) -> FrameResult:
        """Return the answer to an image, proven right."""
        image = random_image(self.layout, seed)
        self.robot.submit(seed, lambda: image)
        result = self.results.get(timeout=WAIT_S)
        assert result.tag == seed
        check(self.layout, result, image)
        return result

    def close(self) -> None:
        self.robot.close()
        self.server.close()
        for link in self._links:
            link.close(1.0)

    def _link(self, carry: Callable[[Chunk, object], None], name: str) -> ChunkTransport:
        self._links.append(ChunkTransport(carry, name))
        return self._links[-1]

    def _up(self, chunk: Chunk, tag: object) -> None:
        for arriving in self.up(carried(chunk)):
            self.server.on_chunk(arriving)

    def _down(self, chunk: Chunk, tag: object) -> None:
        for arriving in self.down(carried(chunk)):
            self.robot.on_chunk(arriving)

    def _report(self, report: FrameReport) -> None:
        self.told.append(report)
        for arriving in self.reports(report):
            self.robot.on_report(arriving)


def check(layout: Layout, result: FrameResult, image: torch.Tensor) -> None:
    """Fail unless the answer is that of the unsplit net, to the last bit."""
    expected = whole(layout.graph, image)
    assert result.outputs.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensor.abs().max() > 0, 'an answer of zeros proves nothing'
        assert torch.equal(result.outputs[name], tensor), name


def carried(chunk: Chunk) -> Chunk:
    """Return a chunk as the other side gets it: its payload is a copy."""
    return replace(chunk, payload=bytes(chunk.payload))


def once(tamper: Callable[[Chunk], Iterable[Chunk]]) -> Callable[[Chunk], Iterable[Chunk]]:
    """Return a tap that treats the first chunk so, and passes the others on as they are."""
    seen = []

    def tap(chunk):
        if seen:
            return [chunk]
        seen.append(chunk)
        return tamper(chunk)
    return tap


def zipped(raw: bytes, **options) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True, **options).compress(raw)


def _damaged(chunk: Chunk) -> Chunk:
    payload = bytearray(zipped(bytes(chunk.raw_bytes)))
    payload[-1] ^= 1  # of the checksum
    return replace(chunk, codec=1, payload=bytes(payload))


# What is wrong: how a chunk gets it, and what the refusal says.
WRONG = {
    'version': (lambda c: replace(c, version=9), f'chunk has version 9, expected {VERSION}'),
    'table': (lambda c: replace(c, table_digest=b'\7' * 32), '0707070707'),
    'plan': (lambda c: replace(c, plan_index=7), 'plan'),
    'value': (lambda c: replace(c, value_id=999), 'value 999 rows ['),
    'rows': (lambda c: replace(c, row_begin=c.row_begin + 1), 'are not to come under this plan'),
    'more rows': (lambda c: replace(c, row_end=2 ** 32 - 1), '4294967295) are not to come'),
    'dtype': (lambda c: replace(c, dtype=7), 'dtype is torch.float16, expected torch.'),
    'no dtype': (lambda c: replace(c, dtype=99), 'dtype is the unknown code 99'),
    'chunk count': (lambda c: replace(c, chunk_count=77), 'chunk_count is 77, expected'),
    'chunk index': (lambda c: replace(c, chunk_index=c.chunk_count), 'chunk_index is'),
    'size': (lambda c: replace(c, raw_bytes=2 ** 31), 'raw_bytes is 2147483648, expected'),
    'no codec': (lambda c: replace(c, codec=99), '99 is no codec code'),
    'another codec': (lambda c: replace(c, codec=5), "codec is 'jpeg', expected zstd or none"),
    'scale': (lambda c: replace(c, scale=2.0), 'scale is 2.0 and zero_point 0'),
    'cut short': (lambda c: replace(c, codec=0, payload=bytes(3)), 'has 3 bytes, expected'),
    'empty': (lambda c: replace(c, codec=1, payload=b''), 'no valid frame header'),
    'damaged': (_damaged, 'is damaged'),
    'bomb': (lambda c: replace(c, codec=1, payload=zipped(bytes(50 << 20))),
             'declares 52428800 bytes, expected'),
    'bomb without size': (
        lambda c: replace(c, codec=1, payload=zipped(bytes(1 << 20), write_content_size=False)),
        'declares no size'),
}
