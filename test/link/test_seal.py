# SPDX-License-Identifier: Apache-2.0
"""Seals: what is genuine is taken once; all that is forged, old, swapped or repeated is not."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.link.seal import (
    MEETING,
    MOST_STARTS,
    SEAL_BYTES,
    Seals,
    Verdict,
)

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
PLACE = '/r1/meeting'
BODY = b'rows of a value'


class Side:
    """A participant, and the meeting messages and lasting ones that it sends."""

    def __init__(self, role='robot', key=KEY, place=PLACE):
        self.seals = Seals(key, role, place)
        self.said = []    # meeting messages, the newest last
        self.resent = 0
        self.verdicts = []
        self.say()

    def say(self):
        told = self.seals.told()
        parts = (repr(told).encode(),)
        self.said.append((told, parts, self.seals.make(MEETING, parts, self.seals.count())))

    def hear(self, said):
        told, parts, seal = said
        verdict, news, again = self.seals.meet(parts, seal, lambda: told)
        self.verdicts.append(verdict)
        self.resent += again
        if news:
            self.say()

    def send(self, topic='uplink', body=BODY, first=0):
        return topic, body, self.seals.make(topic, (body,), self.seals.count(), first)

    def take(self, message):
        topic, body, seal = message
        return self.seals.check(topic, (body,), seal)


def meet(*sides):
    """Let everybody hear everybody's newest message until nobody has news; latched topics do so."""
    heard = {}
    while True:
        due = [(i, j) for i in range(len(sides)) for j in range(len(sides))
               if heard.get((i, j)) != len(sides[i].said)]
        if not due:
            return
        i, j = due[0]
        heard[i, j] = len(sides[i].said)
        sides[j].hear(sides[i].said[-1])


@pytest.fixture
def pair():
    robot, server = Side('robot'), Side('server')
    meet(robot, server)
    return robot, server


def test_those_who_have_met_take_each_others_messages_in_order_and_once(pair):
    robot, server = pair
    assert robot.seals.roles == ('server',) and server.seals.roles == ('robot',)
    messages = [robot.send(body=bytes([i])) for i in range(3)]
    assert [server.take(message) for message in messages] == [Verdict.TAKEN] * 3
    assert [server.take(message) for message in messages] == [Verdict.REPLAYED] * 3
    assert robot.take(server.send('downlink')) is Verdict.TAKEN
    assert len(messages[0][2]) == SEAL_BYTES


def test_messages_may_be_lost_but_not_come_late(pair):
    robot, server = pair
    first, second, third = (robot.send() for _ in range(3))
    assert server.take(third) is Verdict.TAKEN
    assert server.take(second) is Verdict.REPLAYED
    # Each topic counts for itself: they do not keep their order among each other.
    assert server.take(robot.send('probe')) is Verdict.TAKEN
    other = Side('monitor')
    meet(robot, server, other)
    assert server.take(first) is Verdict.REPLAYED


@given(data=st.data(), body=st.binary(min_size=1, max_size=200))
def test_no_bit_of_a_message_or_its_seal_can_be_changed(data, body):
    robot, server = Side('robot'), Side('server')
    meet(robot, server)
    topic, body, seal = robot.send(body=body)
    whole = bytearray(body + seal)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    changed = bytes(whole[:len(body)]), bytes(whole[len(body):])
    assert server.take((topic, *changed)) is Verdict.FORGED
    assert server.take((topic, body, seal)) is Verdict.TAKEN


@given(body=st.binary(max_size=100), seal=st.binary(max_size=100))
def test_a_made_up_seal_is_never_taken(body, seal):
    robot, server = Side('robot'), Side('server')
    meet(robot, server)
    known = robot.seals.start + seal[16:]
    for made_up in (seal, known, known[:SEAL_BYTES].ljust(SEAL_BYTES, b'\0')):
        assert server.take(('uplink', body, made_up)) in (Verdict.FORGED, Verdict.UNSEALED)
        verdict, news, again = server.seals.meet((body,), made_up, pytest.fail)
        assert verdict in (Verdict.FORGED, Verdict.UNSEALED) and not (news or again)
    assert server.take(('uplink', body, b'')) is Verdict.UNSEALED


def test_a_message_of_one_topic_is_no_message_of_another(pair):
    robot, server = pair
    _, body, seal = robot.send('link_report')
    assert server.take(('downlink_report', body, seal)) is Verdict.FORGED
    _, body, seal = robot.send('uplink')
    assert robot.take(('downlink', body, seal)) is Verdict.FORGED  # sent back to where it is from
    assert server.take((MEETING, body, seal)) is Verdict.FORGED


def test_another_robots_key_is_good_for_nothing_here(pair):
    robot, server = pair
    stranger = Side('robot', OTHER_KEY)
    meet(robot, server, stranger)
    assert server.take(stranger.send()) is Verdict.FORGED
    assert Verdict.FORGED in server.verdicts
    assert len(server.seals.roles) == 1 and stranger.seals.roles == ()


def test_what_was_recorded_in_an_earlier_run_is_not_taken_in_the_next():
    robot, server = Side('robot'), Side('server')
    recorded = []
    for _ in range(3):
        meet(robot, server)
        recorded += [('meeting', said) for said in robot.said]
        recorded += [('uplink', robot.send()) for _ in range(3)]
        server = Side('server')  # starts anew
        for kind, message in recorded:
            if kind == 'meeting':
                server.hear(message)
            else:
                assert server.take(message) is Verdict.UNMET
        assert server.seals.roles == ()
    meet(robot, server)
    assert [server.take(message) for kind, message in recorded if kind == 'uplink'] == [
        Verdict.UNMET] * 9  # of the same start as the robot's that it has met, but of before
    assert server.take(robot.send()) is Verdict.TAKEN


def test_a_start_that_only_claims_to_be_heard_is_not_met():
    """Nobody meets a recorded start, whatever it had heard then."""
    robot, server = Side('robot'), Side('server')
    meet(robot, server)
    for late in (Side('server'), Side('monitor')):
        for said in robot.said[:]:
            late.hear(said)
        assert late.seals.roles == ()
        assert late.take(robot.send()) is Verdict.UNMET


def test_a_side_that_starts_anew_meets_the_others_again(pair):
    robot, server = pair
    monitor = Side('monitor')
    meet(robot, server, monitor)
    for _ in range(2 * MOST_STARTS):  # with more starts than are remembered
        robot = Side('robot')
        meet(robot, server, monitor)
        assert server.take(robot.send()) is Verdict.TAKEN
        assert robot.take(server.send('downlink')) is Verdict.TAKEN
        assert robot.take(monitor.send('bandwidth')) is Verdict.TAKEN
        assert server.take(monitor.send('probe')) is Verdict.TAKEN
    assert len(server.seals.roles) <= MOST_STARTS


def test_what_holds_on_is_sent_again_to_who_has_just_met_and_taken_once_by_each(pair):
    robot, server = pair
    assert robot.resent == server.resent == 1
    table = robot.send('plan_table')
    counter = int.from_bytes(table[2][16:24], 'little')
    assert server.take(table) is Verdict.TAKEN
    second = Side('server')
    meet(robot, server, second)
    assert robot.resent == 2
    again = robot.send('plan_table', first=counter)
    assert server.take(again) is Verdict.AGAIN
    assert second.take(again) is Verdict.TAKEN
    # Changed, or said anew on purpose, it is news for both.
    assert server.take(robot.send('plan_table')) is Verdict.TAKEN


def test_recorded_starts_do_not_push_out_those_that_have_met(pair):
    robot, server = pair
    recorded = [Side('robot') for _ in range(5 * MOST_STARTS)]
    for old in recorded:
        server.hear(old.said[-1])
        assert len(server.seals.told().heard) <= MOST_STARTS
    assert server.take(robot.send()) is Verdict.TAKEN
    newcomer = Side('monitor')
    meet(newcomer, server)
    assert server.take(newcomer.send('probe')) is Verdict.TAKEN


def test_meeting_messages_can_be_neither_changed_nor_repeated_nor_sent_back(pair):
    robot, server = pair
    told, parts, seal = server.said[-1]
    for _ in range(2):
        robot.hear((told, parts, seal))
        assert robot.verdicts[-1] is Verdict.REPLAYED
    robot.hear((told, (b'x', *parts), seal))
    assert robot.verdicts[-1] is Verdict.FORGED
    robot.hear(robot.said[-1])
    assert robot.verdicts[-1] is Verdict.OWN
    said = len(robot.said)
    robot.hear(server.said[0])
    assert robot.verdicts[-1] is Verdict.REPLAYED and len(robot.said) == said


def test_two_robots_with_one_key_are_not_mixed_up():
    """Who passes on all that one robot says to the topics of the other gets nowhere."""
    robot, server = Side('robot', place='/r1/meeting'), Side('server', place='/r2/meeting')
    meet(robot, server)
    assert robot.seals.roles == server.seals.roles == ()
    assert {*robot.verdicts, *server.verdicts} == {Verdict.OWN, Verdict.ELSEWHERE}
    assert server.take(robot.send()) is Verdict.UNMET
