# SPDX-License-Identifier: Apache-2.0
"""Robot and server on two hosts whose link fails: every image is answered, and rightly."""

import json
import os
from pathlib import Path
import subprocess
import sys
import threading
import time

from lab import Lab, missing
import pytest

from hp_inference.link.dds import environment

lacks = missing()
pytestmark = [pytest.mark.ros,
              pytest.mark.skipif(bool(lacks), reason=f'no lab without {", ".join(lacks)}')]

HERE = Path(__file__).resolve().parent
SIZE = 64  # as test/nodes/ros_rig.py
MODEL = f'{HERE.parent / "nodes" / "tiny_model.py"}:net'
READY_S = 120.0
BACK_S = 2.0
LEASE_S = 3
TOLERANCE = 1e-5
ALONE = 1  # InferenceResult.COMPUTED_ROBOT


class Stream:
    """The answers to the images of lab_camera.py, as they come."""

    def __init__(self, process):
        self.process, self.answers = process, []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self):
        for line in self.process.stdout:
            with self._changed:
                self.answers.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def since(self, begin_s):
        return [answer for answer in self.answers if answer['at_s'] > begin_s]

    def together(self, after_s, seconds):
        """Wait for an answer that both have computed; return how long after that time it came."""
        def found():
            return next((answer['at_s'] - after_s for answer in self.since(after_s)
                         if answer['on'] != ALONE), None)
        with self._changed:
            self._changed.wait_for(lambda: found() is not None or self.process.poll() is not None,
                                   seconds)
            assert found() is not None, (self.process.poll(), self.answers[-3:])
            return found()

    def close(self):
        self.process.kill()
        self.process.wait()
        self._thread.join()
        self.process.stdout.close()


@pytest.fixture(scope='module')
def split(tmp_path_factory):
    """Return the lab and the stream of a robot's answers, computed together by now."""
    folder = tmp_path_factory.mktemp('lab_faults')
    env = {**os.environ, 'OMP_NUM_THREADS': '1'}
    env.pop('ROS_AUTOMATIC_DISCOVERY_RANGE', None)
    for name, settings in environment(env, 'rmw_fastrtps_cpp').items():
        quick = folder / 'dds.xml'  # who is not heard of for so long is forgotten
        text = Path(settings).read_text()
        assert text.count('<sec>10</sec>') == 1
        quick.write_text(text.replace('<sec>10</sec>', f'<sec>{LEASE_S}</sec>'))
        env[name] = str(quick)
    with Lab(50.0) as lab:
        for side, name in ((lab.server, 'server_node'), (lab.robot, 'robot_node')):
            params = {'model': MODEL, 'input': [1, 3, SIZE, SIZE], 'threads': 1}
            if name == 'robot_node':
                params['qos_overrides./image.subscription.reliability'] = 'reliable'
            given = [part for key, value in params.items()
                     for part in ('-p', f'{key}:={json.dumps(value)}')]
            with open(folder / f'{name}.log', 'w') as file:
                side.popen([sys.executable, '-m', f'hp_inference.nodes.{name}', '--ros-args',
                            *given], env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        stream = Stream(lab.robot.popen([sys.executable, str(HERE / 'lab_camera.py')], env=env,
                                        stdout=subprocess.PIPE, text=True))
        try:
            stream.together(0.0, READY_S)
            yield lab, stream
        finally:
            stream.close()
    logs = {name: (folder / f'{name}.log').read_text() for name in ('server_node', 'robot_node')}
    assert not any('Traceback' in text for text in logs.values()), logs


def check(answers):
    """Fail unless these are the answers to all images, in their order."""
    assert all(answer['error'] <= TOLERANCE for answer in answers)
    frames = [answer['frame'] for answer in answers]
    assert frames == list(range(frames[0], frames[0] + len(frames)))
    assert answers[0]['dropped'] == answers[-1]['dropped']


@pytest.mark.parametrize('black_s', [2.0, 4.5])  # in the latter, both sides forget each other
def test_a_blackout_costs_no_image_and_splitting_is_back_soon_after(split, black_s):
    lab, stream = split
    stream.together(time.monotonic(), READY_S)
    begin_s = time.monotonic()
    lab.blackout(True)
    time.sleep(black_s)
    over_s = time.monotonic()
    lab.blackout(False)
    back_s = stream.together(over_s, READY_S)
    answers = stream.since(begin_s)
    black = [answer for answer in answers if begin_s + 0.5 < answer['at_s'] < over_s]
    assert len(black) > 5 and all(answer['on'] == ALONE for answer in black)
    assert any('gone' in answer['why'] for answer in black) is (black_s > LEASE_S)
    check(answers)
    assert max(answer['latency_s'] for answer in answers) < 1.5
    assert back_s < BACK_S


def test_while_packets_are_lost_answers_are_right(split):
    lab, stream = split
    stream.together(time.monotonic(), READY_S)
    begin_s = time.monotonic()
    lab.loss(0.05)
    time.sleep(2.5)
    lab.loss(0.0)
    back_s = stream.together(time.monotonic(), READY_S)
    answers = stream.since(begin_s)
    assert any(answer['on'] != ALONE for answer in answers)
    check(answers)
    assert back_s < BACK_S
