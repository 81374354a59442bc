# SPDX-License-Identifier: Apache-2.0
"""TCP connections of this process are told to try often, and nothing else is touched."""

import os
import socket
import struct
import sys
import threading

import pytest

from hp_inference.link import tcp

pytestmark = pytest.mark.skipif(sys.platform != 'linux', reason='Linux only')

TCP_USER_TIMEOUT, TCP_RTO_MAX_MS = 18, 44


@pytest.fixture
def tender():
    tender = tcp.Tender()
    yield tender
    tender.close()
    assert not any(thread.name == 'tcp tender' for thread in threading.enumerate())


@pytest.fixture
def connection():
    with socket.create_server(('127.0.0.1', 0)) as listening, \
            socket.create_connection(listening.getsockname()) as one:
        other, _ = listening.accept()
        with other:
            yield one


@pytest.fixture
def old_kernel(monkeypatch):
    monkeypatch.setattr(tcp, '_TCP_RTO_MAX_MS', 9999)


def newest(one):
    try:
        return one.getsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS)
    except OSError:
        pytest.skip('Linux before 6.15')


def info(retransmits, last_ack_ms):
    data = bytearray(104)
    data[2] = retransmits
    struct.pack_into('=I', data, 56, last_ack_ms)
    return bytes(data)


def test_a_connection_tries_at_least_every_second(tender, connection):
    assert newest(connection) > 1000
    tender.look()
    assert newest(connection) == 1000
    # Tries that often are soon used up; the connection must not break by their number.
    assert connection.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 24 * 3600 * 1000


def test_one_that_knows_is_not_told_again(tender, connection):
    newest(connection)
    assert tender.look() >= 2
    assert tender.look() == 0


def test_a_new_connection_is_found(tender):
    with socket.create_server(('127.0.0.1', 0)) as listening:
        newest(listening)
        tender.look()
        with socket.create_connection(listening.getsockname()) as one:
            tender.look()
            assert newest(one) == 1000


def test_other_descriptors_are_left_alone(tender, old_kernel):
    before = len(os.listdir('/proc/self/fd'))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM), \
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), open('/dev/null'):
        tender.look()
    tender.look()
    assert len(os.listdir('/proc/self/fd')) == before


def test_an_old_kernel_gives_a_connection_that_is_answered_its_own_patience(
        tender, old_kernel, connection):
    tender.look()
    assert connection.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) == 0


def test_patience_stays_ahead_of_the_silence_whatever_answers_end_nothing(tender):
    assert tender._patience_ms('a', info(0, 9000), 100.0) == 0
    assert tender._patience_ms('a', info(1, 400), 100.0) == 1900
    assert tender._patience_ms('a', info(2, 3400), 103.0) == 4900
    # The link is back, the other side's own retransmission has come, nothing is acknowledged yet.
    assert tender._patience_ms('a', info(3, 10), 104.0) == 5900
    assert tender._patience_ms('a', info(0, 10), 104.1) == 0
    assert tender._patience_ms('a', info(1, 300), 200.0) == 1800
