# SPDX-License-Identifier: Apache-2.0
"""One run of the demo: wait for the nodes, step the link, show photographs, gather answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
import time

from demo_client import Client, NODES
from demo_link import Link
from demo_nodes import DemoError, NodeProcess
from demo_photos import Photo
from demo_picture import draw_link
from demo_report import ALONE, AWAY, HEAD, LIVE, live_table, Phase, plain, Row, typical
from rich.console import Console
from rich.live import Live
import torch

from hp_inference.nodes.convert import span_from_msg, tensor_from_msg
from hp_inference.runtime.frames import Span
from hp_inference.runtime.reference import worst_error
from hp_inference.show.timeline import draw, Panel, PREPARE
from hp_msgs.msg import Bandwidth, FrameTimeline, InferenceResult

READY_S, WARM_UP_S, WARM_UP_FRAMES = 180.0, 20.0, 5
# An answer takes up to the deadline and then some; what has not come by then is a drop.
DRAIN_S = 5.0
# What share of a phase is shown in which way.
SHARES = {LIVE: 0.5, ALONE: 0.25, AWAY: 0.25}
PANELS = 5
COMPUTED_ON = {InferenceResult.COMPUTED_ROBOT: 'robot', InferenceResult.COMPUTED_SERVER: 'server',
               InferenceResult.COMPUTED_BOTH: 'robot and server'}


@dataclass(frozen=True)
class Shown:
    """A photograph on its way; ``way`` '' while warming up."""

    photo: Photo
    seconds: float
    phase: int
    way: str


class Session:
    """
    The rows so far, and what is still missing to complete the next ones.

    ``wanted``: the unsplit model's answers by photograph. ``rows`` are the answered frames,
    ``shown`` counts the photographs shown by (phase, way).
    """

    def __init__(self, nodes: Mapping[str, NodeProcess], console: Console, tolerance: float,
                 wanted: Mapping[str, dict[str, torch.Tensor]]):
        self.rows: list[Row] = []
        self.phases: list[Phase] = []
        self.shown: Counter[tuple[int, str]] = Counter()
        self.live: Live | None = None
        self._nodes, self._console, self._tolerance = nodes, console, tolerance
        self._client = Client(self._on_result, self._on_timeline, self._on_bandwidth)
        self._wanted = wanted
        self._results: dict[int, tuple[Shown, InferenceResult]] = {}
        self._estimates: list[tuple[float, float]] = []  # time.monotonic, Mbit/s
        self._begun = 0.0
        self._warm = False

    def close(self) -> None:
        """Leave ROS."""
        self._client.close()

    def say(self, text: str) -> None:
        """Print text as it is."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def wait_ready(self) -> None:
        """Wait until the nodes can work together, showing what they log meanwhile."""
        begun = time.monotonic()
        while not self._client.ready:
            self._client.spin(0.2)
            seconds = time.monotonic() - begun
            for name, node in self._nodes.items():
                for text in node.news():
                    self.say(f'{seconds:5.1f} s  {name}: {text}')
            for node in self._nodes.values():
                node.check()
            if seconds > READY_S:
                raise DemoError('\n'.join([f'the nodes are not ready after {READY_S:.0f} s',
                                           *(node.tail() for node in self._nodes.values())]))

    def limit(self, mbit_s: float) -> None:
        """Let all nodes send no faster than this."""
        for node in NODES:
            self._client.set(node, limit_mbit_s=mbit_s)

    def warm_up(self, photo: Photo) -> None:
        """Wait for an answer of the server and an estimate of the link; use what is chosen."""
        def ask():
            self._client.show(photo, Shown(photo, 0.0, 0, ''))
            self._client.spin_until(lambda: not self._client.waiting, 1.0)
        end = time.monotonic() + WARM_UP_S
        self._client.set('robot_node', force_plan=AWAY)
        while not (self._warm and self._estimates) and time.monotonic() < end:
            ask()
        self._client.set('robot_node', force_plan='')
        for _ in range(WARM_UP_FRAMES):
            ask()
        self._settle()

    def run_phase(self, link: Link, mbit_s: float, photos: Iterator[Photo], seconds: float,
                  rate: float) -> None:
        """Change the link, and show photographs in one way after the other; raises DemoError."""
        link.rate(mbit_s)
        self._begun = self._begun or time.monotonic()
        self.phases.append(Phase(mbit_s, self._seconds()))
        if not self.live:
            self.say(f'\n{plain(HEAD)}')
        for way, share in SHARES.items():
            self._client.set('robot_node', force_plan='' if way == LIVE else way)
            self._show(way, photos, share * seconds, rate)
        self.seconds = self._seconds()

    def pictures(self, folder: Path, title: str) -> None:
        """Draw the run, and where the time of one frame of each plan went."""
        estimates = [(moment - self._begun, mbit_s) for moment, mbit_s in self._estimates
                     if 0 <= moment - self._begun <= self.seconds]
        draw_link(folder / 'link.png', self.phases, self.seconds, estimates, self.rows, title)
        self.say(f'the link and what each frame took: {folder / "link.png"}')
        names = dict.fromkeys(row.plan for row in self.rows)
        rows = [typical([row for row in self.rows if row.plan == name]) for name in names]
        panels = [Panel(f'{row.plan}:  answer after {1e3 * row.latency_s:.0f} ms,  '
                        f'{row.sent_bytes / 1e3:.0f} kB sent,  '
                        f'{row.received_bytes / 1e3:.0f} kB received', row.spans, row.latency_s)
                  for row in rows if row][:PANELS]
        if panels:
            draw(panels, folder / 'timeline.png', 'One frame of each plan')
            self.say(f'where the time of one frame of each plan went: {folder / "timeline.png"}')

    def _show(self, way: str, photos: Iterator[Photo], seconds: float, rate: float) -> None:
        phase, begun, count = len(self.phases) - 1, time.monotonic(), 0
        while (passed := time.monotonic() - begun) < seconds:
            photo = next(photos)
            self._client.show(photo, Shown(photo, self._seconds(), phase, way))
            count += 1
            for node in self._nodes.values():
                node.check()
            self._client.spin(count / rate - passed)
        self.shown[phase, way] += count
        self._settle()

    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    def _on_bandwidth(self, bandwidth: Bandwidth) -> None:
        self._estimates.append((time.monotonic(), 8e-6 * bandwidth.bytes_per_s))

    def _on_result(self, shown: Shown, result: InferenceResult) -> None:
        if shown.way:
            self._results[result.frame] = shown, result
        else:
            self._warm |= result.computed_on != InferenceResult.COMPUTED_ROBOT

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

    def _complete(self, frame: int, spans: Sequence[Span]) -> None:
        shown, result = self._results.pop(frame)
        got = {tensor.name: tensor_from_msg(tensor) for tensor in result.outputs}
        begin = result.queue_s + result.preprocess_s
        spans = [Span(s.lane, s.label, s.start_s + begin, s.duration_s) for s in spans]
        if spans:
            spans.insert(0, Span('robot', PREPARE, result.queue_s, result.preprocess_s))
        photo = shown.photo
        self.rows.append(Row(
            result.frame, shown.seconds, shown.phase, shown.way, self.phases[shown.phase].mbit_s,
            self._estimates[-1][1] if self._estimates else None, result.plan,
            f'{photo.name} {photo.way}', result.latency_s, result.predicted_s, result.energy_j,
            COMPUTED_ON[result.computed_on], result.sent_bytes, result.received_bytes,
            worst_error(got, self._wanted[photo.name]), result.fallback_reason, spans))
        if self.live:
            self.live.update(live_table(self.rows, self._tolerance), refresh=True)
        else:
            self.say(plain(self.rows[-1].cells()))
