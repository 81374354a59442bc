# SPDX-License-Identifier: Apache-2.0
"""The lab does to packets and threads what it says, and leaves nothing behind."""

import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

from lab import CONGESTION, CONGESTION_FILE, Lab, missing
import pytest
from quota import cpu_groups, GROUP_PREFIX
from simulated_time import SimulatedTime
from waits import until, WAIT_S

lacks = missing()
pytestmark = pytest.mark.skipif(bool(lacks), reason=f'no lab without {", ".join(lacks)}')

SPINNER = textwrap.dedent("""
    import threading
    def name(text):
        open(f'/proc/self/task/{threading.get_native_id()}/comm', 'w').write(text)
    def spin():
        name('spinning')
        while True:
            pass
    threading.Thread(target=spin, daemon=True).start()
    input()
    """)


@pytest.fixture(scope='module')
def lab():
    with Lab(50.0) as lab:
        yield lab


@pytest.fixture(autouse=True)
def as_new(lab):
    lab.loss(0.0)
    lab.blackout(False)
    lab.rate(50.0)


def lost(lab, packets=3000):
    """Return the fraction of UDP packets that do not arrive."""
    server = lab.server.popen([sys.executable, '-c', textwrap.dedent("""
        import socket
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_000_000)
        sock.bind(('', 9999))
        print('bound', flush=True)
        count = 0
        while sock.recv(2000) != b'end':
            count += 1
            sock.settimeout(0.5)
        print(count)
        """)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    server.stdout.readline()
    lab.robot.run([sys.executable, '-c', textwrap.dedent(f"""
        import socket, time
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.connect(({lab.server.address!r}, 9999))
        for i in range({packets}):
            sock.send(bytes(200))
            if i % 20 == 0:
                time.sleep(0.002)
        for _ in range(50):
            time.sleep(0.002)
            try:
                sock.send(b'end')
            except ConnectionRefusedError:
                break  # the server has had one and has gone
        """)], check=True, timeout=WAIT_S)
    return 1 - int(server.communicate(timeout=WAIT_S)[0]) / packets


def cpu_s(pid, name):
    """Return the CPU time of the threads of a name."""
    total = 0.0
    for task in Path(f'/proc/{pid}/task').iterdir():
        if (task / 'comm').read_text().strip() == name:
            total += int((task / 'schedstat').read_text().split()[0]) * 1e-9
    return total


def throttled(lab):
    """Return how often threads were stopped by their quota."""
    return sum(int(re.search(r'nr_throttled (\d+)', stat.read_text()).group(1))
               for stat in lab._groups.glob('thread_*/cpu.stat'))


def carries(lab, least):
    """Return what a stream gets; of a few the first that gets enough, as busy hosts send less."""
    carried = []
    while not carried or carried[-1] <= least:
        assert len(carried) < 8, carried
        carried.append(lab.iperf(1))
    return max(carried)


@pytest.mark.parametrize('mbit_s', [10.0, 100.0])
def test_tcp_gets_the_rate_less_its_headers(lab, mbit_s):
    lab.rate(mbit_s)
    assert carries(lab, 0.9 * mbit_s) < mbit_s


def test_the_rate_changes_under_a_running_stream(lab):
    lab.rate(100.0)
    changed = threading.Timer(1.0, lab.rate, [10.0])
    changed.start()
    both = lab.iperf(2)
    changed.join()
    assert 20 < both < 80  # half a time at 100, half at 10


def test_the_link_sees_single_packets(lab):
    lab.server.run(['nft', '-f', '-'], check=True, text=True, input=textwrap.dedent("""
        table netdev seen {
          chain arrivals {
            type filter hook ingress device wifi priority -1;
            meta length > 1514 counter
          }
        }
        """))
    lab.iperf(1)
    seen = lab.server.run(['nft', 'list', 'table', 'netdev', 'seen'], check=True, text=True,
                          capture_output=True).stdout
    assert 'counter packets 0 ' in seen


@pytest.mark.parametrize('fraction', [0.0, 0.03, 0.2])
def test_that_fraction_of_the_packets_is_lost(lab, fraction):
    lab.loss(fraction)
    assert lost(lab) == pytest.approx(fraction, abs=0.002 + fraction / 4)


def test_tcp_outlives_a_packet_loss_of_3_percent(lab):
    lab.loss(0.03)
    assert lab.iperf(2) > 0.6 * 50


def test_either_host_has_the_tcp_of_the_lab_whatever_this_machine_has(lab):
    for side in (lab.robot, lab.server):
        assert side.run(['cat', CONGESTION_FILE], capture_output=True, text=True,
                        check=True).stdout.strip() == CONGESTION


def test_nothing_passes_in_a_blackout_and_all_after_it(lab):
    ping = [sys.executable, '-c', textwrap.dedent("""
        import socket, sys
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(0.3)
        sock.connect((sys.argv[1], 9999))
        sock.send(b'ping')
        try:
            print(sock.recv(10))
        except (TimeoutError, socket.timeout):
            print('silence')
        """), lab.server.address]
    echo = lab.server.popen([sys.executable, '-u', '-c', textwrap.dedent("""
        import socket
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(('', 9999))
        print('bound')
        while True:
            data, sender = sock.recvfrom(10)
            sock.sendto(data, sender)
        """)], stdout=subprocess.PIPE, text=True)
    echo.stdout.readline()

    def answer():
        return lab.robot.run(ping, capture_output=True, text=True, timeout=WAIT_S).stdout.strip()
    answers = [answer()]
    for on in (True, False):
        lab.blackout(on)
        answers.append(answer())
    echo.kill()
    echo.communicate()
    assert answers == ["b'ping'", 'silence', "b'ping'"]


def test_a_record_is_played_in_its_time(lab, monkeypatch):
    clock, played = SimulatedTime(0.0), []
    monkeypatch.setattr('lab.time', clock)
    monkeypatch.setattr(lab, 'rate', lambda rate: played.append((clock.now, rate)))
    monkeypatch.setattr(lab, 'blackout', lambda on: (
        played.append((clock.now, on)), setattr(lab, '_black', on)))
    lab.follow([(7.0, 50.0), (7.1, 0.0), (7.2, 0.0), (7.3, 20.0)],
               SimpleNamespace(wait=clock.sleep))
    assert [what for _, what in played] == [50.0, True, 20.0, False]
    assert [when for when, _ in played] == pytest.approx([0.0, 0.1, 0.3, 0.3])


def test_a_record_stops_when_told(lab):
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    begin = time.monotonic()
    lab.follow([(0.0, 50.0), (10 * WAIT_S, 10.0)], stop)
    assert time.monotonic() - begin < WAIT_S


@pytest.mark.parametrize('factor', [2, 4])
def test_a_thread_gets_its_part_of_the_time_and_is_let_go(lab, factor):
    process = lab.robot.popen([sys.executable, '-c', SPINNER], stdin=subprocess.PIPE)
    try:
        assert lab.slow(process.pid, 'spinning', factor) == 1
        time.sleep(0.1)
        begin, used = time.monotonic(), cpu_s(process.pid, 'spinning')
        time.sleep(1.5)
        share = (cpu_s(process.pid, 'spinning') - used) / (time.monotonic() - begin)
        assert 0.5 / factor < share < 1.25 / factor  # less where the machine is busy
        lab.slow(process.pid, 'spinning', 1)
        assert throttled(lab) > 0
        before = throttled(lab)
        time.sleep(0.3)
        assert throttled(lab) == before
    finally:
        process.kill()
        process.communicate()


def test_bad_values_are_refused(lab, monkeypatch):
    monkeypatch.setattr('quota.THREADS_WITHIN_S', 0.1)
    for call, text in (
            (lambda: lab.rate(0), '0.01 to 1e5; blackout'),
            (lambda: lab.rate(float('nan')), 'rate of nan'),
            (lambda: lab.loss(1.5), 'fraction from 0 to 1'),
            (lambda: lab.slow(os.getpid(), 'x', 0.5), 'expected 1 to 100')):
        with pytest.raises(ValueError, match=text):
            call()
    with pytest.raises(RuntimeError, match="no thread named 'nobody'.*python|pytest"):
        lab.slow(os.getpid(), 'nobody', 2)


def test_what_limits_discovery_to_one_host_is_taken_out(lab):
    code = 'import os; print(os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE"))'
    done = lab.robot.run([sys.executable, '-c', code], capture_output=True, text=True,
                         env={**os.environ, 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'})
    assert done.stdout.strip() == 'SUBNET'


def test_two_labs_at_once_do_not_disturb_each_other(lab):
    with Lab(10.0) as other:
        results = {}
        threads = [threading.Thread(target=lambda name=name, one=one: results.update(
            {name: carries(one, least)})) for name, one, least in (
                ('lab', lab, 40), ('other', other, 8))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results['lab'] < 50 and results['other'] < 10
    assert carries(lab, 40) < 50


def test_a_killed_owner_leaves_nothing():
    mark = f'1000.{os.getpid()}'  # by which its processes can be told from others
    owner = subprocess.Popen([sys.executable, '-c', textwrap.dedent(f"""
        import subprocess, sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from lab import Lab
        lab = Lab(50.0)
        spinner = lab.robot.popen([sys.executable, '-c', {SPINNER!r}], stdin=subprocess.PIPE)
        lab.slow(spinner.pid, 'spinning', 4)
        # A grandchild in a session of its own.
        lab.server.popen(['setsid', 'sh', '-c', 'sleep {mark}1 & sleep {mark}2'])
        time.sleep(0.2)
        print(lab._keeper.pid, spinner.pid, flush=True)
        time.sleep(1000)
        """)], stdout=subprocess.PIPE, text=True, start_new_session=True)
    keeper, spinner = map(int, owner.stdout.readline().split())
    network = os.stat(f'/proc/{keeper}/ns/net').st_ino
    groups = set(cpu_groups().glob(f'{GROUP_PREFIX}{owner.pid}_*'))
    assert len(groups) == 1
    os.killpg(owner.pid, signal.SIGKILL)
    owner.communicate(timeout=WAIT_S)
    until(lambda: not any(os.path.exists(f'/proc/{keeper}/{name}') for name in ('exe', 'ns/net')),
          what="the keeper's end")
    assert not os.path.exists(f'/proc/{spinner}/exe')
    assert not any(group.exists() for group in groups)
    assert network not in [
        os.stat(path).st_ino for path in Path('/proc').glob('[0-9]*/ns/net') if path.exists()]
    assert not any(f'sleep\x00{mark}' in path.read_text() for path in Path('/proc').glob(
        '[0-9]*/cmdline') if path.exists())
