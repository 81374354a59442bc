# SPDX-License-Identifier: Apache-2.0
"""
Subscriptions that take nothing larger than makes sense on their topic, and hold nothing for long.

Most fields of most messages have no bound, and the middleware keeps room for each message in the
history at the size of the largest one that ever was there: 150 chunks of 16 MB stay 2.4 GB for as
long as the subscription lives. So a message is looked at as bytes first; one that is too large is
never unpacked, and costs the subscription, which is opened anew: with the old one all that it held
is gone. So it is where hardly anything that comes is of use: who floods a topic with what has to be
refused would take the node's time from others. What other robots send comes by other subscriptions.
"""

from __future__ import annotations

from collections.abc import Callable
import copy
import math
import time
from typing import TYPE_CHECKING

from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message

from hp_inference.nodes import qos
from hp_inference.runtime.memory import allocated_bytes
from hp_inference.split.table_json import MAX_JSON_BYTES
from hp_msgs.msg import (
    Bandwidth,
    DeviceProfile,
    FrameReport,
    LinkReport,
    Meeting,
    PlanTable,
    Probe,
    ServerLoad,
    ServerStatus,
    TensorChunk,
)

if TYPE_CHECKING:
    from hp_inference.nodes.managed import ManagedNode

#: The largest message of a kind that is taken, as it travels [bytes]. Times the depth of its
#: history it bounds what one robot can have a server hold: chunks 100 MB, all others 40 MB.
MOST = {
    TensorChunk: 100_000,  # 60 kB of rows, and what describes them
    PlanTable: MAX_JSON_BYTES + 4096,
    DeviceProfile: MAX_JSON_BYTES + 4096,
    Probe: Probe.MAX_BYTES + 4096,
    LinkReport: 1 << 16,
    FrameReport: 1 << 19,  # a span for each time that the server waited
    ServerStatus: 1 << 16,
    ServerLoad: 1 << 12,
    Bandwidth: 1 << 12,
    Meeting: 2000,
}
# One that is opened anew at once, and again too large: it stays closed, ever longer.
SHORTEST_S, LONGEST_S = 0.25, 8.0
# Messages that turn out to be of no use: so many are borne each second, and so many at once. Honest
# ones are few: what was on its way of a frame that has been given up.
USELESS_PER_S, USELESS_AT_ONCE = 50.0, 100.0
# Without another one it is as it was at first.
FORGIVEN_S = 30.0
# So much more allocated than before is looked into.
GROWN_BYTES = 96 << 20
AT_ONCE = 3
# What goes with a subscription may have been something else's by chance, but hardly so much.
HOARD_BYTES = 32 << 20
# Room for messages this large is given up when none has come for a while.
LARGE_BYTES, QUIET_S = 4 << 20, 4.0
WARN_S = 1.0


class Guarded:
    """
    A subscription of a node; ``callback(message)``, or ``(message, info)`` where ``informed``.

    ``most``: the size of the largest message that is taken, where MOST does not say it.
    ``admit`` says of a message's bytes whether it is heeded. ``raw``: the callback takes bytes.
    """

    def __init__(self, node: ManagedNode, kind: type, topic: str, callback: Callable,
                 profile: QoSProfile, *, overridable: bool = False, informed: bool = False,
                 most: Callable[[], int] | None = None,
                 admit: Callable[[bytes], bool] = lambda data: True, raw: bool = False):
        self._node, self._kind, self._topic, self._callback = node, kind, topic, callback
        self._profile, self._overridable, self._informed = profile, overridable, informed
        self._most = most or (lambda: MOST[kind])
        self._admit, self._raw = admit, raw
        self._subscription = None
        self._fresh = False  # only what is published from now on
        self._pause_s, self._open_s = 0.0, math.inf
        self._refused_s = self._warned_s = self._took_s = -math.inf
        self._largest = 0
        self._useless, self._useless_s = 0.0, -math.inf
        self.refused = 0
        self._open()
        self.topic_name = self._subscription.topic_name
        node.guarded.append(self)

    def close(self) -> None:
        """Leave the topic for good."""
        self._node.guarded.remove(self)
        self._close()

    def look(self) -> None:
        """Open again what is closed, give up what is large; to be called now and then."""
        now_s = time.monotonic()
        if self._subscription is None:
            if now_s >= self._open_s:
                self._open()
            return
        if self._fresh and now_s - self._refused_s > FORGIVEN_S:
            self._fresh = False
            self._renew()
        elif (self._largest > LARGE_BYTES and now_s - self._took_s > QUIET_S
              and not self.latched):
            self._renew()

    @property
    def room(self) -> int:
        """What the middleware may hold of messages that are taken [bytes]."""
        return max(3, self._profile.depth) * self._most()

    @property
    def latched(self) -> bool:
        """Whether what was said before this subscription was opened comes again."""
        return self._profile.durability == DurabilityPolicy.TRANSIENT_LOCAL

    def let_go(self, allocated: Callable[[], int]) -> int:
        """Have the middleware forget what it holds; return how many bytes less there are now."""
        if self._subscription is None:
            return 0
        before = allocated()
        self._close()
        gone = before - allocated()
        self._open()
        return gone

    def hoards(self, nbytes: int) -> None:
        """Take note that the middleware held so much, more than it may."""
        self._took_s = time.monotonic()
        self._refuse(f'{nbytes >> 20} MB of messages that do not end are forgotten')
        self._shut()

    def useless(self, weight: float = 1.0) -> None:
        """
        Take note that what came was of no use, which counts as so many messages.

        Who sends hardly anything else would cost the node time that is due to others: it is not
        listened to for a while.
        """
        now_s = time.monotonic()
        left = self._useless - (now_s - self._useless_s) * USELESS_PER_S
        self._useless, self._useless_s = max(0.0, left) + weight, now_s
        if self._useless > USELESS_AT_ONCE and self._subscription is not None:
            self._useless, self._took_s = 0.0, now_s
            self._refuse('most of what comes is of no use, so that nothing is taken for a while')
            self._shut()

    def _renew(self) -> None:
        self._close()
        self._open()

    def _open(self) -> None:
        profile = self._profile
        if self._fresh:  # what was too large would be sent again to whoever comes late
            profile = copy.copy(profile)
            profile.durability = DurabilityPolicy.VOLATILE
        self._largest, self._open_s = 0, math.inf
        self._subscription = self._node.create_subscription(
            self._kind, self._topic, self._take, raw=True,
            **qos.subscription(self._node, self._topic, profile, overridable=self._overridable))

    def _close(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _take(self, data: bytes, info: dict) -> None:
        self._took_s = time.monotonic()
        if self._subscription is None:
            return
        if len(data) > self._most():
            self._refuse(f'a message of {len(data)} bytes is refused, at most {self._most()} are '
                         'taken')
            self._shut()
            return
        self._largest = max(self._largest, len(data))
        if not self._admit(data):  # not of its sender's: a stranger could silence a robot so
            return
        try:
            message = data if self._raw else deserialize_message(data, self._kind)
        except Exception:  # whatever it is, it is not of this kind
            self._refuse(f'a message that is no {self._kind.__name__} is refused')
            self.useless()
            return
        if self._informed:
            self._callback(message, info)
        else:
            self._callback(message)

    def _refuse(self, text: str) -> None:
        self.refused += 1
        if self._took_s - self._warned_s >= WARN_S:
            self._warned_s = self._took_s
            self._node.get_logger().warning(f"topic '{self.topic_name}': {text}")

    def _shut(self) -> None:
        """Let go of all that the middleware holds for this subscription."""
        if self._took_s - self._refused_s > FORGIVEN_S:
            self._pause_s = 0.0
        else:
            self._pause_s = min(LONGEST_S, max(SHORTEST_S, 2 * self._pause_s))
        self._refused_s, self._open_s = self._took_s, self._took_s + self._pause_s
        self._fresh = True
        self._close()


class Watchman:
    """
    Finds the subscription for which the middleware holds far more than it may.

    It makes room for a message when its first piece arrives, and a message that never ends, or
    waits for one before it, is never handed over. So when much more is allocated than before, one
    subscription after the other is opened anew, those first that were found before: the one with
    which it goes is shut for a while. Where none was it, the node itself needs more by now.
    """

    def __init__(self, allocated: Callable[[], int | None] = allocated_bytes):
        self._allocated = allocated
        self._normal = allocated() or 0
        self._asked: list[Guarded] = []  # still to be looked at

    def look(self, guards: list[Guarded]) -> None:
        """Look at a few of them where it is needed; from a timer, when no message is in hand."""
        now = self._allocated()
        if now is None or now <= self._normal + GROWN_BYTES:
            self._normal = min(self._normal, now or 0)
            self._asked = []
            return
        if not self._asked:
            # With chunks it is easiest: theirs is the longest history.
            self._asked = sorted((guard for guard in guards if not guard.latched),
                                 key=lambda guard: (guard.refused, guard.room), reverse=True)
        for guard in self._asked[:AT_ONCE]:
            gone = guard.let_go(self._allocated) if guard in guards else 0
            if gone > max(guard.room, HOARD_BYTES):
                guard.hoards(gone)
        del self._asked[:AT_ONCE]
        now = self._allocated()
        if not self._asked and now > self._normal + GROWN_BYTES:
            self._normal = now
