# SPDX-License-Identifier: Apache-2.0
"""
Writes what the docs take from the code: parameters.md, and the messages in interfaces.md.

`make docs` runs it, and tests compare. The messages need Python alone, the parameters ROS 2 and
the built hp_msgs.
"""

from __future__ import annotations

from pathlib import Path
import re

DOCS = Path(__file__).resolve().parent
PARAMETERS, INTERFACES = DOCS / 'parameters.md', DOCS / 'interfaces.md'
MESSAGES = DOCS.parent / 'hp_msgs' / 'msg'
BEGIN, END = '<!-- messages: written by make docs -->', '<!-- end of messages -->'
# A field or a constant of a message; comments on lines of their own are text.
LINE = re.compile(r'(?P<type>[\w/\[\]<=]+) +(?P<name>\w+)(?:=(?P<value>\d+))?(?: +# (?P<text>.+))?')

HEAD = """\
<!-- Written by `make docs` from the tables of the nodes: change those, not this file. -->

# Parameters

Each node has one table of parameters. It gives the defaults, the checks and this page.

- **Where to set them**: in a YAML file ([config/](../config) has all of them, with their
  defaults), as a launch argument (`ros2 launch hp_inference robot.launch.py --show-args` lists
  them), or on the command line with `-p NAME:=VALUE`.
- **Changes**: those *while running* are set with `ros2 param set NODE NAME VALUE`. The others are
  read only, and hold from start to end.
- **A bad value** is refused, and the message says what is allowed. A name that no node knows is
  warned about.
- In a list of decimals write `1.0`, not `1`: ROS refuses a list of mixed numbers.
- Topics that carry images, rows and results also take ROS's own overrides of quality of service,
  such as `qos_overrides./image.subscription.reliability`: see [interfaces.md](interfaces.md).
"""


def parameters() -> str:
    """Return the page of parameters."""
    from hp_inference.nodes.params import markdown, MODEL, MONITOR, ROBOT, SERVER
    from hp_planner.planner_node import PLANNER
    parts = [HEAD, '## Model and machine', 'Of robot_node, server_node and planner_node.',
             markdown(MODEL)]
    for node, table in (('robot_node', ROBOT), ('bandwidth_monitor_node', MONITOR),
                        ('server_node', SERVER), ('planner_node', PLANNER)):
        shared = set(MODEL) <= set(table)
        parts += [f'## {node}', *(['And those of [model and machine](#model-and-machine).']
                                  if shared else []),
                  markdown([row for row in table if not (shared and row in MODEL)])]
    return '\n\n'.join(part.strip('\n') for part in parts) + '\n'


def messages() -> str:
    """Return the part of the page of interfaces that describes the messages."""
    parts = []
    for path in sorted(MESSAGES.glob('*.msg')):
        parts += [f'### {path.stem}', *_message(path.read_text('utf-8'))]
    return '\n\n'.join(parts)


def _message(text: str) -> list[str]:
    """Return the description of one message, its fields and its constants, as Markdown."""
    head, _, rest = text.partition('\n\n')
    fields, constants = [], []
    for match in filter(None, map(LINE.fullmatch, rest.splitlines())):
        meaning = (match['text'] or '').strip()
        if match['value'] is None:
            kind = match['type'].replace('<=', '≤')
            fields.append(f'| `{match["name"]}` | {kind} | {meaning} |')
        else:
            constants.append(f'| `{match["name"]}` | {match["value"]} | {meaning} |')
    parts = [re.sub(r'^# ?', '', head, flags=re.MULTILINE),
             '\n'.join(['| field | type | meaning |', '|---|---|---|', *fields])]
    if constants:
        parts.append('\n'.join(['| constant | value | meaning |', '|---|---|---|', *constants]))
    return parts


def interfaces(page: str) -> str:
    """Return the page of interfaces with the messages as they are now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f'{INTERFACES.name} lacks the line {END if begin else BEGIN}')
    return f'{before}{BEGIN}\n\n{messages()}\n\n{END}{after}'


def main() -> None:
    """Write both pages."""
    INTERFACES.write_text(interfaces(INTERFACES.read_text('utf-8')), 'utf-8')
    PARAMETERS.write_text(parameters(), 'utf-8')


if __name__ == '__main__':
    main()
