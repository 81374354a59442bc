# SPDX-License-Identifier: Apache-2.0
"""Plans that lose something: what both sides compute on, and what the answer then is."""

from engine_pair import Pair
from nets import Net, whole
import numpy as np
import pytest
import torch
from waits import WAIT_S

from hp_inference.link.chunks import chunk_slice
from hp_inference.link.codecs import as_received
from hp_inference.link.inbox import Inbox
from hp_inference.link.wire import Head, SliceSpec, to_wire
from hp_inference.runtime.executor import Executor
from hp_inference.runtime.local import run_both
from hp_inference.runtime.reference import relative_error
from hp_inference.runtime.slices import SharedPixels
from hp_inference.split.plan import full_offload, make_plan, Plan, random_plan, robot_only
from hp_inference.split.program import compile_plan, Send
from hp_inference.split.table import PlanTable

HEIGHT, WIDTH = 70, 400
HEAD = Head(1, 1, bytes(32), 0)


def photo_net(channels=3, dtype=torch.float64):
    net = Net(HEIGHT, WIDTH, channels, dtype=dtype)
    x = net.relu(net.conv(net.x))
    x = net.conv(net.max_pool(x), 3, 2)
    return net.layout(x, net.linear(net.max_pool(x)))


def photo(channels=3):
    """Return an image that a JPEG changes, but not much."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    draw = np.random.default_rng(0)
    planes = [128 + 90 * np.sin(x / (20 + c) + y / (9 + c)) for c in range(channels)]
    noisy = np.stack(planes) + draw.normal(0, 5, (channels, HEIGHT, WIDTH))
    image = torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))[None]
    return image.contiguous(memory_format=torch.channels_last)


def overlapping(layout, **more):
    """Return the plan under which both sides compute the fifth in the middle of every value."""
    return Plan('overlap', (layout.rows[0], *(-(-3 * rows // 5) for rows in layout.rows[1:])),
                (layout.rows[0], *(2 * rows // 5 for rows in layout.rows[1:])), **more)


LAYOUT = photo_net()
IMAGE = photo()
SPLIT = overlapping(LAYOUT, codecs={0: 'jpeg'})


def as_sent(image, programs):
    """Return an image whose rows that travel are what an inbox makes of what is sent."""
    image = image.clone()
    for send in programs[0].sends:
        if send.value == 0:
            spec = SliceSpec(0, send.begin, send.end, (1, 3, send.end - send.begin, WIDTH), 2,
                             torch.uint8, send.codec)
            inbox = Inbox([spec])
            rows = image.narrow(2, send.begin, send.end - send.begin)
            for chunk in chunk_slice(rows, spec, HEAD):
                inbox.put(chunk)
            rows.copy_(inbox.get(0, send.begin, send.end))
    return image


def close(got, wanted):
    return got.keys() == wanted.keys() and all(
        relative_error(got[name], wanted[name]) <= 1e-12 for name in wanted)


PLANS = [SPLIT, make_plan('full_offload', LAYOUT, 'jpeg'),
         make_plan('uniform:0.3', LAYOUT, 'jpeg'),
         full_offload(LAYOUT, codecs={0: 'jpeg'}, blocks={0: 4}),
         overlapping(LAYOUT, codecs={0: 'jpeg'}, blocks={0: 8}),
         *(random_plan(LAYOUT, seed, codecs={0: 'jpeg'}) for seed in range(12))]


@pytest.mark.parametrize('plan', PLANS, ids=lambda plan: plan.name)
def test_the_answer_is_the_unsplit_models_for_the_image_whose_travelling_rows_were_a_jpeg(plan):
    programs = compile_plan(LAYOUT, plan)
    before = IMAGE.clone()
    frame = run_both(LAYOUT, programs, IMAGE, timeout_s=60)
    assert torch.equal(IMAGE, before)
    passed = as_sent(IMAGE, programs)
    assert close(frame.outputs, whole(LAYOUT.graph, passed))
    if any(send.value == 0 for send in programs[0].sends):
        assert not torch.equal(passed, IMAGE)
        assert not close(frame.outputs, whole(LAYOUT.graph, IMAGE))
        assert (passed.int() - IMAGE.int()).abs().double().mean() < 5


def test_a_gray_image_travels_as_jpeg_too():
    layout, image = photo_net(1), photo(1)
    frame = run_both(layout, compile_plan(layout, make_plan('uniform:0.5', layout, 'jpeg')), image)
    wanted = whole(layout.graph, image)
    error = max(relative_error(frame.outputs[name], wanted[name]) for name in wanted)
    assert 1e-6 < error < 0.3


def test_only_chunks_that_both_sides_need_are_encoded_twice():
    net = Net(200, 1_200, 3)  # 3,600 bytes a row, so that a chunk holds 16 rows
    layout = net.layout(net.conv(net.x))
    robot, _ = compile_plan(layout, overlapping(layout, codecs={0: 'jpeg'}))
    assert robot.sends[0] == Send(0, 119, 200, 'jpeg')
    [chunk] = SharedPixels(layout, robot).chunks  # the robot reads rows up to 120
    assert (chunk.row_begin, chunk.row_end) == (119, 135)
    for plan in (overlapping(layout), make_plan('uniform:0.5', layout, 'jpeg'),
                 make_plan('full_offload', layout, 'jpeg'), robot_only(layout)):
        assert SharedPixels(layout, compile_plan(layout, plan)[0]).chunks == []


def test_shared_pixels_are_those_that_the_chunks_on_the_link_hold():
    robot, _ = compile_plan(LAYOUT, SPLIT)
    shared = SharedPixels(LAYOUT, robot)
    [chunk] = shared.chunks
    rows = shared.of(IMAGE, 0)
    raw = to_wire(IMAGE.narrow(2, chunk.row_begin, HEIGHT - chunk.row_begin), chunk)
    got = to_wire(rows.narrow(2, chunk.row_begin, HEIGHT - chunk.row_begin), chunk)
    assert got.tobytes() == as_received(memoryview(raw), chunk) != raw.tobytes()
    assert torch.equal(rows.narrow(2, 0, chunk.row_begin), IMAGE.narrow(2, 0, chunk.row_begin))


def test_the_second_image_counts_as_memory():
    robot, _ = compile_plan(LAYOUT, SPLIT)
    same, _ = compile_plan(LAYOUT, overlapping(LAYOUT))
    high = robot.held[0][1]
    assert Executor(LAYOUT, robot).peak_bytes - Executor(LAYOUT, same).peak_bytes == (
        high * 3 * WIDTH)


def test_nothing_changes_for_a_robot_alone():
    frame = run_both(LAYOUT, compile_plan(LAYOUT, robot_only(LAYOUT, codecs={0: 'jpeg'})), IMAGE)
    assert frame.sent_bytes == 0
    assert close(frame.outputs, whole(LAYOUT.graph, IMAGE))


@pytest.mark.parametrize('codec, least, most', [
    ('shuffle_zstd', 0, 0), ('float16_shuffle_zstd', 1e-6, 1e-2), ('uint8_zstd', 1e-5, 0.1)])
def test_other_codecs_change_the_answer_by_no_more_than_they_round(codec, least, most):
    layout = photo_net(dtype=torch.float32)
    wanted = whole(layout.graph, IMAGE)
    for text in ('layer:2', 'uniform:0.5', 'random:3'):
        exact = run_both(layout, compile_plan(layout, make_plan(text, layout)), IMAGE).outputs
        got = run_both(layout, compile_plan(layout, make_plan(text, layout, codec)), IMAGE).outputs
        if codec == 'shuffle_zstd':
            assert all(torch.equal(got[name], exact[name]) for name in exact)
        else:
            error = max(relative_error(got[name], wanted[name]) for name in wanted)
            assert least < error < most


def test_the_engines_answer_from_the_same_pixels_and_alone_from_the_raw_ones():
    table = PlanTable(LAYOUT, [SPLIT])
    pair = Pair(LAYOUT, table, deadline_s=WAIT_S)
    try:
        pair.robot.submit(0, lambda: IMAGE)
        together = pair.results.get(timeout=WAIT_S)
        assert not together.fallback
        assert close(together.outputs, whole(LAYOUT.graph, as_sent(IMAGE, table.programs[0])))
        pair.up = lambda chunk: []
        pair.robot.deadline_s = 0.2
        pair.robot.submit(1, lambda: IMAGE)
        alone = pair.results.get(timeout=WAIT_S)
        assert alone.fallback
        assert close(alone.outputs, whole(LAYOUT.graph, IMAGE))
    finally:
        pair.close()
