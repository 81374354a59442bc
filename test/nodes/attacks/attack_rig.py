# SPDX-License-Identifier: Apache-2.0
"""Nodes under attack beside a robot that is left alone, and what becomes of both."""

from __future__ import annotations

import os
from pathlib import Path
import re
import subprocess
import time

from attack_book import Found, Kind
from attack_parts import Attacker, Camera, held_mb
from device_profiles import profile_of
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter as ParameterMsg
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from ros_rig import Client, MODEL, NodeProcess, SIZE

from hp_inference.graph.load import ModelSpec, open_model
from hp_inference.nodes import qos
from hp_msgs.msg import DeviceProfile

#: Of nodes until they have their model, of answers, of nodes that are to be as before, and of
#: processes that are to end. [s]
UP_S, ANSWER_S, BACK_S, ENDED_S = 240.0, 60.0, 60.0, 60.0
#: Memory counts so long after an attack, and may have grown by this.
SETTLED_S, GROWN_MB = 10.0, 150.0
#: The attacker hears nothing while it answers: it is asked no more often. [s]
ASK_S = 0.2
UP = ' operators, on '  # what a node says when it has its model
#: The nodes under attack; the server serves both robots.
NODES = {'server': ('server_node', ''), 'robot': ('robot_node', 'attacked'),
         'monitor': ('bandwidth_monitor_node', 'attacked'), 'planner': ('planner_node', 'attacked')}


class AttackRig:
    """All nodes, started once; one attack after the other."""

    def __init__(self, folder: Path):
        self.folder, self.home, self.outside = folder, folder / 'home', folder / 'outside'
        self._lay_out()
        self.nodes: dict[str, NodeProcess] = {}
        self.params: dict[str, dict[str, object]] = {}
        self.attacker, self._clients = None, []

    def start(self) -> None:
        """Start all, and wait until both robots compute together with the server."""
        for who in NODES:
            self._start(who)
        self.nodes['bystander'] = NodeProcess(
            'robot_node', self.folder, namespace='honest', cwd=self.home, deadline_s=10.0)
        for who, node in self.nodes.items():
            if who != 'monitor':
                node.says(UP, UP_S)
        self._clients = self.attacked, self.honest = (Client('attacked'),
                                                      Client('honest', name='bystander'))
        self.cameras = [Camera(self.attacked), Camera(self.honest)]
        self._say_profiles()
        self.attacker = Attacker(
            [f'/{ns}/{name}'.replace('//', '/') for name, ns in NODES.values()], '/honest/',
            self._paths(), self.folder / 'attacker.log')
        assert self.attacked.until(lambda: self.attacker.done, UP_S)
        self.attacked.ready()
        self.honest.ready()
        assert self._back(BACK_S) == []
        for who in NODES:
            self.params[who] = self._parameters(who)
        # So that what is said earlier differs from what is said now.
        self.attacked.use(plan='uniform:0.7')
        self._watch()
        self._heard(1)
        self.attacked.use(plan='uniform:0.5')
        self._heard(2)
        self.before = self._files()

    def _lay_out(self) -> None:
        for place in (self.home, self.outside):
            place.mkdir()
        (self.home / 'precious.txt').write_text('not to be lost')
        (self.outside / 'precious.txt').write_text('not to be lost')
        (self.home / 'link').symlink_to(self.outside)
        (self.home / 'link.json').symlink_to(self.outside / 'linked.json')
        os.mkfifo(self.home / 'pipe')

    def _paths(self) -> list[str]:
        out = str(self.outside)
        return ['/dev/zero', '/proc/kmsg', '/proc/self/mem', '/dev/stdin', '/etc/passwd', 'pipe',
                str(self.home / 'pipe'), f'{out}/new', f'{out}/precious.txt', '../outside/new',
                '../outside/precious.txt', 'link/new', 'link.json', 'precious.txt', '.', '..', '',
                '/', f'{out}/new\n', 'a' * 5000, '../' * 50 + 'tmp/hp_attack_forged',
                '$(touch forged)', '\0', 'inside.json', 'sub/inside.json', '~/forged',
                'file:///etc/passwd']

    def _start(self, who: str) -> None:
        name, namespace = NODES[who]
        params = {
            'server': {'robots': ['attacked', 'honest']}, 'robot': {'deadline_s': 3.0},
            'monitor': {}, 'planner': {'bandwidths': [20.0]}}[who]
        remapped = {'planner': ['-r', 'robot_profile:=made_profile/robot',
                                '-r', 'server_profile:=made_profile/server',
                                '-r', 'planned_table:=its_own']}.get(who, [])
        self.nodes[who] = NodeProcess(name, self.folder, namespace=namespace, cwd=self.home,
                                      arguments=remapped, **params)

    def _say_profiles(self) -> None:
        layout = open_model(ModelSpec(MODEL, (1, 3, SIZE, SIZE)))[1]
        self._profiles = []
        for side, number in (('robot', DeviceProfile.ROBOT), ('server', DeviceProfile.SERVER)):
            publisher = self.attacked.node.create_publisher(
                DeviceProfile, f'made_profile/{side}', qos.LATCHED)
            publisher.publish(DeviceProfile(
                model=layout.graph.model, model_digest=layout.graph.digest, side=number,
                json=profile_of(layout, 0.02 * number, side).dumps()))
            self._profiles.append(publisher)

    def _watch(self) -> None:
        self.attacker.tell(do='watch')
        assert self._until(lambda: self.attacker.done, 2 * ANSWER_S)
        self._for(1.0)

    def _heard(self, tables: int) -> None:
        """Wait until so many different plan tables have come by the attacker."""
        end = time.monotonic() + ANSWER_S
        while True:
            self.attacker.tell(do='heard')
            told = self._until(lambda: self.attacker.done, ANSWER_S)
            if told and told['tables'] >= tables:
                return
            assert time.monotonic() < end, f'of {tables} plan tables the attacker heard: {told}'
            self._for(ASK_S)

    # One attack

    def suffers(self, kind: Kind, most: int, seconds: float, seed: int) -> Found:
        """Return what an attack did, of so many messages or so long, whatever ends first."""
        found = Found(kind.name)
        self._revive(found)
        self._watch()
        log_begins = {who: len(node.log) for who, node in self.nodes.items()}
        before_mb = self.memory_mb()
        for camera in self.cameras:
            camera.reset()
        self.attacker.tell(do=kind.name, most=most, seconds=seconds, seed=seed)
        attacked, honest = self.cameras
        # Longer by what one answer may take: who hangs is not waited for twice.
        self._until(lambda: self.attacker.done, seconds + 2 * ANSWER_S)
        over_s = time.monotonic()
        told = self.attacker.done
        found.tried = told['tried'] if told else 0
        if not told:
            found.hung.append('the attacker itself')
        found.answers, found.honest = attacked.answers, honest.answers
        found.starved = honest.alone
        self._until(lambda: not any(c.asked_s and c.asked_s < over_s for c in self.cameras),
                    ANSWER_S)
        for name, camera in (('attacked', attacked), ('honest', honest)):
            if camera.waited_s > ANSWER_S and not (kind.obeyed and camera is attacked):
                found.hung.append(f'{name}: no answer for {camera.waited_s:.0f} s')
        wrong = attacked.wrong
        found.wrong += honest.wrong + (0 if kind.forges else wrong)
        found.forged += wrong if kind.forges else 0
        self._look(found, log_begins)
        if kind.obeyed:
            self._until(lambda: not self._plans, ANSWER_S)  # where to, is settled already
            found.hung += self._restore()
        self._revive(Found(''))
        for camera in self.cameras:
            camera.reset()
        found.hung += self._back(BACK_S)
        found.back_s = time.monotonic() - over_s
        found.wrong += sum(camera.wrong for camera in self.cameras)
        self._until(lambda: max(self._growth(before_mb).values()) < GROWN_MB,
                    SETTLED_S - found.back_s)
        found.grown_mb = self._growth(before_mb)
        self._look(found, log_begins)
        return found

    def end(self) -> dict[str, int | None]:
        """Tell all nodes to stop; return their exit statuses, None for one that does not end."""
        for node in self.nodes.values():
            node.process.terminate()
        statuses, end = {}, time.monotonic() + ENDED_S
        for who, node in self.nodes.items():
            try:
                statuses[who] = node.process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                statuses[who] = None
        return statuses

    def close(self) -> None:
        """End everything."""
        if self.attacker:
            self.attacker.close()
        for node in self.nodes.values():
            node.close()
        for client in self._clients:
            client.close()

    def memory_mb(self) -> dict[str, float]:
        """Return what each node's process holds."""
        return {who: held_mb(node.process.pid) for who, node in self.nodes.items()}

    def _growth(self, before_mb: dict[str, float]) -> dict[str, float]:
        return {who: round(now - before_mb[who], 1) for who, now in self.memory_mb().items()}

    def _step(self) -> None:
        for camera in self.cameras:
            camera.step()

    def _for(self, seconds: float) -> None:
        """Have images answered for so long."""
        self._until(lambda: False, seconds)

    def _until(self, done, seconds: float):
        """Have images answered until something holds, or for so long; return what it was."""
        end = time.monotonic() + seconds
        while not (held := done()) and time.monotonic() < end:
            self._step()
        return held

    def _back(self, seconds: float) -> list[str]:
        """Have images answered until both robots compute together; return who does not."""
        begun = time.monotonic()
        self._until(lambda: all(c.together_s >= begun for c in self.cameras), seconds)
        return [f'{name} is not back: ' + self._why(camera)
                for name, camera in zip(('attacked', 'honest'), self.cameras)
                if camera.together_s < begun]

    @property
    def _plans(self) -> bool:
        """Whether the planner is at work."""
        said = self.attacked.diagnostics.get('attacked/planner_node: planning')
        return said is not None and said.message == 'planning'

    def _why(self, camera: Camera) -> str:
        said = camera.client.diagnostics
        return next((status.message for name, status in said.items()
                     if camera.client.node.get_namespace()[1:] in name and 'inference' in name),
                    'it says nothing')

    def _look(self, found: Found, log_begins: dict[str, int]) -> None:
        """Note who has ended, what the logs have that no node wrote, and files that appeared."""
        found.log_bytes, crashed, lines = 0, [], []
        for who, node in self.nodes.items():
            if node.process.poll() is not None:
                crashed.append(f'{who} ended with {node.process.returncode}: {node.log[-300:]}')
            said = node.log[log_begins[who]:] if len(node.log) >= log_begins[who] else node.log
            found.log_bytes += len(said)
            traces = said.split('Traceback')[1:]
            crashed += [f'{who}: {trace}' for trace in
                        {t.split('\n[')[0].strip().splitlines()[-1][:300] for t in traces}]
            lines += [f'{who}: {line[:200]!r}' for line in said.split('\n')
                      if line.startswith('[ERROR] [forged]') or len(line) > 20_000
                      or re.search(r'[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]', line)]
        found.crashed = sorted({*found.crashed, *crashed})[:20]
        found.lines = lines[:10]
        found.files = sorted(f'{path}' for path, data in self._files().items()
                             if self.before.get(path) != data)

    def _files(self) -> dict[str, object]:
        """Return what is in the folders; within the nodes' own, a plan table may appear."""
        files = {}
        for place in (self.home, self.outside):
            for path in place.rglob('*'):
                if path.is_file() and not path.is_symlink():
                    data = path.read_bytes()
                    if place is self.home and data.startswith(b'{"format"'):
                        continue
                    files[str(path)] = data
        forged = Path('/tmp/hp_attack_forged')
        if forged.exists():
            files[str(forged)] = b''
        return files

    def _revive(self, found: Found) -> None:
        """Start anew what has ended, so that the next attack is judged for itself."""
        for who in NODES:
            if self.nodes[who].process.poll() is not None:
                self._start(who)
                if who != 'monitor':
                    self.nodes[who].says(UP, UP_S)

    # Parameters and states as they were

    def _named(self, who: str) -> str:
        name, namespace = NODES[who]
        return f'/{namespace}/{name}'.replace('//', '/')

    def _call(self, kind, name: str, request):
        """Return a node's answer, None where none comes."""
        client = self.attacked.node.create_client(kind, name)
        try:
            if not self._until(client.service_is_ready, ANSWER_S):
                return None
            end = time.monotonic() + ANSWER_S
            while time.monotonic() < end:  # an answer to a burst of others may have taken its place
                future = client.call_async(request)
                if self._until(future.done, ANSWER_S / 3):
                    return future.result()
            return None
        finally:
            self.attacked.node.destroy_client(client)

    def _parameters(self, who: str) -> dict[str, object]:
        node = self._named(who)
        names = [name for name in self._call(ListParameters, f'{node}/list_parameters',
                                             ListParameters.Request()).result.names
                 if not name.startswith('qos_overrides')]
        values = self._call(GetParameters, f'{node}/get_parameters',
                            GetParameters.Request(names=names)).values
        return dict(zip(names, values))

    def _restore(self) -> list[str]:
        """Give all nodes their parameters back and make them active; return who does not."""
        failed = []
        for who in NODES:
            node, state = self._named(who), ''
            end = time.monotonic() + BACK_S
            while state != 'active':
                answer = self._call(GetState, f'{node}/get_state', GetState.Request())
                if answer is None or time.monotonic() > end:
                    failed.append(f'{who} does not answer, or stays {state}')
                    break
                state, number = answer.current_state.label, answer.current_state.id
                if number == State.PRIMARY_STATE_UNCONFIGURED:
                    self._change(node, 1)
                elif number == State.PRIMARY_STATE_INACTIVE:
                    self._change(node, 3)
            else:
                now = self._parameters(who)
                other = [ParameterMsg(name=name, value=value)
                         for name, value in self.params[who].items() if now.get(name) != value]
                if other:
                    self._call(SetParameters, f'{node}/set_parameters',
                               SetParameters.Request(parameters=other))
        return failed

    def _change(self, node: str, number: int) -> None:
        request = ChangeState.Request()
        request.transition.id = number
        self._call(ChangeState, f'{node}/change_state', request)
