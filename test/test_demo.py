# SPDX-License-Identifier: Apache-2.0
"""The demo, run as a user runs it but with a tiny model, and its verdict."""

from importlib import import_module
import math
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
import yaml

from hp_inference.runtime.reference import TOLERANCE, worst_error

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / 'examples'
CONFIG = yaml.safe_load((ROOT / 'config' / 'demo.yaml').read_text('utf-8'))['/**']
PLANS = ('uniform:0.5', 'layer:3', 'full_offload')
RUN_S = 90
# Runs the demo, but the unsplit model's answers are off by a thousandth.
SABOTAGE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import demo, demo_session
unsplit = demo_session.reference
demo_session.reference = lambda model, image: {
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


@pytest.mark.ros
def test_the_demo_shows_that_all_answers_agree_and_where_the_time_went(command, tmp_path):
    demo = start(EXAMPLES / 'demo.py', *command, '--seconds', '6', '--plans', *PLANS)
    shown = demo.communicate(timeout=RUN_S)[0]
    assert demo.returncode == 0, shown
    assert 'answers agree with the unsplit model' in shown
    summary = shown[shown.rindex('median'):]
    for plan in PLANS:
        frames, _, _, robot, server, link, sent, received, error, dropped, fallbacks = next(
            line.split()[1:] for line in summary.splitlines() if line.startswith(plan))
        assert int(frames) > 0 and int(frames) > int(fallbacks) and int(dropped) == 0
        assert min(map(float, (robot, server, link))) >= 0
        assert float(sent) > 0 and float(received) > 0
        assert float(error) <= TOLERANCE[torch.float32]
    picture = tmp_path / 'out' / 'timeline.png'
    assert picture.read_bytes().startswith(b'\x89PNG')
    assert 10_000 < picture.stat().st_size < 200_000
    assert left(tmp_path) == []


@pytest.mark.ros
def test_the_demo_fails_when_an_answer_is_off_by_a_thousandth(command, tmp_path):
    demo = start('-c', SABOTAGE, EXAMPLES, *command, '--seconds', '1', '--plans', 'uniform:0.5')
    shown = demo.communicate(timeout=RUN_S)[0]
    assert demo.returncode == 1, shown
    assert 'disagrees with the unsplit model: relative error 0.000999' in shown
    assert left(tmp_path) == []


@pytest.mark.ros
@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
                         ids=['SIGINT', 'SIGTERM'])
def test_the_interrupted_demo_leaves_no_process_behind(command, tmp_path, number, status):
    demo = start(EXAMPLES / 'demo.py', *command)
    while 'capturing' not in (line := demo.stdout.readline()):
        assert line, 'the demo ended'
    assert len(left(tmp_path)) == 3
    os.kill(demo.pid, number)
    demo.communicate(timeout=30)
    assert demo.returncode == status
    assert left(tmp_path) == []


@pytest.mark.ros
def test_a_node_that_can_not_start_is_reported_with_the_end_of_its_log(tmp_path):
    demo = start(EXAMPLES / 'demo.py', '--model', 'no.py:net', '--out', tmp_path)
    shown = demo.communicate(timeout=RUN_S)[0]
    assert demo.returncode == 1
    assert re.search(r'demo: (robot|server)_node ended with status 1\. The end of ', shown)
    assert 'there is no file no.py' in shown[shown.index('demo: '):]


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

    def make(plan='uniform:0.5', error=1e-7, reason='', **more):
        values = dict(frame=1, plan=plan, image='photo jpeg', latency_s=0.1, sent_bytes=2000,
                      received_bytes=1000, error=error, fallback_reason=reason, spans=[])
        return report.Row(**{**values, **more})
    return make


@pytest.fixture
def verdict(examples):
    """Return the demo's complaints about rows, under the plan of `row` alone."""
    report = examples('demo_report')
    return lambda *rows: report.complaints(rows, ['uniform:0.5'], TOLERANCE[torch.float32])


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


def test_a_plan_without_an_answer_is_a_complaint(row, verdict):
    assert verdict(row(plan='layer:3')) == ['plan uniform:0.5: no answer came']


def test_a_plan_that_only_the_robot_computed_is_a_complaint_with_the_reason(row, verdict):
    (complaint,) = verdict(row(reason='no server has been heard of'))
    assert complaint.endswith('no server has been heard of')


def test_fallbacks_are_counted_by_plan_and_reason(row, examples):
    rows = [row(), row(reason='late'), row(reason='late'), row(plan='layer:3', reason='late')]
    assert examples('demo_report').fallbacks(rows) == [
        'uniform:0.5: 2 x the robot alone: late', 'layer:3: 1 x the robot alone: late']


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


def test_shares_are_parts_of_the_latency_in_which_a_lane_was_at_work(row):
    from hp_inference.runtime.frames import Span
    spans = [Span('robot', 'compute', 0.0, 0.05), Span('uplink', 'rows', 0.04, 0.02),
             Span('downlink', 'rows', 0.05, 0.03), Span('server', 'compute', 0.06, 0.01)]
    assert row(spans=spans).shares == pytest.approx((0.5, 0.1, 0.4))


def test_a_line_of_the_plain_table_has_its_columns_below_the_head(row, examples):
    report = examples('demo_report')
    head, line = report.plain(report.HEAD), report.plain(row().cells())
    assert head.index('latency ms') + len('latency ms') == line.index('100.0') + len('100.0')
    assert head.index('plan') == line.index('uniform:0.5')
