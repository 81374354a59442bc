# SPDX-License-Identifier: Apache-2.0
"""A node's logger that takes any text and never raises."""

from __future__ import annotations

import traceback

from rclpy.impl import rcutils_logger
from rclpy.logging import get_logger_effective_level, LoggingSeverity, set_logger_level

from hp_inference import aside
from hp_inference.text import line

#: Characters of one line at most, and lines of a traceback.
MOST, DEEPEST = 4000, 60

# rclpy tells callers of its logger apart by the line that they are on, which is not one of these.
rcutils_logger._internal_callers.extend((__file__, aside.__file__))


#: What logs, below rclpy, words of requests just as they came, line ends included.
OUTSPOKEN = ('rcl', 'rcl_lifecycle')


def hush() -> None:
    """
    Have what lies below rclpy keep to itself what it refuses.

    Anybody may call services, and would write lines into this node's log. What is refused is raised
    as well, and said here. Who asks for more than the usual lines gets these, too.
    """
    for name in OUTSPOKEN:
        if get_logger_effective_level(name) >= LoggingSeverity.INFO:
            set_logger_level(name, LoggingSeverity.FATAL)


class Log:
    """
    What a node says: each time one printable line, whoever wrote a part of it.

    rclpy's logger raises for half a surrogate pair, and writes a line end as it is, after which
    comes what looks like a line of somebody else. Takes rclpy's keywords, such as
    throttle_duration_sec. What fails goes by ``aside``.
    """

    def __init__(self, logger, aside: aside.Aside):
        self._logger, self._aside = logger, aside

    def __getattr__(self, name: str):
        """Return what else rclpy's logger has."""
        return getattr(self._logger, name)

    def debug(self, text: object, **how) -> None:
        """Say what is of use to who looks for a defect."""
        self._aside(self._logger.debug, line(text, MOST), **how)

    def info(self, text: object, **how) -> None:
        """Say what happens."""
        self._aside(self._logger.info, line(text, MOST), **how)

    def warning(self, text: object, **how) -> None:
        """Say what is not as it should be."""
        self._aside(self._logger.warning, line(text, MOST), **how)

    def error(self, text: object, **how) -> None:
        """Say what does not work."""
        self._aside(self._logger.error, line(text, MOST), **how)

    def failed(self, text: str) -> None:
        """Say what does not work for the error at hand, with its traceback, indented."""
        trace = traceback.format_exc().splitlines()
        if len(trace) > DEEPEST:
            trace[DEEPEST // 2:-DEEPEST // 2] = ['  ...']
        self._aside(self._logger.error, '\n    '.join(
            (f'{line(text)}:', *(line(each) for each in trace))))
