# SPDX-License-Identifier: Apache-2.0
"""The robot's node: images in, results out, rows to and from the server."""

from __future__ import annotations

from collections import deque
from statistics import median
import sys
import time

import rclpy
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CompressedImage, Image

from hp_inference import __version__
from hp_inference.link.errors import Aborted, BadChunk
from hp_inference.nodes import qos
from hp_inference.nodes.convert import (
    chunk_from_msg,
    chunk_to_msg,
    digest_from_msg,
    digest_to_msg,
    span_from_msg,
    span_to_msg,
    tensor_to_msg,
)
from hp_inference.nodes.diagnostics import OK, Updater, WARN
from hp_inference.nodes.images import from_compressed, from_image
from hp_inference.nodes.managed import ManagedNode, run
from hp_inference.nodes.params import ROBOT
from hp_inference.nodes.plans import Plans
from hp_inference.nodes.profiling import PROFILED, Profiling
from hp_inference.nodes.worker import Worker
from hp_inference.runtime import frames
from hp_inference.runtime.pixels import fit
from hp_inference.runtime.robot import FrameResult, RobotEngine
from hp_msgs.msg import (
    DeviceProfile,
    FrameMetrics,
    FrameReport,
    FrameTimeline,
    InferenceResult,
    ServerStatus,
    TensorChunk,
)

# The figures that InferenceResult, FrameMetrics and FrameResult have in common.
FIGURES = ('frame', 'plan_index', 'fallback', 'latency_s', 'queue_s', 'preprocess_s',
           'robot_compute_s', 'robot_wait_s', 'server_compute_s', 'server_wait_s', 'sent_bytes',
           'received_bytes')
# Results remembered for the statistics in the log.
REMEMBERED = 1000
# Characters of a text from the server that are passed on.
TEXT = 1000
# How often the robot looks whether its server is still there.
LOOK_S = 0.5
# The same reason for dropping images is logged again after this time.
REPEAT_S = 2.0


class RobotNode(ManagedNode):
    """Answers every image, alone or together with a server."""

    def __init__(self):
        super().__init__('robot_node', ROBOT)
        self.layout = self.engine = self.diagnostics = self.worker = None
        self.publishers_made: list = []
        self.subscriptions_made: list = []
        self.timers_made: list = []
        self.latencies: deque[float] = deque(maxlen=REMEMBERED)
        self.last_reason, self.last_result_s = '', None
        self.last_drop, self.last_drop_s = '', 0.0
        self.server_seen = False
        self.plans = Plans(self)
        self.profiling = Profiling(self, DeviceProfile.ROBOT, self._announce_profile)
        self.params.on_change(self._on_change)

    def configure(self) -> None:
        """Load the model, build the plan table, open the topics."""
        self.layout = self.open_model()
        table = self.plans.given()
        self._result = self.advertise(InferenceResult, 'result', qos.RESULTS, overridable=True)
        self._metrics = self.advertise(FrameMetrics, 'metrics', qos.METRICS)
        self._timeline = self.advertise(FrameTimeline, 'timeline', qos.METRICS)
        self._uplink = self.advertise(TensorChunk, 'uplink', qos.CHUNKS, overridable=True)
        self._profile = self.advertise(DeviceProfile, 'robot_profile', qos.LATCHED)
        self.engine = RobotEngine(self.layout, table, self._send, self._publish, self._dropped,
                                  self.params.deadline_s)
        self.worker = Worker(self, 'robot worker')
        self.plans.open()
        self.listen(Image, 'image', lambda msg: self._on_image(msg, from_image), qos.IMAGES)
        self.listen(CompressedImage, 'image/compressed',
                    lambda msg: self._on_image(msg, from_compressed), qos.IMAGES)
        self.listen(TensorChunk, 'downlink', self._on_chunk, qos.CHUNKS)
        self.listen(FrameReport, 'frame_report', self._on_report, qos.REPORTS)
        self._status = self.listen(ServerStatus, 'server_status', self._on_status, qos.LATCHED)
        self.diagnostics = Updater(self, self.params.device)
        self.diagnostics.add('inference', self._diagnose)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a simulation's clock may stand still
        self.timers_made = [
            self.create_timer(self.params.log_every_s, self._log_statistics, clock=steady),
            self.create_timer(LOOK_S, self._look_for_server, clock=steady)]

    def cleanup(self) -> None:
        """Stop the engine and leave the topics."""
        for timer in self.timers_made:
            self.destroy_timer(timer)
        for subscription in self.subscriptions_made:
            self.destroy_subscription(subscription)
        if self.diagnostics:
            self.diagnostics.destroy()
        if self.worker:
            self.worker.close()
        self.profiling.forget()
        self.plans.forget()
        if self.engine:  # after what calls it, before what it calls
            self.engine.close()
        for publisher in self.publishers_made:
            self.destroy_lifecycle_publisher(publisher)
        self.timers_made, self.subscriptions_made, self.publishers_made = [], [], []
        self.engine = self.diagnostics = self.layout = self.worker = None

    def announce(self) -> None:
        """Publish the plan table, the name of the plan in force, and the device's profile."""
        self.plans.announce()
        self._announce_profile()

    def advertise(self, kind, topic, profile, **more):
        """Return a publisher that goes when the node is cleaned up."""
        self.publishers_made.append(self.create_lifecycle_publisher(
            kind, topic, **qos.publisher(self, topic, profile, **more)))
        return self.publishers_made[-1]

    def listen(self, kind, topic, callback, profile):
        """Return a subscription that goes when the node is cleaned up."""
        self.subscriptions_made.append(self.create_subscription(
            kind, topic, callback,
            **qos.subscription(self, topic, profile,
                               overridable=profile in (qos.IMAGES, qos.CHUNKS))))
        return self.subscriptions_made[-1]

    def _on_change(self, values: dict) -> None:
        if self.engine:
            self.engine.deadline_s = self.params.deadline_s

    def _announce_profile(self) -> None:
        if self.profiling.message:
            self._profile.publish(self.profiling.message)

    def _on_image(self, msg, convert) -> None:
        if not self.active:
            return
        _, channels, height, width = self.params.input

        def prepare():
            if self.profiling.measuring:
                raise Aborted(PROFILED)
            pixels = convert(msg, channels, self.params.max_pixels)
            return fit(pixels, channels, height, width, self.params.resize)
        self.engine.submit(msg.header, prepare)

    def _on_chunk(self, msg: TensorChunk) -> None:
        try:
            self.engine.on_chunk(chunk_from_msg(msg))
        except BadChunk as error:
            self.get_logger().warning(f'from the server: {error}', throttle_duration_sec=1.0)

    def _on_report(self, msg: FrameReport) -> None:
        try:
            spans = [frames.Span(*span_from_msg(span)) for span in msg.spans]
        except ValueError as error:
            self.get_logger().warning(f'frame report: {error}', throttle_duration_sec=1.0)
            spans = []
        self.engine.on_report(frames.FrameReport(
            msg.session, msg.frame, msg.status, msg.text[:TEXT], msg.compute_s, msg.wait_s,
            msg.total_s, msg.received_bytes, spans))

    def _look_for_server(self) -> None:
        # A server that dies says nothing, and each frame sent to it would wait for its deadline.
        there = self.count_publishers(self._status.topic_name) > 0
        if self.server_seen and not there:
            self.engine.server_holds(b'', 'the server is gone')
            self.get_logger().warning('server: it is gone')
        self.server_seen = there

    def _on_status(self, msg: ServerStatus) -> None:
        graph, text, ready = self.layout.graph, msg.text[:TEXT], msg.ready
        if msg.model_digest != graph.digest:
            ready = False
            text = (f'the server has {msg.model[:TEXT]!r} with digest {msg.model_digest[:12]}, '
                    f'this robot {graph.model!r} with {graph.digest[:12]}: give both the same '
                    'model, weights and input size')
        elif msg.version != __version__:
            self.get_logger().warning(f'the server runs hp_inference {msg.version}, this robot '
                                      f'{__version__}: run the same version on both')
        digest = digest_from_msg(msg.table_digest) if ready else b''
        self.engine.server_holds(digest, text)
        self.get_logger().info(f'server: {text or "ready, table " + digest.hex()[:12]}')

    def _send(self, chunk, header) -> None:
        if rclpy.ok():
            self._uplink.publish(chunk_to_msg(chunk, header))

    def _dropped(self, header, reason: str) -> None:
        now = time.monotonic()
        if rclpy.ok() and (reason != self.last_drop or now - self.last_drop_s > REPEAT_S):
            self.last_drop, self.last_drop_s = reason, now
            self.get_logger().warning(f'image dropped: {reason}')

    def _publish(self, result: FrameResult) -> None:
        if not (self.active and rclpy.ok()):
            raise Aborted('the node is not active')
        # float: an integer in a double field (a sum of nothing is 0) aborts the whole process.
        figures = {name: float(value) if name.endswith('_s') else value
                   for name in FIGURES for value in [getattr(result, name)]}
        figures.update(header=result.tag, frames_dropped=result.dropped, frames_late=result.late)
        self._result.publish(InferenceResult(
            **figures, plan=result.plan, table_digest=digest_to_msg(result.table_digest),
            computed_on=result.computed_on, fallback_reason=result.fallback_reason,
            outputs=[tensor_to_msg(name, tensor) for name, tensor in result.outputs.items()]))
        self._metrics.publish(FrameMetrics(**figures))
        if self._timeline.get_subscription_count():
            self._timeline.publish(FrameTimeline(
                header=result.tag, frame=result.frame, plan=result.plan,
                spans=[span_to_msg(s.lane, s.label, s.start_s, s.duration_s)
                       for s in result.spans]))
        if result.fallback and result.fallback_reason != self.last_reason:
            self.get_logger().warning(f'frame {result.frame} computed on the robot alone: '
                                      f'{result.fallback_reason}')
        self.last_reason, self.last_result_s = result.fallback_reason, time.monotonic()
        self.latencies.append(result.latency_s)

    def _log_statistics(self) -> None:
        if not self.active:
            return
        counters = self.engine.counters
        if not self.latencies:
            topic = self.resolve_topic_name('image')
            self.get_logger().warning(
                f'no result in {self.params.log_every_s:g} s, {counters.dropped} images dropped'
                if counters.results or counters.dropped else
                f'no image yet on {topic} or {self.resolve_topic_name("image/compressed")}: '
                'remap image:=<camera topic>')
            return
        recent = list(self.latencies)
        self.latencies.clear()
        self.get_logger().info(
            f'{len(recent) / self.params.log_every_s:.1f} results/s, latency median '
            f'{median(recent) * 1e3:.1f} ms max {max(recent) * 1e3:.1f} ms, plan '
            f'{self.plans.name}, {counters.dropped} dropped, '
            f'{counters.alone} computed alone, {counters.late} of them late')

    def _diagnose(self):
        engine, counters = self.engine, self.engine.counters
        age = None if self.last_result_s is None else time.monotonic() - self.last_result_s
        text = self.last_reason and f'computing alone: {self.last_reason}'
        if age is None:
            text = f'no result yet; waiting for {self.resolve_topic_name("image")}'
        if self.profiling.measuring:
            text = PROFILED
        text = '; '.join(filter(None, (text, self.plans.refusal)))
        return WARN if text else OK, text or 'answering', {
            'model': self.layout.graph.model, 'model_digest': self.layout.graph.digest,
            'plan': self.plans.name,
            'plan_table': engine.table.digest.hex(), 'results': counters.results,
            'dropped': counters.dropped, 'alone': counters.alone, 'late': counters.late,
            'stray_chunks': counters.stray_chunks, 'result_age_s': age, 'version': __version__}


def main(args: list[str] | None = None) -> None:
    """Run robot_node."""
    sys.exit(run(RobotNode, args))


if __name__ == '__main__':
    main()
