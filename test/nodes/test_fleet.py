# SPDX-License-Identifier: Apache-2.0
"""One server for several robots, each in its namespace; one of them has other weights."""

from array import array
import signal
import threading
import time

import pytest

pytest.importorskip('rclpy')
import rclpy  # noqa: E402
from ros_rig import Client, DEADLINE_S, error_of, NodeProcess, pixels  # noqa: E402
from waits import WAIT_S  # noqa: E402

from hp_inference.nodes import qos  # noqa: E402
from hp_msgs.msg import (  # noqa: E402
    InferenceResult,
    LinkReport,
    PlanTable,
    Probe,
    ServerLoad,
    TensorChunk,
)

pytestmark = pytest.mark.ros
TOLERANCE = 1e-5


@pytest.fixture(scope='module')
def fleet(tmp_path_factory):
    """Return a client in the namespace of each robot, the robots and the server as processes."""
    folder = tmp_path_factory.mktemp('fleet')
    nodes = [NodeProcess('server_node', folder, robots=['r1', '/fleet/r2', 'odd'])]
    nodes += [NodeProcess('robot_node', folder, namespace=namespace, seed=seed,
                          deadline_s=DEADLINE_S)
              for namespace, seed in (('r1', 0), ('fleet/r2', 0), ('odd', 1))]
    rclpy.init()
    clients = [Client(namespace) for namespace in ('r1', 'fleet/r2', 'odd')]
    try:
        for client in clients:
            client.ready(plan_table=False)
        yield clients, nodes
    finally:
        for each in (*clients, *nodes):
            each.close()
        rclpy.try_shutdown()


def test_two_robots_at_once_get_their_own_answers(fleet):
    one, two = fleet[0][:2]
    for client in (one, two):
        client.answered_together()
        client.results.clear()  # of the same stamps as those to come
    for seed in range(5):
        asked = [one.image(seed), two.image(100 + seed)]
        asked[1].header = asked[0].header  # not even their stamps tell them apart
        one.show(asked[0])
        two.show(asked[1])
        for client, image, own in ((one, asked[0], seed), (two, asked[1], 100 + seed)):
            result = client.answer_to(image)
            assert error_of(result, pixels(own)) <= TOLERANCE
            assert result.computed_on == InferenceResult.COMPUTED_BOTH
            assert not result.fallback


def test_a_plan_of_one_robot_is_not_that_of_another(fleet):
    one, two = fleet[0][:2]
    assert one.use(plan='uniform:0.25').plan == 'uniform:0.25'
    assert two.answered_together().plan == 'uniform:0.5'


def test_a_robot_with_other_weights_computes_alone_and_both_sides_say_what_they_have(fleet):
    (_, _, client), (server, _, _, robot) = fleet
    client.until(lambda: client.statuses and 'digest' in client.statuses[-1].text)
    client.spin(0.2)
    result = client.ask(client.image(4))
    assert error_of(result, pixels(4), seed=1) <= TOLERANCE
    assert error_of(result, pixels(4), seed=0) > 0.01
    assert result.computed_on == InferenceResult.COMPUTED_ROBOT
    theirs = client.statuses[-1].model_digest[:12]
    assert result.fallback_reason.startswith(f"the server has '{_model(server)}' with digest "
                                             f"{theirs}, this robot '{_model(server)}' with ")
    assert 'give both the same model, weights and input size' in result.fallback_reason
    assert not client.statuses[-1].ready
    refusal = client.statuses[-1].text
    assert 'the plan table is for model' in refusal and f'with digest {theirs}' in refusal
    assert refusal in server.says('plan table of odd refused')
    robot.says('computed on the robot alone: the server has')


def test_diagnostics_tell_the_robots_apart(fleet):
    client = fleet[0][0]
    names = {'r1/robot_node: inference', 'fleet/r2/robot_node: inference',
             'odd/robot_node: inference', 'server_node: serving r1',
             'server_node: serving /fleet/r2', 'server_node: serving odd'}
    client.until(lambda: names <= set(client.diagnostics))
    # What was said last may be from before the robot's table arrived.
    client.until(lambda: client.diagnostics['server_node: serving r1'].message == 'serving')
    assert client.diagnostics['server_node: serving odd'].level != b'\0'


def test_each_robot_hears_how_busy_the_server_is(fleet):
    client = fleet[0][1]
    loads = []
    subscription = client.node.create_subscription(ServerLoad, 'server_load', loads.append,
                                                   qos.METRICS)
    client.until(lambda: loads)
    client.answered_together()
    client.until(lambda: any(load.frames_per_s for load in loads))
    assert loads[-1].device == 'cpu' and loads[-1].memory_bytes > 50e6
    client.node.destroy_subscription(subscription)


class Vandal:
    """Publishes what no robot would, in the namespace of one, until it is told to stop."""

    def __init__(self, node, digest: bytes):
        make, self.digest, self.rounds = node.create_publisher, digest, 0
        self.publishers = {kind: make(kind, topic, profile) for kind, topic, profile in (
            (TensorChunk, 'uplink', qos.CHUNKS), (PlanTable, 'plan_table', qos.LATCHED),
            (Probe, 'probe', qos.ACKS), (LinkReport, 'downlink_report', qos.ACKS))}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        nan = float('nan')
        while not self._stop.wait(0.01):
            self.rounds += 1
            chunk = {'version': TensorChunk.VERSION, 'session': self.rounds, 'chunk_count': 1,
                     'table_digest': array('B', self.digest), 'payload': array('B', bytes(5000))}
            for messages in (
                    [TensorChunk(), TensorChunk(**chunk),
                     TensorChunk(**chunk, frame=1, row_end=2 ** 32 - 1, dtype=2, scale=1.0),
                     TensorChunk(**chunk, frame=2, sent_s=nan, scale=nan)],
                    [PlanTable(json='[' * 1000), PlanTable(json='{"format": 1}')],
                    [Probe(seq=7, sent_s=nan), Probe(payload=array('B', bytes(1000)))],
                    [LinkReport(), LinkReport(seq=[0], payload_bytes=[1], sent_s=[nan],
                                              arrived_s=[nan], held_s=-1.0)]):
                for message in messages:
                    self.publishers[type(message)].publish(message)


def test_garbage_from_one_robot_does_not_touch_the_answers_to_another(fleet):
    (one, _, odd), (server, *_) = fleet
    one.answered_together()
    vandal = Vandal(odd.node, bytes(one.statuses[-1].table_digest))
    try:
        for seed in range(10):
            image = one.image(seed)
            result = one.ask(image)
            assert error_of(result, pixels(seed)) <= TOLERANCE
            assert not result.fallback, result.fallback_reason
    finally:
        vandal.stop()
    assert vandal.rounds > 3 and server.process.poll() is None
    assert 'Traceback' not in server.log


def test_a_robot_that_dies_in_the_middle_of_a_frame_and_comes_back_touches_no_other(fleet,
                                                                                 tmp_path):
    (one, two, _), nodes = fleet
    two.answered_together()
    two.show(two.image(1))
    two.spin(0.004)
    nodes[2].process.send_signal(signal.SIGKILL)
    for seed in range(10):
        result = one.ask(one.image(seed))
        assert error_of(result, pixels(seed)) <= TOLERANCE and not result.fallback
    nodes[2] = NodeProcess('robot_node', tmp_path, namespace='fleet/r2',
                           deadline_s=DEADLINE_S)
    two.results.clear()
    end = time.monotonic() + WAIT_S
    while not any(result.computed_on == InferenceResult.COMPUTED_BOTH for result in two.results):
        assert time.monotonic() < end, two.heard()
        two.show(two.image(2))
        two.spin(0.1)
    assert error_of(two.results[-1], pixels(2)) <= TOLERANCE
    assert not one.ask(one.image(11)).fallback


def _model(node: NodeProcess) -> str:
    return node.says('capturing ').split('capturing ')[1].split(' for ')[0]
