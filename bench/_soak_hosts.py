# SPDX-License-Identifier: Apache-2.0
"""The nodes of bench/soak.py and bench/start.py as processes: in the lab, or on this host alone."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
import json
import os
from pathlib import Path
import signal
import subprocess
import sys
import tempfile
import threading
import time

from _common import ros_domain
from _soak_model import MEAN, MODEL, SHAPE, STD

from hp_inference.link.dds import environment

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'test' / 'lab'))
from lab import Lab, missing  # noqa: E402

RMW = 'rmw_fastrtps_cpp'
UP_S = 90.0  # in which a node has configured itself also on a busy machine
ENDED_S = 10.0
#: What a node says, as the last thing before it is active.
SAYS = {'server_node': 'digest', 'robot_node': 'energy of frames',
        'bandwidth_monitor_node': None}


class Process:
    """A process on a host whose output, a line of JSON each, is handed on with none lost."""

    def __init__(self, side, arguments: list[str], env: dict[str, str],
                 take: Callable[[dict], None]):
        self._process = side.popen([sys.executable, *arguments], env=env, text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._take = take
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Tell it something."""
        self._process.stdin.write(line + '\n')
        self._process.stdin.flush()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._thread.join(5)

    def _read(self) -> None:
        for line in self._process.stdout:
            self._take(json.loads(line))


class Node:
    """A node as a process, which may be ended and started anew; all it says is in one file."""

    def __init__(self, side, name: str, folder: Path, env: dict[str, str], params: dict):
        self.name, self._side, self._env = name, side, env
        given = [part for key, value in params.items()
                 for part in ('-p', f'{key}:={json.dumps(value)}')]
        self._command = [sys.executable, '-m', f'hp_inference.nodes.{name}', '--ros-args', *given]
        self.log = folder / f'{name}.log'
        self.process: subprocess.Popen | None = None
        self._said = 0

    def start(self) -> None:
        """Start it."""
        self._said = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, 'ab') as file:
            self.process = self._side.popen(self._command, env=self._env, stdout=file,
                                            stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)

    def wait_up(self) -> float:
        """Wait until it has configured itself; return when, by time.monotonic()."""
        end = time.monotonic() + UP_S
        while SAYS[self.name] and SAYS[self.name] not in self.text[self._said:]:
            if time.monotonic() > end or self.process.poll() is not None:
                raise SystemExit(f'{self.name} is not up:\n{self.text[-3000:]}')
            time.sleep(0.01)
        return time.monotonic()

    @property
    def text(self) -> str:
        """All that it has said."""
        return self.log.read_text('utf-8', 'replace')

    def send(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; return its exit status."""
        self.send(number)
        try:
            return self.process.wait(ENDED_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return -1

    @property
    def memory_bytes(self) -> int:
        """What it holds of the machine's memory; 0 when it has ended."""
        try:
            status = Path(f'/proc/{self.process.pid}/status').read_text()
        except OSError:
            return 0
        held = [int(line.split()[1]) for line in status.splitlines() if line.startswith('VmRSS')]
        return held[0] * 1024 if held else 0


class Hosts:
    """
    Robot's and server's host with a node each, not yet started; a context manager.

    ``lab`` is None where there can be none: all then runs on this host, over loopback.
    """

    def __init__(self, mbit_s: float, **robot):
        self.lab = None if missing() else Lab(mbit_s)
        self._stack = self.lab or nullcontext()
        self._folder = tempfile.TemporaryDirectory(prefix='hp_bench_')
        self.folder = Path(self._folder.name)
        here = _ThisHost()
        self.near, self.far = (self.lab.robot, self.lab.server) if self.lab else (here, here)
        self.env = {**os.environ, 'OMP_NUM_THREADS': '1',
                    'ROS_DOMAIN_ID': ros_domain()}
        if self.lab:
            self.env.pop('ROS_AUTOMATIC_DISCOVERY_RANGE', None)
            self.env.update(environment(self.env, RMW))
        else:
            self.env['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        both = {'model': MODEL, 'input': list(SHAPE), 'mean': MEAN, 'std': STD, 'threads': 1}
        self.server = Node(self.far, 'server_node', self.folder, self.env, both)
        # Every image has to reach the node, so that what it drops is all that is missing.
        self.robot = Node(self.near, 'robot_node', self.folder, self.env, {
            **both, **robot, 'plans_dir': str(self.folder),
            'qos_overrides./image.subscription.reliability': 'reliable',
            'qos_overrides./image.subscription.depth': 10})
        self.monitor = Node(self.near, 'bandwidth_monitor_node', self.folder, self.env, {})

    def script(self, name: str, *arguments, take: Callable[[dict], None]) -> Process:
        """Start a script of bench/ on the robot's host."""
        return Process(self.near, [str(ROOT / 'bench' / name), *map(str, arguments)], self.env,
                       take)

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        for node in (self.robot, self.server, self.monitor):
            if node.process and node.process.poll() is None:
                node.process.kill()
                node.process.wait()
        if self.lab:
            self.lab.close()
        self._folder.cleanup()


class _ThisHost:
    """This host, as a side of the lab."""

    def popen(self, arguments: list[str], **options) -> subprocess.Popen:
        """Start a process."""
        return subprocess.Popen(arguments, **options)
