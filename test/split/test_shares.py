# SPDX-License-Identifier: Apache-2.0
"""What each side wants, computes and gets sent, row by row, worked out by hand."""

from nets import chain, Net, random_net
import pytest
from worked_out import shares

from hp_inference.graph.ir import Ref
from hp_inference.graph.rows import Rows
from hp_inference.split.plan import (
    full_offload,
    layer,
    Plan,
    PlanError,
    random_plan,
    robot_only,
    uniform,
)
from hp_inference.split.program import compile_plan
from hp_inference.split.row_rules import needs_of
from hp_inference.split.shares import ROBOT, SERVER


def listed(layout, plan):
    """Return, per value, the rows 'wanted | computed | arriving', the robot's and the server's."""
    return [' | '.join(f'{robot} {server}' for robot, server
                       in (share.wanted, share.computed, share.arriving))
            for share in shares(layout, plan)]


def test_halves_of_convolutions_exchange_one_row_each_way_at_every_layer():
    # Rows [a, b) of a 3x3 convolution with padding 1 read rows [a-1, b+1).
    assert listed(chain(16), uniform(chain(16), 0.5)) == [
        '[0,8) [8,16) | [0,16) [) | [) [8,16)',           # the image is all on the robot
        '[0,9) [7,16) | [0,8) [8,16) | [8,9) [7,8)',      # converted to float
        '[0,9) [7,16) | [0,8) [8,16) | [8,9) [7,8)',
        '[0,9) [7,16) | [0,8) [8,16) | [8,9) [7,8)',
        '[0,16) [) | [0,8) [8,16) | [8,16) [)']           # the robot ends up with the answer


def test_a_cut_behind_a_layer_sends_its_whole_output_once():
    assert listed(chain(16), layer(chain(16), 3)) == [
        '[0,16) [) | [0,16) [) | [) [)',
        '[0,16) [) | [0,16) [) | [) [)',
        '[0,16) [) | [0,16) [) | [) [)',
        '[) [0,16) | [0,16) [) | [) [0,16)',
        '[0,16) [) | [) [0,16) | [0,16) [)']


def test_nothing_travels_when_the_robot_does_it_alone():
    assert listed(chain(16), robot_only(chain(16))) == [
        '[0,16) [) | [0,16) [) | [) [)'] * 5


def test_full_offload_sends_the_image_up_and_the_answer_down():
    inner = '[) [0,16) | [) [0,16) | [) [)'
    assert listed(chain(16), full_offload(chain(16))) == [
        '[) [0,16) | [0,16) [) | [) [0,16)', inner, inner, inner,
        '[0,16) [) | [) [0,16) | [0,16) [)']


def test_overlap_recomputes_the_halo_instead_of_sending_it():
    # Each side starts as many rows further as the two convolutions behind it eat.
    plan = Plan('overlap', robot=(16, 11, 10, 9, 8), server=(16, 5, 6, 7, 8))
    assert listed(chain(16), plan) == [
        '[0,11) [5,16) | [0,16) [) | [) [5,16)',
        '[0,11) [5,16) | [0,11) [5,16) | [) [)',
        '[0,10) [6,16) | [0,10) [6,16) | [) [)',
        '[0,9) [7,16) | [0,9) [7,16) | [) [)',
        '[0,16) [) | [0,8) [8,16) | [8,16) [)']


def test_overlap_that_nobody_needs_is_not_computed():
    # Both could compute all of it; the robot wants no more than its own half and the halo.
    plan = Plan('all', robot=(16, 16, 16, 16, 8), server=(16, 0, 0, 0, 8))
    assert listed(chain(16), plan)[3] == '[0,9) [7,16) | [0,9) [7,16) | [) [)'
    assert listed(chain(16), plan)[1] == '[0,11) [5,16) | [0,11) [5,16) | [) [)'


def test_stride_two():
    # Output row j reads rows 2j-1 to 2j+1 of 15: the 8 output rows are 4 and 4, the 15 are 7 and 8.
    net = Net(15)
    layout = net.layout(net.conv(net.x, stride=2))
    assert listed(layout, uniform(layout, 0.5)) == [
        '[0,7) [7,15) | [0,15) [) | [) [7,15)',
        '[0,8) [7,15) | [0,7) [7,15) | [7,8) [)',
        '[0,8) [) | [0,4) [4,8) | [4,8) [)']


def test_rows_that_nothing_needs_belong_to_nobody():
    # A 1x1 convolution of stride 2 reads rows 0, 2, 4, 6 of 8: 7 is never read, and 3 lies
    # between what the robot's two output rows read, [0,3), and the server's two, [4,7).
    net = Net(8)
    layout = net.layout(net.conv(net.x, kernel=1, stride=2, padding=0))
    assert listed(layout, uniform(layout, 0.5)) == [
        '[0,3) [4,7) | [0,3)+[4,7) [) | [) [4,7)',
        '[0,3) [4,7) | [0,3) [4,7) | [) [)',
        '[0,4) [) | [0,2) [2,4) | [2,4) [)']


def test_pool_and_residual():
    # x - conv - add - pool: the addition reads its own rows of both, a pool of 2 reads 2 a row.
    net = Net(12)
    layout = net.layout(net.max_pool(net.add(net.conv(net.x), net.x)))
    plan = Plan('mixed', robot=(12, 8, 5, 4, 2), server=(12, 7, 4, 4, 2))
    assert listed(layout, plan) == [
        '[0,7) [7,12) | [0,12) [) | [) [7,12)',
        # The robot's convolution reads [0,5); the server's reads [3,12), of which it computes
        # [7,12). So [3,7) travels, and rows 5 and 6 the robot computes for the server alone.
        '[0,5) [3,12) | [0,7) [7,12) | [) [3,7)',
        '[0,4) [4,12) | [0,4) [4,12) | [) [)',
        '[0,4) [4,12) | [0,4) [4,12) | [) [)',
        '[0,6) [) | [0,2) [2,6) | [2,6) [)']


def test_the_robot_gets_what_only_the_server_may_compute():
    # The server has the middle value alone, so the robot's rows go up and the result comes down.
    plan = Plan('back', robot=(16, 16, 16, 0, 16), server=(16, 16, 16, 0, 16))
    assert listed(chain(16), plan) == [
        '[0,16) [) | [0,16) [) | [) [)',
        '[0,16) [) | [0,16) [) | [) [)',
        '[) [0,16) | [0,16) [) | [) [0,16)',
        '[0,16) [) | [) [0,16) | [0,16) [)',
        '[0,16) [) | [0,16) [) | [) [)']


@pytest.mark.parametrize('share, side', [(0.5, SERVER), (0.51, ROBOT)])
def test_a_whole_value_is_one_row_that_one_side_computes(share, side):
    net = Net(4)
    layout = net.layout(net.linear(net.x))
    # Flattening two channels of four rows leaves no rows; nor does the linear layer.
    assert layout.rows == [4, 4, 1, 1]
    assert listed(layout, uniform(layout, share))[1:] == ([
        '[) [0,4) | [0,2) [2,4) | [) [0,2)',
        '[) [0,1) | [) [0,1) | [) [)',
        '[0,1) [) | [) [0,1) | [0,1) [)'] if side == SERVER else [
        '[0,4) [) | [0,2) [2,4) | [2,4) [)',
        '[0,1) [) | [0,1) [) | [) [)',
        '[0,1) [) | [0,1) [) | [) [)'])


@pytest.mark.parametrize('make, rows', [
    (robot_only, ['[0,4) [) | [0,4) [) | [) [)', '[0,4) [) | [0,4) [) | [) [)',
                  '[0,1) [) | [0,1) [) | [) [)', '[0,1) [) | [0,1) [) | [) [)']),
    (full_offload, ['[) [0,4) | [0,4) [) | [) [0,4)', '[) [0,4) | [) [0,4) | [) [)',
                    '[) [0,1) | [) [0,1) | [) [)', '[0,1) [) | [) [0,1) | [0,1) [)']),
    # The cut behind the flattened rows: one whole value up, one down.
    (lambda layout: layer(layout, 2), [
        '[0,4) [) | [0,4) [) | [) [)', '[0,4) [) | [0,4) [) | [) [)',
        '[) [0,1) | [0,1) [) | [) [0,1)', '[0,1) [) | [) [0,1) | [0,1) [)']),
    # Both may compute the flattened rows: nothing but the image and the answer travels.
    (lambda layout: Plan('twice', (4, 4, 1, 0), (4, 0, 0, 0)), [
        '[) [0,4) | [0,4) [) | [) [0,4)', '[) [0,4) | [) [0,4) | [) [)',
        '[) [0,1) | [) [0,1) | [) [)', '[0,1) [) | [) [0,1) | [0,1) [)']),
])
def test_a_linear_layer_under_the_other_plans(make, rows):
    net = Net(4)
    layout = net.layout(net.linear(net.x))
    assert listed(layout, make(layout)) == rows


def test_a_gate_sends_a_column_and_not_the_map():
    net = Net(8)
    layout = net.layout(net.squeeze_excite(net.x))
    names = [value.name for value in layout.graph.values]
    assert names == ['image', '_to_copy', 'mean', 'mean', 'sigmoid', 'mul']
    made = listed(layout, uniform(layout, 0.5))
    assert made[1] == '[0,4) [4,8) | [0,4) [4,8) | [) [)'       # of the map no row travels
    assert made[2] == '[) [0,8) | [0,4) [4,8) | [) [0,4)'       # of its row means four
    assert made[3] == '[) [0,1) | [) [0,1) | [) [)'
    assert made[4] == '[0,1) [0,1) | [) [0,1) | [0,1) [)'       # the gate itself comes back


def test_a_roll_asks_for_two_intervals():
    net = Net(10)
    layout = net.layout(net.op('roll.default', net.x, [3], [2]))
    # Output row j is input row j - 3: the robot's [0,5) are rows 7, 8, 9, 0, 1.
    made = listed(layout, uniform(layout, 0.5))
    assert made[1] == '[0,2)+[7,10) [2,7) | [0,5) [5,10) | [7,10) [2,5)'


def test_an_output_in_the_middle_is_wanted_whole_by_the_robot():
    net = Net(8)
    middle = net.relu(net.x)
    layout = net.layout(net.conv(middle), middle)
    assert listed(layout, layer(layout, 1))[2] == '[0,8) [0,8) | [) [0,8) | [0,8) [)'


def test_the_image_as_an_output_stays_where_it_is():
    net = Net(8)
    layout = net.layout(net.relu(net.x), Ref(0))
    assert listed(layout, full_offload(layout))[0] == '[0,8) [0,8) | [0,8) [) | [) [0,8)'


def test_a_gap_is_refused_with_its_rows():
    layout = chain(16)
    plan = Plan('holey', robot=(16, 8, 8, 4, 8), server=(16, 8, 8, 10, 8))
    with pytest.raises(PlanError) as error:
        compile_plan(layout, plan)
    assert str(error.value) == (
        "plan 'holey' has a gap: rows [4,10) of value 3 (conv2d) are needed, but the robot "
        'computes [0,4) and the server [10,16)')


def test_a_gap_where_nothing_is_needed_is_none():
    net = Net(8)
    layout = net.layout(net.conv(net.x, kernel=1, stride=2, padding=0))
    plan = Plan('row 3 is missing', robot=(8, 3, 2), server=(8, 4, 2))
    assert listed(layout, plan)[1] == '[0,3) [4,7) | [0,3) [4,7) | [) [)'
    with pytest.raises(PlanError, match=r'rows \[2,3\) of value 1'):
        compile_plan(layout, Plan('row 2 too', robot=(8, 2, 2), server=(8, 4, 2)))


@pytest.mark.parametrize('seed', range(60))
def test_what_holds_of_every_share(seed):
    layout = random_net(seed)
    made = shares(layout, random_plan(layout, seed))
    reads = [[Rows(), Rows()] for _ in made]
    for value, share in enumerate(made[1:], 1):
        for side in (ROBOT, SERVER):
            for source, rows in needs_of(layout, value, share.computed[side]).items():
                reads[source][side] |= rows
    for value in layout.graph.outputs.values():
        reads[value][ROBOT] |= Rows.of(0, layout.rows[value])
    for share, read in zip(made, reads):
        for side, other in ((ROBOT, SERVER), (SERVER, ROBOT)):
            assert share.wanted[side] == read[side]
            assert read[side] <= share.held(side), 'what a side reads it has'
            assert not share.computed[side] & share.arriving[side], 'nothing twice on one side'
            assert share.arriving[side] <= share.computed[other], 'what arrives is made there'
            assert share.computed[side] <= read[side] | share.arriving[other], 'nothing in vain'
