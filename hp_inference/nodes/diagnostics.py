# SPDX-License-Identifier: Apache-2.0
"""A node's state on /diagnostics, once a second (diagnostic_updater is not everywhere)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

from hp_inference.text import line, NAME, why

OK = DiagnosticStatus.OK
WARN = DiagnosticStatus.WARN
ERROR = DiagnosticStatus.ERROR
STALE = DiagnosticStatus.STALE

#: What a task returns: a level, a message for people, and values by name (units in the name).
Report = tuple[bytes, str, Mapping[str, object]]
Task = Callable[[], Report]


class Updater:
    """
    Publishes one DiagnosticArray per period with a status from each task.

    Tasks run in the node's executor and must be short. One that raises is reported as an error
    and does not keep the others from reporting.
    """

    def __init__(self, node: Node, hardware_id: str, period_s: float = 1.0):
        self._node = node
        self._hardware_id = hardware_id
        self._tasks: dict[str, Task] = {}
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # Steady time: with a paused simulation clock the state must still come out.
        self._timer = node.create_timer(period_s, self.publish,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))

    def add(self, name: str, task: Task) -> None:
        """Report ``task`` as '<node with its namespace>: <name>'; a known name is replaced."""
        self._tasks[name] = task

    def publish(self) -> None:
        """Run all tasks and publish what they say, now."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [self._status(name, task) for name, task in self._tasks.items()]
        self._publisher.publish(message)

    def destroy(self) -> None:
        """Stop publishing."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def _status(self, name: str, task: Task) -> DiagnosticStatus:
        try:
            level, text, values = task()
            if level not in (OK, WARN, ERROR, STALE):
                raise ValueError(f'level {level!r}, expected OK, WARN, ERROR or STALE')
            values = [KeyValue(key=line(key, NAME), value=line(value))
                      for key, value in values.items()]
        except Exception as error:
            # Diagnostics are looked at when something is broken; they must not break with it.
            level, values = ERROR, []
            text = f'the diagnostic itself failed: {type(error).__name__}: {why(error)}'
        return DiagnosticStatus(
            level=level, name=line(f'{self._node.get_fully_qualified_name()[1:]}: {name}'),
            message=line(text), hardware_id=line(self._hardware_id), values=values)
