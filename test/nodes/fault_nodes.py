# SPDX-License-Identifier: Apache-2.0
"""Nodes as processes in surroundings that nobody wishes for."""

from __future__ import annotations

import os
from pathlib import Path
import subprocess
import sys

from ros_rig import given, MODEL, NodeProcess, SIZE

JUMPING = """
import random, runpy, sys, time
real = time.time
def jumping():
    return real() + 3600.0 * random.Random(int(time.monotonic() * 4)).choice([-1, 0, 1])
time.time = jumping
time.time_ns = lambda: int(jumping() * 1e9)
runpy.run_module('hp_inference.nodes.' + sys.argv.pop(1), run_name='__main__', alter_sys=True)
"""
FULL = """
mount -t tmpfs -o size=64k none "$ROS_LOG_DIR"
cat /dev/zero > "$ROS_LOG_DIR/full" 2> /dev/null || true
exec "$@"
"""


class OddNode(NodeProcess):
    """A node whose process is started in another way; without a log that could be read."""

    log = ''

    def __init__(self, name: str, command: list[str], namespace: str, env: dict | None = None,
                 output: str = os.devnull, **params):
        if name != 'bandwidth_monitor_node':
            params = {'model': MODEL, 'input': [1, 3, SIZE, SIZE], 'threads': 1, **params}
        with open(output, 'w') as file:
            self.process = subprocess.Popen(
                [*command, *given(params), '-r', f'__ns:=/{namespace}'],
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={**os.environ, **(env or {})})


def with_jumping_clock(name: str, namespace: str, **params) -> OddNode:
    """Return a node whose system clock jumps by an hour, to and fro, four times a second."""
    return OddNode(name, [sys.executable, '-c', JUMPING, name], namespace, **params)


def with_full_disk(name: str, namespace: str, folder: Path, **params) -> OddNode:
    """Return a node that can write its log nowhere: neither its output nor, as root, its file."""
    command = [sys.executable, '-m', f'hp_inference.nodes.{name}']
    if os.geteuid() == 0:
        command = ['unshare', '--mount', 'sh', '-ec', FULL, 'sh', *command]
    logs = folder / f'log_{name}'
    logs.mkdir()
    return OddNode(name, command, namespace, {'ROS_LOG_DIR': str(logs)}, '/dev/full', **params)
