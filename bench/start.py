# SPDX-License-Identifier: Apache-2.0
"""
How long it takes from starting the nodes to the first answer that both have computed.

Real nodes, on two hosts of the lab where there can be one (else over loopback), a small model, a
camera that shows images all the time. Counted from both nodes being configured, discovery
included, and from the start of the later process, which loads PyTorch and captures the model.
"""

from __future__ import annotations

from statistics import median
import sys
import threading
import time

from _common import finish, parser, table
from _goals import at_most, Goal
from _soak_hosts import Hosts

PER_SECOND = 50.0
SETTLE_S = 1.0  # the first node is up for so long when the second is started
ANSWER_S = 60.0
ALONE = 1  # InferenceResult.COMPUTED_ROBOT, which a process without rclpy does not import
TOGETHER_S = 1.0  # goal, from both nodes being up, for every single start
ORDERS = ('robot first', 'server first', 'both at once')


class Watch:
    """Waits for the first answer of robot and server together."""

    def __init__(self):
        self.together_s = self.answered_s = 0.0
        self._together = threading.Event()

    def take(self, line: dict) -> None:
        """Take a line of the camera."""
        if 'result' not in line:
            return
        self.answered_s = self.answered_s or line['at_s']
        if line['on'] != ALONE and not self._together.is_set():
            self.together_s = line['at_s']
            self._together.set()

    def wait(self) -> None:
        """Wait for it; SystemExit when it does not come."""
        if not self._together.wait(ANSWER_S):
            raise SystemExit(f'robot and server never computed together in {ANSWER_S:g} s')


def start(order: str) -> dict:
    """Return the times of one start [s]."""
    with Hosts(100.0) as hosts:
        watch = Watch()
        camera = hosts.script('_soak_camera.py', 10 ** 6, PER_SECOND, '--at-once',
                              take=watch.take)
        try:
            time.sleep(SETTLE_S)
            nodes = [hosts.robot, hosts.server]
            if order == 'server first':
                nodes.reverse()
            nodes[0].start()
            if order != 'both at once':
                nodes[0].wait_up()
                time.sleep(SETTLE_S)
            started_s = time.monotonic()
            nodes[1].start()
            up_s = max(node.wait_up() for node in nodes)
            watch.wait()
        finally:
            camera.close()
        return {'order': order, 'up_to_together_s': watch.together_s - up_s,
                'start_to_together_s': watch.together_s - started_s,
                'two_hosts': hosts.lab is not None}


def judge(starts: list[dict]) -> list[Goal]:
    """Return how soon robot and server were to compute together."""
    return [at_most(f'{order}: slowest s from both up', max(
        one['up_to_together_s'] for one in starts if one['order'] == order), TOGETHER_S)
        for order in ORDERS]


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument('--times', type=int, default=10, help='starts in each order')
    options = options.parse_args()
    starts = []
    for _ in range(2 if options.quick else options.times):
        for order in ORDERS:
            starts.append(start(order))
            print(f'  {order}: {starts[-1]["up_to_together_s"]:.2f} s after both were up',
                  flush=True)
    table('to the first answer computed together, in s', [
        'order', 'starts', 'from both up: median', 'max', 'from start: median', 'max'],
        [[order, len(each), *(pick(one[key] for one in each) for key in (
            'up_to_together_s', 'start_to_together_s') for pick in (median, max))]
         for order in ORDERS for each in [[one for one in starts if one['order'] == order]]])
    return finish(options, {'starts': starts}, judge(starts))


if __name__ == '__main__':
    sys.exit(main())
