# SPDX-License-Identifier: Apache-2.0
"""The robot's node: images in, results out, rows to and from the server."""

from __future__ import annotations

from collections import deque
from statistics import median
import time

import rclpy
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CompressedImage, Image

from hp_inference import __version__
from hp_inference.link.errors import Aborted
from hp_inference.link.keys import own_key
from hp_inference.nodes import qos
from hp_inference.nodes.convert import digest_to_msg, span_to_msg, tensor_to_msg
from hp_inference.nodes.diagnostics import OK, Updater, WARN
from hp_inference.nodes.images import from_compressed, from_image
from hp_inference.nodes.managed import end, run
from hp_inference.nodes.model import ModelNode
from hp_inference.nodes.neighbours import Neighbours
from hp_inference.nodes.params import ROBOT
from hp_inference.nodes.plans import Plans
from hp_inference.nodes.profiling import PROFILED, Profiling
from hp_inference.nodes.server_port import ServerPort
from hp_inference.nodes.topics import Topics
from hp_inference.nodes.worker import Worker
from hp_inference.runtime.energy import FrameEnergy
from hp_inference.runtime.intake import Intake, prepare
from hp_inference.runtime.meters import find_meter
from hp_inference.runtime.pixels import fit
from hp_inference.runtime.robot import FrameResult, RobotEngine
from hp_inference.runtime.spans import busy_s
from hp_inference.text import line, NAME
from hp_msgs.msg import DeviceProfile, FrameMetrics, FrameTimeline, InferenceResult

# The figures that InferenceResult, FrameMetrics and FrameResult have in common.
FIGURES = ('frame', 'plan_index', 'fallback', 'latency_s', 'queue_s', 'preprocess_s',
           'robot_compute_s', 'robot_wait_s', 'server_compute_s', 'server_wait_s', 'sent_bytes',
           'received_bytes', 'predicted_s', 'deadline_s', 'bandwidth_bytes_per_s', 'computed_on')
RADIO = ('uplink', 'downlink')
# Results remembered for the statistics in the log.
REMEMBERED = 1000
# How often the robot looks who else is there.
LOOK_S = 0.5
# What reads planned tables is kept for the next one so long: it takes 150 MB. [s]
INTAKE_S = 60.0
# The same reason for dropping images is logged again after this time.
REPEAT_S = 2.0


class RobotNode(ModelNode):
    """Answers every image, alone or together with a server."""

    def __init__(self):
        super().__init__('robot_node', ROBOT)
        self.layout = self.engine = self.diagnostics = self.worker = self.server = None
        self.topics: Topics | None = None
        self.intake: Intake | None = None
        self.energy: FrameEnergy | None = None
        self.timers_made: list = []
        self.latencies: deque[float] = deque(maxlen=REMEMBERED)
        self.last_reason, self.last_result_s = '', None
        self.last_drop, self.last_drop_s = '', 0.0
        self.plans = Plans(self)
        self.profiling = Profiling(self, DeviceProfile.ROBOT, self._announce_profile)
        self.params.on_change(self._on_change)

    def configure(self) -> None:
        """Load the model, build the plan table, open the topics."""
        key = own_key(self.params.key_file)
        self.layout = self.open_model()
        table = self.plans.given()
        self.topics = topics = Topics(self, key, 'robot', troubled=self._on_trouble)
        self._result = topics.advertise(InferenceResult, 'result', qos.RESULTS)
        self._metrics = topics.advertise(FrameMetrics, 'metrics', qos.METRICS)
        self._timeline = topics.advertise(FrameTimeline, 'timeline', qos.METRICS)
        self._profile = topics.advertise(DeviceProfile, 'robot_profile', qos.LATCHED)
        self.server = ServerPort(self)
        self.plans.learn(table)
        self.engine = RobotEngine(self.layout, table, self.server.transport, self._publish,
                                  self._dropped, self.params.deadline_s,
                                  pick=self.plans.switching.pick,
                                  took=self.plans.switching.took)
        self.worker = Worker(self, 'robot worker')
        self.intake = Intake(self.layout, self.worker.check, INTAKE_S)
        self.plans.open()
        topics.listen(Image, 'image', lambda msg: self._on_image(msg, from_image), qos.IMAGES,
                      most=self._most_of_image)
        topics.listen(CompressedImage, 'image/compressed',
                      lambda msg: self._on_image(msg, from_compressed), qos.IMAGES,
                      most=self._most_of_image)
        self.server.listen()
        self._robots = Neighbours(
            self, self.resolve_topic_name('plan_table'), 'robot', 'Give each robot a namespace of '
            'its own: on the same topics they answer the same images and hear what is meant for '
            'each other')
        self.diagnostics = Updater(self, self.params.device)
        self.diagnostics.add('inference', self._diagnose)
        self.diagnostics.add('security', topics.sealing.diagnose)
        self.timers_made = [self._every(self.params.log_every_s, self._log_statistics),
                            self._every(LOOK_S, self._look)]

    def cleanup(self) -> None:
        """Stop the engine and leave the topics."""
        for timer in self.timers_made:
            self.destroy_timer(timer)
        if self.topics:
            self.topics.deafen()
        if self.diagnostics:
            self.diagnostics.destroy()
        if self.worker:
            self.worker.close()
            self.intake.close()
        self.profiling.forget()
        self.plans.forget()
        if self.engine:  # after what calls it, before what it calls
            self.engine.close()
            self.server.close()
        if self.energy:
            self.energy.close()
        if self.topics:
            self.topics.close()
        self.timers_made = []
        self.engine = self.diagnostics = self.layout = self.worker = self.server = None
        self.energy = self.intake = self.topics = None

    def count_energy(self) -> None:
        """Count joules by a meter, or else by the watts that are known now; others, anew."""
        power, before = self.plans.power, self.energy
        if before and power == self._power:
            return
        self.energy, self._power = FrameEnergy(power, find_meter(self.params.device)), power
        if before:
            before.close()
        self.get_logger().info(f'energy of frames: {self.energy.source}')

    def announce(self) -> None:
        """Publish the plan table, the name of the plan in force, and the device's profile."""
        self.plans.announce()
        self._announce_profile()

    def _every(self, period_s: float, callback):
        """Return a timer; a simulation's clock may stand still."""
        return self.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_change(self, values: dict) -> None:
        if self.engine:
            if 'log_every_s' in values:
                self.latencies.clear()
                self.destroy_timer(self.timers_made[0])
                self.timers_made[0] = self._every(self.params.log_every_s, self._log_statistics)
            self.engine.deadline_s = self.params.deadline_s
            self.server.pacer.limit_mbit_s = self.params.limit_mbit_s
            if any(name.startswith('power.') for name in values):
                self.count_energy()

    def _on_trouble(self, text: str) -> None:
        """Let answers say why there is no server, where there may be one with another key."""
        if self.params.key_file and not self.topics.sealing.knows('server'):
            self.engine.server.status(0, b'', text)

    def _look(self) -> None:
        self.server.look()
        self._robots.look()
        self.plans.look()
        self.intake.look()

    def _announce_profile(self) -> None:
        if self.profiling.message:
            self._profile.publish(self.profiling.message)

    def _most_of_image(self) -> int:
        """Return the size of the largest image's message: four bytes a pixel, padded rows."""
        return 4 * self.params.max_pixels + (1 << 20)

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
        figures.update(header=result.tag, frames_dropped=result.dropped, frames_late=result.late,
                       energy_j=self.aside(self._joules, result, otherwise=0.0))
        self._result.publish(InferenceResult(
            **figures, plan=line(result.plan, NAME),
            table_digest=digest_to_msg(result.table_digest),
            fallback_reason=line(result.fallback_reason),
            outputs=[tensor_to_msg(name, tensor) for name, tensor in result.outputs.items()]))
        self.last_result_s = time.monotonic()
        self.latencies.append(result.latency_s)
        # The answer is out; nothing from here on may count as its failure.
        self.aside(self._publish_metrics, figures)
        self.aside(self._publish_timeline, result)
        self.aside(self._log_result, result)

    def _publish_metrics(self, figures: dict) -> None:
        self._metrics.publish(FrameMetrics(**figures, energy_total_j=self.energy.total_j))

    def _publish_timeline(self, result: FrameResult) -> None:
        if self._timeline.get_subscription_count():
            self._timeline.publish(FrameTimeline(
                header=result.tag, frame=result.frame, plan=result.plan,
                spans=[span_to_msg(s.lane, s.label, s.start_s, s.duration_s)
                       for s in result.spans]))

    def _log_result(self, result: FrameResult) -> None:
        if result.fallback and result.fallback_reason != self.last_reason:
            self.get_logger().warning(f'frame {result.frame} computed on the robot alone: '
                                      f'{result.fallback_reason}')
        self.last_reason = result.fallback_reason

    def _joules(self, result: FrameResult) -> float:
        """Return what the frame cost, from its turn on to its answer."""
        now = time.monotonic()
        radio_s = (busy_s(result.spans, ('robot', *RADIO)) - busy_s(result.spans, ('robot',)))
        return float(self.energy.frame(now - result.latency_s + result.queue_s, now,
                                       result.preprocess_s + result.robot_compute_s, radio_s))

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
        text = '; '.join(filter(None, (self.server.trouble, self._robots.text, text,
                                       self.plans.trouble, self.plans.refusal)))
        known = self.plans.switching.bandwidth()
        return WARN if text else OK, text or 'answering', {
            'model': self.layout.graph.model, 'model_digest': self.layout.graph.digest,
            'plan': self.plans.name,
            'plan_table': engine.table.digest.hex(), 'results': counters.results,
            'dropped': counters.dropped, 'alone': counters.alone, 'late': counters.late,
            'stray_chunks': counters.stray_chunks, 'result_age_s': age,
            'bandwidth_mbit_s': None if known is None else known[0] * 8e-6,
            'bandwidth_source': None if known is None else known[1],
            'in_flight_bytes': self.server.pacer.in_flight_bytes,
            'energy_total_j': self.energy.total_j, 'energy_source': self.energy.source,
            'untold': self.aside.failures, 'version': __version__}


def main(args: list[str] | None = None) -> None:
    """Run robot_node."""
    prepare()
    end(run(RobotNode, args))


if __name__ == '__main__':
    main()
