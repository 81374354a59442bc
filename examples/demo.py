# SPDX-License-Identifier: Apache-2.0
"""
Robot and server answer photographs together while the link between them changes.

Measures this machine, plans for a few rates, starts robot_node, server_node and
bandwidth_monitor_node and steps the link: 100, 20, 0, 50 Mbit/s. In each phase the robot first
chooses its plans itself, then computes alone, then offloads everything. Every answer is compared
with the unsplit model's. As root, with iproute2 and nftables, robot and server are two network
namespaces, and the robot's computing thread is slowed down four times. Exit status: 0 all answers
agree, 1 they do not or something failed, 130 interrupted. Needs the environment of `. ./env.bash`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
import sys

from demo_link import lab_missing, run_in_lab
from demo_nodes import DemoError, end_on_signals, PARAMS, PHASES, ROOT
import yaml


def main(argv: list[str] | None = None) -> int:
    """Run the demo; return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = _arguments(argv)
    # Unless the user wants it otherwise: on this host only, and one core for each process.
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    end_on_signals()
    try:
        missing = [] if args.inside or args.link == 'emulated' else lab_missing()
        if missing and args.link == 'lab':
            raise DemoError(f'two network namespaces need {", ".join(missing)}')
        if missing:
            print(f'no network namespaces: they need {", ".join(missing)}')
        elif not args.inside and args.link != 'emulated':
            return run_in_lab(Path(__file__).resolve(), argv, PHASES[0])
        from demo_run import run  # here: who only keeps the lab needs neither ROS nor PyTorch
        return run(args)
    except KeyboardInterrupt:
        if not args.inside:
            print('interrupted')
        return 130
    except (DemoError, OSError) as error:
        print(f'demo: {error}')
        return 1


def _arguments(argv: list[str]) -> argparse.Namespace:
    nodes = yaml.safe_load(PARAMS.read_text('utf-8'))['/**']
    robot = nodes['robot_node']['ros__parameters']
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=_positive, default=8.0,
                        help='time of each of the four phases (default %(default)g)')
    parser.add_argument('--rate', type=_positive, default=2.0,
                        help='photographs per second (default %(default)g)')
    parser.add_argument('--link', choices=('auto', 'lab', 'emulated'), default='auto',
                        help='two network namespaces, or one host; auto: as this machine can')
    parser.add_argument('--model', default=robot['model'],
                        help='torchvision:NAME, package.module:factory, path/file.py:factory or '
                             'file.pt2 (default %(default)s)')
    parser.add_argument('--input', type=_sizes, metavar='1,C,H,W',
                        help='size of the model input (default 1,3,224,224)')
    parser.add_argument('--out', type=Path, default=ROOT / 'out' / 'demo',
                        help='folder for the pictures, the table and the logs (default out/demo)')
    parser.add_argument('--inside', help=argparse.SUPPRESS)
    parser.set_defaults(robot=robot)
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
