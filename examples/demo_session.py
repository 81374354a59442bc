# SPDX-License-Identifier: Apache-2.0
"""One run of the demo: wait for the nodes, show photographs plan by plan, gather the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
import time

from demo_client import Client
from demo_nodes import DemoError, NodeProcess
from demo_photos import Photo
from demo_report import HEAD, live_table, plain, Row, typical
from rich.console import Console
from rich.live import Live
import torch

from hp_inference.graph.capture import as_image_model, Preprocessing
from hp_inference.graph.models import load_model
from hp_inference.nodes.convert import span_from_msg, tensor_from_msg
from hp_inference.runtime.frames import Span
from hp_inference.runtime.pixels import fit
from hp_inference.runtime.reference import reference, worst_error
from hp_inference.show.timeline import draw, Panel, PREPARE
from hp_msgs.msg import FrameTimeline, InferenceResult

READY_S, WARM_UP_S = 180.0, 20.0
# An answer takes up to the deadline and then some; what has not come by then is a drop.
DRAIN_S = 5.0


class Session:
    """
    The rows so far, and what is still missing to complete the next ones.

    ``rows`` are the answered frames, ``shown`` counts the photographs shown under each plan.
    """

    def __init__(self, nodes: Sequence[NodeProcess], console: Console, tolerance: float):
        self.rows: list[Row] = []
        self.shown: dict[str, int] = {}
        self.live: Live | None = None
        self._nodes, self._console, self._tolerance = nodes, console, tolerance
        self._client = Client(self._on_result, self._on_timeline)
        self._wanted: dict[str, dict[str, torch.Tensor]] = {}
        self._results: dict[int, tuple[Photo, InferenceResult]] = {}
        self._warm = False

    def close(self) -> None:
        """Leave ROS."""
        self._client.close()

    def say(self, text: str) -> None:
        """Print text as it is."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def wait_ready(self) -> None:
        """Wait until both nodes can work together, showing what they log meanwhile."""
        begun = time.monotonic()
        with self._spinner('robot and server load the model'):
            while not self._client.ready:
                self._client.spin(0.2)
                seconds = time.monotonic() - begun
                for node in self._nodes:
                    for text in node.news():
                        self.say(f'{seconds:5.1f} s  {node.name}: {text}')
                for node in self._nodes:
                    node.check()
                if seconds > READY_S:
                    raise DemoError('\n'.join([f'the nodes are not ready after {READY_S:.0f} s',
                                               *(node.tail() for node in self._nodes)]))

    def ask_unsplit(self, photos: Sequence[Photo]) -> None:
        """Let the unsplit model, loaded once more in this process, answer all photographs."""
        p = self._client.robot_parameters('model', 'weights', 'seed', 'input', 'mean', 'std',
                                          'resize')
        shape = tuple(p['input'])
        with self._spinner('the unsplit model answers the photographs'):
            model = as_image_model(load_model(p['model'], p['weights'], p['seed']), shape,
                                   Preprocessing(tuple(p['mean']), tuple(p['std'])))
            for photo in photos:
                image = fit(photo.pixels, *shape[1:], p['resize'])
                self._wanted[photo.name] = reference(model, image)
        self.say(f'the unsplit {p["model"]} has answered {len(photos)} photographs')

    def warm_up(self, photo: Photo) -> None:
        """Show one photograph until robot and server have answered it together."""
        end = time.monotonic() + WARM_UP_S
        while not self._warm and time.monotonic() < end:
            self._client.show(photo)
            self._client.spin_until(lambda: not self._client.waiting, 1.0)
        self._settle()

    def run_plan(self, plan: str, photos: Iterator[Photo], seconds: float, rate: float) -> None:
        """Show photographs under a plan, then wait for the last answers; raises DemoError."""
        name = self._client.use_plan(plan)
        self.shown.setdefault(name, 0)
        if not self.live:
            self.say(f'\n{plain(HEAD)}')
        begun, count = time.monotonic(), 0
        while (passed := time.monotonic() - begun) < seconds:
            self._client.show(next(photos))
            count += 1
            for node in self._nodes:
                node.check()
            self._client.spin(count / rate - passed)
        self.shown[name] += count
        self._settle()

    def picture(self, path: Path) -> None:
        """Draw where the time of one frame of each plan went."""
        rows = [typical([row for row in self.rows if row.plan == plan]) for plan in self.shown]
        panels = [Panel(f'{row.plan}:  answer after {1e3 * row.latency_s:.0f} ms,  '
                        f'{row.sent_bytes / 1e3:.0f} kB sent,  '
                        f'{row.received_bytes / 1e3:.0f} kB received', row.spans, row.latency_s)
                  for row in rows if row]
        if panels:
            draw(panels, path, 'One frame of each plan')
            self.say(f'where the time of one frame of each plan went: {path}')

    def _on_result(self, photo: Photo, result: InferenceResult) -> None:
        if self.shown:
            self._results[result.frame] = photo, result
        else:
            self._warm = not result.fallback

    def _on_timeline(self, timeline: FrameTimeline) -> None:
        # The time line of a frame follows its result.
        if timeline.frame in self._results:
            self._complete(timeline.frame, [Span(*span_from_msg(s)) for s in timeline.spans])

    def _settle(self) -> None:
        """Wait for what is on its way; rows whose time line stays out go without."""
        self._client.spin_until(lambda: not self._client.waiting and not self._results, DRAIN_S)
        for frame in list(self._results):
            self._complete(frame, [])
        self._client.waiting.clear()

    def _complete(self, frame: int, spans: list[Span]) -> None:
        photo, result = self._results.pop(frame)
        got = {tensor.name: tensor_from_msg(tensor) for tensor in result.outputs}
        begin = result.queue_s + result.preprocess_s
        spans = [Span(s.lane, s.label, s.start_s + begin, s.duration_s) for s in spans]
        if spans:
            spans.insert(0, Span('robot', PREPARE, result.queue_s, result.preprocess_s))
        self.rows.append(Row(
            result.frame, result.plan, f'{photo.name} {photo.way}', result.latency_s,
            result.sent_bytes, result.received_bytes, worst_error(got, self._wanted[photo.name]),
            result.fallback_reason, spans))
        if self.live:
            self.live.update(live_table(self.rows, self._tolerance), refresh=True)
        else:
            self.say(plain(self.rows[-1].cells()))

    def _spinner(self, text: str):
        return self._console.status(text) if self._console.is_terminal else nullcontext()
