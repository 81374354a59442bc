# SPDX-License-Identifier: Apache-2.0
"""
The parameters of each node, once: a table that feeds declaration, checks and documentation.

Typing is dynamic for rclpy and checked here, because rclpy's own typing refuses an integer where a
double is meant (``deadline_s: 1``) and gives an empty list no type at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
import difflib
import math

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from hp_inference.split.codecs import CODECS
from hp_inference.text import line

#: Type names of the tables: what one value, or one element of an array, must be.
_TYPES = {'bool': bool, 'int': int, 'double': float, 'string': str}
_ARTICLES = {'bool': 'true or false', 'int': 'an integer', 'double': 'a number',
             'string': 'a string'}
_INT64_MAX = 2 ** 63 - 1

#: Parameters that ROS itself declares or looks for in every node.
_FOREIGN = ('use_sim_time', 'start_type_description_service')
_FOREIGN_PREFIXES = ('qos_overrides.',)


class BadParameter(ValueError):
    """A parameter that is refused; the message names it, its value and what is allowed."""


@dataclass(frozen=True)
class Row:
    """
    One parameter.

    ``type`` is 'bool', 'int', 'double' or 'string', with '[]' appended for an array. ``low`` and
    ``high`` bound a number, or each element of an array, inclusively. ``length`` is the number of
    elements that an array must have. Text and choices apply to strings.
    """

    name: str
    type: str
    default: object
    description: str
    unit: str = ''
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    length: int | None = None
    read_only: bool = False

    @property
    def allowed(self) -> str:
        """What a value must be, in words."""
        element = self.type.removesuffix('[]')
        if self.choices:
            text = ' or '.join(f"'{choice}'" for choice in self.choices)
        else:
            text = _ARTICLES[element]
            if self.low is not None and self.high is not None:
                text += f' from {self.low:g} to {self.high:g}' if element == 'double' \
                    else f' from {self.low} to {self.high}'
            elif self.low is not None:
                text += f', at least {self.low}'
            if self.unit:
                text += f' [{self.unit}]'
        if element != self.type:
            count = 'any number of' if self.length is None else str(self.length)
            text = f'a list of {count} elements, each {text}'
        return text

    def convert(self, value: object) -> object:
        """Return ``value`` in this row's type, arrays as tuples. Raises BadParameter."""
        if self.type.endswith('[]'):
            # YAML gives an empty list no type, so that it arrives as "not set".
            values = () if value is None else value
            if isinstance(values, (str, bytes)) or not hasattr(values, '__len__') or (
                    self.length is not None and len(values) != self.length):
                raise self._refusal(value)
            return tuple(self._convert_one(element, value) for element in values)
        return self._convert_one(value, value)

    def _convert_one(self, element: object, value: object) -> object:
        kind = _TYPES[self.type.removesuffix('[]')]
        if kind is float and type(element) is int:
            element = float(element)
        if type(element) is not kind:
            raise self._refusal(value)
        if kind is float and not math.isfinite(element):
            raise self._refusal(value)
        if self.choices and element not in self.choices:
            raise self._refusal(value)
        if self.low is not None and element < self.low:
            raise self._refusal(value)
        if self.high is not None and element > self.high:
            raise self._refusal(value)
        return element

    def _refusal(self, value: object) -> BadParameter:
        shown = list(value) if hasattr(value, '__len__') and not isinstance(value, str) else value
        return BadParameter(f"parameter '{self.name}' is {line(repr(shown))}, expected "
                            f'{self.allowed}')

    def descriptor(self) -> ParameterDescriptor:
        """Return what ROS tools show of the parameter."""
        descriptor = ParameterDescriptor(
            description=self.description + (f' [{self.unit}]' if self.unit else ''),
            additional_constraints=f'expected {self.allowed}',
            read_only=self.read_only, dynamic_typing=True)
        bounded = self.low is not None or self.high is not None
        if self.type == 'int' and bounded:
            descriptor.integer_range = [IntegerRange(
                from_value=-_INT64_MAX if self.low is None else self.low,
                to_value=_INT64_MAX if self.high is None else self.high)]
        if self.type == 'double' and bounded:
            descriptor.floating_point_range = [FloatingPointRange(
                from_value=-math.inf if self.low is None else float(self.low),
                to_value=math.inf if self.high is None else float(self.high))]
        return descriptor


Table = Sequence[Row]


class Params:
    """
    The current values of a node's parameters, as attributes.

    Doubles are floats whatever the YAML held, arrays are tuples.
    """

    def __init__(self, table: Table):
        self._rows = {row.name: row for row in table}
        self._values: dict[str, object] = {}
        self._checks: dict[str, Callable[[object], None]] = {}
        self._listeners: list[Callable[[dict[str, object]], None]] = []

    def __getattr__(self, name: str) -> object:
        try:
            return self.__dict__['_values'][name]
        except KeyError:
            raise AttributeError(f"there is no parameter '{name}'") from None

    def check(self, name: str, check: Callable[[object], None]) -> None:
        """Let ``check`` refuse new values of a parameter by raising ValueError with the reason."""
        self._checks[name] = check

    def on_change(self, listener: Callable[[dict[str, object]], None]) -> None:
        """Call ``listener`` with the new values, by name, after parameters have been set."""
        self._listeners.append(listener)

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        try:
            for name, value in self._convert(parameters).items():
                if name in self._checks:
                    self._checks[name](value)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=line(error))
        return SetParametersResult(successful=True)

    def _apply(self, parameters: Sequence[Parameter]) -> None:
        values = self._convert(parameters)
        self._values.update(values)
        for listener in self._listeners if values else ():
            listener(values)

    def _convert(self, parameters: Sequence[Parameter]) -> dict[str, object]:
        return {parameter.name: self._rows[parameter.name].convert(parameter.value)
                for parameter in parameters if parameter.name in self._rows}


def declare(node: Node, table: Table) -> Params:
    """
    Declare the parameters of ``table`` in ``node`` and return their values.

    Later changes are checked before they are accepted and applied after. Names that were given to
    the node but are in no table are warned about. Raises BadParameter naming every value given to
    the node that is refused.
    """
    # rclpy has no public way to ask what the node was given beyond what it declares.
    given: dict[str, Parameter] = getattr(node, '_parameter_overrides', {})
    problems = []
    for row in table:
        if row.name in given:
            try:
                row.convert(given[row.name].value)
            except BadParameter as error:
                problems.append(str(error))
    if problems:
        raise BadParameter('; '.join(problems))
    for message in unknown_names(given, table):
        node.get_logger().warning(message)

    params = Params(table)
    if hasattr(node, 'add_post_set_parameters_callback'):
        node.add_on_set_parameters_callback(params._validate)
        node.add_post_set_parameters_callback(params._apply)
    else:  # ROS 2 Humble has no callback after the fact: what passes the checks is applied there.
        def validate_and_apply(parameters: Sequence[Parameter]) -> SetParametersResult:
            result = params._validate(parameters)
            if result.successful:
                params._apply(parameters)
            return result
        node.add_on_set_parameters_callback(validate_and_apply)
    for row in table:
        node.declare_parameter(row.name, row.default, row.descriptor())
    return params


def unknown_names(given: Iterable[str], table: Table) -> list[str]:
    """Return one warning for each parameter name that neither the table nor ROS knows."""
    known = [row.name for row in table]
    messages = []
    for name in given:
        if name in known or name in _FOREIGN or name.startswith(_FOREIGN_PREFIXES):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        messages.append(f"parameter '{name}' is unknown and has no effect" + (
            f": did you mean '{close[0]}'?" if close else f"; known are {', '.join(known)}"))
    return messages


def markdown(table: Table) -> str:
    """Return the table for the documentation, as Markdown."""
    lines = ['| parameter | type | default | allowed | changes | meaning |',
             '|---|---|---|---|---|---|']
    for row in table:
        changes = 'at start' if row.read_only else 'while running'
        lines.append(f'| `{row.name}` | {row.type} | `{_yaml(row.default)}` | {row.allowed} | '
                     f'{changes} | {row.description} |')
    return '\n'.join(lines) + '\n'


def _yaml(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(_yaml(element) for element in value) + ']'
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if value == '' else str(value)


_AUTOSTART = Row('autostart', 'bool', True, read_only=True,
                 description='configure and activate at start, without a lifecycle manager')

#: What every node that talks to others of its robot can be given.
KEY_FILE = Row('key_file', 'string', '', read_only=True,
               description='file with the key that this robot, its server, monitor and planner '
                           'share: messages of others are not heeded; empty: no keys')

#: What every node needs to know of its model and machine.
MODEL: Table = (
    Row('model', 'string', 'torchvision:resnet18', read_only=True,
        description='the model: torchvision:NAME, package.module:factory, path/file.py:factory '
                    'or file.pt2; the same on both sides'),
    Row('weights', 'string', '', read_only=True,
        description='file with the weights (a state_dict); empty: initialised from seed'),
    Row('seed', 'int', 0, low=0, read_only=True,
        description='seed of the initial weights where no weights file is given'),
    Row('input', 'int[]', (1, 3, 224, 224), low=1, high=65536, length=4, read_only=True,
        description='size of the model input: N, C, H, W, with N = 1'),
    Row('mean', 'double[]', (0.485, 0.456, 0.406), read_only=True,
        description='mean of each channel on the scale 0 to 1, subtracted first'),
    Row('std', 'double[]', (0.229, 0.224, 0.225), low=1e-6, high=1e6, read_only=True,
        description='standard deviation of each channel on the scale 0 to 1, divided by'),
    Row('threads', 'int', 0, low=0, high=1024, read_only=True,
        description="threads that compute; 0: torch's own choice"),
    Row('device', 'string', 'cpu', read_only=True,
        description='where to compute, as torch names it: cpu, cuda, cuda:0'),
    _AUTOSTART,
)

PLANS_DIR = Row('plans_dir', 'string', '', read_only=True,
                description='folder with the plan files: no other is read or written, whatever '
                            'other parameters say; links in it are not followed; empty: the one '
                            'that the node was started in')

ROBOT: Table = (
    *MODEL,
    Row('resize', 'string', 'bilinear', choices=('bilinear', 'nearest', 'none'), read_only=True,
        description='how camera images come to the size of the model input; none: refuse others'),
    Row('plan', 'string', 'uniform:0.5',
        description='the plan in force: uniform:X, layer:K, robot_only, full_offload, random:SEED, '
                    'or a plan or plan table file in plans_dir; where a table goes by the '
                    'bandwidth, force_plan names one of its plans'),
    Row('plans', 'string[]', ('robot_only', 'full_offload'), read_only=True,
        description='further plans kept ready in the table, so that switching to them needs no '
                    'new table'),
    PLANS_DIR,
    Row('bandwidth_mbit_s', 'double', 0.0, unit='Mbit/s', low=0.0, high=1e6,
        description='what the link carries; a planned table says which of its plans is in force '
                    'then; 0: what the topic bandwidth says'),
    Row('force_plan', 'string', '',
        description='name of a plan of the table that is in force whatever the link carries; '
                    'empty: none'),
    Row('hold', 'bool', False,
        description='the plan in force stays whatever the link carries, until a table without it '
                    'is given'),
    Row('limit_mbit_s', 'double', 0.0, unit='Mbit/s', low=0.0, high=1e5,
        description='rows are never sent faster; 0: no limit'),
    Row('codec', 'string', 'zstd', choices=CODECS,
        description='how rows are packed for the way; float16_shuffle_zstd, uint8_zstd and jpeg '
                    '(of the image only) change the answer a little; a planned table and a plan '
                    'file have their own'),
    Row('deadline_s', 'double', 0.0, unit='s', low=0.0, high=60.0,
        description='an answer is due so long after the receipt of the image: the robot begins '
                    'alone in time for it; 0: by what the plan table predicts'),
    *(Row(f'power.{state}_w', 'double', 0.0, unit='W', low=0.0, high=1e5,
          description=f"power of the robot's board while it is {state}, where no meter is found; "
                      '0: as in the planned table')
      for state in ('waiting', 'communicating', 'computing')),
    Row('max_pixels', 'int', 20_000_000, unit='pixels', low=1, high=89_000_000,
        description='larger camera images are refused before they are decoded'),
    Row('log_every_s', 'double', 10.0, unit='s', low=0.1, high=3600.0,
        description='time between two lines of statistics in the log'),
    KEY_FILE,
)

SERVER: Table = (
    *MODEL,
    Row('robots', 'string[]', ('',), read_only=True,
        description="namespaces of the robots served, relative to the server's; '' is its own"),
    Row('max_sessions', 'int', 4, unit='frames', low=1, high=64, read_only=True,
        description='frames in flight of one robot at most'),
    Row('session_timeout_s', 'double', 2.0, unit='s', low=0.01, high=60.0,
        description='a frame of which nothing comes for so long is given up'),
    Row('compute_places', 'int', 1, unit='frames', low=1, high=64, read_only=True,
        description='frames that compute at once, of all robots together; they take turns'),
    Row('limit_mbit_s', 'double', 0.0, unit='Mbit/s', low=0.0, high=1e5,
        description='rows are sent to each robot no faster than this; 0: as the link takes them'),
    KEY_FILE,
    Row('keys_dir', 'string', '', read_only=True,
        description='folder with a key file for each robot: robot1.key for namespace /robot1, '
                    'fleet.r1.key for /fleet/r1; key_file is for robots without one; empty: none'),
)

MONITOR: Table = (
    _AUTOSTART,
    Row('publish_hz', 'double', 10.0, unit='Hz', low=0.1, high=100.0,
        description='how often the bandwidth is published; a step is published at once'),
    Row('probe_period_s', 'double', 0.5, unit='s', low=0.0, high=4.0,
        description='while no traffic shows what the link carries, probes find out so often; '
                    '0: no probes, and silence is not noticed, nor its end where nothing is sent'),
    Row('probe_bytes', 'int', 120_000, unit='bytes', low=20_000, high=200_000,
        description='what probes send at once at most'),
    Row('silence_s', 'double', 0.5, unit='s', low=0.1, high=10.0,
        description='without any acknowledgement for so long, nothing gets through'),
    Row('limit_mbit_s', 'double', 0.0, unit='Mbit/s', low=0.0, high=1e5,
        description="probes are never sent faster, as robot_node's limit_mbit_s; 0: no limit"),
    KEY_FILE,
)
