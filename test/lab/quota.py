# SPDX-License-Identifier: Apache-2.0
"""Lets single threads of a process have less of the processor, by cgroup v1 CPU quotas."""

from __future__ import annotations

import os
from pathlib import Path
import time

QUOTA_US = 1000          # the least that Linux takes: the shortest slices
MOST_SHARES = 2 ** 18    # that Linux knows; what is in no group has 2 ** 10
THREADS_WITHIN_S = 60.0  # a thread to be slowed must show up within
GROUP_PREFIX = 'hp_lab_'


def cpu_groups() -> Path | None:
    """Return this process's own directory of the cgroup v1 cpu controller, if it is writable."""
    try:
        mounts = [line.split() for line in Path('/proc/mounts').read_text().splitlines()]
        own = [line.split(':', 2) for line in Path('/proc/self/cgroup').read_text().splitlines()]
    except OSError:
        return None
    paths = [path for _, controllers, path in own if 'cpu' in controllers.split(',')]
    for _, where, kind, options, *_ in mounts:
        if kind == 'cgroup' and 'cpu' in options.split(','):
            # In a container the path may be the host's, which is not there.
            for group in (*(Path(where + path) for path in paths), Path(where)):
                if (group / 'tasks').exists() and os.access(group, os.W_OK):
                    return group
    return None


def slow(groups: Path, pid: int, thread_name: str, factor: float) -> int:
    """
    Let each thread of that OS name in a process run 1 / ``factor`` of the time; return how many.

    groups: directory that the threads' own groups are made in. Waits for a thread to show up,
    RuntimeError after THREADS_WITHIN_S.
    """
    if not 1 <= factor <= 100:
        raise ValueError(f'slower by a factor of {factor}, expected 1 to 100')
    end = time.monotonic() + THREADS_WITHIN_S
    while not (threads := _threads(pid).get(thread_name)):
        if time.monotonic() > end:
            raise RuntimeError(f"process {pid} has no thread named '{thread_name}' within "
                               f'{THREADS_WITHIN_S:.0f} s, only '
                               f'{", ".join(sorted(_threads(pid))) or "none"}')
        time.sleep(0.02)
    for thread in threads:
        group = groups / f'thread_{thread}'
        group.mkdir(parents=True, exist_ok=True)
        for each in (groups, group):  # the quota alone is to limit it, not what else is computed
            (each / 'cpu.shares').write_text(str(MOST_SHARES))
        # Off first: the new period might not fit the old quota.
        (group / 'cpu.cfs_quota_us').write_text('-1')
        if factor > 1:
            (group / 'cpu.cfs_period_us').write_text(str(round(QUOTA_US * factor)))
            (group / 'cpu.cfs_quota_us').write_text(str(QUOTA_US))
        (group / 'tasks').write_text(str(thread))
    return len(threads)


def _threads(pid: int) -> dict[str, list[int]]:
    """Return the threads of a process by OS name."""
    names: dict[str, list[int]] = {}
    try:
        for task in Path(f'/proc/{pid}/task').iterdir():
            names.setdefault((task / 'comm').read_text().rstrip('\n'), []).append(int(task.name))
    except OSError:
        pass  # a thread or the process has just ended
    return names


def sweep(base: Path) -> None:
    """Remove the CPU groups of owners that died together with their keeper."""
    for group in base.glob(f'{GROUP_PREFIX}*'):
        owner = group.name[len(GROUP_PREFIX):].partition('_')[0]
        if not Path(f'/proc/{owner}').exists():
            for directory in (*group.glob('thread_*'), group):
                try:
                    directory.rmdir()
                except OSError:
                    pass  # its keeper is at it
