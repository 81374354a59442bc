# SPDX-License-Identifier: Apache-2.0
"""
A 1 MB value between two processes over ROS topics on one host.

Chunked, encoded as 'none', published, reassembled: MB/s from the sender's queue to the complete
tensor, and how much a computing thread beside the sender is held up. Both processes read the same
monotonic clock, so the time of one transfer needs no answer.
"""

from __future__ import annotations

import json
import os
import secrets
from statistics import median
import subprocess
import sys
import threading
import time

from _common import finish, parser, ros_domain, table
from _goals import at_least, at_most, Goal, none
import numpy as np
import torch

TRANSPORTS = {
    'default': {},
    'TCP, deep sockets': {
        'FASTDDS_BUILTIN_TRANSPORTS': 'LARGE_DATA?max_msg_size=1MB&sockets_size=4MB'},
}
SHAPE = (1, 256, 32, 32)  # 1 MiB of float32
DIGEST = bytes(32)
PACED_BYTES_PER_S = 12.5e6  # 100 Mbit/s, a good Wi-Fi link
# Goals: topics carry what the link does, and a thread beside a sender is hardly held up.
MB_PER_S, HELD_UP = PACED_BYTES_PER_S / 1e6, 0.03


def spec(rows: int = SHAPE[2]):
    """Return the slice that travels: the first rows of the value."""
    from hp_inference.link.wire import SliceSpec
    return SliceSpec(1, 0, rows, (*SHAPE[:2], rows, SHAPE[3]), 2, torch.float32)


def receive() -> None:
    """Reassemble frames for ever and report when each was complete."""
    import rclpy

    from hp_inference.link.inbox import Inbox
    from hp_inference.nodes import qos
    from hp_inference.nodes.convert import chunk_from_msg
    from hp_msgs.msg import FrameReport, TensorChunk
    rclpy.init()
    node = rclpy.create_node('receiver')
    reports = node.create_publisher(FrameReport, 'frame_report', qos.REPORTS)
    inboxes: dict[int, Inbox] = {}

    def take(msg):
        chunk = chunk_from_msg(msg)
        inbox = inboxes.setdefault(chunk.frame, Inbox([spec(chunk.row_end)]))
        inbox.put(chunk)
        if inbox.complete:
            rows = inbox.get(1, 0, chunk.row_end)
            reports.publish(FrameReport(frame=chunk.frame, total_s=time.monotonic(),
                                        received_bytes=rows.nbytes))
            del inboxes[chunk.frame]
    node.create_subscription(TensorChunk, 'uplink', take, qos.CHUNKS)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, rclpy.executors.ExternalShutdownException):
        pass


class Sender:
    """Sends values through an outbox and hears when they were complete."""

    def __init__(self):
        import rclpy

        from hp_inference.link.transport import ChunkTransport
        from hp_inference.nodes import qos
        from hp_inference.nodes.convert import chunk_to_msg
        from hp_msgs.msg import FrameReport, TensorChunk
        rclpy.init()
        self.node = rclpy.create_node('sender')
        publisher = self.node.create_publisher(TensorChunk, 'uplink', qos.CHUNKS)
        self.node.create_subscription(FrameReport, 'frame_report', self._done, qos.REPORTS)
        self.transport = ChunkTransport(
            lambda chunk, tag: publisher.publish(chunk_to_msg(chunk)))
        self.session, self.frame = secrets.randbits(64), 0
        self.done: dict[int, float] = {}
        self.arrived = threading.Event()
        self.value = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last)
        threading.Thread(target=rclpy.spin, args=(self.node,), daemon=True).start()
        end = time.monotonic() + 20
        while not (publisher.get_subscription_count()
                   and self.node.count_publishers('frame_report')):
            if time.monotonic() > end:
                raise SystemExit('the receiver has not been found within 20 s')
            time.sleep(0.05)
        time.sleep(0.5)

    def _done(self, msg) -> None:
        self.done[msg.frame] = msg.total_s
        self.arrived.set()

    def send(self, rows: int = SHAPE[2]) -> float | None:
        """Send rows of the value and wait for them; return the seconds, None for a loss."""
        from hp_inference.link.inbox import Inbox
        from hp_inference.link.wire import Head
        self.frame += 1
        self.arrived.clear()
        begin = time.monotonic()
        self.transport.open_frame(Head(self.session, self.frame, DIGEST, 0), Inbox([])).send(
            spec(rows), self.value[:, :, :rows])
        end = begin + 5
        while self.frame not in self.done:
            if not self.arrived.wait(end - time.monotonic()):
                return None
            self.arrived.clear()
        return self.done[self.frame] - begin


def transfers(seconds: float) -> dict:
    """Measure transfers one after another, then a computing thread with and without them."""
    sender = Sender()
    for _ in range(10):
        sender.send()
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        times.append(sender.send())
    good = [t for t in times if t is not None]
    message_s, byte_s = message_costs(sender, seconds / 4)
    megabytes = sender.value.nbytes / 1e6
    held = held_up(sender, max(0.25, seconds / 16), {
        'idle': None, 'paced': megabytes * 1e6 / PACED_BYTES_PER_S, 'flat out': 0.0})
    return {'mb_per_s': megabytes / median(good) if good else 0.0,
            'ms_per_value': median(good) * 1e3 if good else None,
            'message_s': message_s, 'byte_s': byte_s,
            'transfers': len(times), 'lost': len(times) - len(good), 'computing_held_up': held}


def message_costs(sender: Sender, seconds: float) -> tuple[float, float]:
    """Return what a message costs, and what each of its bytes, fitted over sizes; seconds."""
    sizes = (1, 2, 4, 8, 16, 32)  # rows
    times: dict[int, list[float]] = {rows: [] for rows in sizes}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for rows in sizes:
            took = sender.send(rows)
            if took is not None:
                times[rows].append(took)
    bytes_per_row = sender.value.nbytes / SHAPE[2]
    byte_s, message_s = np.polyfit([rows * bytes_per_row for rows in sizes],
                                   [median(times[rows]) for rows in sizes], 1)
    return float(message_s), float(byte_s)


def held_up(sender: Sender, window: float, modes: dict[str, float | None]) -> dict[str, float]:
    """
    Return by what share a computing thread is slower while values are sent in the background.

    modes: the seconds from one value to the next, 0 for as fast as they go, None for no sending.
    """
    period: list[float | None] = [None]
    stop = threading.Event()

    def background():
        due = time.monotonic()
        while not stop.is_set():
            if period[0] is None:
                stop.wait(0.01)
                due = time.monotonic()
                continue
            sender.send()
            due = max(due + period[0], time.monotonic() - 0.1)
            stop.wait(max(0.0, due - time.monotonic()))
    thread = threading.Thread(target=background, daemon=True)
    thread.start()
    conv = torch.nn.Conv2d(64, 64, 3, padding=1).requires_grad_(False)
    image = torch.randn(1, 64, 56, 56)
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(8):
        for mode, seconds in modes.items():  # interleaved: the machine's noise hits all alike
            period[0] = seconds
            time.sleep(0.1)
            begin, count = time.monotonic(), 0
            with torch.inference_mode():
                while time.monotonic() < begin + window:
                    conv(image)
                    count += 1
            rates[mode].append(count / (time.monotonic() - begin))
    stop.set()
    thread.join(6)
    return {mode: 1 - median(rates[mode]) / median(rates['idle'])
            for mode in modes if mode != 'idle'}


def judge(transports: dict) -> list[Goal]:
    """Return what each transport was to come to."""
    return [goal for name, figures in transports.items() for goal in (
        none(f'{name}: values lost', figures['lost']),
        at_least(f'{name}: MB/s', figures['mb_per_s'], MB_PER_S),
        at_most(f'{name}: computing held up at 100 Mbit/s', figures['computing_held_up']['paced'],
                HELD_UP))]


def main() -> int | None:
    """Run both processes under each transport, print, write."""
    options = parser(__doc__)
    options.add_argument('--seconds', type=float, default=10.0, help='per transport')
    options.add_argument('--role', choices=('receive', 'send'), help='used by the bench itself')
    options = options.parse_args()
    torch.set_num_threads(1)
    if options.role == 'receive':
        return receive()
    if options.role == 'send':
        print(json.dumps(transfers(options.seconds)))
        sys.stdout.flush()
        os._exit(0)  # the spinning thread has nothing to end for
    seconds = 2.0 if options.quick else options.seconds
    rows, figures = [], {}
    for name, extra in TRANSPORTS.items():
        env = {**os.environ, **extra, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
               'ROS_DOMAIN_ID': ros_domain()}
        receiver = subprocess.Popen([sys.executable, __file__, '--role', 'receive'], env=env)
        try:
            output = subprocess.run(
                [sys.executable, __file__, '--role', 'send', '--seconds', str(seconds)],
                env=env, check=True, capture_output=True, text=True).stdout
        finally:
            receiver.terminate()
            receiver.wait(10)
        figures[name] = result = json.loads(output.strip().splitlines()[-1])
        rows.append([name, result['mb_per_s'], result['ms_per_value'],
                     result['message_s'] * 1e3, result['byte_s'] * 1e9, result['transfers'],
                     result['lost'], *(f'{share * 100:.1f} %'
                                        for share in result['computing_held_up'].values())])
    table('1 MiB of float32, codec none, chunks of 60 kB', [
        'transport', 'MB/s', 'ms', 'ms a message', 'ns a byte', 'transfers', 'lost',
        'held up at 100 Mbit/s', 'held up flat out'], rows)
    return finish(options, {'transports': figures}, judge(figures))


if __name__ == '__main__':
    sys.exit(main())
