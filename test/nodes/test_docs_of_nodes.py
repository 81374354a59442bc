# SPDX-License-Identifier: Apache-2.0
"""The docs say what the nodes do; what needs no ROS of that is in test_docs.py."""

from importlib import import_module
from pathlib import Path
import re
import subprocess
import sys

import rclpy
import torch
from waits import until

from hp_inference.nodes import qos
from hp_inference.nodes.convert import tensor_to_msg
from hp_msgs.msg import InferenceResult

ROOT = Path(__file__).resolve().parents[2]


def test_the_parameters_are_described_as_they_are(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'docs'))
    generate = import_module('generate')
    assert generate.PARAMETERS.read_text('utf-8') == generate.parameters(), 'run make docs'


def test_the_code_in_the_readme_prints_the_results(tmp_path):
    code = re.search(r'```python\n(.*?)```', (ROOT / 'README.md').read_text('utf-8'), re.DOTALL)[1]
    log = tmp_path / 'log'
    with open(log, 'wb') as file:
        process = subprocess.Popen([sys.executable, '-uc', code], cwd=ROOT, stdout=file,
                                   stderr=subprocess.STDOUT)
    rclpy.init()
    node = rclpy.create_node('robot_node', namespace='robot1')
    result = node.create_publisher(InferenceResult, 'result', qos.RESULTS)
    answer = InferenceResult(latency_s=0.125, fallback_reason='because',
                             outputs=[tensor_to_msg('scores', torch.tensor([0.25, 0.75]))])

    def printed():
        assert process.poll() is None, log.read_text()
        result.publish(answer)
        return re.search(r"'scores': tensor\(\[0.2500, 0.7500\].* 0.125 s because\n",
                         log.read_text())
    try:
        until(printed, what=lambda: f'a line with the result in {log.read_text()!r}')
    finally:
        process.kill()
        process.wait()
        node.destroy_node()
        rclpy.try_shutdown()
