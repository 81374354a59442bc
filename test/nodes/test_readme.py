# SPDX-License-Identifier: Apache-2.0
"""The README says what the nodes do."""

from pathlib import Path

import pytest

from hp_inference.nodes.params import markdown, MONITOR, ROBOT, SERVER
from hp_planner.planner_node import PLANNER

README = Path(__file__).parents[2] / 'README.md'


@pytest.mark.parametrize('table', [ROBOT, MONITOR, SERVER, PLANNER],
                         ids=['robot', 'monitor', 'server', 'planner'])
def test_the_readme_lists_every_parameter_as_the_node_declares_it(table):
    text = README.read_text()
    for line in markdown(table).splitlines():
        assert line in text, f'README.md lacks the line:\n{line}'
