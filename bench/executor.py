# SPDX-License-Identifier: Apache-2.0
"""
The cost of running Programs: whole model against the module itself, two halves against the whole.

One thread, channels_last, all sides interleaved in one run. The module has its batch norms folded
like the Program. The halves are those of uniform:0.5, with the rows that they exchange at hand, so
that their sum is the price of splitting alone.
"""

from __future__ import annotations

from statistics import median
import sys
import time

from _common import finish, parser, ratio, table
from _goals import at_most, Goal
import torch
from torch.fx.experimental.optimization import fuse

from hp_inference.graph.capture import ImageModel
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.local import run_both
from hp_inference.runtime.memory import keep_freed_memory
from hp_inference.split.plan import make_plan
from hp_inference.split.program import compile_plan

# At most so much of the module's time for the whole, of the whole's for two halves (None: no goal).
GOALS = {'resnet50': (1.03, 1.2), 'vgg16': (1.03, 1.12), 'mobilenet_v3_large': (1.03, None)}


class Recorded:
    """A link that already has every row that comes, and takes every row that goes."""

    def __init__(self):
        self.rows = {}

    def send(self, spec, rows):
        """Forget the rows."""

    def receive(self, spec):
        """Return rows recorded before."""
        return self.rows[spec.key]


class Recording:
    """Wraps an executor's run so that what it receives is kept."""

    def __init__(self, executor: Executor):
        self.executor, self.link = executor, Recorded()
        self.program = executor.program

    def run(self, io, *args, **kwargs):
        """Run with a link that writes down what arrives."""
        recorder = self

        class Tap:
            send = staticmethod(io.send)

            @staticmethod
            def receive(spec):
                rows = io.receive(spec)
                recorder.link.rows[spec.key] = rows.clone(memory_format=torch.preserve_format)
                return rows
        return self.executor.run(Tap, *args, **kwargs)


def folded(model: ImageModel) -> torch.nn.Module:
    """Return the unsplit module with its batch norms folded, by torch's own pass."""
    module = ImageModel(fuse(model.module), None)
    module.plain, module.scale, module.shift = False, model.scale, model.shift
    return module.to(memory_format=torch.channels_last)


def measure(name: str, rounds: int, size: int) -> dict:
    """Return seconds per round of each contestant for one model."""
    model, layout = open_model(ModelSpec(f'torchvision:{name}', (1, 3, size, size)))
    module = folded(model)
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last)
    whole = Executor(layout, compile_plan(layout, make_plan('robot_only', layout))[0])
    programs = compile_plan(layout, make_plan('uniform:0.5', layout))
    halves = [Recording(Executor(layout, program)) for program in programs]
    run_both(layout, programs, image, executors=tuple(halves))
    robot, server = halves
    contestants = {
        'module': lambda: module(image),
        'whole': lambda: whole.run(None, image),
        'robot': lambda: robot.executor.run(robot.link, image),
        'server': lambda: server.executor.run(server.link),
    }
    times: dict[str, list[float]] = {key: [] for key in contestants}
    with torch.inference_mode():
        for number in range(rounds + 3):
            for key, run in contestants.items():
                begin = time.perf_counter()
                run()
                if number >= 3:  # the first rounds warm caches and kernels
                    times[key].append(time.perf_counter() - begin)
    half_peaks = [half.executor.peak_bytes / 1e6 for half in halves]
    return {'times': times, 'peak_mb': {'whole': whole.peak_bytes / 1e6, 'robot': half_peaks[0],
                                        'server': half_peaks[1]}}


def judge(models: dict) -> list[Goal]:
    """Return what the ratios were to come to."""
    return [at_most(f'{name}: {what}', figures[key][0], bound)
            for name, figures in models.items()
            for what, key, bound in zip(('whole / module', 'halves / whole'),
                                        ('whole_over_module', 'halves_over_whole'),
                                        figures['goals']) if bound is not None]


def main() -> int:
    """Measure, print, write."""
    options = parser(__doc__)
    options.add_argument('--models', nargs='+', default=list(GOALS))
    options.add_argument('--rounds', type=int, default=60)
    options.add_argument('--size', type=int, default=224)
    options = options.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rounds = 10 if options.quick else options.rounds
    rows, figures, peaks = [], {}, []
    for name in options.models:
        result = measure(name, rounds, options.size)
        times, goals = result['times'], GOALS.get(name, (None, None))
        both = [r + s for r, s in zip(times['robot'], times['server'])]
        one = ratio(times['whole'], times['module'])
        two = ratio(both, times['whole'])
        milliseconds = {key: median(series) * 1e3 for key, series in times.items()}
        rows.append([name, *(f'{milliseconds[key]:.2f}' for key in times),
                     f'{one[0]:.3f} [{one[1]:.3f}, {one[2]:.3f}]', goals[0] or '-',
                     f'{two[0]:.3f} [{two[1]:.3f}, {two[2]:.3f}]', goals[1] or '-'])
        peaks.append([name, *(f'{mb:.1f}' for mb in result['peak_mb'].values())])
        figures[name] = {'ms': milliseconds, 'whole_over_module': one, 'halves_over_whole': two,
                         'goals': goals, 'peak_mb': result['peak_mb']}
    table(f'ms per frame, median of {rounds} rounds; ratios with 95 % bootstrap intervals',
          ['model', 'module', 'whole', 'robot half', 'server half', 'whole / module', 'goal',
           'halves / whole', 'goal'], rows)
    table('most rows held at once [MB], weights apart', ['model', 'whole', 'robot half',
                                                         'server half'], peaks)
    return finish(options, {'rounds': rounds, 'size': options.size, 'models': figures},
                  judge(figures))


if __name__ == '__main__':
    sys.exit(main())
