# SPDX-License-Identifier: Apache-2.0
"""
The `hp` command: look at a model's graph, check its splits, show a plan's programs, run an image.

PyTorch takes seconds to import, so only a subcommand that is carried out imports it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import contextlib
import importlib
import json
import math
import os
import sys
import traceback
import warnings

from hp_cli.commands import Outcome, UserError
from hp_inference import __version__
from hp_inference.text import line

WRONG, BAD_USE, INTERRUPTED = 1, 2, 130
MAX_SIDE = 16384
MAX_THREADS, MAX_PLANS = 1024, 10_000
MOST_SEED = 2 ** 62  # PyTorch takes twice as much, and --seed is where more begin
# Far beyond every amount that makes sense, and far from where arithmetic overflows.
MOST = 1e15
# Characters of a complaint.
MOST_TEXT = 2000
OWN = ('hp_cli.', 'hp_inference.', 'hp_planner.')
# How PyTorch, numpy and the system say it.
NO_MEMORY = ('allocate memory', 'not enough memory', 'out of memory', 'bad_alloc',
             'failed to map segment', "can't start new thread")

MODEL_HELP = ('torchvision:NAME, torchvision:NAME.PART, package.module:factory, '
              'path/file.py:factory or file.pt2')
PLAN_HELP = ('robot_only, full_offload, uniform:SHARE, layer:VALUE, random:SEED, or the file of a '
             'plan or of a plan table')


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like those of the commands."""

    def error(self, message):
        raise UserError(f'{message} ({self.prog} --help shows what is expected)')


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(','))
    except ValueError:
        sizes = ()
    if len(sizes) != 4 or sizes[0] != 1 or not all(0 < size <= MAX_SIDE for size in sizes):
        raise argparse.ArgumentTypeError(f'{text!r} is not 1,C,H,W with sizes up to {MAX_SIDE}, '
                                         'like 1,3,224,224')
    return sizes


def _numbers(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(','))
    except ValueError:
        numbers = (math.nan,)
    if not all(abs(number) <= MOST for number in numbers):
        raise argparse.ArgumentTypeError(f'{text!r} is not one number per channel, like '
                                         '0.485,0.456,0.406')
    return numbers


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(float(part) for part in text.split(','))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise argparse.ArgumentTypeError(f'{text!r} is not rates above 0 in Mbit/s, like 5,20,80')
    return rates


def _grid(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(',') if part)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not rates in Mbit/s, like 0,5,20,80') from error


def _amount(text: str) -> float:
    try:
        amount = float(text)
    except ValueError:
        amount = -1.0
    if not 0 <= amount <= MOST:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number from 0 on, up to {MOST:g}')
    return amount


def _count(least: int, most: int = MOST_SEED):
    def count(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f'{text!r} is not a whole number from {least} '
                + (f'to {most}' if most < MOST_SEED else 'on'))
        return number
    return count


def _parser() -> argparse.ArgumentParser:
    parser = _Parser('hp', description='One model, two machines, one answer: look into the split.',
                     epilog='Exit status: 0 all is well, 1 an answer is wrong, 2 bad use, '
                            '130 interrupted.')
    parser.add_argument('--version', action='version', version=f'hp {__version__}')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)

    def bare(name: str, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f'{text[0].upper()}{text[1:]}.')
        sub.add_argument('--json', action='store_true',
                         help='print one JSON object instead of text')
        return sub

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = bare(name, text)
        sub.add_argument('model', metavar='MODEL', help=MODEL_HELP)
        sub.add_argument('--input', type=_shape, metavar='1,C,H,W',
                         help="the uint8 image at the model's size (1,3,224,224; a .pt2 file: "
                              'its own)')
        sub.add_argument('--weights', default='', metavar='FILE',
                         help='a state dict; without it the weights are random, or the '
                              "factory's or the .pt2 file's own")
        sub.add_argument('--weights-seed', type=_count(0), default=0, metavar='N',
                         help='the seed that random weights are drawn under (0)')
        sub.add_argument('--mean', type=_numbers, metavar='M,M,M',
                         help='normalisation per channel, of pixels scaled to 0..1 (for colour '
                              "ImageNet's, else 0)")
        sub.add_argument('--std', type=_numbers, metavar='S,S,S',
                         help="normalisation per channel (for colour ImageNet's, else 1)")
        sub.add_argument('--threads', type=_count(1, MAX_THREADS), metavar='N',
                         help="threads that PyTorch computes with (PyTorch's default)")
        return sub

    def plan(sub: argparse.ArgumentParser) -> None:
        sub.add_argument('--plan', required=True, metavar='PLAN', help=PLAN_HELP)
        sub.add_argument('--index', type=_count(0), default=0, metavar='N',
                         help='which plan of a table file (0)')

    command('graph', 'list the operators of a model and the rule of each')
    check = command('check', 'run random plans and compare them with the unsplit model')
    check.add_argument('--plans', type=_count(1, MAX_PLANS), default=20, metavar='N',
                       help='how many random plans (20)')
    check.add_argument('--seed', type=_count(0), default=0, metavar='S',
                       help='the plans are random:S, random:S+1, ... (0); a random image is drawn '
                            'under S too')
    check.add_argument('--dtype', choices=('float32', 'float64'), default='float32',
                       help='the float type to compute in (float32)')
    check.add_argument('--codec', default='zstd', metavar='CODEC',
                       help='how rows are packed for the way: none, zstd, shuffle_zstd (zstd); '
                            'float16_shuffle_zstd, uint8_zstd and jpeg change the answer, by how '
                            'much is reported')
    check.add_argument('--image', action='append', default=[], metavar='FILE',
                       help='a JPEG or PNG, more than one where --image is repeated (random ones)')
    plan(command('program', "show the robot's and the server's program of a plan"))
    run = command('run', 'run one image through both programs of a plan, in this process')
    run.add_argument('--image', required=True, metavar='FILE', help='a JPEG or PNG')
    plan(run)
    _add_profile(command('profile', 'measure what a model takes on this device'))
    _add_plan(command('plan', 'find the best plan at every bandwidth and write them as a table'))
    simulate = bare('simulate', 'run a plan table and its baselines along a recorded bandwidth')
    simulate.add_argument('table', metavar='TABLE', help='a plan table made by hp plan')
    simulate.add_argument('--trace', required=True, metavar='CSV',
                          help='a recorded bandwidth: columns time_s, mbit_s')
    report = bare('report', 'draw what a plan table gains at which bandwidth, and how')
    report.add_argument('table', metavar='TABLE', help='a plan table made by hp plan')
    report.add_argument('--out', required=True, metavar='DIR',
                        help='the folder to write the pictures (PNG) to')
    report.add_argument('--bandwidths', type=_rates, metavar='B,B,...',
                        help='where to draw the time line, in Mbit/s: the nearest of the table '
                             'are taken (a few of the table)')
    return parser


def _add_profile(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--out', required=True, metavar='FILE', help='the profile to write')
    sub.add_argument('--device', default='cpu', metavar='D', help='cpu, cuda or cuda:N (cpu)')
    sub.add_argument('--image', metavar='FILE',
                     help='a JPEG or PNG like those to come: how well it and what is computed of '
                          'it compress is part of the profile (an image made up)')
    for state in ('waiting', 'communicating', 'computing'):
        sub.add_argument(f'--{state}-w', type=_amount, metavar='W',
                         help=f'board power while {state}, in watts (measured where there is a '
                              'meter)')


def _add_plan(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--robot', required=True, metavar='FILE',
                     help="the robot's profile, made by hp profile")
    sub.add_argument('--server', required=True, metavar='FILE',
                     help="the server's profile, made by hp profile")
    sub.add_argument('--out', required=True, metavar='TABLE', help='the table file to write')
    sub.add_argument('--objective', default='latency', choices=(
        'latency', 'energy', 'energy_under_latency', 'weighted', 'throughput'),
        help='what to make least; throughput: most frames per second, several in flight (latency)')
    sub.add_argument('--policy', default='exact', choices=('exact', 'lossy'),
                     help='codecs that plans may use: exact ones, or also float16, uint8 and JPEG '
                          '(exact)')
    sub.add_argument('--bandwidths', type=_grid, metavar='B,B,...',
                     help='Mbit/s to plan for; 0 is the robot alone, which every table holds '
                          '(31 from 0.5 to 1000)')
    sub.add_argument('--latency-bound-ms', type=_amount, metavar='X',
                     help='plans must be at most this slow')
    sub.add_argument('--latency-weight', type=_amount, default=1.0, metavar='W',
                     help='cost of a second under objective weighted (1)')
    sub.add_argument('--energy-weight', type=_amount, default=1.0, metavar='W',
                     help='cost of a joule under objective weighted (1)')
    sub.add_argument('--robot-mb', type=_amount, metavar='X',
                     help='most MB of values held at once on the robot, weights apart')
    sub.add_argument('--server-mb', type=_amount, metavar='X',
                     help='most MB of values held at once on the server, weights apart')
    sub.add_argument('--link-mb-per-s', type=_amount, metavar='X',
                     help='most MB per second over the link while a frame is computed')
    sub.add_argument('--duplex', choices=('half', 'full'), default='half',
                     help='one radio for both directions, or each direction for itself (half)')
    sub.add_argument('--message-ms', type=_amount, metavar='X',
                     help='what a message costs besides its bytes')
    sub.add_argument('--round-trip-ms', type=_amount, metavar='X',
                     help='round trip of the link without load')
    sub.add_argument('--swing', type=_amount, default=0.0, metavar='S',
                     help='how far the bandwidth of a frame may be from the one its plan is chosen '
                          'for, as a standard deviation of its logarithm: 0.3 for Wi-Fi on the '
                          'move (0)')
    sub.add_argument('--pareto', type=_amount, metavar='B',
                     help='also find the plans of which none is better in latency, energy, '
                          'throughput and robot memory at this many Mbit/s')
    sub.add_argument('--seed', type=_count(0), default=0, metavar='N',
                     help='the search draws under this seed (0)')


def _carry_out(args) -> Outcome:
    # As for a script, so that MODEL may be a module in the working directory; last, so that
    # nothing there hides an installed package.
    if '' not in sys.path:
        sys.path.append('')
    # Standard output is for the answer: a model's code may print, and warn of this and that.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return importlib.import_module(f'hp_cli.commands.{args.command}').run(args)


def _print(text: str) -> None:
    if sys.stdout is None:
        raise UserError('can not write the answer: there is no standard output')
    encoding = getattr(sys.stdout, 'encoding', None) or 'utf-8'
    # What the terminal can't show is part of a name that somebody gave to something.
    text = text.encode(encoding, 'replace').decode(encoding)
    try:
        print(text, flush=True)
    except OSError as error:
        # What Python still holds must not meet the closed pipe again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # that one is a reader who has seen enough
            raise UserError(f'can not write the answer: {error.strerror}') from error


def _printable(text: str) -> str:
    """Return text for a terminal: names of others in it can neither break nor colour its lines."""
    return '\n'.join(line(each, len(each)) for each in text.split('\n'))


def _reason(error: BaseException) -> str:
    """Return what a user needs to know of an error, in one line."""
    text = ' '.join(line(error, MOST_TEXT).split())
    # Those of this package say what is wrong and what to do; asked so, as it may not be loaded.
    if isinstance(error, ValueError) and type(error).__module__.startswith(OWN):
        return text
    if isinstance(error, MemoryError) or _lacks_memory(error):
        return f'there is not enough memory for this: {text or type(error).__name__}'
    if isinstance(error, ImportError):
        return f'{text}: hp needs PyTorch and the packages of requirements/'
    if isinstance(error, OSError):
        return f'the system refused something: {text}'
    if isinstance(error, SystemExit):
        return f'the code of the model ended the program: {type(error).__name__} {text}'
    return f'{type(error).__name__}: {text} ({_where(error)}): hp can not go on'


def _lacks_memory(error: BaseException | None) -> bool:
    """Return whether an error, or what it came from, says that there was no memory."""
    while error is not None:
        if any(word in line(error, MOST_TEXT) for word in NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def _where(error: BaseException) -> str:
    """Return the file and the line that an error comes from."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f'{line(frame.filename)}, line {frame.lineno}'


def _complain(message: str) -> int:
    with contextlib.suppress(OSError, ValueError):  # nobody hears
        print('hp:', message, file=sys.stderr)
    return BAD_USE


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line and return its exit status: 0, 1 (wrong), 2 (bad use) or 130."""
    try:
        try:
            args = _parser().parse_args(argv)
        except SystemExit as done:  # --help and --version
            return done.code or 0
        outcome = _carry_out(args)
        _print(json.dumps(outcome.data, allow_nan=False) if args.json
               else _printable(outcome.text))
        return 0 if outcome.ok else WRONG
    except KeyboardInterrupt:
        print('hp: interrupted', file=sys.stderr)
        return INTERRUPTED
    except BaseException as error:  # the code of models may raise anything
        return _complain(_reason(error))
