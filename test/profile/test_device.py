# SPDX-License-Identifier: Apache-2.0
"""A device profile is plain data: it checks itself, reads between its points, survives a file."""

from dataclasses import replace
import json
import math
import os

from hypothesis import given
from hypothesis import strategies as st
from nets import Net
import numpy as np
import pytest

from hp_inference.profile.device import CodecSpeed, DeviceProfile, OperatorTime, ProfileError
from hp_inference.runtime.meters import Power


@pytest.fixture(scope='module')
def layout():
    net = Net(8)
    return net.layout(net.linear(net.relu(net.conv(net.x))))


def profile_of(layout, **changes):
    graph = layout.graph
    operators = []
    for op, rows in zip(graph.ops, layout.rows[1:]):
        counts = tuple(sorted({1, -(-rows // 2), rows}))
        operators.append(OperatorTime(op.target, counts, tuple(0.001 * n for n in counts), 0.02))
    values = len(graph.values)
    made = DeviceProfile(
        'net', graph.digest, 'cpu', 'robot', {'torch': '2.13.0'}, 1, '2026-01-31T12:00:00',
        tuple(operators), 0.05, 1.04, {'zstd': CodecSpeed(5e8, 1e9)}, {'zstd': (0.5,) * values},
        1e-4, 1e-10, tuple(value.nbytes for value in graph.values), 1000, Power(4.7, 5.2, 14))
    return replace(made, **changes)


def edited(layout, change):
    data = json.loads(profile_of(layout).dumps())
    change(data)
    return json.dumps(data)


def test_a_profile_comes_back_from_its_file_as_it_was(layout, tmp_path):
    profile = profile_of(layout)
    profile.save(tmp_path / 'robot.json')
    assert DeviceProfile.load(tmp_path / 'robot.json') == profile
    assert DeviceProfile.from_json(profile.to_json()) == profile


ODD = '$(touch X)`touch X`\nforged\ud800"; rm -rf / | sh'


def test_of_what_a_profile_says_of_its_device_only_names_are_kept(layout):
    def change(data):
        data.update(host=ODD, device=ODD, date=ODD, model=ODD, model_digest=ODD,
                    versions={ODD: ODD})
        data['power']['source'] = ODD
    made = DeviceProfile.loads(edited(layout, change))
    assert made.host.startswith('__touch_X__touch_X_') and '/' not in made.host
    for text in (made.device, made.date, made.model, made.model_digest, made.power.source,
                 *made.versions, *made.versions.values(), made.host):
        assert text.isprintable() and not set(text) & set('$`"\'\\;|&<>')
    made.dumps().encode()
    assert DeviceProfile.loads(made.dumps()) == made


def test_a_profile_that_can_not_be_read_at_once_is_refused(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path / 'pipe', '/dev/zero'):
        with pytest.raises(ProfileError, match=f'can not read device profile {path}: it is no reg'):
            DeviceProfile.load(path)


@pytest.mark.parametrize('name', ['codecs', 'ratios', 'versions'])
def test_names_of_parts_that_can_not_be_printed_are_refused_or_cleaned(layout, name):
    def change(data):
        data[name]['\ud800\n'] = 'wrong'
    try:
        DeviceProfile.loads(edited(layout, change)).dumps()
    except ProfileError as error:
        assert str(error).isprintable()


def test_the_text_has_a_line_for_each_operator(layout):
    lines = profile_of(layout).dumps().splitlines()
    assert sum('"aten.' in line for line in lines) == len(layout.graph.ops)
    assert json.loads('\n'.join(lines))['kind'] == 'device_profile'


def test_seconds_are_linear_between_the_measured_rows_and_none_for_no_rows(layout):
    times = OperatorTime('aten.relu.default', (1, 4, 8), (0.003, 0.006, 0.014))
    profile = profile_of(layout)
    profile = replace(profile, operators=(times, *profile.operators[1:]))
    assert [profile.seconds(1, n) for n in (0, 1, 2, 4, 6, 8)] == pytest.approx(
        [0, 0.003, 0.004, 0.006, 0.010, 0.014])
    assert isinstance(profile.seconds(1, 3), float)
    np.testing.assert_allclose(profile.seconds(1, np.arange(9))[[0, 4, 8]], [0, 0.006, 0.014])


def test_the_image_takes_no_time(layout):
    profile = profile_of(layout)
    assert profile.seconds(0, 5) == 0.0
    assert (profile.seconds(0, np.arange(4)) == 0).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.data())
def test_seconds_stay_between_their_neighbours(seconds, data):
    operator = OperatorTime('aten.add.Tensor', tuple(3 * i for i in range(1, len(seconds) + 1)),
                            tuple(seconds))
    profile = DeviceProfile('m', 'd', 'cpu', 'h', {}, 1, '', (operator,), 1, 1, {}, {}, 0, 0,
                            (1, 1), 0, Power(0, 0, 0))
    rows = data.draw(st.integers(0, operator.rows[-1]))
    points = [0.0, *seconds]
    low = rows // 3
    around = points[low], points[min(low + 1, len(seconds))]
    assert min(around) - 1e-12 <= profile.seconds(1, rows) <= max(around) + 1e-12


def test_a_profile_of_the_model_passes(layout):
    profile_of(layout).check(layout)


def test_a_profile_of_another_model_is_refused_by_both_names(layout):
    with pytest.raises(ProfileError, match=r"'vgg16'.*0123456789ab.*'net'.*digest of th"):
        profile_of(layout, model='vgg16', model_digest='0123456789abcdef').check(layout)


def test_missing_operators_are_named(layout):
    profile = profile_of(layout)
    short = replace(profile, operators=profile.operators[:-1], ratios={},
                    value_bytes=profile.value_bytes[:-1])
    with pytest.raises(ProfileError, match='has 4 operators, expected 5; missing are %5 linear'):
        short.check(layout)


def test_more_operators_than_the_model_has_are_refused(layout):
    profile = profile_of(layout)
    longer = replace(profile, operators=(*profile.operators, profile.operators[-1]), ratios={},
                     value_bytes=(*profile.value_bytes, 4))
    with pytest.raises(ProfileError, match='has 6 operators, expected 5: measure it again'):
        longer.check(layout)


@pytest.mark.parametrize(('operator', 'complaint'), [
    (OperatorTime('aten.gelu.default', (1, 4, 8), (1, 1, 1)),
     "operator of %3 relu is 'aten.gelu.default', expected 'aten.relu.default'"),
    (OperatorTime('aten.relu.default', (1, 4, 9), (1, 1, 1)),
     'number of rows of %3 relu is 9, expected 8'),
])
def test_another_operator_is_refused_by_its_place(layout, operator, complaint):
    profile = profile_of(layout)
    wrong = (*profile.operators[:2], operator, *profile.operators[3:])
    with pytest.raises(ProfileError, match=complaint):
        replace(profile, operators=wrong).check(layout)


@pytest.mark.parametrize('value', [0, 3])
def test_other_sizes_of_values_are_refused(layout, value):
    sizes = list(profile_of(layout).value_bytes)
    sizes[value] += 1
    with pytest.raises(ProfileError, match=f'{sizes[value]}.*expected {sizes[value] - 1}'):
        profile_of(layout, value_bytes=tuple(sizes)).check(layout)


@pytest.mark.parametrize('seconds', [-0.001, math.nan, math.inf, '1', None, True])
def test_a_time_that_is_no_time_is_refused(seconds):
    with pytest.raises(ProfileError, match='aten.relu.default.*a time is.*expected a finite'):
        OperatorTime('aten.relu.default', (1,), (seconds,))


@pytest.mark.parametrize('rows', [(), (0, 4), (4, 4), (4, 2), (1.0, 2), (True, 2)])
def test_rows_that_do_not_ascend_from_one_are_refused(rows):
    with pytest.raises(ProfileError, match='expected ascending whole numbers'):
        OperatorTime('aten.relu.default', rows, (0.1,) * len(rows))


def test_as_many_seconds_as_rows_are_expected():
    with pytest.raises(ProfileError, match='as many seconds'):
        OperatorTime('aten.relu.default', (1, 2), (0.1,))


@pytest.mark.parametrize('changes', [
    {'whole_s': 0}, {'whole_s': math.nan}, {'scale': -1}, {'message_s': -1e-9},
    {'byte_s': math.inf}, {'threads': 0}, {'threads': 1.5}, {'weight_bytes': -1}, {'host': None},
    {'date': 5}, {'versions': {'torch': 2}}, {'value_bytes': (1,)},
    {'ratios': {'zstd': (0.5,)}}, {'ratios': {'zstd': (0.5, 0.5, 0.5, 0.5, 0.5, 0)}},
    {'value_bytes': (1, 1, 1, 1, 1, -1)}, {'scale': 5e-324}, {'whole_s': 1e-300},
    {'byte_s': 1e308}, {'weight_bytes': 10 ** 400}, {'threads': True},
    {'ratios': {'zstd': (0.5, 0.5, 0.5, 0.5, 0.5, 5e-324)}},
])
def test_a_field_that_makes_no_sense_is_refused_by_name(layout, changes):
    field = next(iter(changes)).removesuffix('s')  # the text may speak of one of several
    with pytest.raises(ProfileError, match=field):
        profile_of(layout, **changes)


@pytest.mark.parametrize('speed', [(0, 1), (1, -1), (math.inf, 1), (5e-324, 1), (1, 1e308)])
def test_a_codec_has_a_finite_speed(speed):
    with pytest.raises(ProfileError, match='bytes per second'):
        CodecSpeed(*speed)


@pytest.mark.parametrize(('change', 'complaint'), [
    (lambda data: data.update(format=2), 'format" is 2.*reads 1: a newer version'),
    (lambda data: data.update(format='1'), "format\" is '1'.*reads 1: measure it again"),
    (lambda data: data.pop('format'), 'format" is None'),
    (lambda data: data.update(kind='plan_table'), "kind\" is 'plan_table'"),
    (lambda data: data.pop('power'), r"missing \['power'\]"),
    (lambda data: data.update(watts=3), r"unknown \['watts'\]"),
    (lambda data: data.update(operators={}), 'operators" is {}, expected a list'),
    (lambda data: data.update(power=[1, 2, 3]), 'power" is .1, 2, 3., expected a JSON object'),
    (lambda data: data['operators'][1].pop('rows'), r"operators\[1\]: missing \['rows'\]"),
    (lambda data: data['operators'][1].update(rows=5), r'operators\[1\]'),
    (lambda data: data['operators'][2].update(seconds=[1, math.nan, 1]),
     r'operators\[2\].*a time is nan'),
    (lambda data: data['codecs']['zstd'].update(encode_bytes_per_s=10 ** 400), "codec 'zstd'"),
    (lambda data: data['ratios'].update(zstd='abc'), "ratios of 'zstd' is 'abc'"),
    (lambda data: data.update(value_bytes=3), 'value_bytes" is 3, expected a list'),
])
def test_wrong_json_is_refused_in_one_clear_line(layout, change, complaint):
    with pytest.raises(ProfileError, match=complaint) as caught:
        DeviceProfile.loads(edited(layout, change))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('text', ['', '[1]', 'null', '{', '[' * 100_000, '{"kind": 1}'])
def test_text_that_is_no_profile_is_refused(text):
    with pytest.raises(ProfileError):
        DeviceProfile.loads(text)


def test_a_file_that_can_not_be_read_is_named(tmp_path):
    with pytest.raises(ProfileError, match='can not read device profile .*none.json: No such'):
        DeviceProfile.load(tmp_path / 'none.json')
    (tmp_path / 'photo.json').write_bytes(b'\xff\xd8\xff')
    with pytest.raises(ProfileError, match='photo.json: '):
        DeviceProfile.load(tmp_path / 'photo.json')


def test_a_slowed_device_takes_so_many_times_as_long_for_any_rows_and_nothing_else_changes(layout):
    profile = profile_of(layout)
    slower = profile.slowed(4.0)
    for value in range(1, len(layout.rows)):
        for rows in range(layout.rows[value] + 1):
            assert slower.seconds(value, rows) == pytest.approx(4 * profile.seconds(value, rows))
    assert slower.whole_s == 4 * profile.whole_s
    assert replace(slower, operators=profile.operators, whole_s=profile.whole_s) == profile
