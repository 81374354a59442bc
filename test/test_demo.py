# SPDX-License-Identifier: Apache-2.0
"""The demo, run as a user runs it but with a tiny model, and its verdict."""

from collections import Counter
from importlib import import_module
import json
import math
import os
from pathlib import Path
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from nets import Net
import pytest
import torch
from waits import WAIT_S
import yaml

from hp_inference.runtime.reference import TOLERANCE, worst_error

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / 'examples'
CONFIG = yaml.safe_load((ROOT / 'config' / 'demo.yaml').read_text('utf-8'))['/**']
RUN_S = 240
PHASES = ('100', '20', 'blackout', '50')
# Runs the demo, but the unsplit model's answers are off by a thousandth.
SABOTAGE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import demo, demo_run
unsplit = demo_run.reference
demo_run.reference = lambda model, image: {
    name: leaf * 1.001 for name, leaf in unsplit(model, image).items()}
sys.exit(demo.main())
"""


@pytest.fixture
def examples(monkeypatch):
    """Return how to import a module that lies beside the demo."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return import_module


@pytest.fixture
def command(tmp_path):
    """Return the demo's arguments for a model that only this test's processes name."""
    model = shutil.copy(ROOT / 'test' / 'nodes' / 'tiny_model.py', tmp_path)
    return ['--model', f'{model}:net', '--input', '1,3,64,64', '--out', str(tmp_path / 'out')]


def start(*arguments):
    return subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def left(folder):
    """Return the command lines of processes that name a folder."""
    found = []
    for process in Path('/proc').glob('[0-9]*'):
        try:
            line = (process / 'cmdline').read_bytes().decode(errors='replace')
        except OSError:  # gone meanwhile
            continue
        if str(folder) in line:
            found.append(line)
    return found


def summary_of(shown):
    """Return the cells of the summary by phase: three medians, and how many were dropped."""
    lines = shown[shown.rindex('plans of Hybrid-Parallel'):].splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines if line.split()[:1]
            and line.split()[0] in PHASES}


@pytest.mark.ros
def test_the_demo_steps_the_link_and_all_answers_agree(command, tmp_path):
    demo = start(EXAMPLES / 'demo.py', *command, '--seconds', '1.6', '--rate', '5')
    shown = demo.communicate(timeout=RUN_S)[0]
    assert demo.returncode == 0, shown
    assert 'answers agree with the unsplit model' in shown
    found = summary_of(shown)
    assert tuple(found) == PHASES
    for cells in found.values():
        assert min(float(cell.rstrip('*')) for cell in cells[:3]) > 0
    for name in ('link.png', 'timeline.png'):
        picture = tmp_path / 'out' / name
        assert picture.read_bytes().startswith(b'\x89PNG')
        assert 10_000 < picture.stat().st_size < 200_000
    assert left(tmp_path) == []


@pytest.mark.ros
@pytest.mark.long
def test_the_demo_without_a_lab_fails_when_an_answer_is_off_by_a_thousandth(command, tmp_path):
    demo = start('-c', SABOTAGE, EXAMPLES, *command, '--seconds', '0.4', '--rate', '5', '--link',
                 'emulated')
    shown = demo.communicate(timeout=RUN_S)[0]
    assert demo.returncode == 1, shown
    assert 'disagrees with the unsplit model: relative error 0.000999' in shown
    assert tuple(summary_of(shown)) == PHASES
    assert left(tmp_path) == []


@pytest.mark.ros
@pytest.mark.parametrize('number, status, link', [
    pytest.param(signal.SIGINT, 130, 'auto', id='SIGINT'),
    pytest.param(signal.SIGTERM, 143, 'emulated', id='SIGTERM', marks=pytest.mark.long)])
def test_the_interrupted_demo_leaves_no_process_behind(command, tmp_path, number, status, link):
    demo = start(EXAMPLES / 'demo.py', *command, '--link', link)
    while 'capturing' not in (line := demo.stdout.readline()):
        assert line, 'the demo ended'
    assert len(left(tmp_path)) >= 3  # the demo, robot and server
    os.kill(demo.pid, number)
    demo.communicate(timeout=RUN_S)
    assert demo.returncode == status
    assert left(tmp_path) == []


@pytest.mark.ros
def test_a_model_that_is_not_there_is_named(examples, monkeypatch, tmp_path, capsys):
    demo = examples('demo')
    monkeypatch.setattr(demo, 'end_on_signals', lambda: None)
    assert demo.main(['--model', 'no.py:net', '--link', 'emulated', '--out', str(tmp_path)]) == 1
    assert 'demo: ' in (shown := capsys.readouterr().out) and 'there is no file no.py' in shown


@pytest.mark.ros
def test_a_lab_that_can_not_be_is_refused_with_what_it_lacks(examples, monkeypatch, capsys):
    demo = examples('demo')
    monkeypatch.setattr(demo, 'end_on_signals', lambda: None)
    monkeypatch.setattr(demo, 'lab_missing', lambda: ['root', 'tc'])
    assert demo.main(['--link', 'lab']) == 1
    assert 'need root, tc' in capsys.readouterr().out


@pytest.mark.ros
def test_a_node_that_ends_is_reported_with_the_end_of_its_log(examples, tmp_path):
    nodes = examples('demo_nodes')
    with nodes.NodeProcess('no_node', ROOT / 'config' / 'demo.yaml', {}, tmp_path / 'log') as node:
        deadline = time.monotonic() + WAIT_S
        with pytest.raises(nodes.DemoError, match='no_node ended with status 1') as told:
            while time.monotonic() < deadline:
                node.check()
                time.sleep(0.05)
    assert 'No module named hp_inference.nodes.no_node' in str(told.value)


@pytest.mark.ros
def test_every_photograph_carries_the_pixels_that_the_unsplit_model_is_asked_about(examples):
    from sensor_msgs.msg import Image

    from hp_inference.nodes.images import from_compressed, from_image
    photos = examples('demo_photos').find_photos()
    assert {photo.way for photo in photos} >= {'jpeg', 'png', 'rgb8', 'bgr8'}
    assert len({photo.name for photo in photos}) == len(photos)
    for photo in photos:
        convert = from_image if isinstance(photo.message, Image) else from_compressed
        assert (convert(photo.message, 3) == photo.pixels).all(), photo.name
        assert photo.pixels.std() > 10


@pytest.mark.ros
@pytest.mark.parametrize('side', ['robot', 'server'])
def test_the_parameter_file_of_the_demo_fits_its_nodes(side):
    from hp_inference.nodes import params
    rows = {row.name: row for row in getattr(params, side.upper())}
    for name, value in CONFIG[f'{side}_node']['ros__parameters'].items():
        if not name.startswith('qos_overrides./image'):
            rows[name].convert(value)


def test_the_demos_robot_and_server_have_the_same_model():
    robot, server = (CONFIG[f'{side}_node']['ros__parameters'] for side in ('robot', 'server'))
    for name in ('model', 'weights', 'seed', 'input', 'mean', 'std'):
        assert robot.get(name) == server.get(name)


@pytest.fixture
def row(examples):
    """Return how to make a row of the demo's table."""
    report = examples('demo_report')

    def make(error=1e-7, reason='', **more):
        values = dict(frame=1, shown_s=0.5, phase=0, way=report.LIVE, mbit_s=100.0, estimate=90.0,
                      plan='loss:100', image='photo jpeg', latency_s=0.1, predicted_s=0.1,
                      energy_j=0.0, computed_on='robot and server', sent_bytes=2000,
                      received_bytes=1000,
                      error=error, fallback_reason=reason, spans=[])
        return report.Row(**{**values, **more})
    return make


@pytest.fixture
def verdict(examples):
    """Return the demo's complaints about rows, of which each phase should have live ones."""
    report = examples('demo_report')

    def complaints(*rows):
        return report.complaints(rows, [report.Phase(100.0, 0.0)], Counter({(0, report.LIVE): 3}),
                                 TOLERANCE[torch.float32])
    return complaints


def test_frames_that_agree_pass(row, verdict):
    assert verdict(row(), row(reason='the server left the last frame alone')) == []


@pytest.mark.parametrize('wrong', [torch.tensor([1.0, 2.0001]), torch.tensor([1.0, math.nan]),
                                   torch.tensor([1.0]), torch.tensor([1.0, 2.0]).double()],
                         ids=['off', 'NaN', 'shape', 'dtype'])
def test_a_wrong_tensor_is_a_complaint_that_names_frame_and_image(row, verdict, wrong):
    error = worst_error({'output': wrong}, {'output': torch.tensor([1.0, 2.0])})
    (complaint,) = verdict(row(), row(frame=7, error=error))
    assert 'frame 7' in complaint and 'photo jpeg' in complaint and 'disagrees' in complaint


def test_an_error_that_is_not_a_number_is_a_complaint(row, verdict):
    assert len(verdict(row(error=math.nan))) == 1


def test_a_phase_without_an_answer_is_a_complaint(row, verdict):
    assert verdict(row(phase=1)) == ['link 100, Hybrid-Parallel: no answer came']


def test_a_server_that_took_no_part_is_a_complaint_with_the_reason(row, verdict):
    (complaint,) = verdict(row(reason='no server has been heard of'))
    assert complaint.endswith('no server has been heard of')
    assert verdict(row(), row(reason='no server has been heard of')) == []
    # In a blackout, and where the robot is to be alone, that is as it must be.
    assert verdict(row(mbit_s=0.0, reason='late'), row(plan='robot_only')) == []


def test_fallbacks_are_counted_by_phase_way_and_reason(row, examples):
    report = examples('demo_report')
    rows = [row(), row(reason='late'), row(reason='late'), row(way=report.AWAY, reason='late')]
    assert report.notes(rows, [report.Phase(0.0, 0.0)])[-2:] == [
        'blackout, Hybrid-Parallel: 2 x the robot alone: late',
        'blackout, full offload: 1 x the robot alone: late']


def test_the_summary_compares_medians_with_the_better_of_both(row, examples):
    report = examples('demo_report')
    rows = [*(row(latency_s=latency) for latency in (0.08, 0.09, 0.5)),
            row(way=report.ALONE, latency_s=0.3), row(way=report.AWAY, latency_s=0.1),
            row(way=report.AWAY, latency_s=0.1, plan='full_offload')]
    shown = Counter({(0, report.LIVE): 4, (0, report.ALONE): 1, (0, report.AWAY): 2})
    table = report.summary(rows, [report.Phase(100.0, 0.0)], shown)
    assert [list(column.cells)[0] for column in table.columns] == [
        '100', '90', '300', '100', '-10 %', '3 x loss:100', '1', '1.0e-07']


def test_a_median_over_frames_that_the_robot_had_to_finish_is_marked(row, examples):
    report = examples('demo_report')
    phases, shown = [report.Phase(0.0, 0.0)], Counter({(0, report.AWAY): 1})
    rows = [row(way=report.AWAY, reason='late')]
    assert list(report.summary(rows, phases, shown).columns[3].cells) == ['100*']
    assert report.LATE in report.notes(rows, phases)


def test_the_typical_frame_is_the_median_of_those_that_followed_their_plan(row, examples):
    from hp_inference.runtime.frames import Span
    spans = [Span('robot', 'compute', 0.0, 0.05)]
    rows = [row(frame=i, latency_s=latency, reason=reason, spans=spans)
            for i, (latency, reason) in enumerate(
                [(0.3, ''), (0.1, ''), (0.2, ''), (0.01, 'late'), (0.02, 'late')])]
    typical = examples('demo_report').typical
    assert typical(rows).frame == 2
    assert typical(rows[3:]).frame == 3
    assert typical([row()]) is None


def test_a_line_of_the_plain_table_has_its_columns_below_the_head(row, examples):
    report = examples('demo_report')
    head, line = report.plain(report.HEAD), report.plain(row().cells())
    assert head.index('latency ms') + len('latency ms') == line.index('100.0') + len('100.0')
    assert head.index('plan') == line.index('loss:100')


def test_the_link_is_drawn_with_what_each_frame_took(row, examples, tmp_path):
    report, picture = examples('demo_report'), examples('demo_picture')
    phases = [report.Phase(100.0, 0.0), report.Phase(0.0, 1.0)]
    rows = [row(), row(shown_s=1.2, plan='robot_only'), row(shown_s=1.5, reason='late')]
    picture.draw_link(tmp_path / 'link.png', phases, 2.0, [(0.1, 90.0), (1.3, 0.0)], rows, '$t')
    assert (tmp_path / 'link.png').stat().st_size > 10_000
    picture.draw_link(tmp_path / 'nothing.png', phases[:1], 1.0, [], [], '')


class FakeLab:
    def __init__(self):
        self.done = []

    def rate(self, mbit_s):
        if mbit_s > 1e5:
            raise ValueError('too\nfast')
        self.done.append(('rate', mbit_s))

    def blackout(self, on):
        self.done.append(('blackout', on))


def test_the_owner_of_the_lab_does_what_the_demo_inside_asks(examples):
    link = examples('demo_link')
    lab, (ours, theirs) = FakeLab(), socket.socketpair()
    owner = threading.Thread(target=link._obey, args=(lab, ours))
    owner.start()
    inside = link.Namespaces(json.dumps({'fd': theirs.detach(), 'server': ['nsenter']}))
    inside.rate(20.0)
    inside.rate(0.0)
    with pytest.raises(examples('demo_nodes').DemoError, match='could not be changed: too fast'):
        inside.rate(1e6)
    inside.close()
    owner.join(WAIT_S)
    assert not owner.is_alive()
    assert lab.done == [('blackout', False), ('rate', 20.0), ('blackout', True),
                        ('blackout', False)]
    assert inside.server == ['nsenter']


def test_without_a_lab_a_blackout_is_a_limit_that_lets_nothing_through(examples):
    limits = []
    link = examples('demo_link').Emulated(limits.append)
    link.rate(50.0)
    link.rate(0.0)
    assert limits == [50.0, 0.001]


def test_the_plan_table_also_holds_what_the_demo_compares_with(examples, monkeypatch):
    plan = examples('demo_plan')
    monkeypatch.setattr(plan, 'MEASURED_S', 0.1)
    net = Net(16)
    layout = net.layout(net.relu(net.conv(net.x)))
    table = plan.plan_here(layout, 4.0, lambda *_: None)
    names = [plan.name for plan in table.plans]
    assert {'robot_only', 'full_offload'} <= set(names) and len(set(names)) == len(names)
    assert table.choose(1.0) == names.index('robot_only')
