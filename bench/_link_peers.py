# SPDX-License-Identifier: Apache-2.0
"""Sender and receiver of bench/link.py, each a process on a host of the lab."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import json
from pathlib import Path
import secrets
from statistics import median
import sys
import threading
import time

import torch

SHAPE = (1, 256, 32, 32)  # 1 MiB of float32 in 32 rows
SMALL_ROWS = 2            # 64 KiB: a few packets more than a chunk
DIGEST = bytes(32)
GIVEN_UP_S = 20.0


def spec(rows: int):
    """Return the slice that travels: the first rows of the value."""
    from hp_inference.link.wire import SliceSpec
    return SliceSpec(1, 0, rows, (*SHAPE[:2], rows, SHAPE[3]), 2, torch.float32)


def receive() -> None:
    """Reassemble values for ever, acknowledge chunks and say when each value was complete."""
    import rclpy

    from hp_inference.link.acknowledgements import Acknowledger
    from hp_inference.link.inbox import Inbox
    from hp_inference.link.tcp import Tender
    from hp_inference.nodes import qos
    from hp_inference.nodes.acknowledgements import ack_to_msg
    from hp_inference.nodes.convert import chunk_from_msg
    from hp_msgs.msg import FrameReport, LinkReport, TensorChunk
    rclpy.init()
    node = rclpy.create_node('receiver')
    reports = node.create_publisher(FrameReport, 'frame_report', qos.REPORTS)
    link_reports = node.create_publisher(LinkReport, 'link_report', qos.ACKS)
    inboxes: dict[int, Inbox] = {}
    acks, tender = Acknowledger(), Tender()

    def take(msg):
        arrived_s = time.monotonic()
        ack = acks.took(msg.session, msg.seq, len(msg.payload), msg.sent_s, arrived_s,
                                msg.chunk_index == msg.chunk_count - 1)
        if ack is not None:
            link_reports.publish(ack_to_msg(ack))
        chunk = chunk_from_msg(msg)
        inbox = inboxes.setdefault(chunk.frame, Inbox([spec(chunk.row_end)]))
        inbox.put(chunk)
        if inbox.complete:
            reports.publish(FrameReport(frame=chunk.frame, total_s=time.monotonic()))
            for frame in [frame for frame in inboxes if frame <= chunk.frame]:
                del inboxes[frame]
    node.create_subscription(TensorChunk, 'uplink', take, qos.CHUNKS)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass
    tender.close()


def at_work_s() -> float:
    """Return how long this thread has run or waited for a processor since its start."""
    path = f'/proc/self/task/{threading.get_native_id()}/schedstat'
    return sum(map(int, Path(path).read_text().split()[:2])) * 1e-9


class Sender:
    """Sends values through an outbox with a pacer and hears when they were complete."""

    def __init__(self):
        import rclpy

        from hp_inference.link.pacer import Pacer
        from hp_inference.link.tcp import Tender
        from hp_inference.link.transport import ChunkTransport
        from hp_inference.nodes import qos
        from hp_inference.nodes.acknowledgements import ack_from_msg
        from hp_inference.nodes.convert import chunk_to_msg
        from hp_msgs.msg import FrameReport, LinkReport, TensorChunk
        rclpy.init()
        self.tender = Tender()
        self.node = rclpy.create_node('sender')
        self.pacer = Pacer()
        publisher = self.node.create_publisher(TensorChunk, 'uplink', qos.CHUNKS)
        self.node.create_subscription(FrameReport, 'frame_report', self._done, qos.REPORTS)
        self.node.create_subscription(
            LinkReport, 'link_report',
            lambda msg: self.pacer.on_ack(ack_from_msg(msg)), qos.ACKS)
        self.transport = ChunkTransport(
            lambda chunk, tag: publisher.publish(chunk_to_msg(chunk)), pacer=self.pacer)
        self.session, self.frame = secrets.randbits(64), 0
        self.frames = deque(maxlen=4)  # of which something may be unsent
        self.done: dict[int, float] = {}
        self.arrived = threading.Condition()
        self.value = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last)
        threading.Thread(target=rclpy.spin, args=(self.node,), daemon=True).start()
        end = time.monotonic() + 20
        while not (publisher.get_subscription_count()
                   and self.node.count_publishers('frame_report')
                   and self.node.count_publishers('link_report')):
            if time.monotonic() > end:
                raise SystemExit('the receiver has not been found within 20 s')
            time.sleep(0.05)
        time.sleep(0.5)

    def _done(self, msg) -> None:
        with self.arrived:
            self.done[msg.frame] = msg.total_s
            self.arrived.notify_all()

    def send(self, rows: int = SHAPE[2]) -> int:
        """Queue rows of the value; return the number of the frame."""
        from hp_inference.link.inbox import Inbox
        from hp_inference.link.wire import Head
        self.frame += 1
        self.frames.append(self.transport.open_frame(
            Head(self.session, self.frame, DIGEST, 0), Inbox([])))
        self.frames[-1].send(spec(rows), self.value[:, :, :rows])
        return self.frame

    def wait(self, frame: int, timeout: float = GIVEN_UP_S) -> float | None:
        """Return when a frame was complete, None when it is not in time."""
        with self.arrived:
            self.arrived.wait_for(lambda: frame in self.done, timeout)
            return self.done.get(frame)

    def alone(self, seconds: float) -> dict:
        """Send values one at a time; return the seconds of each, from the queue to complete."""
        times, lost, end = [], 0, time.monotonic() + seconds
        while time.monotonic() < end or not times and not lost:
            begin = time.monotonic()
            done = self.wait(self.send())
            if done is None:
                lost += 1
            else:
                times.append(done - begin)
        return {'mbit': self.value.nbytes * 8e-6, 'times': times, 'lost': lost}

    def stream(self, seconds: float) -> dict:
        """Send values with the next one always queued; return Mbit/s of whole values."""
        first = self.send()
        frames = [first, self.send()]
        begin = self.wait(first)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            frames.append(self.send())
            self.wait(frames[-2])
        last = self.wait(frames[-1])
        if begin is None or last is None:
            return {'mbit_s': 0.0}
        return {'mbit_s': (len(frames) - 1) * self.value.nbytes * 8e-6 / (last - begin)}

    def held_up(self, window: float, repeats: int, switch_s: float) -> dict:
        """
        Return for what share of the time sending makes a computing thread wait for a lock.

        That is Python's, in the main; waiting for a processor does not count, as sender, receiver
        and whatever else runs share those of one machine here. switch_s: after how long a thread
        that computes in Python lets another one on, see sys.setswitchinterval.
        """
        sending, idle, stop = threading.Event(), threading.Event(), threading.Event()

        def background():
            while not stop.is_set():
                idle.set()
                if sending.wait(0.1):
                    idle.clear()
                    self.wait(self.send())
        thread = threading.Thread(target=background, daemon=True)
        thread.start()
        conv = torch.nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
        image = torch.randn(1, 64, 56, 56)
        shares, usual_s = [], sys.getswitchinterval()
        sys.setswitchinterval(switch_s)
        for repeat in range(repeats):
            waited = {}
            # Side by side, either first: the machine's noise hits both.
            for on in (repeat % 2 == 0, repeat % 2 == 1):
                if on:
                    sending.set()
                else:
                    sending.clear()
                    idle.wait(GIVEN_UP_S)
                time.sleep(0.1)
                begin, worked = time.monotonic(), at_work_s()
                with torch.inference_mode():
                    while time.monotonic() < begin + window:
                        conv(image)
                waited[on] = 1 - (at_work_s() - worked) / (time.monotonic() - begin)
            shares.append(waited[True] - waited[False])
        sys.setswitchinterval(usual_s)
        stop.set()
        sending.set()
        thread.join(GIVEN_UP_S)
        return {'held_up': median(shares), 'all': shares}

    def changed(self, tell: Callable[[], float], own_s: float) -> dict:
        """
        Stream values until the link changes, then small ones, one at a time.

        tell: blocks until the change, returns when it was; own_s: what a small value takes on the
        changed link by itself. Returns after how long the first one was sent that waited for
        nothing, when it was there, and what was in flight at the change.
        """
        stop = threading.Event()

        def stream():
            last = self.send()
            while not stop.is_set():
                last, before = self.send(), last
                with self.arrived:
                    self.arrived.wait_for(
                        lambda before=before: before in self.done or stop.is_set(), GIVEN_UP_S)
        thread = threading.Thread(target=stream, daemon=True)
        thread.start()
        changed_s = tell()
        in_flight = self.pacer.in_flight_bytes
        stop.set()
        with self.arrived:
            self.arrived.notify_all()
        thread.join()
        for io in self.frames:
            io.cancel()
        first = None
        while True:
            begin = time.monotonic()
            done = self.wait(self.send(SMALL_ROWS))
            if done is None:
                return {'sent_s': None, 'there_s': None, 'in_flight': in_flight}
            first = first or done - changed_s
            if done - begin < 1.5 * own_s + 0.02:
                return {'sent_s': begin - changed_s, 'there_s': done - changed_s,
                        'first_s': first, 'in_flight': in_flight}


def send() -> None:
    """Do what the lines on standard input say, each a JSON list, and answer by a line."""
    sender = Sender()
    print(json.dumps('ready'), flush=True)
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        if name == 'changed':
            arguments.insert(0, lambda: json.loads(sys.stdin.readline()))
        print(json.dumps(getattr(sender, name)(*arguments)), flush=True)
