# SPDX-License-Identifier: Apache-2.0
"""
Two hosts on one machine: network namespaces joined by a link whose rate and losses change live.

    with Lab(mbit_s=100.0) as lab:
        server = lab.server.popen(['ros2', 'run', ...])
        lab.rate(10.0)

Robot and server have a network, a /dev/shm and nothing else of their own. The link is full
duplex: either direction carries the rate. All traffic stays on the machine. Nothing is left
behind, also when the owner is killed: see keeper.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import threading
import time

from quota import cpu_groups, GROUP_PREFIX, slow, sweep

QUEUE_MS = 50           # what the link queues at most, as a time at its rate
BURST_S = 0.001         # what it may send at once after a pause, as a time at its rate ...
LEAST_BURST_BYTES = 4000  # ... and at least: a few packets
PACKET_BYTES = 1500
# How TCP finds its rate on either host, whatever this machine has chosen for itself. It shows: BBR
# takes a burst of losses for a limit of the link and keeps to it for a while. Robots mostly have
# Cubic, which a kernel need not allow in a namespace; Reno is there everywhere.
CONGESTION, CONGESTION_FILE = 'reno', '/proc/sys/net/ipv4/tcp_congestion_control'

_PACKAGES = {'ip': 'iproute2', 'tc': 'iproute2', 'nft': 'nftables', 'iperf3': 'iperf3',
             'nsenter': 'util-linux'}
_TRIAL = """
ip link add one type veth peer name two
tc qdisc add dev one root tbf rate 1mbit burst 4000b latency 50ms
nft -f - <<END
table netdev lab {
chain arrivals {
type filter hook ingress device two priority 0
numgen random mod 10 < 1 drop
}
}
END
"""


def missing() -> list[str]:
    """Return what this machine lacks for a lab, each in words; empty: a lab can be made."""
    lacks = [f'{tool} (package {package})' for tool, package in _PACKAGES.items()
             if shutil.which(tool, path=_path()) is None]
    if sys.platform != 'linux' or os.geteuid() != 0:
        return [*lacks, 'root']
    if cpu_groups() is None:
        lacks.append('cgroup v1 cpu, writable')
    if not lacks:
        test = subprocess.run(['unshare', '--net', '--mount', 'sh', '-ec', _TRIAL], timeout=10,
                              capture_output=True, text=True, env={**os.environ, 'PATH': _path()})
        if test.returncode != 0:
            lacks.append('the right to make network namespaces, or a kernel with veth, tbf and '
                         f'nftables ({test.stderr.strip().splitlines()[0]})')
    return lacks


class Side:
    """One of the two hosts; ``address`` is its IPv4 address on the link."""

    def __init__(self, name: str, address: str, enter: list[str]):
        self.name = name
        self.address = address
        self._enter = enter
        self._processes: list[subprocess.Popen] = []

    def command(self, arguments: Iterable[str]) -> list[str]:
        """Return the command line that runs ``arguments`` on this host."""
        return [*self._enter, *map(str, arguments)]

    def popen(self, arguments: Iterable[str], env: Mapping[str, str] | None = None,
              **options) -> subprocess.Popen:
        """
        Start a process on this host, as subprocess.Popen; its pid is that of the command.

        ROS nodes of the two hosts find each other: what limits discovery to one host is taken out
        of the environment. What still runs when the lab closes is killed.
        """
        process = subprocess.Popen(self.command(arguments), env=host_environment(env), **options)
        self._processes.append(process)
        return process

    def run(self, arguments: Iterable[str], env: Mapping[str, str] | None = None,
            **options) -> subprocess.CompletedProcess:
        """Run a process on this host to its end, as subprocess.run."""
        return subprocess.run(self.command(arguments), env=host_environment(env), **options)

    def reap(self) -> None:
        """Collect the exit codes of the processes that have been killed."""
        for process in self._processes:
            process.wait(10)


class Lab:
    """
    The two hosts and their link; a context manager.

    mbit_s: rate of the link at the start [1e6 bits/s], Ethernet frames counted whole. Raises
    RuntimeError where something is missing, and for a command that fails, with what it said.
    """

    def __init__(self, mbit_s: float = 100.0):
        lacks = missing()
        if lacks:
            raise RuntimeError(f'a lab of two hosts needs {", ".join(lacks)}')
        base = cpu_groups()
        sweep(base)
        self._groups = base / f'{GROUP_PREFIX}{os.getpid()}_{os.urandom(4).hex()}'
        self._black = False
        self._loss = 0.0
        self._changing = threading.Lock()
        self._keeper = subprocess.Popen(
            [sys.executable, '-I', '-S', str(Path(__file__).with_name('keeper.py')),
             str(os.getpid()), str(self._groups)], env={**os.environ, 'PATH': _path()},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            self._set_up(mbit_s)
        except BaseException:
            self.close()
            raise

    def _set_up(self, mbit_s: float) -> None:
        line = self._keeper.stdout.readline()
        if not line:
            raise RuntimeError('the namespaces could not be made; see the error above')
        kept = json.loads(line)
        self.robot, self.server = (
            Side(name, address, ['nsenter', *(f'--{option}=/proc/{kept["pid"]}/fd/{number}'
                                              for option, number in (
                                                  ('net', kept[name]['net']),
                                                  ('mount', kept[name]['mnt']))),
                                 f'--wd={os.getcwd()}', '--'])
            for name, address in (('robot', '10.77.0.1'), ('server', '10.77.0.2')))
        for side in (self.robot, self.server):
            # One packet is one packet: with segmentation offload, queue and losses would see
            # up to 64 kB as one.
            _check(side, ['ip', 'link', 'set', 'wifi', 'mtu', PACKET_BYTES, 'gso_max_segs', '1'])
            _check(side, ['ip', 'address', 'add', f'{side.address}/24', 'dev', 'wifi'])
            _check(side, ['ip', 'link', 'set', 'lo', 'up'])
            _check(side, ['tee', CONGESTION_FILE], input=CONGESTION)
            _check(side, ['ip', 'link', 'set', 'wifi', 'up'])
            _check(side, ['ip', 'route', 'add', '224.0.0.0/4', 'dev', 'wifi'])
        for side, other in ((self.robot, self.server), (self.server, self.robot)):
            shown = json.loads(_check(other, ['ip', '-json', 'link', 'show', 'wifi']))
            # Address resolution is no part of what is measured: lost, it waits for a second.
            _check(side, ['ip', 'neighbour', 'add', other.address, 'lladdr', shown[0]['address'],
                          'dev', 'wifi', 'nud', 'permanent'])
        self.rate(mbit_s)
        self._drop()

    def rate(self, mbit_s: float) -> None:
        """Change the rate of both directions [1e6 bits/s]; what is queued stays queued."""
        if not 0.01 <= mbit_s <= 1e5:
            raise ValueError(f'a rate of {mbit_s} Mbit/s, expected 0.01 to 1e5; '
                             'blackout(True) stops the link')
        burst = max(LEAST_BURST_BYTES, round(mbit_s * 1e6 / 8 * BURST_S))
        for side in (self.robot, self.server):
            _check(side, ['tc', 'qdisc', 'replace', 'dev', 'wifi', 'root', 'tbf', 'rate',
                          f'{round(mbit_s * 1e6)}bit', 'burst', f'{burst}b',
                          'latency', f'{QUEUE_MS}ms'])

    def loss(self, fraction: float) -> None:
        """Lose this fraction of the packets of either direction, each by chance."""
        if not 0 <= fraction <= 1:
            raise ValueError(f'a loss of {fraction}, expected a fraction from 0 to 1')
        self._loss = fraction
        self._drop()

    def blackout(self, on: bool) -> None:
        """Lose every packet until told otherwise; the interfaces stay up, as Wi-Fi does."""
        self._black = on
        self._drop()

    def _drop(self) -> None:
        fraction = 1.0 if self._black else self._loss
        rule = {0.0: '', 1.0: 'drop'}.get(
            fraction, f'numgen random mod 1000000 < {round(fraction * 1e6)} drop')
        with self._changing:
            for side in (self.robot, self.server):
                _check(side, ['nft', '-f', '-'], input='table netdev lab\n'
                       'delete table netdev lab\ntable netdev lab {\nchain arrivals {\n'
                       f'type filter hook ingress device wifi priority 0\n{rule}\n}}\n}}\n')

    def follow(self, samples: Iterable[tuple[float, float]],
               stop: threading.Event | None = None) -> None:
        """
        Play a record of the link: at each time [s] this rate [Mbit/s], 0 is a blackout.

        The first sample holds at once, the others as much later as their times say. Returns after
        the last one, or when ``stop`` is set.
        """
        stop = stop or threading.Event()
        begin = first = None
        for time_s, mbit_s in samples:
            if begin is None:
                begin, first = time.monotonic(), time_s
            if stop.wait(max(0.0, begin + time_s - first - time.monotonic())):
                return
            if mbit_s > 0:
                self.rate(mbit_s)
            if self._black != (mbit_s <= 0):
                self.blackout(mbit_s <= 0)

    def slow(self, pid: int, thread_name: str, factor: float) -> int:
        """
        Let a process's threads of that OS name run 1 / ``factor`` of the time; return how many.

        Waits for one to show up, RuntimeError after a minute. Each thread has a quota of its own;
        the other threads of the process run freely. A factor of 1 lets them go again.
        """
        return slow(self._groups, pid, thread_name, factor)

    def iperf(self, seconds: int = 2) -> float:
        """Return the goodput of one TCP stream from the robot to the server [Mbit/s]."""
        seconds = max(1, round(seconds))  # iperf3 takes whole ones, and 0 for no end
        server = self.server.popen(['iperf3', '--server', '--one-off', '--forceflush'],
                                   stdout=subprocess.PIPE, text=True)
        try:
            while 'listening' not in server.stdout.readline():
                if server.poll() is not None:
                    raise RuntimeError('the iperf3 server has ended at once')
            output = _check(self.robot, ['iperf3', '--client', self.server.address, '--json',
                                         '--time', seconds], timeout=seconds + 10)
            return json.loads(output)['end']['sum_received']['bits_per_second'] / 1e6
        finally:
            server.kill()
            server.communicate()

    def close(self) -> None:
        """Kill what still runs on the hosts and take them down; again does nothing."""
        if self._keeper.stdin.closed:
            return
        self._keeper.stdin.close()
        self._keeper.wait(15)
        self._keeper.stdout.close()
        for name in ('robot', 'server'):
            if hasattr(self, name):
                getattr(self, name).reap()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _path() -> str:
    """Return where commands are looked for; a user's PATH may lack the administrator's."""
    return os.pathsep.join([os.environ.get('PATH', os.defpath), '/usr/sbin', '/sbin'])


def host_environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment, by default this process's, as processes on the hosts get it."""
    env = dict(os.environ if env is None else env)
    env['PATH'] = os.pathsep.join([env.get('PATH', os.defpath), '/usr/sbin', '/sbin'])
    env['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
    env.pop('ROS_LOCALHOST_ONLY', None)
    return env


def _check(side: Side, arguments: list, timeout: float = 20, **options) -> str:
    """Run a command on a host and return what it printed, RuntimeError when it fails."""
    done = side.run(arguments, capture_output=True, text=True, timeout=timeout, **options)
    if done.returncode != 0:
        raise RuntimeError(f"'{' '.join(map(str, arguments))}' failed on the {side.name}: "
                           f'{(done.stderr or done.stdout).strip()}')
    return done.stdout
