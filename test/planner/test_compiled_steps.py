# SPDX-License-Identifier: Apache-2.0
"""The compiled way from a plan to steps leads to the steps of the Programs that run."""

import random

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
from nets import chain, Net, random_net
import numpy as np
import pytest
from settings import NETS, real, small_swin, tiny

from hp_inference.split.errors import PlanError
from hp_inference.split.plan import BLOCK_COUNTS, make_plan, Plan, uniform
from hp_inference.split.program import compile_plan
from hp_inference.split.shares import COMPLETE, ROBOT, SERVER
from hp_inference.split.steps import COMPUTE, RECEIVE, SEND
from hp_planner.timeline.compiler import INTERVALS, make_steps, new_steps, new_workspace
from hp_planner.timeline.row_tables import row_tables
from hp_planner.timeline.timeline import Population, steps_of

PLANS = ('robot_only', 'full_offload', 'uniform:0.5', 'uniform:0.3', 'layer:2', 'random:1',
         'random:2', 'random:3')


class Maker:
    """Makes the steps of plans of one graph in the same memory, as the optimiser does."""

    def __init__(self, layout):
        self.layout, self.tables = layout, row_tables(layout)
        self.steps = new_steps(len(layout.rows))
        self.work = new_workspace(len(layout.rows))

    def __call__(self, plan):
        """Return the steps, None where the plan is not considered."""
        arrays = Population.of([plan])
        considered = make_steps(self.tables, arrays.robot[0], arrays.server[0], arrays.blocks[0],
                                self.work, self.steps) == COMPLETE
        assert considered == bool(self.steps.counts[3])
        return self.steps if considered else None

    def check(self, plan):
        """Assert that steps, kept rows and messages are those of the compiled Programs."""
        made = self(plan)
        assert made is not None, plan
        expected = steps_of(compile_plan(self.layout, plan), len(self.layout.rows))
        for side in (ROBOT, SERVER):
            assert listed(made, side) == listed(expected, side), plan
        np.testing.assert_array_equal(made.held_begin, expected.held_begin)
        np.testing.assert_array_equal(made.held_end, expected.held_end)
        assert messages(made) == messages(expected)


def listed(steps, side):
    """Return a side's steps as tuples: kind, value, begin, end."""
    columns = (array[side, :steps.counts[side]].tolist()
               for array in (steps.kind, steps.value, steps.begin, steps.end))
    return list(zip(*columns))


def messages(steps):
    """Return what travels, by sender; assert that what is sent under a number arrives under it."""
    ways = [{}, {}, {}, {}]  # by side: sent, received
    for side in (ROBOT, SERVER):
        for i, (kind, *what) in enumerate(listed(steps, side)):
            number = steps.message[side, i]
            if kind == COMPUTE:
                assert number == -1
                continue
            table = ways[side + (2 if kind == RECEIVE else 0)]
            assert number not in table
            table[number] = what
    sent = ways[ROBOT] | ways[SERVER]
    assert sorted(sent) == list(range(steps.counts[2]))
    assert ways[ROBOT] == ways[2 + SERVER] and ways[SERVER] == ways[2 + ROBOT]
    return [sorted(ways[side].values()) for side in (ROBOT, SERVER)]


def with_blocks(layout, plan, seed):
    """Return a plan whose values travel in random numbers of blocks."""
    draw = random.Random(seed)
    return Plan(plan.name, plan.robot, plan.server,
                {v: draw.choice(BLOCK_COUNTS) for v in range(len(layout.rows))})


@pytest.mark.parametrize('name', NETS)
def test_steps_are_those_of_the_programs(name):
    layout = tiny(name, 40)
    maker = Maker(layout)
    for seed, text in enumerate(PLANS):
        plan = make_plan(text, layout)
        maker.check(plan)
        maker.check(with_blocks(layout, plan, seed))
    for blocks in BLOCK_COUNTS:
        maker.check(uniform(layout, 0.4, blocks=dict.fromkeys(range(len(layout.rows)), blocks)))


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.booleans())
@drawn(25, 60, anew=True)
def test_steps_are_those_of_the_programs_of_random_nets(net, seed, blocks):
    layout = random_net(net)
    plan = make_plan(f'random:{seed}', layout)
    Maker(layout).check(with_blocks(layout, plan, seed) if blocks else plan)


@pytest.mark.parametrize('layout', [pytest.param(small_swin, id='swin'), *(
    pytest.param(lambda name=name: real(f'torchvision:{name}'), id=name, marks=pytest.mark.long)
    for name in ('resnet18', 'mobilenet_v3_small'))])
def test_steps_are_those_of_the_programs_of_real_networks(layout):
    layout = layout()
    maker = Maker(layout)
    for text in ('full_offload', 'uniform:0.5', f'layer:{len(layout.rows) // 2}', 'random:1'):
        plan = make_plan(text, layout)
        maker.check(plan)
        maker.check(with_blocks(layout, plan, 0))


@given(st.sampled_from(sorted(NETS)), st.data())
@drawn(25, 60, anew=True)
def test_a_plan_is_considered_exactly_when_it_is_complete(name, data):
    layout = tiny(name, 8)
    whole = layout.rows[0]
    share = st.tuples(*(st.integers(0, rows) for rows in layout.rows[1:]))
    robot, server = data.draw(share), data.draw(share)
    if data.draw(st.booleans()):  # of independent shares, hardly any are complete
        server = tuple(map(min, robot, server))
    plan = Plan('drawn', (whole, *robot), (whole, *server))
    try:
        compile_plan(layout, plan)
    except PlanError as error:
        assert 'gap' in str(error)
        assert Maker(layout)(plan) is None
    else:
        Maker(layout).check(plan)


def test_a_gap_in_rows_that_nobody_needs_is_none():
    net = Net(8)
    layout = net.layout(net.op('slice.Tensor', net.conv(net.x), 2, 0, 4))  # rows 0 to 3 of 8
    complete, gap = (Plan('p', (8, 8, robot, 4), (8, 8, 6, 4)) for robot in (4, 3))
    assert Maker(layout)(complete) is not None
    assert Maker(layout)(gap) is None


def test_a_plan_whose_rows_lie_too_scattered_is_not_considered_and_the_next_one_is():
    net = Net(64)
    x = net.relu(net.x)
    rolled = [net.op('roll.default', x, [8 * i], [2]) for i in range(INTERVALS + 1)]
    layout = net.layout(net.op('cat.default', rolled, 1))
    maker = Maker(layout)
    # The server has the last row of each, which are seven rows of x, each far from the others.
    rows = [64, 64, 64] + [63] * len(rolled) + [63]
    assert len(compile_plan(layout, Plan('scattered', tuple(rows), tuple(rows)))[ROBOT].sends) == 7
    assert maker(Plan('scattered', tuple(rows), tuple(rows))) is None
    maker.check(make_plan('uniform:0.5', layout))


def test_what_reads_a_value_twice_waits_for_it_once_and_in_order():
    net = Net(32)
    layout = net.layout(net.attend(net.x))  # attention over rows, keys made of them, rows
    rows = make_plan('uniform:0.5', layout)
    maker = Maker(layout)
    maker.check(rows)
    maker.check(with_blocks(layout, rows, 1))


def test_the_numbers_of_a_small_case():
    layout = chain(8, 1)
    half = make_plan('uniform:0.5', layout)
    steps = Maker(layout)(half)
    # Rows 0 to 3 of the convolution read row 4 of its input, and rows 4 to 7 read row 3.
    assert listed(steps, ROBOT) == [(SEND, 0, 4, 8), (COMPUTE, 1, 0, 4), (SEND, 1, 3, 4),
                                    (RECEIVE, 1, 4, 5), (COMPUTE, 2, 0, 4), (RECEIVE, 2, 4, 8)]
    assert messages(steps) == [[[0, 4, 8], [1, 3, 4]], [[1, 4, 5], [2, 4, 8]]]
    assert steps.held_begin.tolist() == [[0, 0, 0], [4, 3, 4]]
    assert steps.held_end.tolist() == [[8, 5, 8], [8, 8, 8]]
