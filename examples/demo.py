# SPDX-License-Identifier: Apache-2.0
"""
Robot and server answer real photographs together, as the unsplit model would.

Starts robot_node and server_node on this machine, shows them photographs under one plan after the
other and compares every answer with the unsplit model's. Exit status: 0 all answers agree, 1 they
do not or something failed, 130 interrupted. Needs the environment of `. ./env.bash`.
"""

from __future__ import annotations

import argparse
from contextlib import closing, ExitStack
from itertools import cycle
import os
from pathlib import Path
import shutil
import sys

from demo_nodes import DemoError, end_on_signals, NodeProcess
from demo_photos import find_photos
from demo_report import complaints, fallbacks, live_table, summary
from demo_session import Session
import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live
import torch
import yaml

from hp_inference.runtime.reference import TOLERANCE

ROOT = Path(__file__).resolve().parent.parent
PARAMS = ROOT / 'config' / 'demo.yaml'
PLAIN_WIDTH = 140


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return its exit status."""
    args = _arguments(argv)
    # Unless the user wants it otherwise: on this host only, and one core for each process.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    torch.set_num_threads(1)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    end_on_signals()
    try:
        return _run(args, console)
    except KeyboardInterrupt:
        console.print('interrupted')
        return 130
    except (DemoError, OSError) as error:
        console.print(f'demo: {error}', markup=False, soft_wrap=True)
        return 1


def _run(args: argparse.Namespace, console: Console) -> int:
    photos = find_photos()
    shutil.rmtree(args.out / 'ros', ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault('ROS_LOG_DIR', str(args.out / 'ros'))
    tolerance = TOLERANCE[torch.float32]
    model = {} if args.input is None else {'input': args.input}
    model['model'] = args.model
    # A table of the names: none of the switches to come needs a new one.
    plans = {'plan': args.plans[0], 'plans': args.plans}
    console.print(f'{args.model} on robot and server; logs in {args.out}', markup=False)
    with ExitStack() as stack:
        nodes = [stack.enter_context(NodeProcess(name, PARAMS, params, args.out / f'{name}.log'))
                 for name, params in (('server_node', model), ('robot_node', {**model, **plans}))]
        # The first to be called at the end, so that both nodes end side by side.
        stack.callback(lambda: [node.terminate() for node in nodes])
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        session = stack.enter_context(closing(Session(nodes, console, tolerance)))
        session.wait_ready()
        session.ask_unsplit(photos)
        session.warm_up(photos[0])
        if console.is_terminal:
            session.live = stack.enter_context(
                Live(live_table([], tolerance), console=console, auto_refresh=False))
        pictures = cycle(photos)
        for plan in args.plans:
            session.run_plan(plan, pictures, args.seconds / len(args.plans), args.rate)
    console.print()
    console.print(summary(session.rows, session.shown))
    for line in fallbacks(session.rows):
        session.say(line)
    session.picture(args.out / 'timeline.png')
    found = complaints(session.rows, session.shown, tolerance)
    for line in found or [f'all {len(session.rows)} answers agree with the unsplit model: '
                          f'relative error {max(row.error for row in session.rows):.1e}, '
                          f'at most {tolerance:g} is allowed']:
        session.say(line)
    return 1 if found else 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    nodes = yaml.safe_load(PARAMS.read_text('utf-8'))['/**']
    robot = nodes['robot_node']['ros__parameters']
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=_positive, default=20.0,
                        help='time that all plans share (default %(default)g)')
    parser.add_argument('--rate', type=_positive, default=3.0,
                        help='photographs per second (default %(default)g)')
    parser.add_argument('--model', default=robot['model'],
                        help='torchvision:NAME, package.module:factory, path/file.py:factory or '
                             'file.pt2 (default %(default)s)')
    parser.add_argument('--input', type=_sizes, metavar='1,C,H,W',
                        help='size of the model input (default 1,3,224,224)')
    parser.add_argument('--plans', nargs='+', default=[robot['plan'], *robot['plans']],
                        help='robot_only, full_offload, uniform:SHARE, layer:VALUE or random:SEED '
                             f'(default {" ".join([robot["plan"], *robot["plans"]])})')
    parser.add_argument('--out', type=Path, default=ROOT / 'out' / 'demo',
                        help='folder for the picture and the logs (default out/demo)')
    return parser.parse_args(argv)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is not a positive number')
    return number


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(',')]


if __name__ == '__main__':
    sys.exit(main())
