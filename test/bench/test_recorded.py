# SPDX-License-Identifier: Apache-2.0
"""Device records: reading, building what is not published, aligning, profiles, the fit."""

import math
import os
from pathlib import Path
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest
from recording import chain, entry, record_of, record_with, written
import torch

from hp_inference.graph.capture import as_image_model, capture
from hp_inference.graph.models import load_model
from hp_planner.report.trace import Sample

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'bench'))
from _recorded import read_measured, read_record, RecordError  # noqa: E402
from _recorded_align import align, layout_of  # noqa: E402
from _recorded_build import build, operands  # noqa: E402
import _recorded_device as device  # noqa: E402

DATA = Path(os.environ.get('HP_RECORDED', ROOT.parent / 'shared')) / 'xavier_nx'
COLUMNS = ('model,approach,trace,mean_ms,p95_ms,mean_power_w,mean_energy_j,mean_sent_mbytes,'
           'inferences\n')
MAP = (1, 2, 8, 8)


@pytest.fixture
def quick_weights(monkeypatch):
    """Let published models come with whatever weights: only their operators matter here."""
    monkeypatch.setattr('hp_inference.graph.models.draw_weights', lambda module, seed: None)
    for name in ('kaiming_normal_', 'trunc_normal_', 'normal_'):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **more: tensor)


def reread(tmp_path, data):
    return read_record(written(tmp_path, data))


def broken(change):
    data = chain(('conv2d', None), ('relu', None))
    change(data)
    return data


@pytest.mark.parametrize('change, text', [
    (lambda d: d.pop('server_forward_ms'), 'lacks server_forward_ms'),
    (lambda d: d['ops'][1].pop('robot_ms'), 'operator 1 lacks robot_ms'),
    (lambda d: d['ops'][1].update(robot_ms='fast'), "robot_ms is 'fast'"),
    (lambda d: d['ops'][2].update(server_ms=-1), r'operator 2 \(relu\): server_ms is -1'),
    (lambda d: d['ops'][2].update(server_ms=math.nan), 'server_ms is nan'),
    (lambda d: d['ops'][2].update(server_ms=True), 'server_ms is True'),
    (lambda d: d['ops'][1].update(inputs=[1]), 'earlier operators'),
    (lambda d: d['ops'][1].update(inputs=[]), 'no inputs'),
    (lambda d: d['ops'][1].update(output_shapes=[[1, 0]]), 'output_shapes is'),
    (lambda d: d['ops'][1].update(op=''), "op is ''"),
    (lambda d: d['ops'].pop(0), 'earlier operators'),
    (lambda d: d['ops'].pop(), "operator -1 is 'relu', expected '_end'"),
    (lambda d: d.update(ops='none'), 'ops is not a list'),
    (lambda d: d.update(input_mbytes=0), 'input_mbytes is 0'),
    (lambda d: d.update(model=3), 'model is 3'),
    (lambda d: [op.update(robot_ms=0) for op in d['ops']], 'robot_ms of all operators are 0'),
])
def test_a_bad_record_is_refused_with_its_place(tmp_path, change, text):
    with pytest.raises(RecordError, match=text):
        reread(tmp_path, broken(change))


@pytest.mark.parametrize('text', ['', '{', '[1]'])
def test_what_is_no_record_is_refused(tmp_path, text):
    path = tmp_path / 'net.json'
    path.write_text(text)
    with pytest.raises(RecordError, match='net.json'):
        read_record(path)
    with pytest.raises(RecordError, match='can not be read'):
        read_record(tmp_path / 'other.json')


@pytest.mark.parametrize('line, text', [
    ('net,robot only,-,fast,1,1,1,1,1', "line 2: mean_ms is 'fast'"),
    ('net,robot only,-,nan,1,1,1,1,1', "mean_ms is 'nan'"),
    ('net,robot only,-,1,1,-1,1,1,1', "mean_power_w is '-1'"),
    ('net,robot only,-,1', 'p95_ms is None'),
])
def test_bad_measurements_are_refused_with_their_line(tmp_path, line, text):
    path = tmp_path / 'measured.csv'
    path.write_text(COLUMNS + line + '\n')
    with pytest.raises(RecordError, match=text):
        read_measured(path)


def test_of_aliases_only_the_newest_is_read(tmp_path):
    # As in the record of a network with in-place ReLU and in-place additions of three branches.
    ops = [entry('_start', [], MAP), entry('conv2d', [0], MAP, robot_ms=1.0, server_ms=1.0),
           entry('relu', [1], MAP), entry('conv2d', [1, 2], MAP), entry('conv2d', [1, 2], MAP),
           entry('add_', [3, 4], MAP), entry('conv2d', [1, 2], MAP), entry('add_', [3, 5, 6], MAP),
           entry('add', [3, 5, 7, 1, 2], MAP), entry('_end', [8], MAP)]
    read = operands(reread(tmp_path, record_with(ops)))
    assert read == [[], [0], [1], [2], [2], [3, 4], [2], [5, 6], [7, 2], [8]]


def test_an_addition_to_its_own_branch_keeps_both(tmp_path):
    ops = [entry('_start', [], MAP), entry('conv2d', [0], MAP, robot_ms=1.0, server_ms=1.0),
           entry('relu', [1], MAP), entry('add', [1, 2], MAP),
           entry('cat', [1, 2], (1, 4, 8, 8)), entry('_end', [4], (1, 4, 8, 8))]
    read = operands(reread(tmp_path, record_with(ops)))
    assert read[3:5] == [[1, 2], [1, 2]]


def test_a_network_is_built_as_its_record_says(tmp_path):
    ops = [entry('_start', [], (1, 3, 12, 16)),
           entry('conv2d', [0], (1, 4, 12, 16), robot_ms=8.0, server_ms=1.0),
           entry('batch_norm', [1], (1, 4, 12, 16), robot_ms=1.0),
           entry('relu', [2], (1, 4, 12, 16)),
           entry('conv2d', [2, 3], (1, 6, 6, 8)), entry('max_pool2d', [2, 3], (1, 4, 6, 8)),
           entry('cat', [4, 5], (1, 10, 6, 8)), entry('conv_transpose2d', [6], (1, 3, 12, 16)),
           entry('__add__', [7, 0], (1, 3, 12, 16)), entry('argmax', [8], (1, 12, 16)),
           entry('type', [9], (1, 12, 16)), entry('_end', [10], (1, 12, 16))]
    record = reread(tmp_path, record_with(ops, output_mbytes=12 * 16 / 2 ** 20))
    answer = build(record)(torch.zeros(1, 3, 12, 16, dtype=torch.uint8))
    assert answer.shape == (1, 12, 16) and answer.dtype is torch.uint8
    layout = layout_of(record)
    places = align(record, layout.graph)
    named = {record.ops[number].name: layout.graph.ops[value - 1].target.split('.')[1]
             for number, value in enumerate(places) if value}
    assert named == {'conv2d': 'conv2d', 'batch_norm': 'conv2d', 'relu': 'relu', 'cat': 'cat',
                     'max_pool2d': 'max_pool2d', 'conv_transpose2d': 'conv_transpose2d',
                     '__add__': 'add', 'argmax': 'argmax', 'type': '_to_copy'}
    assert places[1] == places[2]  # folded


def test_a_volume_keeps_its_rows_and_is_never_computed(tmp_path):
    # The 3D convolutions are too large to run in a test.
    flat, deep = (1, 8, 256, 128), (1, 8, 256, 8, 128)
    ops = chain(('type', (1, 1, 256, 8, 128)), ('squeeze', (1, 256, 8, 128)), ('permute', flat),
                ('conv2d', flat), ('__getitem__', (1, 1, *flat[1:])),
                ('conv3d', (1, 64, *flat[1:])), ('batch_norm', None), ('conv3d', (1, 8, *flat[1:])),
                ('permute', deep), ('argmax', (1, 256, 8, 128)), shape=(1, 1, 256, 8, 128))
    record = reread(tmp_path, ops)
    layout = layout_of(record)
    assert layout.graph.input.shape == flat
    assert layout.unsupported == {} and set(layout.rows) == {256}
    places = align(record, layout.graph)
    assert 0 not in places[1:-1]


@pytest.mark.parametrize('call, text', [
    (('conv7d', None), r'record operator 1 \(conv7d.*not known; known are abs,'),
    (('conv2d', (1, 2, 9, 8)), 'no window of 3 to 11 rows takes 8 rows to 9'),
    (('conv_transpose2d', (1, 2, 12, 16)), r'\[12, 16\] rows are no multiple of \[8, 8\]'),
    (('mean', (1, 3)), r'no reduction takes \[1, 2, 8, 8\] to \[1, 3\]'),
    (('cat', (1, 5, 8, 8)), 'do not join'),
    (('relu', (1, 2, 8, 7)), r'it would make \[1, 2, 8, 8\]'),
])
def test_what_can_not_be_built_is_named(tmp_path, call, text):
    with pytest.raises(RecordError, match=text):
        build(reread(tmp_path, chain(call, ('relu', None))))


def test_several_tensors_of_one_call_and_inputs_too_many_are_named(tmp_path):
    data = chain(('chunk', (1, 1, 8, 8)), ('relu', None))
    data['ops'][1]['output_shapes'] *= 2
    with pytest.raises(RecordError, match='chunk.*makes several tensors'):
        build(reread(tmp_path, data))
    data = chain(('conv2d', None), ('conv2d', None), ('conv2d', None))
    data['ops'][3]['inputs'] = [1, 2]
    with pytest.raises(RecordError, match='no aliases of others; expected 1'):
        build(reread(tmp_path, data))


@pytest.mark.parametrize('name', [
    'mobilenet_v3_small', pytest.param('shufflenet_v2_x0_5', marks=pytest.mark.long)])
def test_a_record_of_a_published_model_loses_no_time(tmp_path, quick_weights, name):
    image = torch.zeros(1, 3, 64, 64)
    data = record_of(load_model(f'torchvision:{name}'), image, name)
    written(tmp_path, data, name)
    recorded = device.load_recorded(tmp_path, name)
    graph, record = recorded.layout.graph, recorded.record
    assert all(recorded.places[1:-1])
    for profile, side in ((recorded.robot, 'robot'), (recorded.server, 'server')):
        profile.check(recorded.layout)
        seconds = math.fsum(op.seconds[-1] for op in profile.operators)
        assert seconds * 1e3 / profile.scale == pytest.approx(record.total_ms(side))
    silent = {graph.ops[value - 1].target.split('.')[1]
              for value in set(range(1, len(graph.values))) - set(recorded.places)}
    # Views, the second step of a mean, and the normalisation, which the record begins behind.
    assert silent <= {'_to_copy', 'mul', 'add', 'mean', 'slice', 'reshape'}


def test_a_batch_norm_that_is_not_folded_keeps_its_own_time(tmp_path):
    # Behind the ReLU there is no convolution to fold it into; one of the same shape comes next.
    record = reread(tmp_path, chain(('conv2d', None), ('batch_norm', None), ('relu', None),
                                    ('batch_norm', None), ('batch_norm', None), ('conv2d', None)))
    graph = layout_of(record).graph
    places = align(record, graph)
    assert [graph.ops[value - 1].target.split('.')[1] for value in places[1:-1]] == [
        'conv2d', 'conv2d', 'relu', 'batch_norm', 'batch_norm', 'conv2d']
    assert len(set(places[1:-1])) == 5


def test_an_operator_that_one_side_lacks_is_named(tmp_path):
    record = reread(tmp_path, chain(('conv2d', None), ('relu', None), ('sigmoid', None)))
    module = build(record)
    graph = capture(as_image_model(module, MAP), MAP, 'net')
    short = reread(tmp_path, chain(('conv2d', None), ('relu', None)))
    with pytest.raises(RecordError, match=r'aten.sigmoid.*the record has no operator for'):
        align(short, graph)
    other = reread(tmp_path, chain(('conv2d', None), ('relu', None), ('tanh', None)))
    with pytest.raises(RecordError, match=r'record operator 3 \(tanh.*aten.sigmoid'):
        align(other, graph)
    longer = reread(tmp_path, chain(('conv2d', None), ('relu', None), ('sigmoid', None),
                                    ('tanh', None)))
    with pytest.raises(RecordError, match='tanh.*nothing more in its place'):
        align(longer, graph)


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 2), st.floats(0.1, 10), st.lists(st.integers(1, 1000), min_size=4,
                                                     max_size=12))
def test_the_time_that_rows_do_not_save_is_found_in_sizes(floor, slope, works):
    works = [1, 8, *works]
    pairs = [(work, floor + slope * work) for work in works]
    found = device._fitted_floor(pairs, usual=math.nan)
    assert found == pytest.approx(floor, abs=1e-6 * (1 + slope * max(works)))


def test_where_sizes_are_alike_the_usual_smallest_time_is_the_floor():
    assert device._fitted_floor([(5, 1.0)] * 9, usual=0.25) == 0.25


def test_profiles_are_scaled_and_rows_save_all_but_the_floor(tmp_path):
    sizes = (64, 32, 16, 8, 4)
    calls = [('conv2d', (1, 2, n, n)) for n in sizes]
    data = chain(*calls, shape=(1, 2, 128, 128))
    for op, n in zip(data['ops'][1:], sizes):
        op['robot_ms'] = 0.5 + n * n / 256
    written(tmp_path, data)
    (tmp_path / 'measured.csv').write_text(
        COLUMNS + 'net,robot only,-,41.3125,1,9.5,1,0,10\nother,robot only,-,9,1,7,1,0,10\n')
    recorded = device.load_recorded(tmp_path, 'net')
    assert recorded.notes == () and recorded.robot.power.computing_w == 9.5
    total = sum(op['robot_ms'] for op in data['ops'])
    scale = 41.3125 / total
    first = recorded.places[1]
    assert recorded.robot.seconds(first, 64) == pytest.approx(16.5 * scale / 1e3)
    assert recorded.robot.seconds(first, 32) == pytest.approx(8.5 * scale / 1e3)
    assert recorded.robot.seconds(first, 1) == pytest.approx((0.5 + 16 / 64) * scale / 1e3)
    assert sum(op.seconds[-1] for op in recorded.server.operators) == pytest.approx(2e-3)
    slower = device.load_recorded(tmp_path, 'net', server_as_robot=True)
    assert slower.server.whole_s == pytest.approx(2e-3 * 41.3125 / 20)


def test_without_a_measured_run_the_recorded_one_stands_and_is_said(tmp_path):
    data = chain(('conv2d', None), ('relu', None))
    data['ops'][1]['robot_ms'] = 0
    written(tmp_path, data)
    recorded = device.load_recorded(tmp_path, 'net')
    assert 'no robot-only run of net was measured' in recorded.notes[0]
    assert 'operator 1 (conv2d, [1, 2, 8, 8]) has no time' in recorded.notes[1]
    assert recorded.robot.power.computing_w == device.COMPUTING_W
    assert recorded.robot.whole_s == pytest.approx(0.02)


def test_values_travel_with_the_recorded_bytes(tmp_path):
    written(tmp_path, chain(('conv2d', (1, 3, 8, 8)), ('relu', None)))
    recorded = device.load_recorded(tmp_path, 'net')
    answer = recorded.layout.graph.outputs['output']
    assert recorded.bytes[0] == pytest.approx(2 ** 19)
    assert recorded.bytes[answer] == pytest.approx(2 ** 18)
    assert recorded.bytes[recorded.places[1]] == 3 * 64 * 4
    pixels = recorded.as_pixels()
    assert pixels.bytes[0] == 2 * 64 and pixels.bytes[1:] == recorded.bytes[1:]


def test_full_offload_along_a_steady_link_is_bytes_and_server_and_overhead(tmp_path):
    written(tmp_path, chain(('conv2d', None), ('relu', None)))
    (tmp_path / 'measured.csv').write_text(
        COLUMNS + 'net,full offload,indoors,80,1,1,1,1,1000\n')
    recorded = device.load_recorded(tmp_path, 'net')
    samples = [Sample(i / 2, 100.0) for i in range(200)]
    sent = 0.75 * 2 ** 20
    wanted = sent * 8 / 1e5 + 2 + 8 + sent * 11.5e-6
    pause = device.pause_s(recorded, samples, 'indoors')
    assert pause == pytest.approx(0.02)
    for fit in (device.fit_check(recorded, samples, 'indoors'),
                device.fit_check(recorded, samples, 'indoors', pause)):
        assert fit['modelled_ms'] == pytest.approx(wanted)
        assert fit['error'] == pytest.approx(wanted / 80 - 1)
    assert device.pause_s(recorded, samples, 'outdoors') == 0
    with pytest.raises(RecordError, match="along 'outdoors' was not measured"):
        device.fit_check(recorded, samples, 'outdoors')
    with pytest.raises(RecordError, match="ends within 'indoors'"):
        device.fit_check(recorded, [Sample(0, 0), Sample(1, 0)], 'indoors')


@pytest.mark.long
@pytest.mark.skipif(not DATA.is_dir(), reason=f'HP_RECORDED names no folder with {DATA.name}/')
def test_the_published_record_of_an_unpublished_model_loses_no_time():
    recorded = device.load_recorded(DATA, 'agrnav')
    assert all(recorded.places[1:-1]) and None not in recorded.layout.axes
    alone = recorded.line(device.ROBOT_ONLY)
    for profile, side, whole in ((recorded.robot, 'robot', alone.mean_ms),
                                 (recorded.server, 'server', recorded.record.server_forward_ms)):
        seconds = math.fsum(op.seconds[-1] for op in profile.operators)
        assert seconds * 1e3 == pytest.approx(whole)
        assert seconds * 1e3 / profile.scale == pytest.approx(recorded.record.total_ms(side))
    assert sum(recorded.bytes[v] for v in (0, *recorded.layout.graph.outputs.values())) == (
        pytest.approx(1e6 * recorded.line(device.FULL_OFFLOAD, 'indoors').mean_sent_mbytes,
                      rel=1e-3))


@pytest.mark.skipif(not DATA.is_dir(), reason=f'HP_RECORDED names no folder with {DATA.name}/')
def test_every_published_record_and_measurement_reads():
    models = {read_record(path).model for path in DATA.glob('*.json')}
    assert models == {line.model for line in read_measured(DATA / 'measured.csv')}
