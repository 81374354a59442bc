# SPDX-License-Identifier: Apache-2.0
"""Split equals unsplit, whatever the plan, and nothing is written over that is still needed."""

from concurrent.futures import ThreadPoolExecutor

from draws import again_when_long, drawn, first, MANY
from hypothesis import assume, given
from hypothesis import strategies as st
from nets import chain, Net, random_image, random_net, whole
import pytest
import torch

from hp_inference.graph.ir import Ref
from hp_inference.runtime.executor import Executor, Trace
from hp_inference.runtime.lifetimes import Lifetimes
from hp_inference.runtime.local import run_both
from hp_inference.split.plan import (
    full_offload,
    layer,
    make_plan,
    Plan,
    random_plan,
    robot_only,
    uniform,
)
from hp_inference.split.program import compile_plan

LONG = pytest.mark.long
RANDOMS = 20 if MANY else 6
NAMED = ('robot_only', 'full_offload', 'uniform:0.5', 'uniform:0.23')


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Fill every buffer with what would show in the answer if it were read before it is written."""
    maker = Executor._maker

    def poison(self, value):
        make = maker(self, value)

        def made():
            tensor = make()
            return tensor.fill_(float('nan') if tensor.is_floating_point() else 77)
        return made
    monkeypatch.setattr(Executor, '_maker', poison)


def answer(layout, plan, image, **options):
    return run_both(layout, compile_plan(layout, plan), image, timeout_s=60, **options).outputs


def error(got, wanted):
    """Return the largest difference relative to the largest element, over all outputs."""
    assert got.keys() == wanted.keys()
    worst = 0.0
    for name, tensor in wanted.items():
        assert got[name].shape == tensor.shape and got[name].dtype == tensor.dtype
        assert not got[name].isnan().any()
        scale = tensor.double().abs().max().item()
        assert scale > 0, 'an answer of zeros proves nothing'
        worst = max(worst, (got[name].double() - tensor.double()).abs().max().item() / scale)
    return worst


# Nets of one kind of operator each, put together by hand

def residual(net):
    x = net.relu(net.conv(net.x))
    for _ in range(3):
        x = net.relu(net.add(net.conv(net.relu(net.conv(x))), x))
    return x


def pools(net):
    x = net.max_pool(net.conv(net.x))
    x = net.op('avg_pool2d.default', x, [3, 1], [2, 1], [1, 0], True, False)
    return net.op('max_pool2d.default', net.relu(x), [3, 1], [1, 1], [1, 0], [1, 1], True)


def strides(net):
    x = net.conv(net.conv(net.x, stride=2), kernel=1, stride=2, padding=0)
    return net.conv(x, kernel=5, padding=2)


def joined(net):
    x = net.conv(net.x)
    for _ in range(3):
        x = net.op('cat.default', [x, net.relu(net.conv(x))], 1)
    return net.conv(x)


def up_and_down(net):
    low = net.relu(net.conv(net.max_pool(net.x)))
    up = net.op('upsample_nearest2d.vec', low, None, [2.0, 1.0])
    return net.add(net.conv(net.x), net.op('upsample_bilinear2d.vec', up, [
        net.shape(net.x)[2], net.shape(net.x)[3]], False, None))


def decoder(net):
    low = net.conv(net.relu(net.conv(net.x, stride=2)), stride=2)
    up = net.op('conv_transpose2d.input', low, net.weight(2, 3, 4, 1), net.weight(3), [2, 1],
                [1, 0])
    return net.conv(net.relu(up))


def reordered(net):
    x = net.op('roll.default', net.conv(net.x), [5], [2])
    x = net.op('flip.default', net.relu(x), [2])
    return net.conv(net.op('pad.default', x, [0, 0, 2, 1]))


def batch_norms(net):
    norm = [net.weight(2), net.weight(2), net.weight(2), net.builder.constant(
        'var', torch.linspace(0.5, 2, 2, dtype=net.dtype))]
    x = net.op('batch_norm.default', net.conv(net.x), *norm, False, 0.1, 1e-5, False)
    return net.relu(x)


def gated(net):
    return net.conv(net.squeeze_excite(net.relu(net.conv(net.x))))


def attended(net):
    return net.conv(net.attend(net.relu(net.conv(net.x))))


def windows(net):
    """Attend within windows of four rows, of the image shifted by two."""
    x = net.op('roll.default', net.conv(net.x), [-2], [2])
    rows = net.op('permute.default', x, [0, 2, 3, 1])
    shape = net.shape(rows)
    rows = net.op('reshape.default', rows, [shape[1] // 4, 4, -1])
    rows = net.op('scaled_dot_product_attention.default', rows, rows, rows)
    rows = net.op('permute.default', net.op('reshape.default', rows, list(shape)), [0, 3, 1, 2])
    return net.op('roll.default', rows, [2], [2])


def whole_in_the_middle(net):
    x = net.op('cumsum.default', net.op('reshape.default', net.relu(net.x), [1, -1]), 1)
    return net.conv(net.op('reshape.default', x, list(net.shape(net.x))))


BODIES = [residual, pools, strides, joined, up_and_down, decoder, reordered, batch_norms, gated,
          attended, windows, whole_in_the_middle]
# Of whole numbers these make whole numbers.
WHOLE = [residual, strides, joined, decoder, reordered]


def plans(layout, randoms):
    return [*(make_plan(name, layout) for name in NAMED),
            *(layer(layout, last) for last in range(1, len(layout.rows), 3)),
            *(random_plan(layout, seed) for seed in range(randoms))]


# The next test is of the same nets at a height that is harder, which windows do not take.
@again_when_long
@pytest.mark.parametrize('body, height', [
    (windows, 36), *(pytest.param(body, height, marks=LONG) for body in BODIES
                     for height in (24, 36, 40) if (body, height) != (windows, 36))])
def test_split_is_unsplit_in_float64(body, height):
    net = Net(height)
    layout = net.layout(body(net))
    image = random_image(layout)
    wanted = whole(layout.graph, image)
    for plan in plans(layout, RANDOMS):
        assert error(answer(layout, plan, image), wanted) <= 1e-12, plan.name


@again_when_long
@pytest.mark.parametrize('body', [body for body in BODIES if body is not windows])
def test_split_is_unsplit_at_a_height_that_nothing_divides(body):
    net = Net(37)
    layout = net.layout(body(net))
    image = random_image(layout)
    wanted = whole(layout.graph, image)
    for plan in plans(layout, RANDOMS):
        assert error(answer(layout, plan, image), wanted) <= 1e-12, plan.name


def wide(net):
    """Append convolutions of many channels, of a kernel of rows and columns, and grouped ones."""
    weight = net.weight(16, 2, 3, 3)
    x = net.relu(net.op('conv2d.default', net.x, weight, net.weight(16), [1, 1], [1, 1]))
    x = net.op('max_pool2d.default', x, [3, 3], [2, 2], [1, 1])
    x = net.op('cat.default', [x, net.op('neg.default', x)], 1)
    x = net.op('conv2d.default', x, net.weight(32, 32, 3, 3), None, [2, 2], [1, 1])
    grouped = net.op('conv2d.default', x, net.weight(32, 1, 3, 3), None, [1, 1], [1, 1], [1, 1], 32)
    return net.op('upsample_nearest2d.vec', net.add(x, grouped), None, [2.0, 2.0])


@again_when_long
@pytest.mark.parametrize('body, dtype', [
    *((body, torch.float64) for body in [wide, *WHOLE]),
    *((body, torch.float32) for body in [wide, *WHOLE] if body is not residual)])
@pytest.mark.parametrize('height', [45, pytest.param(24, marks=LONG)])
def test_whole_numbers_are_bitwise_equal(body, dtype, height):
    # As long as no sum is beyond what the type holds exactly, no order of summing can round.
    net = Net(height, 14, dtype=dtype, whole_numbers=True)
    layout = net.layout(body(net))
    image = random_image(layout) & 31
    wanted = whole(layout.graph, image)
    assert wanted['0'].abs().max() < (2 ** 24 if dtype is torch.float32 else 2 ** 53)
    assert torch.equal(wanted['0'], wanted['0'].round())
    for plan in plans(layout, RANDOMS):
        assert error(answer(layout, plan, image), wanted) == 0, plan.name


@drawn(40, 120)
@given(st.integers(0, 10 ** 6), st.integers(0, 10 ** 6))
def test_random_plans_of_random_nets(net_seed, plan_seed):
    layout = random_net(net_seed)
    image = random_image(layout, plan_seed)
    wanted = whole(layout.graph, image)
    assume(all(tensor.any() for tensor in wanted.values()))
    # Some of these nets take differences of nearly equal numbers.
    assert error(answer(layout, random_plan(layout, plan_seed), image), wanted) <= 1e-10


# What may not change

@pytest.mark.parametrize('body', [residual, joined, gated, windows, whole_in_the_middle])
def test_the_image_the_weights_and_what_travels_stay_as_they_are(body):
    net = Net(24)
    middle = body(net)
    layout = net.layout(middle, net.relu(middle), net.x)
    constants = {name: tensor.clone() for name, tensor in layout.graph.constants.items()}
    image = random_image(layout)
    before = image.clone()
    wanted = whole(layout.graph, image)
    for plan in (uniform(layout, 0.5, codec='none'), layer(layout, 4, codec='none'),
                 random_plan(layout, 1, codec='none'), random_plan(layout, 2, codec='none')):
        # So slow that both sides compute on while what they gave to send is still being sent.
        assert error(answer(layout, plan, image, mbit_s=4), wanted) <= 1e-12, plan.name
        assert torch.equal(image, before)
        for name, tensor in constants.items():
            assert torch.equal(layout.graph.constants[name], tensor)


class Recorder:
    """A link that keeps what it is given, and what it looked like then."""

    def __init__(self, incoming=()):
        self.sent, self.incoming = [], dict(incoming)

    def send(self, spec, rows):
        self.sent.append((spec, rows, rows.clone()))

    def receive(self, spec):
        return self.incoming[spec.key]


@pytest.mark.parametrize('seed', first(15, 40))
def test_rows_that_are_sent_or_received_are_never_written_to(seed):
    layout = random_net(seed)
    image = random_image(layout)
    programs = compile_plan(layout, random_plan(layout, seed))
    # The whole values, of which each side is brought what it waits for.
    graph = layout.graph
    graph.outputs = {str(value.id): value.id for value in graph.values}
    values = whole(graph, image)
    for program in programs:
        incoming = {}
        for step in program.receives:
            rows = values[str(step.value)]
            if layout.axes[step.value] is not None:
                rows = rows.narrow(layout.axes[step.value], step.begin, step.end - step.begin)
            incoming[step.value, step.begin, step.end] = rows.clone()
        before = {place: rows.clone() for place, rows in incoming.items()}
        link = Recorder(incoming)
        executor = Executor(layout, program)
        executor.outputs = {}
        executor.run(link, image)
        assert len(link.sent) == len(program.sends)
        for step, rows, then in link.sent:
            assert torch.equal(rows.nan_to_num(), then.nan_to_num()), f'{step} changed after it'
        for place, rows in before.items():
            assert torch.equal(incoming[place].nan_to_num(), rows.nan_to_num())


def written_over(layout, plan):
    """Return, for robot and server, which values are computed into the memory of which."""
    return tuple(Executor(layout, program)._lives.written_over
                 for program in compile_plan(layout, plan))


def test_a_value_that_nobody_needs_any_more_is_written_over():
    net = Net(16)
    layout = net.layout(net.conv(net.relu(net.relu(net.conv(net.x)))))
    assert written_over(layout, robot_only(layout)) == ({3: 2, 4: 3}, {})
    assert written_over(layout, full_offload(layout)) == ({}, {3: 2, 4: 3})


@pytest.mark.parametrize('make', [
    lambda net, y: [net.add(net.relu(y), y)],                     # read again
    lambda net, y: [net.relu(y), y],                              # an output
    lambda net, y: [net.relu(net.op('permute.default', y, [0, 1, 3, 2])), y],  # through a view
    lambda net, y: [net.add(net.relu(net.op('permute.default', y, [0, 1, 3, 2])),
                            net.op('permute.default', y, [0, 1, 3, 2]))],
    lambda net, y: [net.add(net.op('permute.default', y, [0, 1, 3, 2]),   # a view of it lives on
                            net.op('permute.default', net.relu(y), [0, 1, 3, 2]))],
    lambda net, y: [net.op('ge.Tensor', y, y)],                   # another type
    lambda net, y: [net.op('mul.Tensor', y, net.op('mean.dim', y, [3], True))],
])
def test_a_value_that_is_still_needed_is_not_written_over(make):
    net = Net(16)
    y = net.conv(net.x)
    layout = net.layout(*make(net, y))
    made, _ = written_over(layout, robot_only(layout))
    assert y.value not in made.values()
    image = random_image(layout)
    assert error(answer(layout, robot_only(layout), image), whole(layout.graph, image)) == 0


def test_what_travels_is_not_written_over():
    net = Net(16)
    layout = net.layout(net.conv(net.relu(net.conv(net.x))))
    # Value 2 goes up or comes down before the activation that would else be written over it.
    assert written_over(layout, layer(layout, 2)) == ({}, {})
    down = Plan('down', (16, 16, 0, 16, 16), (16, 16, 0, 16, 16))
    assert written_over(layout, down) == ({}, {})


def test_nothing_is_written_over_the_image():
    net = Net(16)
    layout = net.layout(net.op('bitwise_not.default', Ref(0)))
    assert written_over(layout, robot_only(layout)) == ({}, {})


# Images, outputs, frames

def test_an_image_in_any_memory_order_gives_the_same_answer():
    net = Net(24, whole_numbers=True)
    layout = net.layout(residual(net))
    image = random_image(layout)
    wanted = whole(layout.graph, image)
    strided = torch.zeros(1, 2, 48, 18, dtype=torch.uint8)[:, :, ::2, ::3]
    transposed = torch.zeros(1, 2, 6, 24, dtype=torch.uint8).transpose(2, 3)
    for other in (image.contiguous(), strided.copy_(image), transposed.copy_(image),
                  image.flip(0)):
        assert torch.equal(other, image)
        for plan in (robot_only(layout), uniform(layout, 0.5), full_offload(layout, blocks={0: 4})):
            assert error(answer(layout, plan, other), wanted) == 0


@pytest.mark.parametrize('image, said', [
    (None, 'the image is none, expected torch.uint8 [1, 2, 16, 6]'),
    (torch.zeros(1, 2, 16, 6), 'the image is torch.float32 [1, 2, 16, 6], expected torch.uint8'),
    (torch.zeros(1, 2, 15, 6, dtype=torch.uint8), 'the image is torch.uint8 [1, 2, 15, 6]'),
    (torch.zeros(1, 3, 16, 6, dtype=torch.uint8), 'expected torch.uint8 [1, 2, 16, 6]'),
    (torch.zeros(2, 16, 6, dtype=torch.uint8), 'the image is torch.uint8 [2, 16, 6]')])
def test_what_is_not_the_image_is_refused(image, said):
    for plan in (robot_only(chain(16)), full_offload(chain(16))):
        robot = Executor(chain(16), compile_plan(chain(16), plan)[0])
        with pytest.raises(ValueError) as raised:
            robot.run(Recorder(), image)
        assert said in str(raised.value)


def test_outputs_are_all_there_under_every_plan():
    net = Net(16)
    y = net.relu(net.conv(net.x))
    layout = net.layout(image=Ref(0), early=net.x, twice=y, again=y, last=net.linear(y))
    image = random_image(layout)
    wanted = whole(layout.graph, image)
    for plan in plans(layout, 5):
        got = answer(layout, plan, image)
        assert error(got, wanted) <= 1e-12 and list(got) == list(wanted)
        assert torch.equal(got['image'], image)


def test_the_server_returns_nothing():
    layout = chain(16)
    _, server = compile_plan(layout, full_offload(layout))
    image = random_image(layout)
    link = Recorder({(0, 0, 16): image})
    assert Executor(layout, server).run(link) == {}
    assert torch.equal(link.sent[0][1], whole(layout.graph, image)['0'])


def test_frames_at_once_through_one_executor_do_not_meet():
    net = Net(48)
    layout = net.layout(residual(net), gated(net))
    programs = compile_plan(layout, uniform(layout, 0.5, blocks={0: 4}))
    executors = tuple(Executor(layout, program) for program in programs)
    images = [random_image(layout, seed) for seed in range(8)]
    wanted = [whole(layout.graph, image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        frames = [threads.submit(run_both, layout, programs, images[i % 8], executors=executors,
                                 timeout_s=60) for i in range(40)]
        for i, frame in enumerate(frames):
            assert error(frame.result().outputs, wanted[i % 8]) <= 1e-12


def test_an_executor_is_as_good_as_new_after_a_frame_that_failed():
    layout = chain(16)
    robot, _ = compile_plan(layout, uniform(layout, 0.5))
    executor = Executor(layout, robot)
    image = random_image(layout)
    graph = layout.graph
    outputs, graph.outputs = graph.outputs, {str(value.id): value.id for value in graph.values}
    values = whole(graph, image)
    graph.outputs = outputs
    incoming = {(s.value, s.begin, s.end): values[str(s.value)].narrow(2, s.begin, s.end - s.begin)
                for s in robot.receives}
    for missing in incoming:
        with pytest.raises(KeyError):
            executor.run(Recorder({k: v for k, v in incoming.items() if k != missing}), image)
    assert torch.equal(executor.run(Recorder(incoming), image)['0'], values[str(outputs['0'])])


# Memory and time

def observed(executor):
    """Let an executor note what its store holds after each step; return the notes."""
    notes = []

    def watch(action):
        def watched(store, io):
            action(store, io)
            notes.append({value: tensor for value, tensor in enumerate(store)
                          if tensor is not None})
        return watched
    executor._actions = [(watch(action), waits, value)
                         for action, waits, value in executor._actions]
    return notes


@pytest.mark.parametrize('name', ['robot_only', 'full_offload', 'uniform:0.5', 'random:1',
                                  'random:2', 'random:5'])
def test_each_side_holds_only_the_rows_of_its_program_and_only_while_it_needs_them(name):
    net = Net(40)
    layout = net.layout(gated(net), residual(net))
    programs = compile_plan(layout, make_plan(name, layout))
    executors = tuple(Executor(layout, program) for program in programs)
    notes = [observed(executor) for executor in executors]
    run_both(layout, programs, random_image(layout), executors=executors, timeout_s=60)
    for program, executor, noted in zip(programs, executors, notes):
        for held in noted:
            for value, tensor in held.items():
                assert tuple(tensor.shape) == layout.slice_shape(value, *program.held[value])
            memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
                      for value, tensor in held.items() if value}
            assert sum(memory.values()) <= executor.peak_bytes * 1.02  # padding in operators
        if noted:
            assert set(noted[-1]) <= set(layout.graph.outputs.values()) if program.side == 0 else (
                not noted[-1])


def test_a_robot_that_computes_half_keeps_half():
    layout = chain(128, 4)
    peaks = {}
    for share in (1, 0.5, 0.25):
        frame = run_both(layout, compile_plan(layout, uniform(layout, share)),
                         random_image(layout), timeout_s=60)
        peaks[share] = frame.robot.peak_bytes
    row = 6 * 2 * 8
    # Two values at once, of 65 rows for 64 and the halo; at last one and the arriving answer.
    assert peaks == {1: (128 + 128) * row, 0.5: (65 + 128) * row, 0.25: (33 + 128) * row}


def test_a_robot_that_only_begins_keeps_just_the_rows_that_it_begins_with():
    # Of ten layers the robot computes the first 16 rows of the first three.
    layout = chain(128, 10)
    plan = Plan('begins', (128, 16, 16, 16, *[0] * 8), (128, 16, 16, 16, *[0] * 8))
    robot, _ = compile_plan(layout, plan)
    assert {v: held for v, held in robot.held.items() if 0 < v < 11} == {
        1: (0, 17), 2: (0, 17), 3: (0, 16)}


def test_the_trace_says_where_the_time_went():
    layout = chain(64, 3)
    programs = compile_plan(layout, uniform(layout, 0.5))
    trace = Trace()
    frame = run_both(layout, programs, random_image(layout), mbit_s=2, timeout_s=60)
    for program, trace in zip(programs, (frame.robot, frame.server)):
        assert [value for _, _, value in trace.waiting] == [r.value for r in program.receives]
        spans = sorted([*trace.computing, *((a, b) for a, b, _ in trace.waiting)])
        assert all(a <= b for a, b in spans)
        assert all(first[1] <= second[0] for first, second in zip(spans, spans[1:]))
        assert trace.compute_s > 0 and trace.wait_s > 0
        assert trace.compute_s + trace.wait_s <= frame.latency_s * 1.5
    assert frame.robot.peak_bytes and frame.server.peak_bytes


def test_lifetimes_name_the_last_use_of_every_value():
    net = Net(8)
    y = net.conv(net.x)
    layout = net.layout(net.add(net.relu(y), y), net.x)
    robot, _ = compile_plan(layout, robot_only(layout))
    lives = Lifetimes(layout, robot, {1, 4})
    # Steps: 1 to float, 2 conv, 3 relu, 4 add. The image and value 2 and 3 go, 1 and 4 are kept.
    assert lives.drops == [(0,), (), (), (2, 3)]
    assert [lives.read_once(value) for value in (1, 2, 3)] == [False, False, True]
