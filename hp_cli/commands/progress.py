# SPDX-License-Identifier: Apache-2.0
"""A progress bar for what takes long, on standard error and only where a person looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(wanted: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Yield ``progress(what, done, of)``; it shows nothing where standard error is no terminal."""
    show = wanted and sys.stderr.isatty()
    with Progress(TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
                  TimeRemainingColumn(), console=Console(stderr=True), transient=True,
                  disable=not show) as display:
        tasks: dict[str, int] = {}

        def progress(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = display.add_task(what, total=of)
            display.update(tasks[what], completed=done, total=of)
        yield progress
