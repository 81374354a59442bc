# SPDX-License-Identifier: Apache-2.0
"""Plans by name, as data, and what is refused."""

import json

from draws import again_when_long, first, MANY
from nets import chain, Net, random_net
import pytest

from hp_inference.link.wire import CHUNK_BYTES, CODEC_CODES
from hp_inference.split.codecs import CODECS, EXACT_CODECS, LOSSY_CODECS
from hp_inference.split.plan import (
    BLOCK_COUNTS,
    full_offload,
    JPEG_ROW_BYTES,
    layer,
    make_plan,
    Plan,
    PlanError,
    random_plan,
    robot_only,
    uniform,
)
from hp_inference.split.program import compile_plan

LAYOUT = chain(16)  # values 0 to 4 of 16 rows


def test_constructors_place_the_boundary():
    assert robot_only(LAYOUT).robot == robot_only(LAYOUT).server == (16, 16, 16, 16, 16)
    assert full_offload(LAYOUT).robot == full_offload(LAYOUT).server == (16, 0, 0, 0, 0)
    assert layer(LAYOUT, 2).robot == layer(LAYOUT, 2).server == (16, 16, 16, 0, 0)
    assert uniform(LAYOUT, 0.25).robot == uniform(LAYOUT, 0.25).server == (16, 4, 4, 4, 4)


def test_layer_zero_is_full_offload_and_the_last_one_robot_only():
    assert layer(LAYOUT, 0).robot == full_offload(LAYOUT).robot
    assert layer(LAYOUT, 4).robot == robot_only(LAYOUT).robot


@pytest.mark.parametrize('share, rows', [
    (0, (0, 0)), (0.5, (2, 0)), (0.51, (3, 1)), (0.3, (1, 0)), (0.7, (3, 1)), (0.71, (4, 1)),
    (1, (5, 1))])
def test_uniform_rounds_halves_down(share, rows):
    # Of 5 rows: 2.5 -> 2, 2.55 -> 3, 1.5 -> 1, 3.5 -> 3, 3.55 -> 4; of one row: 0.5 -> 0.
    net = Net(5)
    layout = net.layout(net.linear(net.x))
    assert layout.rows == [5, 5, 1, 1]
    assert uniform(layout, share).robot == (5, rows[0], rows[1], rows[1])


@pytest.mark.parametrize('text, name', [
    ('robot_only', 'robot_only'), ('full_offload', 'full_offload'), ('layer:2', 'layer:2'),
    ('uniform:0.5', 'uniform:0.5'), ('uniform:1', 'uniform:1'), ('uniform:1.0', 'uniform:1'),
    ('uniform:.25', 'uniform:0.25'), ('uniform:0.1234567891', 'uniform:0.1234567891'),
    ('random:7', 'random:7')])
def test_a_plan_by_name_is_named_by_what_it_is(text, name):
    plan = make_plan(text, LAYOUT)
    assert plan.name == name
    assert make_plan(plan.name, LAYOUT) == plan
    assert plan.codec == 'zstd'
    assert make_plan(text, LAYOUT, 'none').codec_of(3) == 'none'


@pytest.mark.parametrize('text, said', [
    ('', "plan '' is not known: expected robot_only, full_offload"),
    ('robot', "plan 'robot' is not known"),
    ('robot_only:1', 'is not known'),
    ('uniform', 'is not known'),
    ('uniform:', 'is not known'),
    ('uniform:half', "plan 'uniform:half': 'half' is not a number"),
    ('uniform:1.01', "uniform:1.01: the robot's share is a number from 0 to 1"),
    ('uniform:-0.1', 'a number from 0 to 1'),
    ('uniform:nan', 'a number from 0 to 1'),
    ('uniform:inf', 'a number from 0 to 1'),
    ('layer:-1', 'layer:-1: expected a value number from 0 to 4'),
    ('layer:5', 'layer:5: expected a value number from 0 to 4'),
    ('layer:2.0', "'2.0' is not a number"),
    ('layer:' + '9' * 5000, 'is not a number'),
    ('random:x', "'x' is not a number")])
def test_a_name_that_means_no_plan_is_refused(text, said):
    with pytest.raises(PlanError) as error:
        make_plan(text, LAYOUT)
    assert said in str(error.value)


def test_an_unknown_codec_is_refused():
    with pytest.raises(PlanError, match=r"codec 'lz4' for value 0; expected one of \('none', 'zst"):
        make_plan('robot_only', LAYOUT, 'lz4')


COLOUR = Net(16, 20, channels=3)
PHOTO = COLOUR.layout(COLOUR.conv(COLOUR.x))  # an image of 3 channels; values 0 to 2


def test_under_jpeg_the_image_travels_as_jpeg_and_all_else_exactly():
    plan = make_plan('uniform:0.5', PHOTO, 'jpeg')
    assert [plan.codec_of(value) for value in range(3)] == ['jpeg', 'zstd', 'zstd']


@pytest.mark.parametrize('codec', CODECS)
def test_a_plan_says_whether_a_codec_of_it_may_change_the_answer(codec):
    lossy = codec not in EXACT_CODECS
    assert make_plan('full_offload', PHOTO, codec).lossy is lossy
    assert full_offload(PHOTO, codecs={0: codec}, codec='none').lossy is lossy


def test_the_codecs_of_plans_are_those_of_the_wire():
    assert CODECS == tuple(CODEC_CODES)
    assert set(EXACT_CODECS) | set(LOSSY_CODECS) == set(CODECS)
    assert not set(EXACT_CODECS) & set(LOSSY_CODECS)
    assert JPEG_ROW_BYTES == CHUNK_BYTES


@pytest.mark.parametrize('codecs, codec, said', [
    ({2: 'jpeg'}, 'zstd', "codec 'jpeg' for value 2; it is for value 0, the image, alone"),
    ({0: 'jpeg', 1: 'jpeg'}, 'zstd', "codec 'jpeg' for value 1; it is for value 0"),
    ({}, 'jpeg', "codec 'jpeg' for every value; it is for value 0, the image, alone: name it in"),
    ({0: 'none'}, 'jpeg', "codec 'jpeg' for every value")])
def test_jpeg_is_for_the_image_alone(codecs, codec, said):
    with pytest.raises(PlanError, match=said):
        full_offload(PHOTO, codecs=codecs, codec=codec).validate(PHOTO)


@pytest.mark.parametrize('width, channels, fits', [
    (20, 1, True), (20, 3, True), (20, 2, False), (20, 4, False),
    (20_000, 3, True), (20_001, 3, False), (60_000, 1, True), (60_001, 1, False)])
def test_jpeg_is_for_images_of_one_or_three_channels_and_rows_that_fit_a_chunk(
        width, channels, fits):
    net = Net(4, width, channels)
    layout = net.layout(net.x)
    if fits:
        make_plan('full_offload', layout, 'jpeg')
        return
    with pytest.raises(PlanError, match=f'for an image of {channels} channels and {width} columns'):
        make_plan('full_offload', layout, 'jpeg')


def test_json_holds_all_of_a_plan():
    plan = Plan('mine', (16, 9, 8, 7, 0), (16, 8, 8, 3, 0), {1: 4, 3: 2}, {2: 'none'}, 'none')
    data = json.loads(json.dumps(plan.to_json()))
    assert data == {'name': 'mine', 'robot': [16, 9, 8, 7, 0], 'server': [16, 8, 8, 3, 0],
                    'blocks': {'1': 4, '3': 2}, 'codecs': {'2': 'none'}, 'codec': 'none'}
    again = Plan.from_json(data, LAYOUT)
    assert again == plan
    assert [again.block_count(v) for v in range(5)] == [1, 4, 1, 2, 1]
    assert [again.codec_of(v) for v in (1, 2)] == ['none', 'none']


def test_json_may_leave_out_blocks_and_codecs():
    plan = Plan.from_json({'name': 'least', 'robot': [16] * 5, 'server': [16] * 5}, LAYOUT)
    assert plan == Plan('least', (16,) * 5, (16,) * 5, {}, {}, 'zstd')


@pytest.mark.parametrize('seed', range(20))
def test_random_plans_survive_json(seed):
    layout = random_net(seed)
    plan = random_plan(layout, seed)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json())), layout) == plan


GOOD = {'name': 'p', 'robot': [16, 8, 8, 8, 8], 'server': [16, 8, 8, 8, 8]}
DEEP = json.loads('[' * 500 + ']' * 500)


@pytest.mark.parametrize('change, said', [
    ({'name': 5}, "'name' holds 5, expected str"),
    ({'name': ''}, "plan '': its name has 0 characters, expected 1 to 100"),
    ({'name': 'n' * 101}, 'its name has 101 characters'),
    ({'robot': '16'}, "'robot' holds '16', expected list"),
    ({'robot': {'0': 16}}, "'robot' holds {'0': 16}, expected list"),
    ({'robot': None}, "'robot' holds None, expected list"),
    ({'robot': [16, 8, 8, 8.0, 8]}, "'robot' holds 8.0, expected int"),
    ({'robot': [16, 8, 8, '8', 8]}, "'robot' holds '8', expected int"),
    ({'robot': [16, True, 8, 8, 8]}, "'robot' holds True, expected int"),
    ({'robot': [16, [8], 8, 8, 8]}, "'robot' holds [8], expected int"),
    ({'robot': DEEP}, "'robot' holds [[[[[[[...]]]]]]], expected int"),
    ({'robot': [16, None, 8, 8, 8]}, "'robot' holds None, expected int"),
    ({'robot': [16, float('nan'), 8, 8, 8]}, "'robot' holds nan, expected int"),
    ({'robot': [16, 8, 8, 8]},
     "plan 'p' is for another graph: it has 4 robot shares, this graph has 5 values"),
    ({'server': [16] * 6}, 'it has 6 server shares, this graph has 5 values'),
    ({'robot': []}, 'it has 0 robot shares'),
    ({'robot': [16, 17, 8, 8, 8]},
     "plan 'p': robot share 17 of value 1 is outside 0..16, its number of rows"),
    ({'server': [16, 8, 8, 8, -1]}, 'server share -1 of value 4 is outside 0..16'),
    ({'robot': [16, 8, 8, 8, 10 ** 4000]}, 'of value 4 is outside 0..16'),
    ({'robot': [15, 8, 8, 8, 8]},
     'the image is on the robot, so value 0 has both shares 16, got 15 and 16'),
    ({'server': [0, 8, 8, 8, 8]}, 'value 0 has both shares 16, got 16 and 0'),
    ({'blocks': [4]}, "'blocks' holds [4], expected dict"),
    ({'blocks': {'1': 3}}, '3 blocks for value 1; expected one of (1, 2, 4, 8)'),
    ({'blocks': {'1': 0}}, '0 blocks for value 1'),
    ({'blocks': {'1': 16}}, '16 blocks for value 1'),
    ({'blocks': {'1': True}}, "'blocks' holds True, expected int"),
    ({'blocks': {'1': '4'}}, "'blocks' holds '4', expected int"),
    ({'blocks': {'5': 4}}, '4 blocks for value 5; expected one of (1, 2, 4, 8) for a value below'),
    ({'blocks': {'x': 4}}, "'blocks' is keyed by value numbers, got ['x']"),
    ({'blocks': {'-1': 4}}, "keyed by value numbers, got ['-1']"),
    ({'blocks': {'01': 4}}, "keyed by value numbers, got ['01']"),
    ({'blocks': {'\u0661': 4}}, 'keyed by value numbers'),
    ({'blocks': {'9' * 5000: 4}}, 'keyed by value numbers'),
    ({'codec': 'gzip'}, "codec 'gzip' for value 0; expected one of ('none', 'zstd', 'shuffle"),
    ({'codec': None}, "'codec' holds None, expected str"),
    ({'codec': 1}, "'codec' holds 1, expected str"),
    ({'codecs': {'2': 'float16'}}, "codec 'float16' for value 2"),
    ({'codecs': {'0': 'jpeg'}}, "codec 'jpeg' for an image of 2 channels and 6 columns; expected"),
    ({'codecs': {'2': 'jpeg'}}, "codec 'jpeg' for value 2; it is for value 0"),
    ({'codecs': {'9': 'none'}}, "codec 'none' for value 9"),
    ({'codecs': {'2': ['none']}}, "'codecs' holds ['none'], expected str"),
    ({'codecs': 'none'}, "'codecs' holds 'none', expected dict"),
    ({'block': {'1': 4}}, "plan keys: missing [], unknown ['block']"),
    ({'robot': 'x' * 100_000}, 'expected list'),
    ({'robot': {str(i): i for i in range(100_000)}}, 'expected list'),
    ({'k' * 100_000: 0}, 'unknown'),
])
def test_a_plan_that_is_not_one_is_refused_in_one_short_line(change, said):
    with pytest.raises(PlanError) as error:
        Plan.from_json({**GOOD, **change}, LAYOUT)
    assert said in str(error.value)
    assert len(str(error.value)) < 300 and '\n' not in str(error.value)


@pytest.mark.parametrize('key', ['name', 'robot', 'server'])
def test_a_missing_key_is_named(key):
    data = {name: item for name, item in GOOD.items() if name != key}
    with pytest.raises(PlanError) as error:
        Plan.from_json(data, LAYOUT)
    assert str(error.value) == f"plan keys: missing ['{key}'], unknown []"


@pytest.mark.parametrize('data', [None, 5, 'p', [GOOD], True])
def test_a_plan_is_an_object(data):
    with pytest.raises(PlanError, match='a plan is a JSON object, got'):
        Plan.from_json(data, LAYOUT)


@again_when_long
def test_random_plans_draw_all_that_a_plan_can_be():
    net = Net(40)
    x = net.x
    for _ in range(20):
        x = net.conv(x)
    layout = net.layout(x)
    both_ways = overlap = cuts = split = blocks = whole = 0
    counts = set()
    seeds = 200 if MANY else 40
    for seed in range(seeds):
        plan = random_plan(layout, seed)
        robot, server = compile_plan(layout, plan)  # complete, or this would raise
        sent_up = {send.value for send in robot.sends}
        sent_down = {send.value for send in server.sends}
        both_ways += bool(sent_up - {0}) and bool(sent_down - {layout.graph.outputs['0']})
        overlap += any(s < r for r, s in zip(plan.robot[1:], plan.server[1:]))
        jumps = [abs(a - b) > 5 for a, b in zip(plan.robot[1:], plan.robot[2:])]
        cuts += sum(jumps) >= 2
        split += any(0 < r < 40 for r in plan.robot[1:])
        whole += any(r in (0, 40) for r in plan.robot[1:])
        blocks += bool(plan.blocks)
        counts |= set(plan.blocks.values())
    assert min(both_ways, overlap, cuts, whole) > seeds / 4
    assert min(split, blocks) > seeds / 2 and counts == set(BLOCK_COUNTS)


def test_a_seed_draws_the_same_plan_again_and_another_one_another():
    assert random_plan(LAYOUT, 3) == random_plan(LAYOUT, 3)
    assert len({str(random_plan(LAYOUT, seed).to_json()) for seed in range(50)}) == 50


@pytest.mark.parametrize('seed', first(30, 100))
def test_random_plans_are_complete_on_any_graph(seed):
    layout = random_net(seed + 1000)
    for draw in range(5):
        compile_plan(layout, random_plan(layout, 100 * seed + draw))
