# SPDX-License-Identifier: Apache-2.0
"""
The nodes on two hosts: robot, monitor and camera on one, the server on the other.

The hosts are those of the lab (test/lab): the link has a real rate, the robot's computing thread
gets a part of a processor only.
"""

from __future__ import annotations

from collections.abc import Callable
import json
import os
from pathlib import Path
from statistics import median
import subprocess
import sys
import tempfile
import time

from _common import ros_domain

from hp_inference.link.dds import environment
from hp_inference.profile.device import DeviceProfile
from hp_inference.split.source import assemble
from hp_inference.split.table import PlanTable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'test' / 'lab'))
from lab import host_environment, Lab, missing  # noqa: E402

READY_S = 180.0
KEPT = ['robot_only', 'full_offload']  # of the robot, beside whatever it is told to use
WATTS = {'power.waiting_w': 4.7, 'power.communicating_w': 5.0, 'power.computing_w': 13.0}
RMW = 'rmw_fastrtps_cpp'
# Before what else runs on this machine: two hosts would have their processors for themselves.
FIRST = ['nice', '-n', '-15']


class TwoHosts:
    """
    A model served between two hosts; a context manager.

    ``slower``: how many times longer the robot's computing takes. ``plan``: the robot's parameter.
    Needs what ``possible`` looks for.
    """

    def __init__(self, model: str, shape: tuple[int, ...], plan: str, mbit_s: float,
                 slower: float = 4.0, monitor: bool = False, **robot):
        self.folder = tempfile.TemporaryDirectory(prefix='hp_bench_')
        self.lab = Lab(mbit_s)
        self._logs: list[Path] = []
        try:
            both = {'model': model, 'input': list(shape), 'threads': 1}
            self.server = self._node(self.lab.server, 'server_node', **both)
            self.robot = self._node(self.lab.robot, 'robot_node', **both, **WATTS, plan=plan,
                                    plans=KEPT, plans_dir=self.folder.name, **robot,
                                    **{'qos_overrides./image.subscription.reliability':
                                       'reliable'})
            self._others = [self._node(self.lab.robot, 'bandwidth_monitor_node')
                            ] if monitor else []
            self._camera = self.lab.robot.popen(
                [*FIRST, sys.executable, str(ROOT / 'bench' / '_camera.py'), model,
                 *map(str, shape)],
                env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._others.append(self._camera)
            self._camera.stdout.readline()
            if not self.do('wait_ready', seconds=READY_S)['ready']:
                raise SystemExit('\n'.join(['the nodes were not ready in time',
                                            *(log.read_text()[-2000:] for log in self._logs)]))
            self.lab.slow(self.robot.pid, 'robot frames', slower)
            self._give_cores()
        except BaseException:
            self.close()
            raise

    def _give_cores(self) -> None:
        """
        Give what computes on the server a core of its own, all else the others.

        A host has a core left over for what travels; here both hosts would take it from the
        server's computing.
        """
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < 2:
            return
        for process in (self.robot, self.server, *self._others):
            for thread in Path(f'/proc/{process.pid}/task').iterdir():
                computes = (process is self.server
                            and (thread / 'comm').read_text().strip() == 'server frames')
                os.sched_setaffinity(int(thread.name), cores[-1:] if computes else cores[:-1])

    def do(self, what: str, **more) -> dict:
        """Have the camera do something; see _camera.py."""
        self._camera.stdin.write(json.dumps({'do': what, **more}) + '\n')
        self._camera.stdin.flush()
        line = self._camera.stdout.readline()
        if not line:
            raise SystemExit(f'the camera has ended with status {self._camera.wait(10)}')
        return json.loads(line)

    def begin(self, what: str, **more) -> None:
        """Have the camera begin something; ``end`` returns its answer."""
        self._camera.stdin.write(json.dumps({'do': what, **more}) + '\n')
        self._camera.stdin.flush()

    def end(self) -> dict:
        """Return the answer to ``begin``."""
        return json.loads(self._camera.stdout.readline())

    def set(self, **values) -> None:
        """Set parameters of the robot; SystemExit where it refuses."""
        refusal = self.do('set', values=values)['refusal']
        if refusal:
            raise SystemExit(f'the robot refuses {values}: {refusal}')

    def ask(self, count: int = 1) -> list[dict]:
        """Return what became of so many images."""
        return self.do('ask', count=count)['frames']

    def use(self, table: PlanTable) -> None:
        """Have the robot use another plan table, and wait until the server has it too."""
        file = Path(self.folder.name) / f'{table.digest.hex()}.json'
        file.write_text(table.dumps())
        digest = assemble(table.layout, str(file), KEPT).digest.hex()
        self.set(plan=str(file), force_plan='', bandwidth_mbit_s=0.0)
        self._agree(lambda frame: frame.get('table') == digest)
        self.set(force_plan='full_offload')
        self._agree(lambda frame: not frame.get('fallback', True))
        self.set(force_plan='')

    def _agree(self, done: Callable[[dict], bool]) -> None:
        """Ask until a frame runs as it is to."""
        end = time.monotonic() + READY_S
        while not done(self.ask()[0]):
            if time.monotonic() > end:
                raise SystemExit(f'robot and server do not agree\n{self.logs()[-2000:]}')

    def profiles(self, profile: DeviceProfile, frames: int = 7) -> tuple[DeviceProfile, ...]:
        """
        Return a profile that was made on this machine as robot and as server have it.

        Each is scaled to what whole frames take there; the first frames warm up.
        """
        made = []
        for plan, what in (('robot_only', 'robot_compute_s'), ('full_offload', 'server_compute_s')):
            self.set(force_plan=plan)
            took = [frame[what] for frame in self.ask(frames)[2:]]
            made.append(profile.slowed(median(took) / profile.whole_s))
        self.set(force_plan='')
        return tuple(made)

    def logs(self) -> str:
        """Return what the nodes have said."""
        return '\n'.join(f'== {log.name}\n{log.read_text()}' for log in self._logs)

    def close(self) -> None:
        """Stop everything."""
        self.lab.close()
        self.folder.cleanup()

    def __enter__(self) -> TwoHosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _node(self, side, name: str, **params) -> subprocess.Popen:
        log = Path(self.folder.name) / f'{name}.log'
        self._logs.append(log)
        given = [part for key, value in params.items()
                 for part in ('-p', f'{key}:={json.dumps(value)}')]
        with open(log, 'wb') as file:
            return side.popen([*FIRST, sys.executable, '-m', f'hp_inference.nodes.{name}',
                               '--ros-args', *given], env=self._environment(),
                              stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)

    def _environment(self) -> dict[str, str]:
        return hosts_environment({**os.environ, 'OMP_NUM_THREADS': '1',
                                  'ROS_DOMAIN_ID': ros_domain()})


def hosts_environment(env: dict[str, str]) -> dict[str, str]:
    """Return an environment as nodes get it that talk to another host by what is shipped."""
    env = host_environment(env)
    return {**env, **environment(env, RMW)}


def possible() -> bool:
    """Return whether this machine can play two hosts; where it can't, say what is missing."""
    lacks = missing()
    if lacks:
        print(f'skipped: two hosts on this machine need {", ".join(lacks)}: see make lab')
    return not lacks


def settle(seconds: float = 0.3) -> None:
    """Let what is queued on the link drain."""
    time.sleep(seconds)
