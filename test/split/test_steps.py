# SPDX-License-Identifier: Apache-2.0
"""The plan compiler that runs gives the Programs of the one that can be read."""

import random

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
from nets import Net, random_net
import pytest
from readable_compiler import programs_of, shares, timing
import worked_out

from hp_inference.split.errors import PlanError
from hp_inference.split.plan import BLOCK_COUNTS, make_plan, Plan
from hp_inference.split.program import compile_plan, INTERVALS
from hp_inference.split.shares import ROBOT


def with_blocks(layout, plan, seed):
    """Return a plan whose values travel in random numbers of blocks."""
    draw = random.Random(seed)
    return Plan(plan.name, plan.robot, plan.server,
                {v: draw.choice(BLOCK_COUNTS) for v in range(len(layout.rows))})


@drawn(40, 400)
@given(st.integers(0, 10 ** 6), st.integers(0, 10 ** 6), st.booleans())
def test_both_give_the_same_programs_and_the_same_on_the_way(net_seed, plan_seed, blocks):
    layout = random_net(net_seed)
    plan = make_plan(f'random:{plan_seed}', layout)
    if blocks:
        plan = with_blocks(layout, plan, plan_seed)
    assert compile_plan(layout, plan) == programs_of(layout, plan)
    made = shares(layout, plan)
    assert worked_out.shares(layout, plan) == made
    assert worked_out.timing(layout, plan) == timing(layout, plan, made)


@drawn(40, 400)
@given(st.integers(0, 10 ** 6), st.data())
def test_both_refuse_the_same_plans_in_the_same_words(net_seed, data):
    layout = random_net(net_seed)
    share = st.tuples(*(st.integers(0, rows) for rows in layout.rows[1:]))
    plan = Plan('drawn', (layout.rows[0], *data.draw(share)),
                (data.draw(st.integers(0, layout.rows[0])), *data.draw(share)))

    def outcome(make):
        try:
            return make(layout, plan)
        except PlanError as error:
            return str(error)
    assert outcome(compile_plan) == outcome(programs_of)


def test_rows_may_lie_as_scattered_as_they_like():
    net = Net(240)
    x = net.relu(net.x)
    count = 5 * INTERVALS
    rolled = [net.op('roll.default', x, [8 * i], [2]) for i in range(count)]
    layout = net.layout(net.op('cat.default', rolled, 1))
    rows = (240, 240, 240, *[239] * count, 239)
    plan = Plan('scattered', rows, rows)  # the server has the last row of each
    programs = compile_plan(layout, plan)
    assert programs == programs_of(layout, plan)
    assert len(programs[ROBOT].sends) == count


@pytest.mark.parametrize('count', BLOCK_COUNTS)
def test_what_reads_a_value_twice_waits_for_it_once(count):
    net = Net(32)
    layout = net.layout(net.attend(net.x))
    plan = make_plan('uniform:0.5', layout)
    plan = Plan(plan.name, plan.robot, plan.server, dict.fromkeys(range(len(layout.rows)), count))
    assert compile_plan(layout, plan) == programs_of(layout, plan)
