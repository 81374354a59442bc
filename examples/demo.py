# SPDX-License-Identifier: Apache-2.0
"""
Robot and server on this machine answer real photographs together, as the unsplit model would.

Starts robot_node and server_node, shows them photographs under one plan after the other and
compares every answer. `make demo` runs it; see --help for the options (make demo ARGS='...').
Exit status: 0 all answers agree, 1 they do not or something failed, 130 interrupted.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack, nullcontext
from itertools import cycle
import os
from pathlib import Path
import sys
import time

ROOT = Path(__file__).resolve().parent.parent
# Before ROS and PyTorch are loaded: the demo is between processes of this host, one core each.
os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
os.environ.setdefault('OMP_NUM_THREADS', '1')

from demo_client import Client  # noqa: E402
from demo_nodes import DemoError, end_on_signals, NodeProcess  # noqa: E402
from demo_photos import find_photos, Photo  # noqa: E402
from demo_report import (  # noqa: E402
    complaints, fallbacks, HEAD, live_table, plain, Row, summary, typical)
import rclpy  # noqa: E402
from rclpy.signals import SignalHandlerOptions  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.live import Live  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402

from hp_inference.graph.capture import as_image_model, Preprocessing  # noqa: E402
from hp_inference.graph.models import load_model  # noqa: E402
from hp_inference.nodes.convert import span_from_msg, tensor_from_msg  # noqa: E402
from hp_inference.runtime.frames import Span  # noqa: E402
from hp_inference.runtime.pixels import fit  # noqa: E402
from hp_inference.runtime.reference import reference, TOLERANCE, worst_error  # noqa: E402
from hp_inference.show.timeline import draw, Panel, PREPARE  # noqa: E402
from hp_msgs.msg import FrameTimeline, InferenceResult  # noqa: E402

READY_S, WARM_UP_S = 180.0, 20.0
# A frame takes up to the deadline and then some; what has not come by then is a drop.
DRAIN_S = 5.0


class Demo:
    """The demo's state: the answers so far and what is still missing to complete a row."""

    def __init__(self, console: Console, tolerance: float):
        self.console, self.tolerance = console, tolerance
        self.client = Client(self._on_result, self._on_timeline)
        self.wanted: dict[str, dict[str, torch.Tensor]] = {}
        self.rows: list[Row] = []
        self.shown: dict[str, int] = {}
        self.title = ''
        self.live: Live | None = None
        self._results: dict[int, tuple[Photo, InferenceResult]] = {}

    def _on_result(self, photo: Photo, result: InferenceResult) -> None:
        self._results[result.frame] = photo, result

    def _on_timeline(self, timeline: FrameTimeline) -> None:
        """Complete a row: the time line of a frame follows its result."""
        if timeline.frame in self._results:
            self._finish(timeline.frame, [Span(*span_from_msg(span)) for span in timeline.spans])

    def _finish(self, frame: int, spans: list[Span]) -> None:
        photo, result = self._results.pop(frame)
        if result.plan not in self.shown:
            return  # of the warm-up
        got = {tensor.name: tensor_from_msg(tensor) for tensor in result.outputs}
        begin = result.queue_s + result.preprocess_s
        moved = [Span(s.lane, s.label, s.start_s + begin, s.duration_s) for s in spans]
        if moved:
            moved.append(Span('robot', PREPARE, result.queue_s, result.preprocess_s))
        row = Row(result.frame, result.plan, f'{photo.name} {photo.way}', result.latency_s,
                  result.sent_bytes, result.received_bytes,
                  worst_error(got, self.wanted[photo.name]), result.fallback_reason, moved)
        self.rows.append(row)
        if self.live:
            self.live.update(live_table(self.rows, self.title, self.tolerance), refresh=True)
        else:
            self.console.print(plain(row.cells()), markup=False, highlight=False, soft_wrap=True)

    def wait_ready(self, nodes: list[NodeProcess]) -> None:
        """Wait until both nodes can work together, showing what they log meanwhile."""
        begun = time.monotonic()
        with self._spinner('robot and server load the model'):
            while not self.client.ready:
                self.client.spin(0.2)
                seconds = time.monotonic() - begun
                for node in nodes:
                    for text in node.news():
                        self._say(f'{seconds:5.1f} s  {node.name}: {text}')
                for node in nodes:
                    node.check()
                if seconds > READY_S:
                    raise DemoError(f'the nodes are not ready after {READY_S:.0f} s. '
                                    + '\n'.join(node.tail() for node in nodes))

    def ask_unsplit(self, photos: list[Photo]) -> None:
        """Let the unsplit model, loaded once more in this process, answer all photographs."""
        p = self.client.robot_parameters('model', 'weights', 'seed', 'input', 'mean', 'std',
                                         'resize')
        _, channels, height, width = shape = tuple(p['input'])
        with self._spinner('the unsplit model answers the photographs'):
            model = as_image_model(load_model(p['model'], p['weights'], p['seed']), shape,
                                   Preprocessing(tuple(p['mean']), tuple(p['std'])))
            for photo in photos:
                image = fit(photo.pixels, channels, height, width, p['resize'])
                self.wanted[photo.name] = reference(model, image)
        self._say(f'the unsplit {p["model"]} has answered {len(photos)} photographs')

    def warm_up(self, photo: Photo) -> None:
        """Show one photograph until robot and server answer it together, or give up on that."""
        self.client.show(photo)
        end = time.monotonic() + WARM_UP_S
        while time.monotonic() < end:
            if self.client.spin_until(lambda: bool(self._results), 1.0):
                if not any(r.fallback for _, r in self._results.values()):
                    break
                self._results.clear()
            self.client.show(photo)
        self.client.spin(0.5)
        self._results.clear()
        self.client.waiting.clear()

    def run_plan(self, plan: str, photos, seconds: float, rate: float,
                 nodes: list[NodeProcess]) -> None:
        """Show photographs under a plan, then wait for the last answers."""
        self.client.use_plan(plan)
        self.shown[plan] = 0
        self.title = f'plan {plan}'
        if not self.live:
            self._say(f'\n{self.title}\n{plain(HEAD)}')
        begun = time.monotonic()
        while (late := time.monotonic() - begun) < seconds:
            self.client.show(next(photos))
            self.shown[plan] += 1
            for node in nodes:
                node.check()
            self.client.spin(max(0.0, self.shown[plan] / rate - late))
        self.client.spin_until(lambda: not self.client.waiting and not self._results, DRAIN_S)
        for frame in list(self._results):
            self._finish(frame, [])
        self.client.waiting.clear()

    def draw(self, path: Path) -> None:
        """Write the picture of one frame of each plan."""
        panels = []
        for plan in self.shown:
            row = typical([row for row in self.rows if row.plan == plan])
            if row:
                panels.append(Panel(
                    f'{plan}:  {1e3 * row.latency_s:.0f} ms,  {row.sent_bytes / 1e3:.0f} kB sent, '
                    f'{row.received_bytes / 1e3:.0f} kB received', row.spans, row.latency_s))
        if panels:
            draw(panels, path, 'One frame of each plan')
            self._say(f'picture of where the time went: {path}')

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _spinner(self, text: str):
        return self.console.status(text) if self.console.is_terminal else nullcontext()
