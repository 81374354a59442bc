# SPDX-License-Identifier: Apache-2.0
"""The nodes as processes of the demo, which never outlive it."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from contextlib import suppress
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / 'config' / 'demo.yaml'
PHASES = (100.0, 20.0, 0.0, 50.0)  # Mbit/s of the link; 0: blackout
TAIL_LINES = 15
# A node that is told to end finishes its frame and leaves its topics; one that still captures the
# model does not listen, and whoever interrupts the demo does not want to wait.
STOP_S, INTERRUPTED_S = 8.0, 2.0
# What a ROS log line has before its text.
LOG_PREFIX = re.compile(r'\[\w+\] \[[\d.]+\] \[[^\]]+\]: ')


class DemoError(RuntimeError):
    """The demo can't go on; the text says why and what to do."""


class NodeProcess:
    """
    A node as a process, the leader of a group of its own, with its output in a file.

    ``host``: what comes before a command that is to run on the node's host. Use it in a ``with``
    statement; should that be cut short, the end of the interpreter stops it.
    """

    def __init__(self, name: str, params_file: Path, params: dict[str, object], log: Path,
                 host: Sequence[str] = ()):
        self.name, self.log = name, log
        self._shown = 0
        overrides = [part for key, value in params.items()
                     for part in ('-p', f'{name}:{key}:={json.dumps(value)}')]
        with open(log, 'wb') as file:
            self._process = subprocess.Popen(
                [*host, sys.executable, '-m', f'hp_inference.nodes.{name}', '--ros-args',
                 '--params-file', str(params_file), *overrides],
                stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for the demo, which ends the nodes in good order.
                start_new_session=True)
        atexit.register(self.stop)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.stop(INTERRUPTED_S if kind else STOP_S)

    @property
    def pid(self) -> int:
        """The number of the node's process."""
        return self._process.pid

    def check(self) -> None:
        """Raise DemoError with the end of the log when the process is gone."""
        status = self._process.poll()
        if status is not None:
            raise DemoError(f'{self.name} ended with status {status}. {self.tail()}')

    def tail(self) -> str:
        """Return the end of the log and where it is."""
        lines = self.log.read_text('utf-8', 'replace').splitlines()[-TAIL_LINES:]
        return '\n  '.join([f'The end of {self.log}:', *(lines or ['(nothing)'])])

    def news(self) -> list[str]:
        """Return the texts that the node has logged since the last call."""
        complete = self.log.read_text('utf-8', 'replace').split('\n')[:-1]
        fresh, self._shown = complete[self._shown:], len(complete)
        return [LOG_PREFIX.sub('', line) for line in fresh if LOG_PREFIX.match(line)]

    def terminate(self) -> None:
        """Tell the process to end, without waiting for it."""
        self._process.terminate()  # does nothing to one that has ended

    def stop(self, seconds: float = INTERRUPTED_S) -> None:
        """End the process with all that it started, in good order if that takes no longer."""
        self.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        with suppress(ProcessLookupError):  # as it should be: the whole group is gone
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        atexit.unregister(self.stop)  # last, so that a signal above leaves it to atexit


def end_on_signals() -> None:
    """Let signals end this process by an exception, so that ``with`` and atexit do their work."""
    def leave(number, _):
        sys.exit(128 + number)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    # Set even where the shell has left it ignored, as for a command in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
