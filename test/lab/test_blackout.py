# SPDX-License-Identifier: Apache-2.0
"""A TCP connection that is looked after is back soon after a blackout."""

import os
from pathlib import Path
import subprocess
import sys
import textwrap
import time

from lab import Lab, missing
import pytest

lacks = missing()
pytestmark = pytest.mark.skipif(bool(lacks), reason=f'no lab without {", ".join(lacks)}')

ROOT = Path(__file__).resolve().parents[2]
RECEIVER = textwrap.dedent("""
    import socket, sys, time
    with socket.create_server(('', int(sys.argv[1]))) as listening:
        print('ready', flush=True)
        one, _ = listening.accept()
        while one.recv(1_000_000):
            print(time.monotonic(), flush=True)
    """)
SENDER = textwrap.dedent("""
    import socket, sys, time
    from hp_inference.link import tcp
    address, port, kernel = sys.argv[1:]
    if kernel == 'old':
        tcp._TCP_RTO_MAX_MS = 9999
    tender = tcp.Tender()
    with socket.create_connection((address, int(port))) as one:
        print('ready', flush=True)
        while True:
            one.send(bytes(1000))
            time.sleep(0.05)
    """)


def test_data_flow_again_within_two_seconds_after_a_blackout():
    kernels = {'7000': 'new', '7001': 'old'}
    with Lab(50.0) as lab:
        receivers, senders = {}, {}
        for port, kernel in kernels.items():
            receivers[port] = lab.server.popen(
                [sys.executable, '-c', RECEIVER, port], stdout=subprocess.PIPE, text=True)
            assert receivers[port].stdout.readline() == 'ready\n'
            senders[port] = lab.robot.popen(
                [sys.executable, '-c', SENDER, lab.server.address, port, kernel],
                stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
            assert senders[port].stdout.readline() == 'ready\n'
        time.sleep(0.6)
        lab.blackout(True)
        time.sleep(3.6)  # by itself TCP would try after 3.2 s, then not before 6.4 s
        lab.blackout(False)
        back = time.monotonic()
        silent_s = {kernels[port]: next(at for line in receiver.stdout
                                        if (at := float(line) - back) > 0)
                    for port, receiver in receivers.items()}
        for process in (*senders.values(), *receivers.values()):
            process.kill()
            process.communicate()
    assert max(silent_s.values()) < 2.0, silent_s
