# SPDX-License-Identifier: Apache-2.0
"""The launch files; what needs launch_ros, which is not to be had with pip, is skipped without."""

import ast
from contextlib import closing, contextmanager
import os
from pathlib import Path
import re
import runpy
import signal
import subprocess
import sys

import pytest
import rclpy
from ros_rig import Client, error_of, MODEL, pixels, SIZE
from waits import WAIT_S

from hp_inference.nodes.params import ROBOT, SERVER
from hp_planner.planner_node import PLANNER

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
DEMO, ROBOT_FILE, SERVER_FILE, PLANNER_FILE = (
    ROOT / 'launch' / f'{name}.launch.py' for name in ('demo', 'robot', 'server', 'planner'))
TABLES = {ROBOT_FILE: ROBOT, SERVER_FILE: SERVER, PLANNER_FILE: PLANNER}
# What `ros2 launch FILE NAME:=VALUE ...` does, which may not be there where launch_ros is.
START = """
import sys
from launch import LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
service = LaunchService()
service.include_launch_description(IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]),
    launch_arguments=[text.split(':=', 1) for text in sys.argv[2:]]))
sys.exit(service.run())
"""


def texts(path, keyword=None):
    """Return the strings in a file, or only those passed as one keyword argument."""
    nodes = list(ast.walk(ast.parse(path.read_text('utf-8'), str(path))))
    if keyword:
        nodes = [node.value for node in nodes if isinstance(node, ast.keyword)
                 and node.arg == keyword]
    return {node.value for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def arguments(path):
    """Return the arguments of a launch file by name; skips the test without launch_ros."""
    pytest.importorskip('launch_ros')
    description = runpy.run_path(str(path))['generate_launch_description']()
    return {argument.name: argument for argument in description.get_launch_arguments()}


@pytest.mark.parametrize('path', TABLES, ids=lambda path: path.name)
def test_every_node_gets_the_settings_of_the_link_or_some_would_not_hear_the_others(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text('utf-8')))
             if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'Node']
    assert calls
    assert all('additional_env' in {keyword.arg for keyword in call.keywords} for call in calls)


def test_there_is_a_launch_file_for_robot_server_planner_and_demo():
    assert {DEMO, *TABLES} <= set(FILES)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.name)
def test_a_launch_file_refers_only_to_executables_and_files_that_exist(path):
    scripts = re.findall(r"'(\w+) = ", (ROOT / 'setup.py').read_text('utf-8'))
    configs = {text for text in texts(path) if re.fullmatch(r'[\w.]+\.yaml', text)}
    assert configs
    assert {name for name in configs if not (ROOT / 'config' / name).is_file()} == set()
    includes = {text for text in texts(path) if re.fullmatch(r'[\w.]+\.launch\.py', text)}
    assert {name for name in includes if not path.with_name(name).is_file()} == set()
    assert includes or texts(path, 'executable')
    assert texts(path, 'executable') <= set(scripts)
    assert texts(path, 'package') <= {'hp_inference'}


@pytest.mark.parametrize('path', TABLES, ids=lambda path: path.name)
def test_a_launch_file_offers_only_parameters_that_its_node_has(path):
    pytest.importorskip('launch_ros')
    offered = set(runpy.run_path(str(path))['PARAMETERS'])
    known = {row.name for row in TABLES[path]}
    assert offered - known == {'use_sim_time'}


def test_every_launch_file_describes_all_of_its_arguments():
    for path in FILES:
        for name, argument in arguments(path).items():
            assert argument.description and argument.description != 'no description given', name


def test_the_launch_files_have_the_same_arguments_but_for_what_only_one_node_has():
    robot, server, demo, planner = map(arguments, (ROBOT_FILE, SERVER_FILE, DEMO, PLANNER_FILE))
    assert set(robot) == set(demo)
    assert set(planner) - set(server) == {'objective', 'robot_profile', 'server_profile',
                                          'server_node', 'save_to', 'plans_dir'}
    assert set(robot) - set(server) == {'image', 'plan', 'plans', 'plans_dir', 'monitor'}
    assert {'namespace', 'params_file', 'autostart', 'use_sim_time', 'log_level', 'model',
            'input', 'key_file'} == set(server)
    for name in server:
        assert len({each[name].description for each in (robot, server, demo, planner)}) == 1
        assert robot[name].choices == server[name].choices == planner[name].choices


@contextmanager
def launched(path, folder, **given):
    """Launch a file while the body runs, then interrupt it; yields the path of its output."""
    pytest.importorskip('launch_ros')
    log = folder / 'launch.log'
    with open(log, 'wb') as file:
        process = subprocess.Popen(
            [sys.executable, '-c', START, str(path),
             *(f'{name}:={value}' for name, value in given.items())],
            stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True, env={**os.environ, 'ROS_LOG_DIR': str(folder)})
    try:
        yield log
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(WAIT_S) == 0, log.read_text()
    except AssertionError as error:
        raise AssertionError(f'{error}\n{log.read_text()}') from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def client():
    pytest.importorskip('launch_ros')
    rclpy.init()
    with closing(Client('robot1')) as client:
        yield client
    rclpy.try_shutdown()


def test_the_launched_demo_answers_an_image_as_the_unsplit_model_does(client, tmp_path):
    with launched(DEMO, tmp_path, namespace='robot1', model=MODEL, input=[1, 3, SIZE, SIZE],
                  plan='uniform:0.25', plans=['layer:3', 'robot_only']) as log:
        client.ready()
        result = client.answered_together()
        assert result.plan == 'uniform:0.25'
        assert error_of(result, pixels()) < 1e-5
        assert client.set(plan='layer:3') == ''
        assert client.answered_together().plan == 'layer:3'
    assert log.read_text().count('process has finished cleanly') == 3


def test_a_launched_node_waits_for_a_lifecycle_manager_when_told_to(client, tmp_path):
    with launched(ROBOT_FILE, tmp_path, namespace='robot1', autostart='false'):
        assert client.state('robot_node') == 'unconfigured'
