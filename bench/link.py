# SPDX-License-Identifier: Apache-2.0
"""
1 MB values over the topics beside TCP on the same link: two hosts on this machine (test/lab).

At several rates and packet losses: goodput of values one at a time and of a stream of them, as a
share of what iperf3 gets in the same minute; how much a computing thread beside the sender is held
up; when, after a drop of the rate, a value no longer waits behind queued bytes; when the first
one is there after a blackout. Needs root, see `make lab`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import median
import subprocess
import sys
import time

from _common import finish, parser, skip, table
from _goals import at_least, at_most, Goal, none
import _link_peers
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'test' / 'lab'))
from lab import host_environment, Lab, missing  # noqa: E402

RATES = (10, 50, 100, 300)
LOSSES = (0.0, 0.01, 0.03)
# Of the goodput of TCP beside it, by packet loss; and how long a thread may be held up.
GOALS = {0.0: 0.93, 0.01: 0.92, 0.03: 0.90}
HELD_UP = 0.03
DROP = (100, 10)
SWITCHES_S = (0.005, 0.0001)  # Python's own switch interval, and a short one
BLACKOUTS_S = (1.0, 3.5, 7.0)
# Before what else runs on this machine: the two hosts would have their processors for themselves.
PEER = ['nice', '-n', '-15', sys.executable, __file__, '--role']
SMALL_MBIT = _link_peers.SMALL_ROWS / _link_peers.SHAPE[2] * 8.388608


class Sender:
    """The sending process and the lines that go to and fro."""

    def __init__(self, lab: Lab, env: dict[str, str]):
        self.process = lab.robot.popen([*PEER, 'send'], env=env, text=True,
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.answer()

    def tell(self, what: object) -> None:
        """Write a line."""
        self.process.stdin.write(json.dumps(what) + '\n')
        self.process.stdin.flush()

    def answer(self) -> object:
        """Read a line."""
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit('the sender has ended; see its message above')
        return json.loads(line)

    def do(self, *what: object) -> dict:
        """Have one thing done."""
        self.tell(what)
        return self.answer()


def goodput(lab: Lab, sender: Sender, rounds: int, seconds: float) -> dict:
    """Return the goodputs of TCP and of values on the link as it is, side by side."""
    tcp, stream, times, lost = [], [], [], 0
    for _ in range(rounds):
        tcp.append(lab.iperf(max(1, round(seconds))))
        stream.append(sender.do('stream', seconds)['mbit_s'])
        alone = sender.do('alone', seconds)
        times += alone['times']
        lost += alone['lost']
    one = alone['mbit'] / median(times) if times else 0.0
    return {'tcp': tcp, 'stream': stream, 'alone_s': times, 'lost': lost,
            'tcp_mbit_s': median(tcp), 'stream_mbit_s': median(stream), 'alone_mbit_s': one,
            'stream_ratio': median(mine / its for mine, its in zip(stream, tcp)),
            'alone_ratio': one / median(tcp)}


def drop(lab: Lab, sender: Sender) -> dict:
    """Return how a sender gets over a drop of the rate."""
    lab.rate(DROP[0])
    sender.do('stream', 1.0)
    sender.tell(['changed', SMALL_MBIT / (DROP[1] * 0.95)])
    time.sleep(1.0)
    lab.rate(DROP[1])
    sender.tell(time.monotonic())
    return sender.answer()


def blackout(lab: Lab, sender: Sender, seconds: float) -> dict:
    """Return how long after a blackout values are there again."""
    lab.rate(50)
    sender.do('stream', 1.0)
    sender.tell(['changed', SMALL_MBIT / (50 * 0.95)])
    time.sleep(0.5)
    lab.blackout(True)
    time.sleep(seconds)
    lab.blackout(False)
    sender.tell(time.monotonic())
    return sender.answer()


def judge(cells: list[dict], held: list[dict]) -> list[Goal]:
    """Return what the link was to carry, and how little computing was to be held up."""
    goals = [none('values lost', sum(cell['lost'] for cell in cells))]
    for cell in cells:
        where = f'{cell["mbit_s"]:g} Mbit/s, {cell["loss"]:.0%} loss'
        goals += [at_least(f'{where}: {what} over TCP', cell[key], GOALS[cell['loss']])
                  for what, key in (('stream', 'stream_ratio'), ('one at a time', 'alone_ratio'))]
    # The nodes set the short switch interval.
    return goals + [at_most(f'{one["mbit_s"]:g} Mbit/s: computing held up', one['held_up'],
                            HELD_UP) for one in held if one['switch_s'] == min(SWITCHES_S)]


def main() -> int | None:
    """Run all cells, print, write."""
    options = parser(__doc__)
    options.add_argument('--rates', type=float, nargs='+', default=RATES, help='Mbit/s')
    options.add_argument('--role', choices=('receive', 'send'), help='used by the bench itself')
    options = options.parse_args()
    torch.set_num_threads(1)
    if options.role:
        getattr(_link_peers, options.role)()
        sys.stdout.flush()
        os._exit(0)  # the spinning thread has nothing to end for
    if missing():
        return skip(f'no lab on this machine, missing: {", ".join(missing())}')
    from rclpy.utilities import get_rmw_implementation_identifier

    from hp_inference.link.dds import environment
    rmw = get_rmw_implementation_identifier()
    env = host_environment({**os.environ, 'OMP_NUM_THREADS': '1'})
    env |= environment(env, rmw)
    rates = options.rates[1::2] if options.quick else options.rates
    rounds, seconds = (1, 1.0) if options.quick else (3, 2.0)
    cells, held, rows = [], [], []
    with Lab(50.0) as lab:
        lab.server.popen([*PEER, 'receive'], env=env)
        sender = Sender(lab, env)
        for rate in rates:
            lab.rate(rate)
            for loss in LOSSES:
                lab.loss(loss)
                cell = goodput(lab, sender, rounds, seconds)
                cells.append({'mbit_s': rate, 'loss': loss, **cell})
                rows.append([f'{rate:g}', f'{loss:.0%}', cell['tcp_mbit_s'],
                             cell['stream_ratio'], cell['alone_ratio'], GOALS[loss],
                             cell['lost']])
            lab.loss(0.0)
            held += [{'mbit_s': rate, 'switch_s': switch_s, **sender.do(
                'held_up', 0.25, 4 if options.quick else 12, switch_s)} for switch_s in SWITCHES_S]
        table('1 MiB values over topics, share of the TCP goodput beside them', [
            'Mbit/s', 'loss', 'iperf3 Mbit/s', 'stream', 'one at a time', 'goal', 'values lost'],
            rows)
        table('computing thread held up while sending', ['Mbit/s', 'switch interval ms', 'held up'],
              [[f'{one["mbit_s"]:g}', f'{one["switch_s"] * 1e3:g}', f'{one["held_up"]:.1%}']
               for one in held])
        drops = [drop(lab, sender) for _ in range(1 if options.quick else 7)]
        table(f'rate drops from {DROP[0]} to {DROP[1]} Mbit/s: the first value that waits for '
              'nothing', ['sent after s', 'there after s', 'bytes in flight at the drop'],
              [[one['sent_s'], one['there_s'], one['in_flight']] for one in drops])
        blackouts = [{'seconds': seconds, **blackout(lab, sender, seconds)}
                     for seconds in (BLACKOUTS_S[:1] if options.quick else BLACKOUTS_S)]
        table('after a blackout', ['blackout s', 'first value there after s',
                                   'one that waits for nothing sent after s'],
              [[one['seconds'], one.get('first_s'), one['sent_s']] for one in blackouts])
    return finish(options, {'rmw': rmw, 'settings': Path(next(iter(
        environment(host_environment(), rmw).values()), '')).name, 'goodput': cells,
        'held_up': held, 'drops': drops, 'blackouts': blackouts}, judge(cells, held))


if __name__ == '__main__':
    sys.exit(main())
