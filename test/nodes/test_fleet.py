# SPDX-License-Identifier: Apache-2.0
"""One server for several robots, each in its namespace; one of them has other weights."""

import pytest

pytest.importorskip('rclpy')
import rclpy  # noqa: E402
from ros_rig import Client, DEADLINE_S, error_of, NodeProcess, pixels  # noqa: E402

from hp_msgs.msg import InferenceResult  # noqa: E402

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
    assert one.set(plan='uniform:0.25') == ''
    assert one.answered_together().plan == 'uniform:0.25'
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
    assert refusal in server.log and 'plan table of odd refused' in server.log
    assert 'computed on the robot alone: the server has' in robot.log


def test_diagnostics_tell_the_robots_apart(fleet):
    client = fleet[0][0]
    names = {'r1/robot_node: inference', 'fleet/r2/robot_node: inference',
             'odd/robot_node: inference', 'server_node: serving r1',
             'server_node: serving /fleet/r2', 'server_node: serving odd'}
    client.until(lambda: names <= set(client.diagnostics))
    assert client.diagnostics['server_node: serving odd'].level != b'\0'
    assert client.diagnostics['server_node: serving r1'].message == 'serving'


def _model(node: NodeProcess) -> str:
    return node.says('capturing ').split('capturing ')[1].split(' for ')[0]
