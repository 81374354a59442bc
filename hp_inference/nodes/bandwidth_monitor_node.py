# SPDX-License-Identifier: Apache-2.0
"""The node that measures the link: acknowledgements in, bandwidth out; probes where none come."""

from __future__ import annotations

from array import array
import math
import secrets
import sys
import time

from rclpy.clock import Clock, ClockType

from hp_inference.link.acknowledgements import BadAck
from hp_inference.link.keys import own_key
from hp_inference.link.prober import Prober
from hp_inference.nodes import qos
from hp_inference.nodes.acknowledgements import ack_from_msg
from hp_inference.nodes.diagnostics import OK, Updater, WARN
from hp_inference.nodes.managed import ManagedNode, run
from hp_inference.nodes.params import MONITOR
from hp_inference.nodes.topics import Topics
from hp_msgs.msg import Bandwidth, LinkReport, Probe

# How often it is looked whether a probe is due or the link silent.
LOOK_S = 0.05
# A change by this factor is published at once.
STEP = 1.25


class BandwidthMonitorNode(ManagedNode):
    """Says what the link from this robot to its server carries."""

    def __init__(self):
        super().__init__('bandwidth_monitor_node', MONITOR)
        self.prober = self.diagnostics = self.topics = None
        self.acks = 0
        self.timers_made: dict[str, object] = {}
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._published: float | None = None
        self.params.on_change(self._on_change)

    def configure(self) -> None:
        """Open the topics."""
        self.topics = Topics(self, own_key(self.params.key_file), 'monitor')
        self._session = secrets.randbits(64)
        self.acks, self._published = 0, None
        p = self.params
        self.prober = Prober(self._session, time.monotonic(), p.probe_period_s, p.probe_bytes,
                             p.silence_s, p.limit_mbit_s)
        self._bandwidth = self.topics.advertise(Bandwidth, 'bandwidth', qos.METRICS)
        self._probe = self.topics.advertise(Probe, 'probe', qos.ACKS)
        self._reports = self.topics.listen(LinkReport, 'link_report', self._on_ack, qos.ACKS)
        self.diagnostics = Updater(self, 'link')
        self.diagnostics.add('link', self._diagnose)
        self.diagnostics.add('security', self.topics.sealing.diagnose)
        self._every('look', LOOK_S, self._look)
        self._every('publish', 1 / self.params.publish_hz, self._publish)

    def cleanup(self) -> None:
        """Leave the topics."""
        for name in list(self.timers_made):
            self._stop(name)
        if self.diagnostics:
            self.diagnostics.destroy()
        if self.topics:
            self.topics.close()
        self.prober = self.diagnostics = self.topics = None

    def _on_change(self, values: dict) -> None:
        if not self.prober:
            return
        p, prober = self.params, self.prober
        prober.period_s, prober.most_bytes = p.probe_period_s, p.probe_bytes
        prober.silence_s, prober.limit_mbit_s = p.silence_s, p.limit_mbit_s
        if 'publish_hz' in values:
            self._every('publish', 1 / self.params.publish_hz, self._publish)
        if 'limit_mbit_s' in values:
            self._send()

    def _every(self, name: str, period_s: float, callback) -> None:
        """Call back so often, in place of what was called by this name before."""
        self._stop(name)
        self.timers_made[name] = self.create_timer(period_s, callback, clock=self._steady)

    def _stop(self, name: str) -> None:
        if name in self.timers_made:
            self.destroy_timer(self.timers_made.pop(name))

    def _on_ack(self, msg: LinkReport) -> None:
        if not self.active:
            return
        try:
            ack = ack_from_msg(msg)
        except BadAck as error:
            self.get_logger().warning(f'link_report: {error}', throttle_duration_sec=1.0)
            return
        self.acks += 1
        recovered = self.prober.silent
        self.prober.on_ack(ack, time.monotonic())
        if recovered:
            self.get_logger().info('the link is back')
            self._look()
        self._publish_step()

    def _look(self) -> None:
        if not self.active:
            return
        silent = self.prober.silent
        self.prober.look(time.monotonic())
        if self.prober.silent and not silent:
            self.get_logger().warning(
                f'nothing gets through: no acknowledgement on {self._reports.topic_name} for '
                f'{self.params.silence_s:g} s')
            self._publish_step()
        self._send()

    def _send(self) -> None:
        """Send the probes that are due."""
        self._stop('send')
        while self.active:
            probe = self.prober.next_probe(time.monotonic())
            if isinstance(probe, float):
                if math.isfinite(probe):
                    self._every('send', min(probe, 1.0), self._send)
                return
            nbytes, last, seq, sent_s = probe
            self._probe.publish(Probe(session=self._session, seq=seq, sent_s=sent_s, last=last,
                                      payload=array('B', bytes(nbytes))))

    def _publish_step(self) -> None:
        """Publish at once what differs much from what was published."""
        known = self.prober.estimate(time.monotonic())
        if known is None:
            return
        low, high = sorted((known.bytes_per_s, self._published or 0.0))
        if self._published is None or high > STEP * low:
            self._publish()

    def _publish(self) -> None:
        known = self.prober.estimate(time.monotonic())
        if self.active and known is not None:
            self._published = known.bytes_per_s
            self._bandwidth.publish(Bandwidth(
                bytes_per_s=float(known.bytes_per_s), round_trip_s=float(known.round_trip_s),
                low_bytes_per_s=float(known.low_bytes_per_s), age_s=float(known.age_s),
                source=known.source))

    def _diagnose(self):
        known = self.prober.estimate(time.monotonic())
        counts = {'probes': self.prober.probes, 'acknowledgements': self.acks}
        if known is None:
            return WARN, 'nothing is known of the link yet', counts
        text = 'nothing gets through' if self.prober.silent else \
            f'{known.bytes_per_s * 8e-6:.1f} Mbit/s'
        return WARN if self.prober.silent else OK, text, {
            'bandwidth_bytes_per_s': round(known.bytes_per_s),
            'low_bytes_per_s': round(known.low_bytes_per_s),
            'round_trip_s': f'{known.round_trip_s:.4f}', 'age_s': f'{known.age_s:.2f}',
            'source': known.source, **counts}


def main(args: list[str] | None = None) -> None:
    """Run bandwidth_monitor_node."""
    sys.exit(run(BandwidthMonitorNode, args))


if __name__ == '__main__':
    main()
