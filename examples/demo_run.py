# SPDX-License-Identifier: Apache-2.0
"""The demo on the host where it runs: plan, start the nodes, step the link, report."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import closing, ExitStack
from itertools import cycle
import os
from pathlib import Path
import shutil

from demo_link import Emulated, Link, Namespaces
from demo_nodes import DemoError, NodeProcess, PARAMS, PHASES
from demo_photos import find_photos, Photo
from demo_plan import plan_here
from demo_report import complaints, live_table, notes, summary
from demo_session import Session
import rclpy
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.live import Live
import torch

from hp_inference.graph.capture import CaptureError
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.graph.models import ModelError
from hp_inference.link.dds import environment
from hp_inference.runtime.pixels import fit
from hp_inference.runtime.reference import reference, TOLERANCE

PLAIN_WIDTH = 140


def run(args: argparse.Namespace) -> int:
    """Run the demo as its arguments say; return its exit status. Raises DemoError and OSError."""
    os.environ.update(environment(os.environ, rclpy.get_rmw_implementation_identifier()))
    torch.set_num_threads(1)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    photos = find_photos()
    shutil.rmtree(args.out / 'ros', ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault('ROS_LOG_DIR', str(args.out / 'ros'))
    tolerance = TOLERANCE[torch.float32]
    # It sets the pace by the session, which is there before the first change.
    link: Link = Namespaces(args.inside) if args.inside else Emulated(
        lambda mbit_s: session.limit(mbit_s))
    console.print(f'{args.model} on robot and server; logs in {args.out}\n{link.words}',
                  markup=False, soft_wrap=True)
    wanted = _prepare(args, link, photos, console)
    model = {} if args.input is None else {'input': args.input}
    model['model'] = args.model
    planned = {**model, 'plan': _table(args).name, 'plans': ['robot_only'],
               'plans_dir': str(_table(args).parent.resolve())}
    params = {'server_node': model, 'robot_node': planned, 'bandwidth_monitor_node': {}}
    with ExitStack() as stack:
        nodes = {name: stack.enter_context(NodeProcess(
            name, PARAMS, given, args.out / f'{name}.log',
            link.server if name == 'server_node' else ())) for name, given in params.items()}
        # The first to be called at the end, so that the nodes end side by side.
        stack.callback(lambda: [node.terminate() for node in nodes.values()])
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        session = stack.enter_context(closing(Session(nodes, console, tolerance, wanted)))
        session.wait_ready()
        link.ready(nodes['robot_node'].pid)
        link.rate(PHASES[0])
        session.warm_up(photos[0])
        if console.is_terminal:
            session.live = stack.enter_context(
                Live(live_table([], tolerance), console=console, auto_refresh=False))
        pictures = cycle(photos)
        for mbit_s in PHASES:
            session.run_phase(link, mbit_s, pictures, args.seconds, args.rate)
    console.print()
    console.print(summary(session.rows, session.phases, session.shown))
    for line in notes(session.rows, session.phases):
        session.say(line)
    session.pictures(args.out, f'{args.model} on robot and server')
    found = complaints(session.rows, session.phases, session.shown, tolerance)
    for line in found or [f'all {len(session.rows)} answers agree with the unsplit model: '
                          f'relative error {max(row.error for row in session.rows):.1e}, '
                          f'at most {tolerance:g} is allowed']:
        session.say(line)
    return 1 if found else 0


def _prepare(args: argparse.Namespace, link: Link, photos: Sequence[Photo], console: Console
             ) -> Mapping[str, dict[str, torch.Tensor]]:
    """Write the plan table of the model; return what the unsplit model answers, by photograph."""
    robot = args.robot
    try:
        model, layout = open_model(ModelSpec(args.model, args.input, **{
            key: robot[key] for key in ('weights', 'seed', 'mean', 'std') if key in robot}))
    except (ModelError, CaptureError) as error:
        raise DemoError(str(error)) from error
    resize = robot.get('resize', 'bilinear')
    wanted = {photo.name: reference(model, fit(photo.pixels, *layout.graph.input.shape[1:],
                                               resize)) for photo in photos}
    console.print(f'the unsplit {args.model} has answered {len(photos)} photographs; measuring '
                  'this machine and planning', markup=False)
    with console.status('') as status:
        table = plan_here(layout, link.slower, lambda what, done, of: status.update(
            f'{what} {done}/{of}'))
    _table(args).write_text(table.dumps(), 'utf-8')
    console.print('planned: ' + ', '.join(
        f'from {choice.mbit_s:g} Mbit/s on {table.plans[choice.plan].name}'
        for choice in table.choices), markup=False, soft_wrap=True)
    return wanted


def _table(args: argparse.Namespace) -> Path:
    return args.out / 'table.json'
