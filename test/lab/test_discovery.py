# SPDX-License-Identifier: Apache-2.0
"""Nodes on the two hosts of the lab find each other, with the settings for Wi-Fi and without."""

import os
import subprocess
import sys
import textwrap

from lab import host_environment, Lab, missing
import pytest

from hp_inference.link import dds

lacks = missing()
pytestmark = [pytest.mark.ros, pytest.mark.skipif(
    bool(lacks), reason=f'no lab without {", ".join(lacks)}')]

LISTENER = textwrap.dedent("""
    import rclpy
    from std_msgs.msg import String
    rclpy.init()
    node = rclpy.create_node('listener')
    node.create_subscription(String, 'words', lambda msg: print(msg.data, flush=True), 10)
    rclpy.spin(node)
    """)
TALKER = textwrap.dedent("""
    import rclpy
    from std_msgs.msg import String
    rclpy.init()
    node = rclpy.create_node('talker')
    words = node.create_publisher(String, 'words', 10)
    node.create_timer(0.1, lambda: words.publish(String(data='x' * 100_000)))
    rclpy.spin(node)
    """)


@pytest.mark.parametrize('name', [None, dds.TCP, dds.UDP])
def test_a_message_gets_from_host_to_host(name):
    env = host_environment()
    if name:
        env |= dict.fromkeys(dds.PROFILE_VARIABLES, str(dds.settings_file(os.environ, name)))
    with Lab(50.0) as lab:
        listener = lab.server.popen([sys.executable, '-c', LISTENER], env=env, text=True,
                                    stdout=subprocess.PIPE)
        talker = lab.robot.popen([sys.executable, '-c', TALKER], env=env)
        line = listener.stdout.readline()
        for process in (talker, listener):
            process.kill()
            process.wait()
        listener.stdout.close()
    assert len(line) == 100_001
