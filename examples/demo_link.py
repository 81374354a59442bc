# SPDX-License-Identifier: Apache-2.0
"""The link of the demo: between two network namespaces, or emulated on this host."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import signal
import socket
import subprocess
import sys
from typing import Protocol

from demo_nodes import DemoError, ROOT

LAB = ROOT / 'test' / 'lab'
# A limit that lets nothing through that anybody waits for.
BLACKOUT_MBIT_S = 0.001
# How long the host at the other end of the command socket may take; finding a thread takes long.
ANSWER_S = 30.0
STOP_S = 20.0


class Link(Protocol):
    """The link between robot and server; ``words`` says what it is and how fast the two are."""

    words: str
    slower: float  # how many times longer the robot takes to compute than the server
    server: list[str]  # what comes before a command to run it on the server's host

    def ready(self, robot_pid: int) -> None:
        """Do what can only be done when the nodes are up."""

    def rate(self, mbit_s: float) -> None:
        """Change the rate; 0: nothing gets through. Raises DemoError."""


class Emulated:
    """All nodes on this host; each paces what it sends. ``limit``: sets that, in Mbit/s."""

    words = ('one host, loopback: the rate is emulated by the pace at which the nodes send, and '
             'robot and server are equally fast')
    slower, server = 1.0, []

    def __init__(self, limit: Callable[[float], None]):
        self._limit = limit

    def ready(self, robot_pid: int) -> None:
        """Nothing is left to do."""

    def rate(self, mbit_s: float) -> None:
        """Change the pace of the nodes."""
        self._limit(mbit_s or BLACKOUT_MBIT_S)


class Namespaces:
    """
    The link of a lab in which this process is on the robot's host.

    ``inside`` is what ``run_in_lab`` gave to this process.
    """

    words = ("two network namespaces as hosts: the rate is the link's own, and the robot's "
             'computing thread gets a quarter of a processor')
    slower = 4.0

    def __init__(self, inside: str):
        given = json.loads(inside)
        self.server: list[str] = given['server']
        self._commands = socket.socket(fileno=given['fd'])
        self._commands.settimeout(ANSWER_S)
        self._answers = self._commands.makefile('r')

    def ready(self, robot_pid: int) -> None:
        """Slow down the robot's thread that computes, which is there by now."""
        self._ask('slow', robot_pid, 'robot frames', self.slower)

    def rate(self, mbit_s: float) -> None:
        """Change the rate of the link, or let it lose everything."""
        self._ask('blackout', not mbit_s)
        if mbit_s:
            self._ask('rate', mbit_s)

    def close(self) -> None:
        """Leave the link as it is, for good."""
        self._answers.close()
        self._commands.close()

    def _ask(self, *command) -> None:
        try:
            self._commands.sendall(f'{json.dumps(command)}\n'.encode())
            answer = self._answers.readline()
        except OSError as error:
            raise DemoError(f'the link could not be changed: {error}') from error
        if answer != 'done\n':
            raise DemoError(f'the link could not be changed: {answer.strip() or "its owner ended"}')


def lab_missing() -> list[str]:
    """Return what this machine lacks for a lab."""
    return _lab().missing()


def run_in_lab(script: Path, arguments: list[str], mbit_s: float) -> int:
    """
    Run a script with --inside on the robot's host of a lab; return its exit status.

    Changes the link as the script asks. A signal that ends this process ends the script as well.
    """
    try:
        with _lab().Lab(mbit_s) as lab:
            ours, theirs = socket.socketpair()
            inside = json.dumps({'fd': theirs.fileno(), 'server': lab.server.command([])})
            # In a session of its own, so that Ctrl-C reaches it once, from here.
            process = lab.robot.popen([sys.executable, script, *arguments, '--inside', inside],
                                      pass_fds=[theirs.fileno()], start_new_session=True)
            theirs.close()
            try:
                with ours:
                    _obey(lab, ours)
                return process.wait()
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    process.send_signal(signal.SIGINT)
                else:
                    process.terminate()
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
    except RuntimeError as error:
        raise DemoError(f'the lab failed: {error}') from error


def _obey(lab, commands: socket.socket) -> None:
    """Do what comes over a socket until its other end is closed."""
    for line in commands.makefile('r'):
        name, *arguments = json.loads(line)
        try:
            getattr(lab, name)(*arguments)
            answer = 'done'
        except (RuntimeError, ValueError, OSError) as error:
            answer = ' '.join(str(error).split())
        commands.sendall(f'{answer}\n'.encode())


def _lab():
    if str(LAB) not in sys.path:
        sys.path.append(str(LAB))
    import lab
    return lab
