# SPDX-License-Identifier: Apache-2.0
"""Version numbers, message definitions, executables and declared dependencies agree."""

import ast
import configparser
import os
from pathlib import Path
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest

import hp_inference

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = sorted((ROOT / 'hp_msgs' / 'msg').glob('*.msg'))
MESSAGE_LINE = re.compile(
    r'(?P<type>[\w/\[\]<=]+) +(?P<name>\w+)(?:=(?P<value>\d+))?(?: +# (?P<comment>\S.*))?$')

# On the wire and in recorded bags: these numbers never change.
CONSTANTS = {
    'TensorChunk': {
        'VERSION': 3,
        'DTYPE_BOOL': 1, 'DTYPE_UINT8': 2, 'DTYPE_INT8': 3, 'DTYPE_INT16': 4, 'DTYPE_INT32': 5,
        'DTYPE_INT64': 6, 'DTYPE_FLOAT16': 7, 'DTYPE_BFLOAT16': 8, 'DTYPE_FLOAT32': 9,
        'DTYPE_FLOAT64': 10,
        'DTYPE_COMPLEX64': 11,
        'DTYPE_COMPLEX128': 12,
        'CODEC_NONE': 0, 'CODEC_ZSTD': 1, 'CODEC_SHUFFLE_ZSTD': 2, 'CODEC_FLOAT16_SHUFFLE_ZSTD': 3,
        'CODEC_UINT8_ZSTD': 4, 'CODEC_JPEG': 5,
    },
    'DeviceProfile': {'ROBOT': 1, 'SERVER': 2},
    'Span': {'LANE_ROBOT': 0, 'LANE_UPLINK': 1, 'LANE_SERVER': 2, 'LANE_DOWNLINK': 3},
    'InferenceResult': {'COMPUTED_ROBOT': 1, 'COMPUTED_SERVER': 2, 'COMPUTED_BOTH': 3},
    'LinkReport': {'MAX_ENTRIES': 64},
    'Probe': {'MAX_BYTES': 200000},
    'FrameReport': {'STATUS_OK': 0, 'STATUS_REFUSED': 1, 'STATUS_ABORTED': 2},
}

# rosdep keys of the imports that do not go by their own name.
ROSDEP_KEYS = {
    'PIL': 'python3-pil', 'hypothesis': 'python3-hypothesis', 'matplotlib': 'python3-matplotlib',
    'numpy': 'python3-numpy', 'pytest': 'python3-pytest',
    'rich': 'python3-rich', 'scipy': 'python3-scipy', 'yaml': 'python3-yaml',
    'zstandard': 'python3-zstandard',
}
# Left to the machine: a robot's board brings its own build of some; planning alone needs numba.
UNDECLARED = {'numba', 'torch', 'torchvision'}


def message_lines(path):
    """Yield the parsed line of every field and constant of a message."""
    for line in path.read_text(encoding='utf-8').splitlines():
        if line and not line.startswith('#'):
            match = MESSAGE_LINE.fullmatch(line)
            assert match, f'{path.name}: cannot read {line!r}'
            yield match


def constants(path):
    return {m['name']: int(m['value']) for m in message_lines(path) if m['value'] is not None}


def package_xml(directory):
    return ElementTree.parse(directory / 'package.xml').getroot()


def declared(root):
    return {element.text for element in root if element.tag.endswith('depend')}


def imported_packages(paths):
    """Return the top-level names of all absolute imports, those inside functions included."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'), str(path))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition('.')[0])
    return names


def console_scripts():
    tree = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8'))
    keywords = {k.arg: k.value for node in ast.walk(tree) if isinstance(node, ast.Call)
                for k in node.keywords}
    return ast.literal_eval(keywords['entry_points'])['console_scripts']


@pytest.mark.parametrize('directory', [ROOT, ROOT / 'hp_msgs'], ids=lambda d: d.name)
def test_package_xml_carries_the_one_version_and_the_license(directory):
    root = package_xml(directory)
    assert root.get('format') == '3'
    assert root.findtext('version') == hp_inference.__version__
    assert root.findtext('license') == 'Apache-2.0'


@pytest.mark.parametrize('path', MESSAGES, ids=lambda p: p.stem)
def test_every_field_and_constant_of_a_message_is_explained(path):
    lines = list(message_lines(path))
    assert lines
    assert [m['name'] for m in lines if not m['comment']] == []


@pytest.mark.parametrize('path', MESSAGES, ids=lambda p: p.stem)
def test_every_duration_and_size_names_its_unit(path):
    units = {'bytes_per_s': '[bytes/s]', '_per_s': '[1/s]', '_s': '[s]', '_bytes': '[bytes]'}
    for match in message_lines(path):
        unit = next((unit for ending, unit in units.items() if match['name'].endswith(ending)), '')
        assert unit in match['comment'], match['name']


@pytest.mark.parametrize('path', MESSAGES, ids=lambda p: p.stem)
def test_message_constants_keep_their_numbers(path):
    assert constants(path) == CONSTANTS.get(path.stem, {})


def test_every_message_is_generated():
    listed = re.findall(r'msg/(\w+)\.msg', (ROOT / 'hp_msgs/CMakeLists.txt').read_text('utf-8'))
    assert listed == [path.stem for path in MESSAGES]


@pytest.mark.ros
@pytest.mark.parametrize('path', MESSAGES, ids=lambda p: p.stem)
def test_the_built_messages_are_those_of_this_checkout(path):
    import hp_msgs.msg
    message = getattr(hp_msgs.msg, path.stem)
    assert list(message.get_fields_and_field_types()) == [
        m['name'] for m in message_lines(path) if m['value'] is None]
    assert {name: getattr(message, name) for name in constants(path)} == constants(path)


@pytest.mark.parametrize('script', console_scripts())
def test_every_executable_has_its_module(script):
    module, _, function = script.partition(' = ')[2].partition(':')
    path = ROOT / (module.replace('.', '/') + '.py')
    defined = [n.name for n in ast.parse(path.read_text('utf-8')).body
               if isinstance(n, ast.FunctionDef)]
    assert function in defined


def test_every_file_for_users_is_installed():
    globs = re.findall(r"glob\('([^']+)'\)", (ROOT / 'setup.py').read_text('utf-8'))
    installed = {path for pattern in globs for path in ROOT.glob(pattern)}
    there = {path for folder in ('config', 'launch') for path in (ROOT / folder).rglob('*')
             if path.is_file() and path.suffix != '.pyc'}
    assert there == installed


def test_executables_go_where_ros2_run_looks():
    config = configparser.ConfigParser()
    config.read(ROOT / 'setup.cfg')
    assert config['develop']['script_dir'] == '$base/lib/hp_inference'
    assert config['install']['install_scripts'] == '$base/lib/hp_inference'


def test_only_the_planner_needs_numba():
    needing = {path.relative_to(ROOT).parts[0] for part in ('hp_cli', 'hp_inference', 'hp_planner')
               for path in (ROOT / part).rglob('*.py') if 'numba' in imported_packages([path])}
    assert needing == {'hp_planner'}


def test_only_nodes_import_ros():
    paths = [path for part in ('hp_cli', 'hp_inference', 'hp_planner')
             for path in (ROOT / part).rglob('*.py')
             if path.parent.name != 'nodes' and path.name != 'planner_node.py']
    assert not imported_packages(paths) & {'rclpy', 'hp_msgs', 'std_srvs', 'launch'}


def test_package_xml_declares_every_package_that_the_code_imports():
    paths = [path for part in ('hp_cli', 'hp_inference', 'hp_planner', 'launch')
             for path in (ROOT / part).rglob('*.py')]
    imported = imported_packages(paths) - sys.stdlib_module_names - UNDECLARED
    needed = {ROSDEP_KEYS.get(name, name) for name in imported} - {
        'hp_cli', 'hp_inference', 'hp_planner'}
    assert needed - declared(package_xml(ROOT)) == set()


def test_the_interface_package_declares_the_messages_it_contains():
    used = {m['type'].partition('/')[0] for path in MESSAGES for m in message_lines(path)
            if '/' in m['type']}
    assert used <= declared(package_xml(ROOT / 'hp_msgs'))


def test_every_source_file_names_its_license():
    parts = ('hp_cli', 'hp_inference', 'hp_planner', 'launch', 'test', 'bench', 'examples', 'docs',
             '.ci')
    paths = [path for part in parts for path in (ROOT / part).rglob('*.py')]
    missing = [str(path.relative_to(ROOT)) for path in paths
               if '# SPDX-License-Identifier: Apache-2.0\n' not in path.read_text('utf-8')[:200]]
    assert missing == []


@pytest.mark.parametrize('path', sorted((ROOT / 'requirements').glob('*.txt')),
                         ids=lambda p: p.name)
def test_every_requirement_is_pinned_and_none_names_a_place_to_get_it_from(path):
    lines = [line for line in path.read_text('utf-8').splitlines() if line and line[0] != '#']
    assert lines
    assert [line for line in lines if not re.fullmatch(r'[\w-]+(\[\w+\])?==[\w.]+', line)] == []


def test_importing_the_nodes_without_the_built_messages_names_the_fix(tmp_path):
    # What Python sees in an unsourced checkout: hp_msgs/msg/ as empty namespace packages.
    (tmp_path / 'hp_msgs' / 'msg').mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, '-c', 'import hp_inference.nodes'], capture_output=True, text=True,
        timeout=60, env={**os.environ, 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'})
    assert done.returncode == 1
    assert re.search(r'ImportError: .*make build.*\. install/local_setup\.bash', done.stderr)
