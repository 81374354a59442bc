# SPDX-License-Identifier: Apache-2.0
"""Plan files that a robot is told to use while it runs: of one folder, and never waited for."""

import os
import threading

import pytest

pytest.importorskip('rclpy')
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from ros_rig import error_of, MODEL, pixels, SIZE  # noqa: E402

from hp_inference.folder import Folder  # noqa: E402
from hp_inference.graph.load import ModelSpec, open_model  # noqa: E402
from hp_inference.nodes.diagnostics import WARN  # noqa: E402
from hp_inference.nodes.params import MONITOR, ROBOT, SERVER  # noqa: E402
from hp_inference.nodes.robot_node import RobotNode  # noqa: E402
from hp_inference.split.plan import make_plan  # noqa: E402
from hp_inference.split.table import PlanTable  # noqa: E402
from hp_planner.planner_node import PLANNER  # noqa: E402

pytestmark = pytest.mark.ros
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture(scope='module')
def layouts():
    return {MODEL: open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1]}


@pytest.fixture
def folder(tmp_path, layouts):
    """Return a folder with a table of uniform:0.25, beside another one outside."""
    (tmp_path / 'plans').mkdir()
    table = PlanTable(layouts[MODEL], [make_plan('uniform:0.25', layouts[MODEL])]).dumps()
    for name in ('plans/table.json', 'outside.json'):
        (tmp_path / name).write_text(table)
    return tmp_path / 'plans'


@pytest.fixture
def make(node_here, layouts, folder):
    """Return a function that makes a robot's node and its client."""
    def make(start=True, plans_dir=str(folder), **params):
        node, client = node_here(RobotNode, layouts, start, model=MODEL, input=[1, 3, SIZE, SIZE],
                                 plans_dir=plans_dir, **params)
        if start:
            client.ready(plan_table=False)
        return node, client
    return make


def answers(client, plan='uniform:0.5'):
    result = client.ask(client.image(1))
    assert result.plan == plan and error_of(result, pixels(1)) <= 1e-5


def test_no_parameter_that_may_be_set_while_running_names_a_file_but_in_plans_dir():
    for table in (ROBOT, SERVER, MONITOR, PLANNER):
        names = {row.name for row in table if row.type == 'string' and not row.choices}
        free = {row.name for row in table if row.name in names and not row.read_only}
        assert free <= {'plan', 'save_to', 'force_plan'}  # the last one names no file
        assert not free & {'plan', 'save_to'} or 'plans_dir' in names - free


@pytest.mark.parametrize('name', ['table.json', './table.json', 'in full'])
def test_a_file_in_the_folder_is_taken_over(make, folder, name):
    node, client = make()
    assert client.set(plan=str(folder / 'table.json') if name == 'in full' else name) == ''
    client.until(lambda: node.plans.name == 'uniform:0.25')
    answers(client, 'uniform:0.25')


def test_where_it_was_started_is_the_folder_if_none_is_named(make, folder, monkeypatch):
    monkeypatch.chdir(folder)
    node, client = make(plans_dir='', plan='table.json')
    monkeypatch.chdir('/')
    answers(client, 'uniform:0.25')
    assert client.set(plan='uniform:0.5') == ''
    client.until(lambda: node.plans.name == 'uniform:0.5')
    assert client.set(plan=f'{folder}/table.json') == ''  # as $PWD/table.json becomes
    client.until(lambda: node.plans.name == 'uniform:0.25')


def test_reading_and_checking_a_file_does_not_keep_the_node_from_its_images(make, monkeypatch):
    node, client = make()
    begun, go, read_text = threading.Event(), threading.Event(), Folder.read_text

    def slow(folder, *args):
        assert threading.current_thread() is not threading.main_thread()
        begun.set()
        assert go.wait(60)
        return read_text(folder, *args)
    monkeypatch.setattr(Folder, 'read_text', slow)
    assert client.set(plan='table.json') == ''
    client.until(begun.is_set)
    for _ in range(3):
        answers(client)
    go.set()
    client.until(lambda: node.plans.name == 'uniform:0.25')


def test_nobody_can_find_out_which_files_there_are_elsewhere(make, folder):
    node, client = make(start=False)
    for configured in (False, True):
        if configured:
            assert node.trigger_configure() == node.trigger_activate() == SUCCESS
            client.ready(plan_table=False)
        said = {client.set(plan=name).replace(name, 'NAME') for name in (
            f'{folder.parent}/outside.json', f'{folder.parent}/gone.json', '/etc/shadow',
            '../outside.json', '../gone.json', '/dev/zero', '/proc/kmsg', '/no/such/thing',
            f'{folder}/../outside.json')}
        assert said == {f'plan file NAME: it is not in the folder {folder}'}
    answers(client)


def test_what_could_be_waited_for_is_refused_at_once_and_images_are_answered(make, folder):
    node, client = make()
    os.mkfifo(folder / 'pipe.json')
    (folder / 'zero.json').symlink_to('/dev/zero')
    (folder / 'kernel.json').symlink_to('/proc/kmsg')
    for name in ('pipe.json', 'zero.json', 'kernel.json'):
        assert client.set(plan=name) == f'plan file {name}: it is no regular file'
    answers(client)


@pytest.mark.parametrize('now', ['pipe', 'link', 'garbage', 'gone'])
def test_a_file_that_is_another_one_when_it_is_read_changes_nothing_and_it_is_said(
        make, folder, monkeypatch, now):
    node, client = make()
    begun, go, read_text = threading.Event(), threading.Event(), Folder.read_text

    def slow(folder, *args):
        begun.set()
        assert go.wait(60)
        return read_text(folder, *args)
    monkeypatch.setattr(Folder, 'read_text', slow)
    table = node.engine.table
    assert client.set(plan='table.json') == ''
    client.until(begun.is_set)
    os.unlink(folder / 'table.json')
    if now == 'pipe':
        os.mkfifo(folder / 'table.json')
    elif now == 'link':
        (folder / 'table.json').symlink_to('../outside.json')
    elif now == 'garbage':
        (folder / 'table.json').write_text('{"plans": 3}')
    go.set()
    client.until(lambda: node.plans.refusal)
    assert node.plans.refusal.startswith(
        'parameter plan set, which changes nothing: plan file table.json: ')
    assert f'error: {node.plans.refusal}' in node.log
    assert node.engine.table is table
    answers(client)
    level, text, _ = node._diagnose()
    assert level == WARN and node.plans.refusal in text
    assert client.set(plan='uniform:0.75') == ''
    client.until(lambda: node.plans.name == 'uniform:0.75')
    assert node.plans.refusal == ''


def test_a_plan_of_the_table_in_force_takes_a_refused_file_back(make, folder):
    node, client = make()
    (folder / 'bad.json').write_text('[]')
    assert client.set(plan='bad.json') == ''
    client.until(lambda: node.plans.refusal)
    assert client.set(plan='full_offload') == ''
    assert node.plans.refusal == ''
    answers(client, 'full_offload')


def test_a_file_given_at_start_lies_in_the_folder_too(make, folder):
    node, _ = make(start=False, plan='../outside.json')
    assert node.trigger_configure() == FAILURE
    assert (f'error: cannot start: plan file ../outside.json: it is not in the folder {folder}'
            in node.log)
