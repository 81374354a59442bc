# SPDX-License-Identifier: Apache-2.0
"""Run every bench, whatever became of those before, then list what fell short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import json
from pathlib import Path
import subprocess
import sys
import tempfile

from _goals import FELL_SHORT, HELD, SKIPPED

HERE = Path(__file__).resolve().parent
SAID = {HELD: 'held', FELL_SHORT: 'fell short', SKIPPED: 'skipped'}


@dataclass(frozen=True)
class Done:
    """What became of a bench: its exit status, and the goals in its figures."""

    name: str
    status: int
    judged: bool = False
    goals: list[dict] = field(default_factory=list)

    @property
    def said(self) -> str:
        """What became of it, in words."""
        if self.status == HELD and not self.judged:
            return 'ran, not judged'
        if self.status == FELL_SHORT and not self.judged:  # Python's own status, too
            return f'FAILED, exit status {self.status}'
        return SAID.get(self.status, f'FAILED, exit status {self.status}')


def benches(folder: Path = HERE) -> list[Path]:
    """Return the scripts that measure something."""
    return sorted(path for path in folder.glob('*.py') if not path.name.startswith('_'))


def run(script: Path, options: Sequence[str], figures: Path) -> Done:
    """Run a bench; its output goes where this one's goes."""
    print(f'\n=== {script.name}', flush=True)
    status = subprocess.run([sys.executable, script, *options, '--json', figures]).returncode
    try:
        told = json.loads(figures.read_text())
    except (OSError, ValueError):  # it failed before, or was skipped
        return Done(script.name, status)
    return Done(script.name, status, told.get('judged', False), told.get('goals', []))


def summary(everything: Sequence[Done]) -> list[str]:
    """Return a line for each bench, and under it what fell short."""
    lines = []
    for done in everything:
        lines.append(f'{done.name}: {done.said}')
        if done.status not in (HELD, SKIPPED):
            lines += [f'    {goal["name"]}: {goal["value"]}, wanted at '
                      f'{"least" if goal["least"] else "most"} {goal["bound"]}'
                      for goal in done.goals if not goal['held']]
    return lines


def main(options: Sequence[str]) -> int:
    """Run all, list what fell short; 1 when something did, or failed."""
    with tempfile.TemporaryDirectory() as folder:
        everything = [run(script, options, Path(folder) / f'{script.stem}.json')
                      for script in benches()]
    print('\n=== all benches', *summary(everything), sep='\n')
    return FELL_SHORT if any(done.status not in (HELD, SKIPPED) for done in everything) else HELD


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
