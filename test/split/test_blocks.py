# SPDX-License-Identifier: Apache-2.0
"""Row blocks: computing begins on the rows that are there, and small maps stay whole."""

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
from nets import chain, Net, random_net
import pytest
from worked_out import shares, timing

from hp_inference.graph.rows import Rows
from hp_inference.split.blocks import MIN_BLOCK_ROWS, PHASES
from hp_inference.split.plan import full_offload, layer, Plan, random_plan, uniform
from hp_inference.split.program import compile_plan, Compute, Receive
from hp_inference.split.row_rules import needs_of
from hp_inference.split.shares import ROBOT, SERVER


def steps(program):
    """Return the steps as short text: 'c2 [0,8)' computes, 's' sends, 'r' receives."""
    return [f'{type(step).__name__[0].lower()}{step.value} [{step.begin},{step.end})'
            for step in program.steps]


def test_the_server_computes_on_the_first_rows_while_the_rest_is_on_the_air():
    robot, server = compile_plan(chain(64, 1), full_offload(chain(64, 1), blocks={0: 4}))
    assert steps(robot) == ['s0 [0,16)', 's0 [16,32)', 's0 [32,48)', 's0 [48,64)', 'r2 [0,64)']
    # The 3x3 convolution can follow up to the last row but one of what is there.
    assert steps(server) == [
        'r0 [0,16)', 'c1 [0,16)', 'c2 [0,15)',
        'r0 [16,32)', 'c1 [16,32)', 'c2 [15,31)',
        'r0 [32,48)', 'c1 [32,48)', 'c2 [31,47)',
        'r0 [48,64)', 'c1 [48,64)', 'c2 [47,64)', 's2 [0,64)']


def test_with_one_block_it_computes_each_value_at_once():
    _, server = compile_plan(chain(64, 1), full_offload(chain(64, 1)))
    assert steps(server) == ['r0 [0,64)', 'c1 [0,64)', 'c2 [0,64)', 's2 [0,64)']


def test_the_robot_sends_the_first_rows_of_a_layer_before_it_computes_the_rest():
    layout = chain(64, 2)
    robot, server = compile_plan(layout, layer(layout, 2, blocks={2: 2}))
    # Rows [0,32) of value 2 read [0,33) of value 1.
    assert steps(robot) == ['c1 [0,33)', 'c2 [0,32)', 's2 [0,32)', 'c1 [33,64)', 'c2 [32,64)',
                            's2 [32,64)', 'r3 [0,64)']
    assert steps(server) == ['r2 [0,32)', 'c3 [0,31)', 'r2 [32,64)', 'c3 [31,64)', 's3 [0,64)']


def test_blocks_of_few_rows_are_joined():
    # 8 blocks of 4 rows; computing goes on when at least 8 rows can be.
    robot, server = compile_plan(chain(32, 1), full_offload(chain(32, 1), blocks={0: 8}))
    assert len(robot.sends) == 8
    assert steps(server) == [
        'r0 [0,4)', 'r0 [4,8)', 'c1 [0,8)',
        'r0 [8,12)', 'r0 [12,16)', 'c1 [8,16)', 'c2 [0,15)',
        'r0 [16,20)', 'r0 [20,24)', 'c1 [16,24)', 'c2 [15,23)',
        'r0 [24,28)', 'r0 [28,32)', 'c1 [24,32)', 'c2 [23,32)', 's2 [0,32)']


def test_deep_small_maps_are_computed_whole():
    # Four pools of 2: from 64 rows to 4.
    net = Net(64)
    x = net.conv(net.x)
    for _ in range(4):
        x = net.max_pool(x)
    layout = net.layout(x)
    _, server = compile_plan(layout, full_offload(layout, blocks={0: 4}))
    computed = {value: [(step.begin, step.end) for step in server.steps
                        if isinstance(step, Compute) and step.value == value]
                for value in range(1, 7)}
    assert computed[1] == [(0, 16), (16, 32), (32, 48), (48, 64)]
    assert computed[2] == [(0, 15), (15, 31), (31, 47), (47, 64)]
    assert computed[3] == [(0, 15), (15, 23), (23, 32)]  # of 32 rows; 7 alone would be few
    assert computed[4] == [(0, 11), (11, 16)]
    assert computed[5] == [(0, 8)] and computed[6] == [(0, 4)]


def test_a_flip_waits_for_the_last_row_and_what_follows_runs_whole():
    net = Net(64)
    layout = net.layout(net.relu(net.op('flip.default', net.x, [2])))
    _, server = compile_plan(layout, full_offload(layout, blocks={0: 4}))
    assert steps(server)[-4:] == ['c1 [48,64)', 'c2 [0,64)', 'c3 [0,64)', 's3 [0,64)']


def test_halos_that_arrive_do_not_hold_up_the_rows_that_do_not_need_them():
    # The lower half of the image streams up; of value 1 the server gets row 31 from the robot.
    layout = chain(64, 1)
    robot, server = compile_plan(layout, uniform(layout, 0.5, blocks={0: 2}))
    assert steps(robot)[:2] == ['s0 [32,48)', 's0 [48,64)']
    assert steps(server)[:2] == ['r0 [32,48)', 'c1 [32,48)']


def test_rows_between_what_two_joined_blocks_read_are_computed_in_time():
    # A stride of 4 with a kernel of 1: rows [0,4) of value 3 read rows 0 .. 12 of value 2, rows
    # [4,8) rows 16 .. 28. The two blocks are computed as one, and so read rows 13 .. 15 as well.
    net = Net(64)
    layout = net.layout(net.conv(net.conv(net.conv(net.x), 1, 4, 0)))
    robot, _ = compile_plan(layout, layer(layout, 3, blocks={3: 4}))
    assert steps(robot)[:7] == ['c1 [0,14)', 'c2 [0,13)', 'c1 [14,30)', 'c2 [13,29)', 'c3 [0,8)',
                                's3 [0,4)', 's3 [4,8)']


def phases(layout, plan):
    """Return, per value and side, the phase of every row that is computed, and that arrives."""
    when = timing(layout, plan)
    computed = [[{row: phase for phase, rows in when.computed[v][side] for a, b in rows
                  for row in range(a, b)} for side in (ROBOT, SERVER)]
                for v in range(len(layout.rows))]
    arrives = [[{row: phase for phase, rows in when.leaving[v][1 - side] for a, b in rows
                 for row in range(a, b)} for side in (ROBOT, SERVER)]
               for v in range(len(layout.rows))]
    return when, computed, arrives


def check_phases(layout, plan):
    made = shares(layout, plan)
    when, computed, arrives = phases(layout, plan)
    for value in range(len(layout.rows)):
        for side in (ROBOT, SERVER):
            entries = when.computed[value][side]
            assert Rows(pair for _, rows in entries for pair in rows) == made[value].computed[side]
            assert sum(rows.count for _, rows in entries) == made[value].computed[side].count
            assert [phase for phase, _ in entries] == sorted(phase for phase, _ in entries)
            assert all(0 <= phase <= PHASES for phase, _ in entries)
            if value:
                # All but the last are of more than a few rows.
                assert all(rows.count >= MIN_BLOCK_ROWS for _, rows in entries[:-1])
            leaving = when.leaving[value][side]
            assert len(leaving) <= plan.block_count(value)
            assert [phase for phase, _ in leaving] == sorted(phase for phase, _ in leaving)
            for phase, rows in leaving:
                assert all(computed[value][side][row] <= phase for a, b in rows
                           for row in range(a, b)), 'nothing leaves before it is computed'
            if not value:
                continue
            for phase, rows in entries:
                for source, need in needs_of(layout, value, rows).items():
                    there = {**computed[source][side], **arrives[source][side]}
                    assert all(there[row] <= phase for a, b in need for row in range(a, b)), (
                        'nothing is computed before what it reads')


@drawn(45, 250)
@given(st.integers(0, 10 ** 6), st.integers(0, 10 ** 6))
def test_phases_never_precede_those_of_rows_read(net_seed, plan_seed):
    layout = random_net(net_seed)
    check_phases(layout, random_plan(layout, plan_seed))


@drawn(25, 100)
@given(st.integers(0, 10 ** 6), st.data())
def test_phases_of_plans_that_stream_everything(net_seed, data):
    layout = random_net(net_seed)
    plan = random_plan(layout, net_seed)
    blocks = {v: data.draw(st.sampled_from((2, 4, 8))) for v in range(len(layout.rows))}
    check_phases(layout, Plan('streams', plan.robot, plan.server, blocks))


@pytest.mark.parametrize('count, phase', [(1, [8]), (2, [4, 8]), (4, [2, 4, 6, 8]),
                                          (8, [1, 2, 3, 4, 5, 6, 7, 8])])
def test_block_j_of_n_belongs_to_phase_8_j_over_n(count, phase):
    layout = chain(64, 1)
    plan = full_offload(layout, blocks={0: count, 2: 2})
    when = timing(layout, plan)
    assert [p for p, _ in when.leaving[0][ROBOT]] == phase
    assert when.leaving[0][SERVER] == []
    assert Rows(pair for _, rows in when.leaving[0][ROBOT] for pair in rows) == Rows.of(0, 64)
    assert Rows() == shares(layout, plan)[2].arriving[SERVER]


def test_a_receive_stands_right_before_the_first_step_that_needs_it():
    layout = chain(64, 2)
    for program in compile_plan(layout, uniform(layout, 0.5, blocks={0: 4, 1: 2})):
        for at, step in enumerate(program.steps):
            if isinstance(step, Receive):
                after = next((s for s in program.steps[at:] if not isinstance(s, Receive)), None)
                if after is not None:
                    need = needs_of(layout, after.value, Rows.of(after.begin, after.end))
                    assert need[step.value] & Rows.of(step.begin, step.end)
