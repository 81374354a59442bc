# SPDX-License-Identifier: Apache-2.0
"""
Holds the two namespaces of a Lab and takes them down when its owner has closed or died.

Started by lab.py as a process in a session of its own, so that what kills the owner spares it.
Prints one JSON line with its process id and the file descriptors of the namespaces once they are
there. Needs nothing but the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
import select
import signal
import subprocess
import sys
import time

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000


def new_host() -> dict[str, int]:
    """
    Enter a new network without interfaces and a new /dev/shm; return descriptors of both.

    Two hosts share no memory, so a transport that tries to must find out here, too.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments) -> None:
        if getattr(libc, name)(*arguments) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f'{name}: {os.strerror(error)}')
    call('unshare', CLONE_NEWNET | CLONE_NEWNS)
    call('mount', b'none', b'/', None, MS_REC | MS_PRIVATE, None)
    call('mount', b'tmpfs', b'/dev/shm', b'tmpfs', 0, b'mode=1777')
    return {kind: os.open(f'/proc/self/ns/{kind}', os.O_RDONLY) for kind in ('net', 'mnt')}


def inhabitants(networks: set[int]) -> list[int]:
    """Return the processes, other than this one, that live in one of the networks."""
    found = []
    for entry in os.listdir('/proc'):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                if os.stat(f'/proc/{entry}/ns/net').st_ino in networks:
                    # A zombie has no namespace any more, so it does not come here.
                    found.append(int(entry))
            except OSError:
                pass  # it has just ended
    return found


def clean_up(networks: set[int], groups: Path) -> None:
    """Kill who lives in the networks and remove the CPU groups, for at most 5 seconds."""
    end, quiet = time.monotonic() + 5, 0
    while quiet < 2 and time.monotonic() < end:  # one may have been on its way in
        living = inhabitants(networks)
        quiet = 0 if living else quiet + 1
        for pid in living:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    if groups.is_dir():
        for group in (*groups.iterdir(), groups):
            while group.is_dir() and time.monotonic() < end:
                try:
                    group.rmdir()
                except OSError:  # the dead have not quite left yet
                    time.sleep(0.02)


def main() -> None:
    """Make the namespaces, wait for the owner's end, clean up: OWNER_PID GROUPS_DIRECTORY."""
    owner, groups = int(sys.argv[1]), Path(sys.argv[2])
    for name in ('SIGINT', 'SIGTERM', 'SIGHUP'):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The pipe says that the owner has closed, the other that it has died, even when a child that
    # it forked still holds the pipe.
    poll = select.poll()
    poll.register(sys.stdin, select.POLLHUP | select.POLLIN)
    poll.register(os.pidfd_open(owner), select.POLLIN)
    robot = new_host()
    server = new_host()
    subprocess.run(['nsenter', f'--net=/proc/{os.getpid()}/fd/{robot["net"]}', 'ip', 'link',
                    'add', 'wifi', 'type', 'veth', 'peer', 'name', 'wifi', 'netns',
                    str(os.getpid())], check=True)
    print(json.dumps({'pid': os.getpid(), 'robot': robot, 'server': server}), flush=True)
    poll.poll()
    networks = {os.fstat(side['net']).st_ino for side in (robot, server)}
    clean_up(networks, groups)


if __name__ == '__main__':
    main()
