# SPDX-License-Identifier: Apache-2.0
"""
A robot of bench/fleet.py that means harm: a process that sends its server what costs it most.

It has a namespace of its own, as a robot that was taken over has, and the model's plan table.
Obeys lines of its input: 'attack', 'idle' (which keeps its core as busy and sends nothing) and
'end'; says how many messages of each kind it has sent.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
import json
import os
import random
import sys
from threading import Event, Thread
import time
from zlib import crc32

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
import torch

from hp_inference.link.chunks import chunk_slice
from hp_inference.link.wire import Chunk, Head
from hp_inference.nodes import qos
from hp_inference.nodes.convert import chunk_to_msg, digest_to_msg
from hp_inference.runtime.slices import slice_spec
from hp_inference.split.plan import random_plan
from hp_inference.split.program import Send
from hp_inference.split.shares import ROBOT
from hp_inference.split.table import PlanTable
from hp_msgs.msg import PlanTable as PlanTableMsg
from hp_msgs.msg import Probe, TensorChunk

BURST_S = 0.3  # of one kind, before the next
JSON_BYTES, CHUNK_BYTES, PROBE_BYTES = (3 << 20, 15 << 20), 16 << 20, (200_000, 2 << 20)
PLANS = 64  # of a table that has to be made ready, others with each


class Hostile:
    """Publishes as one robot of the server, as fast as it can."""

    def __init__(self, node, name: str, table: PlanTable, kinds: list[str], seed: int):
        self._layout, self._table = table.layout, table
        self._draw, self.sent = random.Random(seed), {}
        self._table_topic = node.create_publisher(PlanTableMsg, f'{name}/plan_table', qos.LATCHED)
        self._uplink = node.create_publisher(TensorChunk, f'{name}/uplink', qos.CHUNKS)
        self._probe_topic = node.create_publisher(Probe, f'{name}/probe', qos.ACKS)
        self._kinds = {kind: getattr(self, f'_{kind.replace(" ", "_")}') for kind in kinds}
        self._text = {size: '[' + '1e9,' * (size // 4) + '0]' for size in JSON_BYTES}
        self._seq, self._frame, self._chunks = 0, 0, self._first_chunks()
        self._announce(table)

    def idle(self, wanted: Event) -> None:
        """Keep the core busy for as long as it is wanted."""
        while wanted.is_set():
            pass

    def attack(self, wanted: Event) -> None:
        """Go on, one kind after the other, for as long as it is wanted."""
        while wanted.is_set():
            for kind, do in self._kinds.items():
                end = time.monotonic() + BURST_S
                while wanted.is_set() and time.monotonic() < end:
                    do()
                    self.sent[kind] = self.sent.get(kind, 0) + 1

    def _announce(self, table: PlanTable) -> None:
        graph = table.layout.graph
        self._table_topic.publish(PlanTableMsg(
            model=graph.model, model_digest=graph.digest, digest=digest_to_msg(table.digest),
            json=table.dumps()))

    def _large_tables(self) -> None:
        self._table_topic.publish(PlanTableMsg(
            json=self._text[self._draw.choice(JSON_BYTES)], digest=np.zeros(32, np.uint8)))

    def _many_plans(self) -> None:
        first = self._draw.randrange(10 ** 6)
        plans = [random_plan(self._layout, first + place) for place in range(PLANS)]
        self._announce(PlanTable(self._layout, plans))
        self._announce(self._table)  # so that its frames are taken again

    def _first_chunks(self) -> list[Chunk]:
        """Return the chunks of a frame of a black image."""
        step = next(step for step in self._table.programs[0][ROBOT].steps
                    if isinstance(step, Send))
        spec = slice_spec(self._layout, step)
        image = torch.zeros(self._layout.graph.input.shape, dtype=torch.uint8)
        rows = image.contiguous(memory_format=torch.channels_last)
        return list(chunk_slice(rows, spec, Head(10 ** 6, 0, self._table.digest, 0)))

    def _publish(self, chunk: Chunk, payload=None) -> None:
        self._seq += 1
        msg = chunk_to_msg(replace(chunk, frame=self._frame, seq=self._seq,
                                   sent_s=time.monotonic()))
        if payload is not None:
            msg.payload = payload
        self._uplink.publish(msg)

    def _large_chunks(self) -> None:
        self._frame += 1
        self._publish(self._chunks[0], array('B', bytes(CHUNK_BYTES)))

    def _probes(self) -> None:
        self._seq += 1
        self._probe_topic.publish(Probe(session=10 ** 6, seq=self._seq, sent_s=time.monotonic(),
                                   last=True, payload=array('B', bytes(
                                       self._draw.choice(PROBE_BYTES)))))

    def _unfinished_frames(self) -> None:
        self._frame += 1
        for chunk in self._chunks[:-1]:
            self._publish(chunk)

    def _bad_chunks(self) -> None:
        self._frame += 1
        chunk = self._draw.choice(self._chunks)
        payload = self._draw.randbytes(len(chunk.payload))
        how = self._draw.choice([{'value_id': 9999}, {'row_end': 2 ** 32 - 1}, {'raw_bytes': 1},
                                 {'codec': 200}, {'payload': payload},
                                 {'payload': payload, 'crc': crc32(payload)}])
        self._publish(replace(chunk, **how))


def main(name: str, table: PlanTable, core: int | None, kinds: list[str]) -> None:
    """Obey until the input ends."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    rclpy.init()
    node = rclpy.create_node('hostile')
    hostile, wanted, over = Hostile(node, name, table, kinds, 1), Event(), Event()
    do = hostile.idle

    def work():
        while not over.is_set():
            if wanted.wait(0.05):
                do(wanted)
    Thread(target=_spin, args=(node,), daemon=True).start()
    worker = Thread(target=work)
    worker.start()
    print(json.dumps({'up': True}), flush=True)
    for line in sys.stdin:
        wanted.clear()
        if line.strip() != 'end':
            do = getattr(hostile, line.strip())
            wanted.set()
        print(json.dumps(dict(hostile.sent)), flush=True)
    over.set()
    wanted.clear()
    worker.join()
    os._exit(0)  # the spinning thread has nothing to end for


def _spin(node) -> None:
    try:
        rclpy.spin(node)
    except ExternalShutdownException:
        pass
