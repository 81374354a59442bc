# SPDX-License-Identifier: Apache-2.0
"""What happens to the nodes of bench/soak.py, and how they get over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import json
import random
import signal
import time

from _soak_hosts import Hosts, Process

RATE = 100.0  # of the link while nothing happens [Mbit/s]
FORGOTTEN_S = 11.0  # out of reach for so long, both sides take each other for gone
PLANS = ('uniform:0.3', 'uniform:0.6', 'layer:2', 'layer:5', 'full_offload', 'random:3')


@dataclass
class Event:
    """
    Something that happened; times of time.monotonic().

    ``robot_bytes``: memory of the robot's process before. ``over_s``: from then on everything was
    as before. ``server_bytes``: memory of a server that was ended.
    """

    kind: str
    detail: str
    begun_s: float
    robot_bytes: int
    over_s: float = 0.0
    server_bytes: int = 0
    exit_status: int | None = None


@dataclass
class Events:
    """Makes one kind of event after the other happen, all kinds equally often."""

    hosts: Hosts
    camera: Process
    junk: Process
    table: str  # file of the plans to come back to
    draw: random.Random
    _left: list[str] = field(default_factory=list)

    @property
    def kinds(self) -> dict[str, Callable[[Event], None]]:
        """What can happen here."""
        everywhere = {'server killed': self._killed, 'server told to stop': self._stopped,
                      'server frozen': self._frozen, 'monitor killed': self._monitor,
                      'false chunks': self._chunks, 'false bandwidth': self._bandwidth,
                      'other plan': self._plan, 'rate steps': self._rate}
        if self.hosts.lab:
            everywhere.update({'blackout': self._blackout,
                               'long blackout': self._long_blackout, 'loss': self._loss})
        return everywhere

    def next(self) -> Event:
        """Make something happen; returns when it is over."""
        if not self._left:
            self._left = list(self.kinds)
            self.draw.shuffle(self._left)
        event = Event(self._left.pop(), '', time.monotonic(), self.hosts.robot.memory_bytes)
        self.kinds[event.kind](event)
        event.over_s = event.over_s or time.monotonic()
        return event

    def _wait(self, event: Event, least_s: float, most_s: float) -> None:
        seconds = self.draw.uniform(least_s, most_s)
        event.detail = f'{event.detail} {seconds:.1f} s'.strip()
        time.sleep(seconds)

    def _restart(self, event: Event, number: int) -> None:
        event.server_bytes = self.hosts.server.memory_bytes
        event.exit_status = self.hosts.server.end(number)
        self._wait(event, 0.0, 2.0)
        self.hosts.server.start()
        event.over_s = self.hosts.server.wait_up()

    def _killed(self, event: Event) -> None:
        self._restart(event, signal.SIGKILL)

    def _stopped(self, event: Event) -> None:
        self._restart(event, signal.SIGTERM)

    def _frozen(self, event: Event) -> None:
        self.hosts.server.send(signal.SIGSTOP)
        self._wait(event, 0.3, 4.0)
        self.hosts.server.send(signal.SIGCONT)

    def _monitor(self, event: Event) -> None:
        self.hosts.monitor.end(signal.SIGKILL)
        self._wait(event, 0.5, 5.0)
        self.hosts.monitor.start()

    def _false(self, event: Event, what: str) -> None:
        self.junk.write(what)
        self._wait(event, 1.0, 3.0)
        self.junk.write('nothing')

    def _chunks(self, event: Event) -> None:
        self._false(event, 'chunks')

    def _bandwidth(self, event: Event) -> None:
        self._false(event, 'bandwidth')

    def _set(self, **values) -> None:
        self.camera.write(json.dumps({'set': values}))

    def _plan(self, event: Event) -> None:
        event.detail = self.draw.choice(PLANS)
        self._set(plan=event.detail)
        self._wait(event, 0.5, 3.0)
        self._set(plan=self.table)

    def _rate(self, event: Event) -> None:
        for _ in range(self.draw.randrange(1, 5)):
            mbit_s = round(10 ** self.draw.uniform(0.3, 2.3), 1)
            event.detail = f'{event.detail} {mbit_s:g} Mbit/s'.strip()
            self._limit(mbit_s)
            self._wait(event, 0.3, 1.5)
        self._limit(RATE)

    def _limit(self, mbit_s: float) -> None:
        if self.hosts.lab:
            self.hosts.lab.rate(mbit_s)
        else:
            self._set(limit_mbit_s=mbit_s)

    def _blackout(self, event: Event, least_s: float = 0.3, most_s: float = 6.0) -> None:
        self.hosts.lab.blackout(True)
        self._wait(event, least_s, most_s)
        self.hosts.lab.blackout(False)

    def _long_blackout(self, event: Event) -> None:
        self._blackout(event, FORGOTTEN_S, FORGOTTEN_S + 5)

    def _loss(self, event: Event) -> None:
        fraction = self.draw.uniform(0.03, 0.2)
        event.detail = f'{100 * fraction:.0f} %'
        self.hosts.lab.loss(fraction)
        self._wait(event, 1.0, 4.0)
        self.hosts.lab.loss(0.0)

