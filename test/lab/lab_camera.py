# SPDX-License-Identifier: Apache-2.0
"""
Shows images on the robot's host, one after the other, and tells of each answer in a line of JSON.

Ends, with status 1, at the first image that is not answered.
"""

import json
from pathlib import Path
import sys
import time

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / 'nodes'), str(TESTS)]
import rclpy  # noqa: E402
from ros_rig import Client, error_of, pixels  # noqa: E402

from hp_inference.nodes import qos  # noqa: E402

rclpy.init()
client = Client(image_qos=qos.RESULTS)
client.ready()
seed = 0
while True:
    seed += 1
    result = client.ask(client.image(seed), 5.0)
    print(json.dumps({'at_s': time.monotonic(), 'error': error_of(result, pixels(seed)),
                      'on': result.computed_on, 'why': result.fallback_reason,
                      'frame': result.frame, 'dropped': result.frames_dropped,
                      'latency_s': result.latency_s}), flush=True)
    client.spin(0.02)
