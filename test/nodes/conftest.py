# SPDX-License-Identifier: Apache-2.0
"""A node in the process of the test, beside a client that spins both."""

import gc
from pathlib import Path
import threading

import pytest


def _talking() -> set[str]:
    """Return the threads of this process that receive for Fast DDS."""
    found = set()
    for task in Path('/proc/self/task').glob('*/comm'):
        try:
            if task.read_text().startswith('dds.udp'):
                found.add(task.parent.name)
        except OSError:
            pass  # it has ended meanwhile
    return found


@pytest.fixture(autouse=True)
def gone_from_the_graph(monkeypatch):
    """
    Have nodes leave the graph when they are destroyed: the next test would talk to their ghosts.

    rclpy keeps a lifecycle node's services until Python collects its cycles. (A process of its own
    ends without that: to take Fast DDS down may take it for ever over TCP.)
    """
    from rclpy.lifecycle import LifecycleNode

    from hp_inference.nodes.managed import ManagedNode

    def destroy_node(node):
        LifecycleNode.destroy_node(node)
        node._state_machine.destroy_when_not_in_use()
    monkeypatch.setattr(ManagedNode, 'destroy_node', destroy_node, raising=False)
    before = _talking()
    yield
    if not _talking() <= before:
        gc.collect()  # one that could not even be made is in a cycle with what it raised
        assert _talking() <= before


@pytest.fixture
def node_here(monkeypatch):
    """
    Return a function that makes a node of a kind, configured and active, and a client.

    ``layouts`` are the captured models by name. All threads must be gone when the test is over.
    """
    import rclpy
    from rclpy.lifecycle import TransitionCallbackReturn
    from ros_rig import Client, given, Log

    from hp_inference.nodes.model import ModelNode
    before, made = set(threading.enumerate()), []

    def make(kind, layouts, start=True, **params):
        monkeypatch.setattr(ModelNode, 'open_model', lambda node: layouts[node.params.model])
        rclpy.init(args=given(params))
        node, client = kind(), Client()
        node.log = node._logger = Log()  # below what the nodes put around rclpy's logger
        client.executor.add_node(node)
        made.extend((node, client))
        if start:
            for transition in (node.trigger_configure, node.trigger_activate):
                assert transition() == TransitionCallbackReturn.SUCCESS
        return node, client
    yield make
    if made:
        node, client = made
        node.cleanup()
        client.close()
        node.destroy_node()
    rclpy.try_shutdown()
    assert set(threading.enumerate()) <= before
