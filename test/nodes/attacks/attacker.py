# SPDX-License-Identifier: Apache-2.0
"""
Somebody on the same ROS domain who knows all names and types, but no keys: a process of its own.

Told on its command line which nodes to attack and which topics to leave alone. Obeys lines of
JSON: {"do": KIND, "most": ..., "seconds": ..., "seed": ...}, {"do": "watch"}, which keeps what
honest nodes say, for later, and {"do": "heard"}, how many plan tables have come by. What there is
to attack is read from the ROS graph, so that a topic, a service or a parameter that a node gets is
attacked by itself. Prints a line of JSON when it has done.
"""

from __future__ import annotations

import json
from pathlib import Path
import selectors
import sys

from attack_ways import Attacker


def main() -> None:
    """Obey until the input ends."""
    given = json.loads(sys.argv[1])
    attacker = Attacker(given['targets'], given['spare'], given['paths'])
    print(json.dumps({'up': True}), flush=True)
    with open(sys.stdin.fileno(), closefd=False) as orders:
        while True:
            line = _next_line(orders, attacker)
            if not line:
                return
            order = json.loads(line)
            if order['do'] == 'watch':
                attacker.watch()
                told = {'watching': sorted(attacker.topics())}
            elif order['do'] == 'heard':
                told = {'tables': attacker.tables()}
            else:
                attacker.attack(order['do'], order['most'], order['seconds'], order['seed'])
                told = {'tried': attacker.tried}
            print(json.dumps(told), flush=True)


def _next_line(orders, attacker: Attacker) -> str:
    """Return the next order; meanwhile what comes by is heard."""
    with selectors.DefaultSelector() as selector:
        selector.register(orders, selectors.EVENT_READ)
        while not selector.select(0):
            attacker.executor.spin_once(0.02)
        return orders.readline()


if __name__ == '__main__':
    assert Path(sys.argv[0]).name == 'attacker.py'
    main()
