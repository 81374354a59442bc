# SPDX-License-Identifier: Apache-2.0
"""The thread of a node for what takes long."""

from contextlib import closing
import threading
import time

import pytest

pytest.importorskip('rclpy')
import rclpy  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from ros_rig import Log  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.nodes import worker as module  # noqa: E402
from hp_inference.nodes.worker import Stopped, Worker  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def node():
    rclpy.init(args=[])
    node = rclpy.create_node('busy')
    node.log = Log()
    node.get_logger = lambda: node.log
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def until(done):
        end = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < end
            executor.spin_once(0.02)
    node.until = until
    yield node
    executor.shutdown()
    node.destroy_node()
    rclpy.try_shutdown()


def test_jobs_are_done_in_turn_elsewhere_and_what_they_give_is_handed_over_here(node):
    here, order = threading.get_ident(), []

    def job(number):
        order.append((number, threading.get_ident() == here))
        return 10 * number

    with closing(Worker(node, 'w')) as worker:
        for number in range(5):
            worker.submit(lambda number=number: job(number),
                          lambda made: order.append((made, threading.get_ident() == here)))
        node.until(lambda: len(order) == 10)
    assert [each for each in order if not each[1]] == [(n, False) for n in range(5)]
    assert [each for each in order if each[1]] == [(10 * n, True) for n in range(5)]


def test_what_a_job_raises_is_handed_over_and_the_next_one_is_done(node):
    made = []

    def fail(error):
        raise error

    with closing(Worker(node, 'w')) as worker:
        for error in (ValueError('as people say'), RuntimeError('a defect')):
            worker.submit(lambda error=error: fail(error), made.append)
        worker.submit(lambda: fail(KeyError('nobody asks')))
        worker.submit(lambda: 'done', made.append)
        node.until(lambda: len(made) == 3)
    assert [str(each) for each in made] == ['as people say', 'a defect', 'done']
    assert 'RuntimeError: a defect' in node.log and "KeyError: 'nobody asks'" in node.log
    assert 'as people say' not in node.log


def test_a_callback_that_fails_keeps_no_other_from_coming(node):
    made, held = [], threading.Event()

    def fail(_):
        raise RuntimeError('odd')

    with closing(Worker(node, 'w')) as worker:
        worker.submit(lambda: None, fail)
        worker.submit(lambda: 1, made.append)
        worker.submit(held.set)
        assert held.wait(WAIT_S)
        with pytest.raises(RuntimeError, match='odd'):
            node.until(lambda: made)
        node.until(lambda: made)
    assert made == [1]


def test_closing_ends_the_job_at_hand_and_forgets_the_rest(node):
    begun, made = threading.Event(), []
    worker = Worker(node, 'w')

    def endless():
        begun.set()
        while True:
            time.sleep(0.005)
            worker.check()
    worker.submit(lambda: 'before', made.append)
    worker.submit(endless, made.append)
    worker.submit(lambda: 'after', made.append)
    assert begun.wait(WAIT_S)
    worker.close()
    assert not [thread for thread in threading.enumerate() if thread.name == 'w']
    node.until(lambda: True)
    assert made == [] and node.log.lines == []
    with pytest.raises(Stopped):
        worker.check()


def test_a_job_that_does_not_end_is_left_behind(node, monkeypatch):
    monkeypatch.setattr(module, 'STOP_S', 0.05)
    begun, hold, ended = threading.Event(), threading.Event(), threading.Event()

    def deaf():
        begun.set()
        assert hold.wait(WAIT_S)
        ended.set()
        raise RuntimeError('nobody listens')
    worker = Worker(node, 'w')
    worker.submit(deaf, node.log.lines.append)
    assert begun.wait(WAIT_S)
    worker.close()
    hold.set()
    assert ended.wait(WAIT_S)
    worker._thread.join(WAIT_S)
    assert node.log.lines == []
