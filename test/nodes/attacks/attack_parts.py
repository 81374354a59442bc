# SPDX-License-Identifier: Apache-2.0
"""The camera of a robot, the attacker as a process, and what a process holds of the memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
import re
import subprocess
import sys
import threading
import time

from ros_rig import Client, error_of, pixels

TOLERANCE = 1e-5
PAUSE_S = 0.03
HERE = Path(__file__).resolve().parent


class Camera:
    """Shows one image after the other and looks at the answers."""

    def __init__(self, client: Client):
        self.client, self.shown, self.shown_s = client, None, 0.0
        self.answers, self.wrong, self.alone, self.slow = 0, 0, 0, 0.0
        self.together_s, self.asked_s, self._seed = 0.0, None, 0

    def step(self) -> None:
        """Look for the answer, and show the next image, also where none comes."""
        self.client.executor.spin_once(0.005)
        now = time.monotonic()
        if self.shown is not None:
            result = self.client.result_of(self.shown)
            if result is not None:
                self.answers += 1
                self.wrong += not error_of(result, pixels(self._seed)) <= TOLERANCE
                self.alone += result.fallback
                if not result.fallback:
                    self.together_s = self.asked_s
                self.slow = max(self.slow, now - self.asked_s)
                self.shown, self.asked_s, self.shown_s = None, None, now
                self.client.results.clear()
            elif now - self.shown_s > 3.0:  # another one was newer, or it got lost: best effort
                self._show(now)
        elif now - self.shown_s > PAUSE_S:
            self._show(now)

    def _show(self, now: float) -> None:
        self._seed = (self._seed + 1) % 50
        self.shown, self.shown_s = self.client.image(self._seed), now
        self.asked_s = self.asked_s or now
        self.client.show(self.shown)

    @property
    def waited_s(self) -> float:
        """How long the oldest image without an answer has waited, or the slowest answer took."""
        return max(self.slow, time.monotonic() - self.asked_s if self.asked_s else 0.0)

    def reset(self) -> None:
        """Count anew."""
        self.answers, self.wrong, self.alone, self.slow = 0, 0, 0, 0.0
        if self.asked_s:
            self.asked_s = time.monotonic()


class Attacker:
    """attacker.py as a process."""

    def __init__(self, targets: list[str], spare: str, paths: list[str], log: Path):
        given = {'targets': targets, 'spare': spare, 'paths': paths}
        with open(log, 'wb') as file:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / 'attacker.py'), json.dumps(given)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file,
                env={**os.environ, 'PYTHONPATH': f'{HERE}{os.pathsep}'
                     + os.environ.get('PYTHONPATH', '')})
        self.log, self.told = log, []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def tell(self, **order) -> None:
        """Have it do something."""
        self.told.clear()
        self.process.stdin.write(json.dumps(order) + '\n')
        self.process.stdin.flush()

    @property
    def done(self) -> dict | None:
        """What it has told since, None: nothing yet."""
        assert self.told or self.process.poll() is None, self.log.read_text('utf-8', 'replace')
        return self.told[-1] if self.told else None

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.told.append(json.loads(line))


def held_mb(pid: int) -> float:
    """Return what a process and those that it has started hold of the machine's memory."""
    try:
        rollup = Path(f'/proc/{pid}/smaps_rollup').read_text()
        children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
        own = int(re.search(r'^Pss: +(\d+)', rollup, re.M).group(1)) / 1e3
    except (OSError, AttributeError):
        return 0.0
    return own + sum(held_mb(int(child)) for child in children)
