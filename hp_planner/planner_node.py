# SPDX-License-Identifier: Apache-2.0
"""The planner's node: device profiles in, the plan table of one robot out."""

from __future__ import annotations

from functools import partial
import time

from rclpy.exceptions import NameValidationException
from std_srvs.srv import Trigger

from hp_inference import __version__
from hp_inference.files import FileError
from hp_inference.folder import Folder
from hp_inference.link.keys import own_key
from hp_inference.nodes import qos
from hp_inference.nodes.convert import table_to_msg
from hp_inference.nodes.diagnostics import ERROR, OK, Updater, WARN
from hp_inference.nodes.managed import end, run
from hp_inference.nodes.model import ModelNode
from hp_inference.nodes.params import KEY_FILE, MODEL, PLANS_DIR, Row, Table
from hp_inference.nodes.topics import Topics
from hp_inference.nodes.worker import Worker
from hp_inference.profile.device import DeviceProfile, MAX_BYTES, ProfileError
from hp_inference.split.table import PlanTable
from hp_inference.split.table_json import is_table, MAX_JSON_BYTES
from hp_inference.text import line, why
from hp_msgs.msg import DeviceProfile as DeviceProfileMsg
from hp_msgs.msg import PlanTable as PlanTableMsg
from hp_planner.search.grid import plan_table
from hp_planner.search.loss import POLICIES
from hp_planner.search.objective import OBJECTIVES
from hp_planner.task import Task
from hp_planner.timeline.setting import LinkModel, Setting
from hp_planner.timeline.timeline import Timeline

SIDES = ('robot', 'server')
# Time between two lines about the progress in the log.
LOG_S = 5.0
_NEXT = '; holds from the next planning on'

PLANNER: Table = (
    *MODEL,
    Row('objective', 'string', 'latency', choices=OBJECTIVES,
        description='what is made small (throughput: large)' + _NEXT),
    Row('latency_bound_ms', 'double', 0.0, unit='ms', low=0.0, high=1e6,
        description='no plan with a higher latency; 0: no bound' + _NEXT),
    Row('latency_weight', 'double', 1.0, low=0.0, high=1e6,
        description='of objective weighted: cost of a second of latency' + _NEXT),
    Row('energy_weight', 'double', 1.0, low=0.0, high=1e6,
        description='of objective weighted: cost of a joule of the robot' + _NEXT),
    Row('robot_bytes', 'int', 0, unit='bytes', low=0,
        description='no plan that holds more values at once on the robot; 0: no limit' + _NEXT),
    Row('server_bytes', 'int', 0, unit='bytes', low=0,
        description='no plan that holds more values at once on the server; 0: no limit' + _NEXT),
    Row('link_bytes_per_s', 'double', 0.0, unit='bytes/s', low=0.0, high=1e12,
        description='no plan that sends more, both directions together; 0: no limit' + _NEXT),
    Row('policy', 'string', 'exact', choices=tuple(POLICIES),
        description='codecs that plans may use; lossy: also those that change the answer a little'
                    + _NEXT),
    Row('search_seed', 'int', 0, low=0,
        description='seed of the search; the same gives the same table' + _NEXT),
    Row('bandwidths', 'double[]', (), unit='Mbit/s', low=0.0, high=1e6,
        description='bandwidths to plan for; empty: 0.5 to 1000 Mbit/s' + _NEXT),
    Row('link.duplex', 'string', 'half', choices=('half', 'full'),
        description='half: one radio for both directions' + _NEXT),
    Row('link.message_s', 'double', LinkModel.message_s, unit='s', low=0.0, high=60.0,
        description='a message occupies the link for, besides its bytes' + _NEXT),
    Row('link.byte_s', 'double', LinkModel.byte_s, unit='s', low=0.0, high=1.0,
        description="a byte occupies the link for, besides the link's rate" + _NEXT),
    Row('link.round_trip_s', 'double', LinkModel.round_trip_s, unit='s', low=0.0, high=60.0,
        description='half of it passes before a message arrives' + _NEXT),
    *(Row(f'power.{state}_w', 'double', 0.0, unit='W',
          description=f"power of the robot's board while it is {state}; 0 or less: as in its "
                      'profile' + _NEXT)
      for state in ('waiting', 'communicating', 'computing')),
    *(Row(f'{side}_profile', 'string', '', read_only=True,
          description=f"file with the {side}'s profile, made by hp profile; empty: from topic "
                      f'{side}_profile') for side in SIDES),
    *(Row(f'{side}_node', 'string', f'{side}_node', read_only=True,
          description=f'name of the node that is asked to profile the {side}') for side in SIDES),
    KEY_FILE,
    PLANS_DIR,
    Row('save_to', 'string', '',
        description='file in plans_dir, NAME.json, that every table is written to, over another '
                    'plan table at most; empty: none'),
)


class PlannerNode(ModelNode):
    """Plans for one robot and its server, as soon as both are profiled and when asked to."""

    def __init__(self):
        super().__init__('planner_node', PLANNER)
        self.layout = self.worker = self.diagnostics = self.topics = None
        self.profiles: dict[str, DeviceProfile] = {}
        self.to_profile: list[str] = []  # sides still to be profiled, the one at work first
        self.table: PlanTable | None = None
        self.planning = self.again = False
        self.trouble = ''
        self._logged_s = 0.0
        self._folder = Folder(self.params.plans_dir)
        self.params.check('save_to', self._check_save_to)
        self.clients_made = {}
        self.create_service(Trigger, '~/profile', self._on_profile_asked)
        self.create_service(Trigger, '~/plan', self._on_plan_asked)

    def configure(self) -> None:
        """Load the model and the profiles in files, open the topics."""
        self._check_save_to(self.params.save_to)
        key = own_key(self.params.key_file)
        self.layout = self.open_model()
        self.topics = Topics(self, key, 'planner')
        for side in SIDES:
            path = getattr(self.params, f'{side}_profile')
            if path:
                self.profiles[side] = DeviceProfile.load(path)
                self.profiles[side].check(self.layout)
        self.worker = Worker(self, 'planner worker')
        self._published = self.topics.advertise(PlanTableMsg, 'planned_table', qos.LATCHED)
        for side in SIDES:
            if side not in self.profiles:
                self._listen_to(side)
        self.diagnostics = Updater(self, self.params.device)
        self.diagnostics.add('planning', self._diagnose)
        self.diagnostics.add('security', self.topics.sealing.diagnose)

    def _check_save_to(self, name: str) -> None:
        if name and not name.endswith('.json'):
            raise ValueError(f"parameter 'save_to' is '{line(name)}', expected NAME.json")
        if name:
            self._folder.check_write(name)

    def _listen_to(self, side: str) -> None:
        name = getattr(self.params, f'{side}_node')
        try:
            self.clients_made[side] = self.create_client(Trigger, f'{name}/profile')
        except NameValidationException as error:
            raise ValueError(f"parameter '{side}_node' is {name!r}, expected the name of a node, "
                             f"such as '{side}_node' or '/{side}_node': "
                             f'{str(error).splitlines()[0]}') from error
        self.topics.listen(DeviceProfileMsg, f'{side}_profile', partial(self._on_profile, side),
                           qos.LATCHED)

    def cleanup(self) -> None:
        """Stop planning and leave the topics."""
        if self.worker:
            self.worker.close()
        if self.diagnostics:
            self.diagnostics.destroy()
        for client in self.clients_made.values():
            self.destroy_client(client)
        if self.topics:
            self.topics.close()
        self.clients_made = {}
        self.layout = self.worker = self.diagnostics = self.table = self.topics = None
        self.profiles, self.to_profile, self.trouble = {}, [], ''
        self.planning = self.again = False

    def announce(self) -> None:
        """Publish the table; make it first where it can be made."""
        if self.table:
            self._published.publish(table_to_msg(self.table))
        elif not self._missing:
            self._plan('both profiles are there')
        else:
            self.get_logger().info(f'{self._waiting_for}: call ~/profile, or give files')

    @property
    def _missing(self) -> list[str]:
        return [side for side in SIDES if side not in self.profiles]

    @property
    def _waiting_for(self) -> str:
        return 'no profile yet of the ' + ' and of the '.join(self._missing)

    # Profiles

    def _on_profile_asked(self, _, response: Trigger.Response) -> Trigger.Response:
        sides = list(self.clients_made)
        absent = [side for side in sides if not self.clients_made[side].service_is_ready()]
        response.success = False
        if not self.active:
            response.message = 'the node is not active: configure and activate it first'
        elif not sides:
            response.message = ("both profiles come from files: empty 'robot_profile' or "
                                "'server_profile' to have a device profiled")
        elif self.to_profile and self.count_publishers(f'{self.to_profile[0]}_profile'):
            response.message = f'the {self.to_profile[0]} is being profiled already'
        elif absent:
            response.message = ', '.join(
                f"there is no service {self.resolve_service_name(self.clients_made[side].srv_name)}"
                f" (is the {side}'s node up, and parameter '{side}_node' its name?)"
                for side in absent)
        else:
            response.success = True
            response.message = f'profiling of the {" and then of the ".join(sides)} has begun'
            self.to_profile = sides
            self._profile_next()
        return response

    def _profile_next(self) -> None:
        # One after the other: they may share a machine.
        side = self.to_profile[0]
        self.get_logger().info(f'profiling the {side} ...')
        self.clients_made[side].call_async(Trigger.Request()).add_done_callback(
            partial(self._on_profile_answer, side))

    def _on_profile_answer(self, side: str, future) -> None:
        answer = future.result()
        if answer is not None and not answer.success:
            self._give_up(f'the {side} refuses to be profiled: {line(answer.message)}')

    def _give_up(self, text: str) -> None:
        self.to_profile, self.trouble = [], text
        self.get_logger().error(text)

    def _on_profile(self, side: str, msg: DeviceProfileMsg) -> None:
        try:
            if not msg.json:
                raise ProfileError(f'profiling failed there: {line(msg.text)}')
            if len(msg.json) > MAX_BYTES:
                raise ProfileError(f'it has {len(msg.json)} characters, at most {MAX_BYTES}')
            profile = DeviceProfile.loads(msg.json)
            profile.check(self.layout)
        except ProfileError as error:
            self._give_up(f'no use for the profile of the {side}: {line(error)}')
            return
        if profile == self.profiles.get(side):
            return  # said again, as when its node has become active again
        self.profiles[side], self.trouble = profile, ''
        self.get_logger().info(f'profile of the {side}: {profile.device} of {profile.host}, '
                               f'{profile.whole_s * 1e3:.1f} ms a frame')
        if self.to_profile[:1] == [side]:
            self.to_profile.pop(0)
            if self.to_profile:
                self._profile_next()
        if not self.to_profile and not self._missing:
            if self.active:
                self._plan(f'a new profile of the {side}')
            else:
                self.table = None  # of other profiles; made anew as soon as the node is active

    # Planning

    def _on_plan_asked(self, _, response: Trigger.Response) -> Trigger.Response:
        response.success = False
        if not self.active:
            response.message = 'the node is not active: configure and activate it first'
        elif self._missing:
            response.message = f'{self._waiting_for}: call ~/profile'
        elif self.planning:
            response.message = 'planning already'
        else:
            response.message = self._plan('asked to')
            response.success = not response.message
        if response.success:
            response.message = 'planning has begun; the table is published on planned_table'
        return response

    def _plan(self, reason: str) -> str:
        """Begin to plan; return why not, '' when it has begun."""
        if self.planning:
            self.again = True  # with what has come meanwhile
            return ''
        try:
            task = Task.of(self.params)
            setting = task.setting(self.layout, *map(self.profiles.get, SIDES))
        except ValueError as error:
            self.trouble = f'can not plan: {error}'
            self.get_logger().error(self.trouble)
            return str(error)
        self.planning, self.again = True, False
        self.get_logger().info(f'planning for {len(task.bandwidths)} bandwidths, objective '
                               f'{task.objective.name}: {reason} ...')
        self.worker.submit(partial(self._make, task, setting), self._made)
        return ''

    def _make(self, task: Task, setting: Setting) -> PlanTable:
        table = plan_table(Timeline(setting), task.objective, task.bandwidths, task.policy,
                           task.seed, progress=self._progress)
        if task.save_to:
            try:
                self._folder.write(task.save_to, table.dumps(), is_table, MAX_JSON_BYTES)
            except FileError as error:  # the robot gets the table all the same
                self.get_logger().error(str(error))
        return table

    def _progress(self, what: str, done: int, of: int) -> None:
        self.worker.check()
        now = time.monotonic()
        if now - self._logged_s > LOG_S:
            self._logged_s = now
            self.get_logger().info(f'{what}: {done} of {of}')

    def _made(self, table: PlanTable | Exception) -> None:
        self.planning = False
        if isinstance(table, Exception):
            self.trouble = f'planning failed: {why(table)}'
            self.get_logger().error(self.trouble)
        else:
            self.table, self.trouble = table, ''
            self._published.publish(table_to_msg(table))
            self.get_logger().info(
                f'plan table {table.digest.hex()[:12]}, {table.record["seconds"]:.1f} s: '
                + ', '.join(f'{table.plans[choice.plan].name} from {choice.mbit_s:g} Mbit/s'
                            for choice in table.choices))
        if self.again:
            self._plan('new profiles came meanwhile')

    def _diagnose(self):
        level, text = OK, 'a plan table is published'
        if self.trouble:
            level, text = ERROR, self.trouble
        elif self.to_profile:
            text = f'the {self.to_profile[0]} is being profiled'
        elif self.planning:
            text = 'planning'
        elif not self.table:
            level, text = WARN, self._waiting_for if self._missing else 'no plan table yet'
        return level, text, {
            'model': self.layout.graph.model, 'model_digest': self.layout.graph.digest,
            'objective': self.params.objective,
            'plan_table': self.table.digest.hex() if self.table else '',
            'plans': len(self.table.plans) if self.table else 0,
            **{f'{side}_profile': f'{profile.device} of {profile.host}, {profile.date}'
               for side, profile in self.profiles.items()}, 'version': __version__}


def main(args: list[str] | None = None) -> None:
    """Run planner_node."""
    end(run(PlannerNode, args))


if __name__ == '__main__':
    main()
