# SPDX-License-Identifier: Apache-2.0
"""
A ROS domain for one run alone, however many runs there are on a machine.

    python test/own_domain.py COMMAND...    runs a command in a domain that no other run uses

The domain is kept by a lock on a file in the temporary folder for as long as the process lives that
took it; what it starts inherits ROS_DOMAIN_ID. Needs nothing but the standard library.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
import socket
import sys
import tempfile

# Up to 101, all ports of a domain are below those that the kernel gives out. 0 is everyone's.
DOMAINS = range(1, 102)
_kept: list[int] = []


def take(folder: Path | None = None) -> int:
    """
    Keep a domain until this process ends, put it into the environment and return it.

    Nothing of this process or its children is heard beyond this host. Raises RuntimeError when all
    are taken.
    """
    folder = folder or Path(tempfile.gettempdir())
    first = os.getpid() % len(DOMAINS)  # what has just ended may still be heard for a moment
    for domain in (*DOMAINS[first:], *DOMAINS[:first]):
        lock = _lock(folder / f'hp_inference_ros_domain_{domain}.lock')
        if lock is None:
            continue
        if _quiet(domain):
            _kept.append(lock)
            os.environ['ROS_DOMAIN_ID'] = str(domain)
            os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
            return domain
        os.close(lock)
    raise RuntimeError(f'all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use on this '
                       f'machine, by its ports or the locks hp_inference_ros_domain_* in {folder}: '
                       'end what runs there')


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock on a file, None where another holds it."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError:  # of another user's run
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _quiet(domain: int) -> bool:
    """Return whether nobody listens there who holds no lock: the user's own nodes."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(('', 7400 + 250 * domain))  # where a domain's participants are found
        except OSError:
            return False
    return True


def main() -> None:
    """Become a command that keeps a domain of its own."""
    if not sys.argv[1:]:
        sys.exit(__doc__)
    take()
    for lock in _kept:
        os.set_inheritable(lock, True)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == '__main__':
    main()
