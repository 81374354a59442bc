# SPDX-License-Identifier: Apache-2.0
"""Processes forked from one that is ready: they are there at once, and end with what made them."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from waits import until

from hp_inference.runtime.zygote import Gone, Zygote


def echo(fd: int) -> None:
    """Say what files there are, then answer each line with its length, 'x' with a failure."""
    with os.fdopen(fd, 'r+b', buffering=0) as file:
        file.write(' '.join(sorted(os.listdir('/proc/self/fd'))).encode() + b'\n')
        while (said := file.readline()):
            if said == b'x\n':
                raise ValueError('told to fail')
            file.write(b'%d\n' % len(said))


class Child:

    def __init__(self, zygote):
        self.zygote = zygote
        ours, theirs = socket.socketpair()
        with theirs:
            self.pid = zygote.make(theirs)
        self.file = ours.makefile('rwb', buffering=0)
        ours.close()
        self.files = self.file.readline().decode().split()

    def ask(self, text: bytes) -> bytes:
        self.file.write(text)
        return self.file.readline()


def status(pid: int) -> list[str]:
    """Return its state, its parent and so on."""
    with open(f'/proc/{pid}/stat') as file:
        return file.read().rsplit(')', 1)[1].split()


def parent_of(pid: int) -> int:
    return int(status(pid)[1])


def alive(pid: int) -> bool:
    try:
        return status(pid)[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.fixture(params=[True, False], ids=['forked', 'spawned'])
def zygote(request):
    made = Zygote(echo, fork=request.param)
    yield made
    made.close()


def test_each_works_by_itself_and_ends_when_it_is_told(zygote):
    first, second = Child(zygote), Child(zygote)
    assert first.ask(b'abc\n') == b'4\n' and second.ask(b'\n') == b'1\n'
    assert zygote.end(first.pid) == -signal.SIGKILL
    assert not alive(first.pid) and alive(second.pid)
    second.file.close()
    assert zygote.reap(second.pid) == 0
    assert Child(zygote).ask(b'abc\n') == b'4\n'


def test_how_one_ended_is_told(zygote):
    failing, killed = Child(zygote), Child(zygote)
    assert failing.ask(b'x\n') == b''
    assert zygote.reap(failing.pid) == 1
    os.kill(killed.pid, signal.SIGSEGV)
    assert zygote.reap(killed.pid) == -signal.SIGSEGV
    assert zygote.reap(Child(zygote).pid) == -signal.SIGKILL  # one that does not end by itself


@pytest.mark.parametrize('fork', [True, False])
def test_no_file_of_this_process_is_handed_on(tmp_path, fork):
    with open(tmp_path / 'secret', 'w') as file:
        os.set_inheritable(file.fileno(), True)
        zygote = Zygote(echo, fork)
    # The standard ones, its socket, and the folder that is just being listed.
    assert len(Child(zygote).files) == 5
    zygote.close()


def test_one_that_is_gone_is_said(zygote):
    child = Child(zygote)
    os.kill(parent_of(child.pid), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(Gone):
            Child(zygote)


PARENT = """
import os, socket, sys
from test_zygote import Child, echo, Zygote
child = Child(Zygote(echo, fork=True))
print(child.pid, flush=True)
sys.stdin.read()
os._exit(0)
"""


@pytest.mark.parametrize('how', [signal.SIGKILL, None])
def test_all_end_with_the_process_that_made_them(how):
    process = subprocess.Popen([sys.executable, '-c', f'import sys; sys.path[:] = {sys.path!r}'
                                + PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(process.stdout.readline())
    parent = parent_of(pid)
    assert alive(pid) and alive(parent)
    if how:
        process.send_signal(how)
    process.stdin.close()
    process.wait()
    until(lambda: not alive(pid) and not alive(parent))


def test_what_is_typed_at_a_terminal_is_for_the_process_that_made_them(zygote):
    child = Child(zygote)
    assert os.getsid(child.pid) != os.getsid(0)
