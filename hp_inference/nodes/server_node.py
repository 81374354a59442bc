# SPDX-License-Identifier: Apache-2.0
"""The server's node: for each robot served, rows in, rows and a report out."""

from __future__ import annotations

from dataclasses import asdict
import secrets

from rclpy.clock import Clock, ClockType

from hp_inference import __version__
from hp_inference.link.keys import keys_of
from hp_inference.nodes.diagnostics import OK, Updater, WARN
from hp_inference.nodes.managed import end, run
from hp_inference.nodes.model import ModelNode
from hp_inference.nodes.params import SERVER
from hp_inference.nodes.profiling import PROFILED, Profiling
from hp_inference.nodes.robot_port import prefix_of, RobotPort
from hp_inference.nodes.worker import Worker
from hp_inference.runtime import frames
from hp_inference.runtime.executor_cache import ExecutorCache
from hp_inference.runtime.fair_queue import FairQueue
from hp_inference.runtime.intake import Intake, prepare
from hp_inference.runtime.load import Load, LoadMeter
from hp_inference.split.shares import SERVER as SERVER_SIDE
from hp_msgs.msg import DeviceProfile

LOAD_S = 0.5  # from one server_load to the next; a robot takes its absence for the server's


class ServerNode(ModelNode):
    """Serves any number of robots, each in its namespace, with one model."""

    def __init__(self):
        super().__init__('server_node', SERVER)
        self.ports: list[RobotPort] = []
        self.receiver = secrets.randbits(64)
        self.load = Load()
        self.worker = self.diagnostics = self.layout = self.cache = self.queue = None
        self.intake: Intake | None = None
        self._meter = self._timer = None
        self.profiling = Profiling(self, DeviceProfile.SERVER, self.announce)
        self.params.on_change(self._on_change)

    @property
    def why_not(self) -> str:
        """Why no robot is served at present, '' when they are."""
        if not self.active:
            return 'the server is not active'
        return PROFILED if self.profiling.measuring else ''

    def configure(self) -> None:
        """Load the model and open a port for each robot."""
        names = self._namespaces()
        keys = keys_of(names.values(), self.params.key_file, self.params.keys_dir)
        self.layout = self.open_model()
        self.worker = Worker(self, 'server worker')
        self.intake = Intake(self.layout, self.worker.check)
        self.worker.submit(self.intake.start)
        self.cache = ExecutorCache(self.layout, SERVER_SIDE)
        self.queue = FairQueue(self.params.compute_places)
        for name, namespace in names.items():
            self.ports.append(RobotPort(self, name, keys[namespace]))
        self.diagnostics = Updater(self, self.params.device)
        for port in self.ports:
            self.diagnostics.add(f'serving {port.name}',
                                 lambda port=port: self._diagnose(port))
            self.diagnostics.add(f'security of {port.name}', port.topics.sealing.diagnose)
        self.diagnostics.add('load', self._diagnose_load)
        self._meter = LoadMeter(self.queue, [port.engine for port in self.ports])
        self._timer = self.create_timer(LOAD_S, self._tell_load,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_change(self, values: dict) -> None:
        for port in self.ports:
            port.engine.session_timeout_s = self.params.session_timeout_s
            if port.pacer.limit_mbit_s != self.params.limit_mbit_s:
                port.pacer.limit_mbit_s = self.params.limit_mbit_s
                port.pacer.wake()

    def cleanup(self) -> None:
        """Close all ports."""
        if self._timer:
            self.destroy_timer(self._timer)
            self._timer = None
        for port in self.ports:  # all at once, so that none is waited for while others compute
            port.engine.stop()
        if self.worker:  # it uses the ports
            self.worker.close()
            self.worker = None
        if self.intake:
            self.intake.close()
            self.intake = None
        self.profiling.forget()
        for port in self.ports:
            port.close()
        self.ports = []
        if self.diagnostics:
            self.diagnostics.destroy()
            self.diagnostics = None
        self.layout = self.cache = self.queue = self._meter = None

    def announce(self) -> None:
        """Tell the robots whether they are served, and what was measured of this device."""
        for port in self.ports:
            port.announce()
            if self.active and self.profiling.message:
                port.publish_profile(self.profiling.message)

    def on_deactivate(self, state):
        """Let no more frames in, and say so first, while it can still be said."""
        self.active = False
        self.announce()
        return super().on_deactivate(state)

    def _namespaces(self) -> dict[str, str]:
        """
        Return the namespaces of the robots, in full, by their names here.

        Raises ValueError for one that is none or twice.
        """
        names = self.params.robots or ('',)
        topics = []
        for name in names:
            try:
                topics.append(self.resolve_topic_name(prefix_of(name) + 'uplink'))
            except RuntimeError as error:
                raise ValueError(f"parameter 'robots' has {name!r}, expected a namespace such as "
                                 f"'r1' or '/fleet/r1': {error}") from error
        twice = [name for name, topic in zip(names, topics) if topics.count(topic) > 1]
        if twice:
            raise ValueError(f"parameter 'robots' has {', '.join(map(repr, twice))} for the same "
                             f'topics, expected each namespace once')
        return {name: topic.removesuffix('/uplink') or '/' for name, topic in zip(names, topics)}

    def _tell_load(self) -> None:
        if not self.active:
            return
        self.load = self._meter.read()
        for port in self.ports:
            port.publish_load(self.load)
            port.look_for_others()

    def _diagnose_load(self):
        return OK, self.why_not or 'computing', asdict(self.load)

    def _diagnose(self, port: RobotPort):
        done = port.engine.frames
        text = '; '.join(filter(None, (self.why_not or port.text, port.trouble)))
        return WARN if text else OK, text or 'serving', {
            'model': self.layout.graph.model, 'model_digest': self.layout.graph.digest,
            'plan_table': port.digest.hex(), 'frames_ok': done[frames.OK],
            'frames_refused': done[frames.REFUSED], 'frames_aborted': done[frames.ABORTED],
            'stray_chunks': port.engine.stray_chunks, 'version': __version__}


def main(args: list[str] | None = None) -> None:
    """Run server_node."""
    prepare()
    end(run(ServerNode, args))


if __name__ == '__main__':
    main()
