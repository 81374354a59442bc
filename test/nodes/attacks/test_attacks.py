# SPDX-License-Identifier: Apache-2.0
"""
Whatever a peer without keys sends: no node crashes, hangs, starves, bloats, writes or is lied for.

HP_ATTACK_SEED and HP_ATTACK_SECONDS (of each kind in the long run) may be given; what was found
goes to the file HP_ATTACK_JSON, and as the table of docs/security.md beside it.
"""

import json
import os
from pathlib import Path

import pytest

pytest.importorskip('rclpy')
from attack_book import KINDS, markdown, written  # noqa: E402
from attack_rig import AttackRig, GROWN_MB  # noqa: E402
import rclpy  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.timeout(600)]
SEED = int(os.environ.get('HP_ATTACK_SEED', '7'))
SHORT_S, LONG_S = 20.0, float(os.environ.get('HP_ATTACK_SECONDS', '30'))
#: What is tried each time; the long run has every kind.
SHORT = ('random', 'tables', 'texts', 'earlier', 'status', 'chunks')
#: Of the honest robot's answers; the machine is shared, and an attack is noticed as load.
STARVED = 0.1
#: Bytes in the logs, and as many more as 1 kB for each message of the attacker.
LOGGED = 100_000


@pytest.fixture(scope='module')
def rig(tmp_path_factory):
    rclpy.init()
    made, book = AttackRig(tmp_path_factory.mktemp('attacked')), []
    made.book = book
    try:
        made.start()
        yield made
        statuses = made.end()
        logs = {who: node.log[-2000:] for who, node in made.nodes.items() if statuses[who] != 0}
        assert not logs, (statuses, logs)
    finally:
        made.close()
        rclpy.try_shutdown()
        file = Path(os.environ.get('HP_ATTACK_JSON') or tmp_path_factory.mktemp('found') / 'a.json')
        file.write_text(json.dumps(written(book), indent=1))
        file.with_suffix('.md').write_text(markdown(book))


def judge(rig, kind, most, seconds):
    found = rig.suffers(kind, most, seconds, SEED)
    rig.book.append(found)
    assert found.tried > 0
    missed = {name: faults for name, faults in {
        'crashed': found.crashed, 'hung': found.hung, 'wrong answers': found.wrong,
        'lines that no node wrote': found.lines, 'files': found.files,
        'memory': {who: mb for who, mb in found.grown_mb.items() if mb > GROWN_MB},
        'starved': [found.starved, found.honest] if not kind.obeyed
        and found.starved > max(2, STARVED * found.honest) else [],
        'log': found.log_bytes if found.log_bytes > LOGGED + 1000 * found.tried else 0}.items()
        if faults}
    assert not missed, missed


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind.name in SHORT],
                         ids=lambda kind: kind.name)
def test_nodes_get_over(rig, kind):
    judge(rig, kind, kind.tries, SHORT_S)


@pytest.mark.long
@pytest.mark.parametrize('kind', KINDS, ids=lambda kind: kind.name)
def test_nodes_get_over_a_long(rig, kind):
    judge(rig, kind, 10 ** 9, LONG_S)
