# SPDX-License-Identifier: Apache-2.0
"""The pictures of a table: which are written, and that they show what is in the table."""

import numpy as np
from PIL import Image
import pytest
import synthetic

from hp_planner.report.pictures import lane_points, write_pictures
from hp_planner.report.record import Record
from hp_planner.report.table_file import read_table_file


def written(folder, mbit_s=(), grid=synthetic.GRID, **changes):
    """Return the pictures of a table, by name, as arrays."""
    folder.mkdir()
    data = synthetic.table(grid, record=synthetic.record(grid, **changes))
    table = read_table_file(synthetic.write(folder / 'table.json', data))
    paths = write_pictures(table, folder / 'new' / 'out', mbit_s)
    assert all(path.stat().st_size < 200_000 for path in paths)
    return {path.name: np.asarray(Image.open(path).convert('RGB'), int) for path in paths}


@pytest.fixture(scope='module')
def usual(tmp_path_factory):
    return written(tmp_path_factory.mktemp('pictures') / 'usual')


def test_every_picture_is_written_and_shows_something(usual):
    assert list(usual) == ['latency.png', 'energy.png', 'throughput.png', 'shares.png',
                           'pareto.png', 'timeline.png']
    for name, picture in usual.items():
        assert picture.shape[0] > 400 and picture.shape[1] > 800, name
        assert len(np.unique(picture @ [1, 256, 65536])) > 50, name


def test_without_depth_or_front_these_pictures_are_left_out(tmp_path):
    assert list(written(tmp_path / 'few', depth=[], pareto=None)) == [
        'latency.png', 'energy.png', 'throughput.png', 'timeline.png']


def test_energy_is_not_drawn_where_nobody_knows_the_power(tmp_path):
    unknown = {'waiting_w': 0.0, 'communicating_w': 0.0, 'computing_w': 0.0, 'source': 'unknown'}
    assert 'energy.png' not in written(tmp_path / 'few', depth=[], power=unknown, pareto=None)


def test_names_are_drawn_as_they_are_whatever_is_in_them(tmp_path):
    path = synthetic.write(tmp_path / 'table.json', synthetic.table(model='$\\sad{$'))
    assert write_pictures(read_table_file(path), tmp_path / 'out')


def test_a_table_of_one_bandwidth_can_be_drawn(tmp_path):
    assert len(written(tmp_path / 'one', grid=(20.0,))) == 6


def changed(one, other, names):
    """Return whether two sets of pictures differ in some, and that they do nowhere else."""
    differ = [key for key in one if one[key].shape != other[key].shape
              or (one[key] != other[key]).any()]
    return differ == sorted(names, key=list(one).index)


def front(key, to):
    """Return a front with one figure of one point changed."""
    pareto = synthetic.record()['pareto']
    pareto['points'][1][key] = to
    return {'pareto': pareto}


# What is changed in the record, and which alone of the pictures shows it.
CHANGES = {
    'lower bound': ({'choices': [{**point, 'bound_s': point['bound_s'] / 2}
                                 for point in synthetic.record()['choices']]}, 'latency.png'),
    'depth': ({'depth': [0, 3, 11]}, 'shares.png'),
    'throughput': (front('throughput', 30), 'pareto.png'),
    'memory': (front('robot_peak_bytes', 1e5), 'pareto.png'),
}


@pytest.mark.parametrize('names', [
    pytest.param(['lower bound', 'depth', 'throughput'], id='several'), ['memory'],
    *(pytest.param([name], marks=pytest.mark.long) for name in CHANGES if name != 'memory')],
    ids=' and '.join)
def test_what_is_in_the_record_is_to_be_seen_in_one_picture(usual, tmp_path, names):
    told = {key: item for name in names for key, item in CHANGES[name][0].items()}
    assert changed(usual, written(tmp_path / 'a', **told), [CHANGES[name][1] for name in names])


def test_the_heat_map_shows_who_computes(usual):
    # Blue where the robot computes (below), orange where the server does (above).
    picture = usual['shares.png']
    middle = picture.shape[1] // 2
    top, bottom = picture[100, middle], picture[picture.shape[0] - 150, middle]
    assert top[0] > 200 > top[2] and bottom[2] > 150 > bottom[0]


def rates(points):
    return [point.mbit_s for point in points]


def test_lanes_are_drawn_at_the_nearest_rates_of_the_grid_each_once():
    points = Record.from_json(synthetic.record()).points
    assert rates(lane_points(points, (80, 0.001, 120, 1e9))) == [0.5, 100, 1000]
    # Nearest by ratio: 30 is nearer to 20 than to 50, 35 is not.
    assert rates(lane_points(points, (30,))) == [20]
    assert rates(lane_points(points, (35,))) == [50]


def test_lanes_are_drawn_where_something_travels_unless_told_otherwise(usual, tmp_path):
    points = Record.from_json(synthetic.record()).points
    assert rates(lane_points(points)) == [10, 50, 200, 1000]
    assert rates(lane_points(points[:3])) == [0.5, 1, 2]
    assert rates(lane_points(points[:5])) == [10]
    one = written(tmp_path / 'a', (0.5,))
    assert changed(usual, one, ['timeline.png'])
    assert one['timeline.png'].shape[0] < usual['timeline.png'].shape[0]


def test_a_folder_that_can_not_be_made_is_an_error(tmp_path):
    data = synthetic.table(record=synthetic.record(depth=[], pareto=None))  # fewer to draw
    table = read_table_file(synthetic.write(tmp_path / 'table.json', data))
    with pytest.raises(OSError):
        write_pictures(table, tmp_path / 'table.json' / 'out')
