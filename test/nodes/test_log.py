# SPDX-License-Identifier: Apache-2.0
"""A node says any text in one printable line, and what can't be said costs nothing."""

import threading

import pytest

pytest.importorskip('rclpy')
import rclpy  # noqa: E402

from hp_inference.nodes.managed import ManagedNode  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def node():
    rclpy.init()
    node = ManagedNode('talker', ())
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def said(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line]


@pytest.mark.parametrize('text', ['\ud800', 'a\n[ERROR] [1.0] [other]: forged', 'a\x1b[2Jb', 'a\0b',
                                  'a\u2028b', 'x' * 5_000_000])
def test_any_text_is_said_in_one_line_of_the_nodes_own(node, capfd, text):
    log = node.get_logger()
    for say in (lambda: log.info(f'said: {text}'),
                lambda: log.warning(f'said: {text}'),
                lambda: log.error(f'said: {text}')):
        say()
        line, = said(capfd)
        assert '[talker]: said: ' in line and line.isprintable() and len(line) < 5000
    assert node.aside.failures == 0


def test_each_place_in_the_code_is_throttled_by_itself_as_by_rclpys_own(node, capfd):
    log = node.get_logger()
    for _ in range(3):
        log.warning('one', throttle_duration_sec=60.0)
        log.warning('two', throttle_duration_sec=60.0)
    assert [line.split()[-1] for line in said(capfd)] == ['one', 'two']


def test_a_traceback_is_indented_so_that_none_of_it_looks_like_a_line_of_the_log(node, capfd):
    try:
        raise RuntimeError('first\n[ERROR] [1.0] [other]: forged\ud800')
    except RuntimeError:
        node.get_logger().failed('a callback failed')
    first, second, *rest = said(capfd)
    assert first.endswith('[talker]: a callback failed:') and second.startswith('    Traceback')
    assert all(line.startswith('    ') for line in rest) and 'forged?' in rest[-1]


def test_a_logger_that_fails_costs_nothing_and_is_counted(node, capfd, monkeypatch):
    class Full:
        def __getattr__(self, level):
            raise OSError('No space left on device')
    monkeypatch.setattr(node._logger, 'log', lambda *_, **__: 1 / 0)
    node.get_logger().info('text')
    assert node.aside(lambda: Full().info, otherwise='went on') == 'went on'
    assert node.aside.failures >= 2  # each of both; that nobody could be told is another


def test_what_fails_beside_an_answer_is_said_once(node, capfd):
    def metric():
        raise ValueError('no such figure')
    for _ in range(3):
        assert node.aside(metric, otherwise=0.0) == 0.0
    line, = said(capfd)
    assert 'metric failed and is done without' in line and 'no such figure' in line


def test_threads_may_speak_at_once(node, capfd):
    threads = [threading.Thread(target=lambda: [node.get_logger().info('\ud800\n')
                                                for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said(capfd)) == 200 and node.aside.failures == 0
