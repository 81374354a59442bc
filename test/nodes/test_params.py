# SPDX-License-Identifier: Apache-2.0
"""Tests of the parameter tables and of what they feed."""

from pathlib import Path

import pytest
import yaml

pytest.importorskip('rclpy')
from rcl_interfaces.msg import ParameterType  # noqa: E402
import rclpy  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from hp_inference.nodes import params as module  # noqa: E402
from hp_inference.nodes.params import (  # noqa: E402
    BadParameter,
    declare,
    markdown,
    MONITOR,
    ROBOT,
    Row,
    SERVER,
    unknown_names,
)
from hp_planner.planner_node import PLANNER  # noqa: E402

pytestmark = pytest.mark.ros
CONFIG = Path(__file__).parents[2] / 'config'


class Log:
    """Collects what a node warns about."""

    def __init__(self):
        self.lines = []

    def warning(self, text):
        self.lines.append(text)


@pytest.fixture
def make_node(tmp_path):
    """Return a function that makes a node from the YAML of its parameters."""
    nodes = []

    def make(parameters='{}', name='robot_node', namespace='', text=None):
        file = tmp_path / 'params.yaml'
        file.write_text(text or f'/**:\n  ros__parameters: {parameters}\n')
        rclpy.init(args=['--ros-args', '--params-file', str(file)])
        node = rclpy.create_node(name, namespace=namespace)
        node.log = Log()
        node.get_logger = lambda: node.log
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


def set_one(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


TABLES = {'robot_node': ROBOT, 'server_node': SERVER, 'planner_node': PLANNER,
          'bandwidth_monitor_node': MONITOR}
# The robot's parameter file is that of both of its nodes.
FILES = {'robot': ('robot_node', 'bandwidth_monitor_node'), 'server': ('server_node',),
         'planner': ('planner_node',)}


@pytest.mark.parametrize('table', TABLES.values(), ids=TABLES)
def test_without_a_file_every_parameter_has_its_default(make_node, table):
    node = make_node()
    params = declare(node, table)
    for row in table:
        assert getattr(params, row.name) == row.default, row.name
        assert type(getattr(params, row.name)) is type(row.default), row.name
        assert row.convert(row.default) == row.default
    assert node.log.lines == []


@pytest.mark.parametrize(('name', 'nodes'), FILES.items())
def test_the_yaml_in_config_holds_every_parameter_with_its_default(name, nodes):
    content = yaml.safe_load((CONFIG / f'{name}.yaml').read_text())
    assert set(content['/**']) == set(nodes)
    for node in nodes:
        values = content['/**'][node]['ros__parameters']
        assert list(values) and set(values) == {row.name for row in TABLES[node]}
        for row in TABLES[node]:
            assert row.convert(values[row.name]) == row.default, row.name


@pytest.mark.parametrize('name', FILES)
def test_the_yaml_in_config_says_in_a_line_what_each_parameter_is(name):
    lines = (CONFIG / f'{name}.yaml').read_text().splitlines()
    parameters = [line for line in lines if line.startswith('      ') and ': ' in line
                  and not line.strip().startswith('#')]
    assert len(parameters) == sum(len(TABLES[node]) for node in FILES[name])
    assert all(' # ' in line for line in parameters)


@pytest.mark.parametrize('namespace', ['', '/r1', '/fleet/r1'])
def test_the_yaml_in_config_reaches_the_node_in_any_namespace(make_node, namespace):
    text = (CONFIG / 'robot.yaml').read_text().replace('deadline_s: 0.0', 'deadline_s: 0.25')
    node = make_node(text=text, namespace=namespace)
    assert declare(node, ROBOT).deadline_s == 0.25
    assert node.log.lines == []


def test_values_come_from_the_file_in_the_type_of_the_table(make_node):
    params = declare(make_node('{deadline_s: 2, std: [1, 1, 2], input: [1, 1, 32, 48], '
                               'plans: ["layer:3"], autostart: false}'), ROBOT)
    assert params.deadline_s == 2.0 and type(params.deadline_s) is float
    assert params.std == (1.0, 1.0, 2.0) and type(params.std[0]) is float
    assert params.input == (1, 1, 32, 48)
    assert params.plans == ('layer:3',)
    assert params.autostart is False


@pytest.mark.parametrize('given', ['[]', '[""]', '["r1", "r2"]'])
def test_lists_of_strings_may_be_empty(make_node, given):
    params = declare(make_node(f'{{robots: {given}}}'), SERVER)
    assert params.robots == tuple(yaml.safe_load(given))


@pytest.mark.parametrize(('given', 'message'), [
    ('deadline_s: 100.0', "parameter 'deadline_s' is 100.0, expected a number from 0 to 60 [s]"),
    ('deadline_s: -1', "parameter 'deadline_s' is -1, expected a number from 0 to 60 [s]"),
    ('deadline_s: .nan', "parameter 'deadline_s' is nan, expected a number from 0 to 60 [s]"),
    ('deadline_s: "1"', "parameter 'deadline_s' is '1', expected a number from 0 to 60 [s]"),
    ('max_pixels: 0',
     "parameter 'max_pixels' is 0, expected an integer from 1 to 89000000 [pixels]"),
    ('seed: -1', "parameter 'seed' is -1, expected an integer, at least 0"),
    ('seed: 1.5', "parameter 'seed' is 1.5, expected an integer, at least 0"),
    ('seed: true', "parameter 'seed' is True, expected an integer, at least 0"),
    ('autostart: 1', "parameter 'autostart' is 1, expected true or false"),
    ('plan: 12', "parameter 'plan' is 12, expected a string"),
    ('codec: gzip', "parameter 'codec' is 'gzip', expected 'none' or 'zstd' or 'shuffle_zstd'"),
    ('resize: cubic', "parameter 'resize' is 'cubic', expected 'bilinear' or 'nearest' or 'none'"),
    ('input: [3, 224, 224]', "parameter 'input' is [3, 224, 224], expected a list of 4 elements, "
                             'each an integer from 1 to 65536'),
    ('input: [1, 3, 0, 224]', "parameter 'input' is [1, 3, 0, 224], expected a list of 4 elements, "
                              'each an integer from 1 to 65536'),
    ('input: 224', "parameter 'input' is 224, expected a list of 4 elements"),
    ('input: []', "parameter 'input' is None, expected a list of 4 elements"),
    ('std: [0.0, 1.0, 1.0]', "parameter 'std' is [0.0, 1.0, 1.0], expected a list of any number of "
                             'elements, each a number from 1e-06 to 1e+06'),
    ('mean: [.inf, 1.0, 1.0]', "parameter 'mean' is [inf, 1.0, 1.0], expected a list of any number "
                               'of elements, each a number'),
    ('plans: [1, 2]', "parameter 'plans' is [1, 2], expected a list of any number of elements, "
                      'each a string'),
    ('plans: layer', "parameter 'plans' is 'layer', expected a list of any number of elements"),
])
def test_a_bad_value_in_the_file_is_refused_with_what_is_allowed(make_node, given, message):
    with pytest.raises(BadParameter) as error:
        declare(make_node(f'{{{given}}}'), ROBOT)
    assert str(error.value).startswith(message)


def test_all_bad_values_of_a_file_are_named_at_once(make_node):
    with pytest.raises(BadParameter, match="'seed' is -1.*; parameter 'codec' is 'gzip'"):
        declare(make_node('{codec: gzip, seed: -1}'), ROBOT)


def test_a_change_is_applied(make_node):
    node = make_node()
    params = declare(node, ROBOT)
    assert set_one(node, 'plan', 'layer:7').successful
    assert params.plan == 'layer:7'
    assert set_one(node, 'deadline_s', 2).successful
    assert params.deadline_s == 2.0 and type(params.deadline_s) is float


@pytest.mark.parametrize(('name', 'value', 'words'), [
    ('deadline_s', 61.0, ['deadline_s', '60', '61']),
    ('deadline_s', 61, ['deadline_s', '60', '61']),
    ('deadline_s', float('nan'), ['deadline_s', '60', 'nan']),
    ('deadline_s', True, ['deadline_s', 'expected a number from 0 to 60 [s]']),
    ('max_pixels', 10 ** 9, ['max_pixels', '1', '89000000', '1000000000']),
    ('plan', 5, ["parameter 'plan' is 5, expected a string"]),
    ('codec', 'gzip', ["parameter 'codec' is 'gzip', expected 'none' or 'zstd' or 'shuffle_zstd'"]),
    ('model', 'x', ['read-only', 'model']),
])
def test_a_bad_change_is_refused_with_what_is_allowed_and_changes_nothing(
        make_node, name, value, words):
    node = make_node()
    params = declare(node, ROBOT)
    before = getattr(params, name)
    result = set_one(node, name, value)
    assert not result.successful
    for word in words:
        assert word in result.reason
    assert getattr(params, name) == before
    assert node.get_parameter(name).value == before


def test_a_change_of_several_at_once_is_all_or_nothing(make_node):
    node = make_node()
    params = declare(node, ROBOT)
    heard = []
    params.on_change(heard.append)
    result = node.set_parameters_atomically(
        [Parameter('plan', value='layer:7'), Parameter('codec', value='gzip')])
    assert not result.successful and "'gzip'" in result.reason
    assert params.plan == 'uniform:0.5' and heard == []
    result = node.set_parameters_atomically(
        [Parameter('plan', value='layer:7'), Parameter('codec', value='none')])
    assert result.successful
    assert heard == [{'plan': 'layer:7', 'codec': 'none'}]


def test_a_check_of_the_node_refuses_and_the_listener_hears_only_what_passed(make_node):
    node = make_node()
    params = declare(node, ROBOT)
    heard = []

    def check(plan):
        assert heard == []  # nothing is applied before everything is checked
        if plan == 'layer:99':
            raise ValueError("plan 'layer:99': the model has 71 values")

    params.check('plan', check)
    params.on_change(heard.append)
    result = set_one(node, 'plan', 'layer:99')
    assert not result.successful
    assert result.reason == "plan 'layer:99': the model has 71 values"
    assert params.plan == 'uniform:0.5' and heard == []
    assert set_one(node, 'plan', 'layer:9').successful
    assert heard == [{'plan': 'layer:9'}]


def test_parameters_of_others_pass_unheard(make_node):
    node = make_node()
    params = declare(node, ROBOT)
    node.declare_parameter('other', 1)
    heard = []
    params.on_change(heard.append)
    assert set_one(node, 'other', 2).successful
    assert heard == []
    with pytest.raises(AttributeError, match="there is no parameter 'other'"):
        params.other  # noqa: B018


def test_unknown_names_are_warned_about_with_the_closest_one(make_node):
    node = make_node('{deadlin_s: 2.0, use_sim_time: false, xyzzy: 1, '
                     'start_type_description_service: true, '
                     'qos_overrides: {/image: {subscription: {depth: 3}}}}')
    assert declare(node, ROBOT).deadline_s == 0.0
    assert len(node.log.lines) == 2
    close, strange = sorted(node.log.lines)
    assert close == "parameter 'deadlin_s' is unknown and has no effect: did you mean 'deadline_s'?"
    assert strange.startswith("parameter 'xyzzy' is unknown and has no effect; known are model, we")


def test_known_names_give_no_warning():
    assert unknown_names(['seed', 'use_sim_time', 'qos_overrides./image.publisher.depth'],
                         ROBOT) == []


def test_ros_tools_see_description_unit_range_and_what_is_read_only(make_node):
    node = make_node()
    declare(node, ROBOT)
    deadline = node.describe_parameter('deadline_s')
    assert deadline.type == ParameterType.PARAMETER_DOUBLE
    assert 'receipt of the image' in deadline.description and '[s]' in deadline.description
    assert deadline.floating_point_range[0].from_value == 0.0
    assert deadline.floating_point_range[0].to_value == 60.0
    assert not deadline.read_only
    pixels = node.describe_parameter('max_pixels')
    assert (pixels.integer_range[0].from_value, pixels.integer_range[0].to_value) == (1, 89_000_000)
    assert node.describe_parameter('model').read_only
    assert "'none' or 'zstd'" in node.describe_parameter('codec').additional_constraints


def test_a_range_with_one_end_holds_only_there(make_node):
    table = [Row('least', 'double', 1.0, 'text', low=0.5), Row('most', 'int', 1, 'text', high=3)]
    node = make_node()
    params = declare(node, table)
    assert set_one(node, 'least', 1e300).successful
    assert not set_one(node, 'least', 0.4).successful
    assert set_one(node, 'most', -2 ** 62).successful
    assert not set_one(node, 'most', 4).successful
    assert (params.least, params.most) == (1e300, -2 ** 62)


def test_where_ros_has_no_callback_after_setting_changes_are_applied_all_the_same(make_node):
    real = make_node()

    class Humble:
        _parameter_overrides = {}

        def __getattr__(self, name):
            if name == 'add_post_set_parameters_callback':
                raise AttributeError(name)
            return getattr(real, name)

    params = declare(Humble(), ROBOT)
    assert params.seed == 0
    assert set_one(real, 'plan', 'layer:7').successful
    assert not set_one(real, 'plan', 7).successful
    assert params.plan == 'layer:7'


def test_the_documentation_has_a_row_for_each_parameter():
    lines = markdown(ROBOT).splitlines()
    assert len(lines) == 2 + len(ROBOT)
    assert ('| `log_every_s` | double | `10.0` | a number from 0.1 to 3600 [s] | while running | '
            'time between two lines of statistics in the log |') in lines
    assert any(line.startswith("| `weights` | string | `''` | a string | at start |")
               for line in lines)
    assert any('`[1, 3, 224, 224]`' in line for line in lines)
    assert any('| `true` |' in line for line in lines)
    assert all(line.count('|') == 7 for line in lines)


def test_every_row_says_what_it_is_and_has_a_known_type():
    for row in (*ROBOT, *SERVER, *PLANNER):
        assert len(row.description) > 10, row.name
        assert row.type.removesuffix('[]') in module._TYPES, row.name
        if row.name.endswith('_s'):
            assert row.unit == ('Mbit/s' if row.name.endswith('mbit_s') else
                                'bytes/s' if row.name.endswith('_per_s') else 's')
