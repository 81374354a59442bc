# SPDX-License-Identifier: Apache-2.0
"""Operators one after the other give what the whole graph gives, also in parts."""

from nets import Net, random_image, random_net, whole
import pytest
import torch

from hp_inference.profile.walk import Walk
from hp_inference.runtime.executor import Executor
from hp_inference.split.plan import robot_only
from hp_inference.split.program import compile_plan


def values_of(walk, image):
    """Return every value of a walk, each as it was when it had just been computed."""
    made = {0: image}

    def visit(op, held):
        tensor = walk.compute(op, held)
        made[op.output] = tensor.clone()
        return tensor
    with torch.inference_mode():
        walk.go(image, visit)
    return made


@pytest.mark.parametrize('seed', range(12))
def test_a_walk_computes_what_the_graph_does(seed):
    layout = random_net(seed, whole_numbers=True)
    image = random_image(layout)
    made = values_of(Walk(layout), image)
    for name, tensor in whole(layout.graph, image).items():
        torch.testing.assert_close(made[layout.graph.outputs[name]], tensor)


@pytest.mark.parametrize('seed', range(12))
def test_a_piece_gives_its_rows_and_leaves_the_values_as_they_are(seed):
    layout = random_net(seed, whole_numbers=True)
    image, walk = random_image(layout), Walk(layout)
    made = values_of(walk, image)
    with torch.inference_mode():
        for op in layout.graph.ops:
            v, axis = op.output, layout.axes[op.output]
            before = {ref: made[ref].clone() for ref in op.refs}
            for rows in {1, (layout.rows[v] + 1) // 2}:
                piece = walk.piece(op, rows)
                if piece.whole:
                    continue
                begin = (layout.rows[v] - rows) // 2
                torch.testing.assert_close(piece.run(piece.inputs(made)),
                                           made[v].narrow(axis, begin, rows))
            assert all(torch.equal(made[ref], before[ref]) for ref in op.refs)


def test_a_value_is_dropped_after_its_last_reader():
    net = Net(8)
    y = net.conv(net.x)
    z = net.relu(net.conv(y))
    layout = net.layout(net.add(z, y))
    walk, held_at = Walk(layout), []

    def visit(op, held):
        held_at.append(sorted(held))
        return walk.compute(op, held)
    walk.go(random_image(layout), visit)
    assert held_at == [[0], [0, 1], [0, 2], [0, 2, 3], [0, 2, 4]]


@pytest.mark.parametrize('seed', range(12))
def test_what_an_executor_writes_over_is_written_over(seed):
    layout = random_net(seed)
    executor = Executor(layout, compile_plan(layout, robot_only(layout))[0])
    computed = {step.value for step in executor.program.steps}
    assert {v: over for v, over in enumerate(Walk(layout).over)
            if over is not None and v in computed} == executor._lives.written_over
