# SPDX-License-Identifier: Apache-2.0
"""`hp run`: one image through both Programs of a plan, and what the model says of it."""

from __future__ import annotations

import torch

from hp_cli.commands import Outcome
from hp_cli.commands.common import (
    columns,
    measured,
    number,
    open_image,
    open_plan,
    open_subject,
)
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import judge, relative_error
from hp_inference.split.program import compile_plan

TOP = 5


def run(args) -> Outcome:
    """Run one image under a plan and compare with the unsplit model."""
    subject = open_subject(args)
    layout = subject.layout
    plan = open_plan(args, layout)
    image = open_image(args.image, subject.shape)
    unsplit = subject.ask([image], torch.float32, plan.lossy)[0]
    programs = compile_plan(layout, plan)
    executors = tuple(Executor(layout, program) for program in programs)
    run_both(layout, programs, image, executors=executors)  # the first frame warms everything up
    frame = run_both(layout, programs, image, executors=executors)
    found = judge(frame.outputs, unsplit)
    error = found.worst_relative_error
    seen = {name: {**_summary(tensor, subject.shape),
                   'relative_error': number(relative_error(tensor, unsplit.answer[name]))}
            for name, tensor in frame.outputs.items()}
    data = {'model': args.model, 'digest': layout.graph.digest, 'plan': plan.name,
            'image': args.image, 'outputs': seen, 'worst_relative_error': number(error),
            'reference_error': number(found.reference_error), 'tolerance': found.tolerance,
            'lossy': plan.lossy, 'ok': plan.lossy or found.ok,
            'latency_s': frame.latency_s,
            'robot_compute_s': frame.robot.compute_s, 'robot_wait_s': frame.robot.wait_s,
            'server_compute_s': frame.server.compute_s, 'server_wait_s': frame.server.wait_s,
            'sent_bytes': frame.sent_bytes}
    said = 'agrees with' if found.ok else 'DISAGREES with'
    if plan.lossy:
        said = 'is lossy and is compared with'
    text = '\n'.join([
        subject.title, '', *(line for name in seen for line in _lines(name, seen[name])), '',
        f'plan {plan.name}: {said} the unsplit model, {measured(found)}',
        f'latency {1e3 * frame.latency_s:.1f} ms in one process, {frame.sent_bytes} bytes sent; '
        f'robot computing {1e3 * frame.robot.compute_s:.1f} ms and waiting '
        f'{1e3 * frame.robot.wait_s:.1f} ms, server {1e3 * frame.server.compute_s:.1f} ms and '
        f'{1e3 * frame.server.wait_s:.1f} ms'])
    return Outcome(data, text, ok=data['ok'])


def _summary(tensor: torch.Tensor, image_shape: tuple[int, ...]) -> dict:
    """
    Return what an output says: the classes in front, or the range of the numbers.

    A float [1, N] counts as classes; an integer map, or a float [1, N, H, W] as high and wide as
    the image, counts as a mask, and ``pixels`` gives how many elements each class has.
    """
    summary = {'shape': list(tensor.shape), 'dtype': str(tensor.dtype).removeprefix('torch.')}
    numbers = tensor.double()
    if tensor.is_floating_point() and tensor.squeeze(0).dim() == 1 and tensor.numel() > 1:
        scores = numbers.reshape(-1)
        best = scores.topk(min(TOP, len(scores)))
        chances = scores.softmax(0)[best.indices]
        summary['top'] = [
            {'class': int(place), 'score': number(float(score)), 'probability': number(float(p))}
            for place, score, p in zip(best.indices, best.values, chances)]
        return summary
    if tensor.numel():
        summary |= {'min': number(numbers.min().item()), 'mean': number(numbers.mean().item()),
                    'max': number(numbers.max().item())}
    mask = None
    if not tensor.is_floating_point():
        mask = tensor
    elif tensor.dim() == 4 and tensor.shape[1] > 1 and tensor.shape[2:] == image_shape[2:]:
        mask = tensor.argmax(1)
    if mask is not None:
        classes, counts = mask.unique(return_counts=True)
        order = counts.argsort(descending=True)
        summary['pixels'] = {str(int(classes[i])): int(counts[i]) for i in order}
    return summary


def _lines(name: str, summary: dict) -> list[str]:
    """Return an output's summary for people."""
    lines = [f'{name}: {summary["dtype"]} [{",".join(map(str, summary["shape"]))}]']
    if 'min' in summary:
        lines.append('  ' + ', '.join(f'{key} {_shown(summary[key])}'
                                      for key in ('min', 'mean', 'max')))
    if 'top' in summary:
        table = [[f'  class {entry["class"]}', f'{_shown(entry["probability"])}',
                  f'score {_shown(entry["score"])}'] for entry in summary['top']]
        lines += columns([['  top', 'softmax', ''], *table])
    if 'pixels' in summary:
        total = sum(summary['pixels'].values())
        most = list(summary['pixels'].items())[:TOP]
        more = len(summary['pixels']) - len(most)
        lines.append('  mask: ' + ', '.join(f'class {key} {100 * count / total:.1f} %'
                                            for key, count in most)
                     + (f' and {more} more classes' if more else ''))
    return lines


def _shown(value: float | None) -> str:
    return 'not finite' if value is None else f'{value:.4g}'
