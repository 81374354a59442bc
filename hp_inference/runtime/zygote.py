# SPDX-License-Identifier: Apache-2.0
"""
A process that others are forked from: they are there at once, with all that is imported.

A process with threads should not be forked, and a new Python takes seconds to import PyTorch. So a
node forks one at its very start, before any thread, topic and key, which does nothing but fork.
Where there is none, such as for nodes in somebody else's process, one is started as a new Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

Work = Callable[[int], object]  # gets a socket's number

START_S = 300.0  # PyTorch may take long to import from a slow disk
# To fork, or to end a process, takes a moment.
ANSWER_S = 60.0
_REQUEST, _ANSWER = struct.Struct('<Bi'), struct.Struct('<i')
_FORK, _END, _REAP = range(3)
# How long one that has let go of its socket may take to end by itself.
REAP_S = 1.0
_SPAWN = 'import json, sys; sys.path[:] = json.loads(sys.argv[1]); ' \
         'from {module} import {name}; from hp_inference.runtime.zygote import serve; ' \
         'import socket; serve(socket.socket(fileno=0), {name})'


class Gone(Exception):
    """The zygote does not answer any more; it is of no use."""


class Zygote:
    """
    Forks processes that do ``work``, a function of a module that is imported by its name.

    ``fork``: from this process as it is, which must have no thread; else from a new Python.
    """

    def __init__(self, work: Work, fork: bool = False):
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(START_S)
        self._process = None
        if fork:
            self._pid = _fork(lambda: serve(theirs, work))
        else:
            start = _SPAWN.format(module=work.__module__, name=work.__name__)
            self._process = subprocess.Popen(
                [sys.executable, '-c', start, json.dumps(sys.path)], stdin=theirs,
                start_new_session=True)
        theirs.close()

    def make(self, end: socket.socket) -> int:
        """Return the number of a new process, which works with this end of a socket pair."""
        return self._ask(_FORK, 0, [end.fileno()])

    def end(self, pid: int) -> int:
        """End a process at once; return its exit status, negative for a signal."""
        return self._ask(_END, pid)

    def reap(self, pid: int) -> int:
        """End a process that should end by itself any moment; return its exit status."""
        return self._ask(_REAP, pid)

    def close(self) -> None:
        """End the zygote; those that are forked from it stay."""
        self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        else:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)

    def _ask(self, what: int, pid: int, fds: Sequence[int] = ()) -> int:
        with self._lock:
            try:
                socket.send_fds(self._control, [_REQUEST.pack(what, pid)], list(fds))
                answer = self._control.recv(_ANSWER.size, socket.MSG_WAITALL)
                self._control.settimeout(ANSWER_S)
            except OSError as error:
                self._control.close()  # a late answer would be taken for that to the next question
                raise Gone(str(error)) from error
        if len(answer) < _ANSWER.size:
            raise Gone('it has ended')
        return _ANSWER.unpack(answer)[0]


def serve(control: socket.socket, work: Work) -> None:
    """Fork, and end, what is asked for until the other end is closed; does not return."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    control = _alone_with(control)
    gc.collect()
    gc.freeze()  # what is never collected is never written to, and its memory stays shared
    while True:
        try:
            asked, fds, *_ = socket.recv_fds(control, _REQUEST.size, 1)
        except OSError:
            os._exit(0)
        if len(asked) < _REQUEST.size:
            os._exit(0)
        what, pid = _REQUEST.unpack(asked)
        if what == _FORK:
            answer = _fork(lambda: (control.close(), work(fds[0])))
            os.close(fds[0])
        else:
            answer = _status(pid, REAP_S if what == _REAP else 0.0)
        control.sendall(_ANSWER.pack(answer))


def _fork(do: Callable[[], object]) -> int:
    """Return the number of a new process, which does this and ends."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()  # what is typed at a terminal is for the node
        do()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _status(pid: int, patience_s: float) -> int:
    until_s = time.monotonic() + patience_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until_s:
            os.kill(pid, signal.SIGKILL)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        time.sleep(0.01)


def _alone_with(control: socket.socket) -> socket.socket:
    """Let go of all other files but those of the standard, of which the input is empty then."""
    if control.fileno() < 3:
        low, control = control, control.dup()
        low.detach()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for fd in map(int, os.listdir('/proc/self/fd')):
        if fd > 2 and fd != control.fileno():
            try:
                os.close(fd)
            except OSError:
                pass  # that of the list itself
    return control
