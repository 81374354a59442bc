# SPDX-License-Identifier: Apache-2.0
"""The two Programs of a plan: complete, matched, in order, and never in each other's way."""

from collections import Counter

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
from nets import chain, Net, random_net
import pytest
from worked_out import shares

from hp_inference.graph.rows import Rows
from hp_inference.split.plan import (
    BLOCK_COUNTS,
    full_offload,
    layer,
    Plan,
    PlanError,
    random_plan,
    robot_only,
    uniform,
)
from hp_inference.split.program import compile_plan, Compute, Receive, Send
from hp_inference.split.row_rules import needs_of
from hp_inference.split.shares import ROBOT, SERVER


def steps(program):
    """Return the steps as short text: 'c2 [0,8)' computes, 's' sends, 'r' receives."""
    return [f'{type(step).__name__[0].lower()}{step.value} [{step.begin},{step.end})'
            for step in program.steps]


def test_halves_exchange_their_halos_as_soon_as_they_are_made():
    robot, server = compile_plan(chain(16, 2), uniform(chain(16, 2), 0.5))
    assert steps(robot) == [
        's0 [8,16)', 'c1 [0,8)', 's1 [7,8)', 'r1 [8,9)', 'c2 [0,8)', 's2 [7,8)',
        'r2 [8,9)', 'c3 [0,8)', 'r3 [8,16)']
    assert steps(server) == [
        'r0 [8,16)', 'c1 [8,16)', 's1 [8,9)', 'r1 [7,8)', 'c2 [8,16)', 's2 [8,9)',
        'r2 [7,8)', 'c3 [8,16)', 's3 [8,16)']


def test_a_side_keeps_the_rows_that_it_uses_and_no_more():
    robot, server = compile_plan(chain(16, 2), uniform(chain(16, 2), 0.5))
    # Value 0 is the image, all of which the robot has; of the rest half and a halo, and the answer.
    assert robot.held == {0: (0, 16), 1: (0, 9), 2: (0, 9), 3: (0, 16)}
    assert server.held == {0: (8, 16), 1: (7, 16), 2: (7, 16), 3: (8, 16)}


def test_robot_only_leaves_the_server_nothing_to_do():
    robot, server = compile_plan(chain(16, 2), robot_only(chain(16, 2)))
    assert steps(robot) == ['c1 [0,16)', 'c2 [0,16)', 'c3 [0,16)']
    assert steps(server) == [] and server.held == {}


def test_full_offload_leaves_the_robot_nothing_to_compute():
    robot, server = compile_plan(chain(16, 2), full_offload(chain(16, 2)))
    assert steps(robot) == ['s0 [0,16)', 'r3 [0,16)']
    assert steps(server) == ['r0 [0,16)', 'c1 [0,16)', 'c2 [0,16)', 'c3 [0,16)', 's3 [0,16)']


def test_a_gate_travels_as_row_means_up_and_one_number_per_channel_down():
    net = Net(8)
    layout = net.layout(net.squeeze_excite(net.x))
    robot, server = compile_plan(layout, uniform(layout, 0.5))
    assert steps(robot) == ['s0 [4,8)', 'c1 [0,4)', 'c2 [0,4)', 's2 [0,4)', 'r4 [0,1)', 'c5 [0,4)',
                            'r5 [4,8)']
    assert steps(server) == ['r0 [4,8)', 'c1 [4,8)', 'c2 [4,8)', 'r2 [0,4)', 'c3 [0,1)',
                             'c4 [0,1)', 's4 [0,1)', 'c5 [4,8)', 's5 [4,8)']


def test_rows_in_two_intervals_travel_as_two_slices():
    net = Net(10)
    layout = net.layout(net.op('roll.default', net.x, [3], [2]))
    robot, server = compile_plan(layout, uniform(layout, 0.5))
    # The robot's half of the rolled rows are rows 7, 8, 9, 0, 1; it keeps the span of them.
    assert steps(robot) == ['s0 [5,10)', 'c1 [0,5)', 's1 [2,5)', 'r1 [7,10)', 'c2 [0,5)',
                            'r2 [5,10)']
    assert robot.held[1] == (0, 10) and server.held[1] == (2, 10)
    # The server's are rows 2 to 6; with two intervals to send there are two slices.
    robot, server = compile_plan(layout, layer(layout, 1))
    assert steps(robot) == ['c1 [0,10)', 's1 [0,10)', 'r2 [0,10)']
    plan = Plan('middle', robot=(10, 10, 5), server=(10, 10, 5))
    robot, server = compile_plan(layout, plan)
    assert steps(robot)[:2] == ['c1 [0,10)', 's1 [2,7)']
    plan = Plan('ends', robot=(10, 0, 5), server=(10, 0, 5))
    robot, server = compile_plan(layout, plan)
    assert steps(server) == ['r0 [0,10)', 'c1 [0,10)', 's1 [0,2)', 's1 [7,10)', 'c2 [5,10)',
                             's2 [5,10)']


def test_the_codec_of_a_send_and_of_its_receive_is_the_plans():
    layout = chain(16, 2)
    plan = Plan('codecs', (16, 8, 8, 8), (16, 8, 8, 8), {}, {1: 'none', 3: 'zstd'}, 'none')
    robot, server = compile_plan(layout, plan)
    assert [(send.value, send.codec) for send in robot.sends] == [
        (0, 'none'), (1, 'none'), (2, 'none')]
    assert [(send.value, send.codec) for send in server.sends] == [
        (1, 'none'), (2, 'none'), (3, 'zstd')]
    for here, there in ((robot, server), (server, robot)):
        assert [(step.value, step.codec) for step in here.receives] == [
            (step.value, step.codec) for step in there.sends]


@pytest.mark.parametrize('count', BLOCK_COUNTS)
def test_a_value_is_sent_in_as_many_ascending_blocks_as_the_plan_says(count):
    layout = chain(100, 2)
    for value, plan in ((0, full_offload(layout, blocks={0: count})),
                        (2, layer(layout, 2, blocks={2: count}))):
        robot, server = compile_plan(layout, plan)
        sent = [(send.begin, send.end) for send in robot.sends]
        assert len(sent) == count
        assert [begin for begin, _ in sent] == [0, *(end for _, end in sent[:-1])]
        assert sent[-1][1] == 100 and {send.value for send in robot.sends} == {value}
        assert max(b - a for a, b in sent) - min(b - a for a, b in sent) <= 1
        assert [(r.begin, r.end) for r in server.receives] == sent


def test_the_answer_comes_down_in_blocks_too():
    layout = chain(64, 2)
    robot, server = compile_plan(layout, full_offload(layout, blocks={0: 4, 3: 4}))
    assert [(send.begin, send.end) for send in server.sends] == [
        (0, 16), (16, 32), (32, 48), (48, 64)]
    # Each waits for the next block of the image, which its last rows read: two leave early.
    last = max(i for i, step in enumerate(server.steps) if isinstance(step, Compute))
    assert len([step for step in server.steps[:last] if isinstance(step, Send)]) == 2


def test_a_value_of_fewer_rows_than_blocks_travels_row_by_row():
    layout = chain(3, 1)
    robot, _ = compile_plan(layout, full_offload(layout, blocks={0: 8}))
    assert steps(robot)[:3] == ['s0 [0,1)', 's0 [1,2)', 's0 [2,3)']


def test_the_text_of_a_program_names_every_step():
    layout = chain(16, 1)
    robot, server = compile_plan(layout, uniform(layout, 0.5))
    assert [' '.join(line.split()) for line in server.text(layout).splitlines()] == [
        'server program of plan uniform:0.5: 6 steps',
        'receive %0 rows [8,16) of 16 image',
        'compute %1 rows [8,16) of 16 _to_copy _to_copy',
        'send %1 rows [8,9) of 16 zstd _to_copy',
        'receive %1 rows [7,8) of 16 _to_copy',
        'compute %2 rows [8,16) of 16 conv2d conv2d',
        'send %2 rows [8,16) of 16 zstd conv2d']
    assert robot.text(layout).startswith('robot program of plan uniform:0.5: 6 steps\n  send')
    net = Net(4)
    layout = net.layout(net.linear(net.x))
    assert 'whole' in compile_plan(layout, robot_only(layout))[ROBOT].text(layout)


def test_a_plan_with_a_gap_does_not_compile():
    with pytest.raises(PlanError, match=r'rows \[4,10\) of value 3 \(conv2d\) are needed'):
        compile_plan(chain(16), Plan('p', (16, 8, 8, 4, 8), (16, 8, 8, 10, 8)))


def check_programs(layout, plan):
    """Check all that has to hold of any two Programs of one plan."""
    made, programs = shares(layout, plan), compile_plan(layout, plan)
    for side, program in enumerate(programs):
        check_program(layout, made, program, side)
    for sender, receiver in (programs, programs[::-1]):
        sent = Counter((send.value, send.begin, send.end) for send in sender.sends)
        taken = Counter((got.value, got.begin, got.end) for got in receiver.receives)
        assert sent == taken, 'what one side sends the other takes, slice by slice'
    play(programs)


def check_program(layout, made, program, side):
    computed = [Rows() for _ in made]
    sent, received = list(computed), list(computed)
    if side == ROBOT:
        computed[0] = made[0].computed[ROBOT]
    sends = {}
    for step in program.steps:
        value, rows = step.value, Rows.of(step.begin, step.end)
        assert rows and rows <= Rows.of(0, layout.rows[value])
        low, high = program.held[value]
        assert low <= step.begin and step.end <= high
        if isinstance(step, Compute):
            for source, need in needs_of(layout, value, rows).items():
                assert need <= computed[source] | received[source], 'needs are there before it'
            assert not rows & (computed[value] | received[value]), 'no row twice'
            computed[value] |= rows
        elif isinstance(step, Send):
            assert rows <= computed[value], 'only what is computed is sent'
            assert not rows & sent[value], 'no row is sent twice'
            assert step.begin >= sends.get(value, 0), 'blocks ascend'
            sends[value] = step.end
            sent[value] |= rows
        else:
            assert not rows & (computed[value] | received[value]), 'no row comes twice'
            received[value] |= rows
    for value, share in enumerate(made):
        assert computed[value] == share.computed[side]
        assert received[value] == share.arriving[side]
        assert sent[value] == share.arriving[1 - side]
        if share.held(side):
            assert program.held[value] == share.held(side).hull
    if side == ROBOT:
        for value in layout.graph.outputs.values():
            assert (computed[value] | received[value]) == Rows.of(0, layout.rows[value])


def play(programs):
    """Run both Programs against each other as far as they come; both must come to their ends."""
    at, arrived = [0, 0], [set(), set()]
    moved = True
    while moved:
        moved = False
        for side, program in enumerate(programs):
            while at[side] < len(program.steps):
                step = program.steps[at[side]]
                place = (step.value, step.begin, step.end)
                if isinstance(step, Receive) and place not in arrived[side]:
                    break
                if isinstance(step, Send):
                    arrived[1 - side].add(place)
                at[side] += 1
                moved = True
    waiting = [program.steps[i:i + 1] for program, i in zip(programs, at)]
    assert waiting == [(), ()], f'robot and server wait for each other: {waiting}'


@drawn(45, 250)
@given(st.integers(0, 10 ** 6), st.integers(0, 10 ** 6))
def test_any_random_plan_of_any_net(net_seed, plan_seed):
    layout = random_net(net_seed)
    check_programs(layout, random_plan(layout, plan_seed))


@st.composite
def drawn_plans(draw):
    """Draw a net and, per value, any two shares that leave no gap, and any block count."""
    layout = random_net(draw(st.integers(0, 10 ** 6)))
    robot, server, blocks = [layout.rows[0]], [layout.rows[0]], {}
    for value, rows in enumerate(layout.rows):
        blocks[value] = draw(st.sampled_from(BLOCK_COUNTS))
        if value:
            robot.append(draw(st.integers(0, rows)))
            server.append(draw(st.integers(0, robot[-1])))
    return layout, Plan('drawn', tuple(robot), tuple(server), blocks)


@drawn(45, 250)
@given(drawn_plans())
def test_any_shares_without_a_gap(made):
    check_programs(*made)


@drawn(15, 60)
@given(st.integers(0, 10 ** 6), st.data())
def test_every_named_plan_of_any_net(seed, data):
    layout = random_net(seed)
    blocks = {value: data.draw(st.sampled_from(BLOCK_COUNTS)) for value in range(len(layout.rows))}
    for plan in (robot_only(layout, blocks=blocks), full_offload(layout, blocks=blocks),
                 uniform(layout, data.draw(st.floats(0, 1)), blocks=blocks),
                 layer(layout, data.draw(st.integers(0, len(layout.rows) - 1)), blocks=blocks)):
        check_programs(layout, plan)


def test_the_server_never_holds_what_only_the_robot_wants():
    layout = chain(16, 2)
    _, server = compile_plan(layout, robot_only(layout))
    assert SERVER == server.side and not server.held and not server.receives
