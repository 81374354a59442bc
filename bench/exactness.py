# SPDX-License-Identifier: Apache-2.0
"""How far the answers of random plans are from those of the unsplit model, for many networks."""

from __future__ import annotations

import gc
import math
from pathlib import Path
import sys
import time

from _common import finish, parser, table
from _goals import Goal, none
import torch

from hp_cli.commands.common import random_image
from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.runtime import reference
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import ask, showing
from hp_inference.split.plan import make_plan
from hp_inference.split.program import compile_plan

# One that nearly every stride divides, and one that none does.
SIZES = ((224, 224), (227, 301))
UNET = f'{Path(__file__).parents[1]}/examples/unet.py:unet'
MODELS = {name: (f'torchvision:{name}', SIZES) for name in """
    resnet18 resnet50 resnet152 vgg16 vgg19_bn densenet121 convnext_tiny regnet_x_400mf
    regnet_y_400mf mobilenet_v3_large efficientnet_b0 shufflenet_v2_x1_0 googlenet inception_v3
    squeezenet1_1 fcn_resnet50 deeplabv3_mobilenet_v3_large swin_t vit_b_16
    keypointrcnn_resnet50_fpn.backbone
""".split()}
MODELS['vit_b_16'] = ('torchvision:vit_b_16', ((224, 224),))  # takes no other size
MODELS['inception_v3'] = ('torchvision:inception_v3', ((299, 299), (227, 301)))
MODELS['unet'] = (UNET, SIZES)
QUICK = ('resnet18', 'shufflenet_v2_x1_0', 'unet')
NAMED = ('robot_only', 'full_offload', 'uniform:0.5')


def measure(name: str, size: tuple[int, int], dtype: torch.dtype, plans: int, seed: int) -> dict:
    """Return the worst relative error of the named and of ``plans`` random plans."""
    begun = time.monotonic()
    model, layout = open_model(ModelSpec(MODELS[name][0], (1, 3, *size), seed=seed, dtype=dtype))
    images = [random_image(layout.graph.input.shape, seed + number) for number in range(2)]
    alone = compile_plan(layout, make_plan('robot_only', layout))
    asked = ask(model, images, lambda image: run_both(layout, alone, image).outputs, dtype)
    # Where the answer is the same for every image no error could be seen.
    shows = len(showing(asked)) == len(asked[0].answer)
    found, sent = {}, 0
    for number, plan in enumerate((*NAMED, *(f'random:{seed + i}' for i in range(plans)))):
        unsplit = asked[number % 2]
        frame = run_both(layout, compile_plan(layout, make_plan(plan, layout)), unsplit.image)
        found[plan] = reference.judge(frame.outputs, unsplit)
        sent += frame.sent_bytes
    worst = max(found, key=lambda plan: found[plan].times)
    return {'model': name, 'size': list(size), 'dtype': str(dtype).removeprefix('torch.'),
            'operators': len(layout.graph.ops), 'unsupported': layout.unsupported,
            'plans': len(found), 'worst_relative_error': found[worst].worst_relative_error,
            'reference_error': found[worst].reference_error, 'worst_plan': worst,
            'robot_only_error': found['robot_only'].worst_relative_error, 'sent_bytes': sent,
            'largest_output': max(answer.abs().max().item() for unsplit in asked
                                  for answer in unsplit.answer.values()),
            'seconds': time.monotonic() - begun, 'tolerance': found[worst].tolerance,
            'ok': shows and all(each.ok for each in found.values())}


def judge(results: list[dict]) -> list[Goal]:
    """Return that every answer was to be that of the unsplit model, and to show something."""
    return [none(f'{dtype}: networks and sizes whose answers are not those of the unsplit model',
                 sum(not result['ok'] for result in results if result['dtype'] == dtype))
            for dtype in dict.fromkeys(result['dtype'] for result in results)]


def main() -> int:
    """Measure, print a table; 1 when an answer is not that of the unsplit model."""
    options = parser(__doc__)
    options.add_argument('--plans', type=int, help='random plans of each (default 10, quick 3)')
    options.add_argument('--seed', type=int, default=0, help='of weights, image and plans')
    options.add_argument('--models', nargs='+', choices=MODELS, metavar='MODEL',
                         help=f'some of {", ".join(MODELS)}')
    options.add_argument('--dtypes', nargs='+', default=['float32', 'float64'],
                         choices=['float32', 'float64'])
    options = options.parse_args()
    plans = options.plans if options.plans is not None else 3 if options.quick else 10
    cases = [(name, size, getattr(torch, dtype))
             for name in options.models or (QUICK if options.quick else MODELS)
             for size in MODELS[name][1] for dtype in options.dtypes]
    results = []
    for number, case in enumerate(cases, 1):
        print(f'{number} of {len(cases)}: {case[0]} {case[1][0]}x{case[1][1]} {case[2]}',
              file=sys.stderr, flush=True)
        results.append(measure(*case, plans, options.seed))
        gc.collect()
    table(f'worst of {plans} random plans and {len(NAMED)} named ones: max|split - exact| / '
          'max|exact|, exact being the float64 answer (in float64: the unsplit one); module: the '
          'same of the unsplit model; robot only: of the unsplit Program',
          ['model', 'height x width', 'type', 'operators', 'worst', 'of plan', 'module',
           'robot only', 'allowed', 'MB sent', 's', 'ok'],
          [[result['model'], 'x'.join(map(str, result['size'])), result['dtype'],
            result['operators'], f'{result["worst_relative_error"]:.1e}', result['worst_plan'],
            '-' if result['reference_error'] is None else f'{result["reference_error"]:.1e}',
            f'{result["robot_only_error"]:.1e}', f'{result["tolerance"]:.1e}',
            result['sent_bytes'] / 1e6, result['seconds'],
            'yes' if result['ok'] else 'NO'] for result in results])
    worst = {dtype: max((result['worst_relative_error'] for result in results
                         if result['dtype'] == dtype), default=math.nan)
             for dtype in options.dtypes}
    for dtype, figure in worst.items():
        print(f'worst in {dtype}: {figure:.1e}')
    return finish(options, {'worst': worst, 'results': results}, judge(results))


if __name__ == '__main__':
    sys.exit(main())
