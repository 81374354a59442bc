# SPDX-License-Identifier: Apache-2.0
"""
Acknowledgements as messages, and when something arrived.

Apart from what needs a model, so that who measures links needs none.
"""

from __future__ import annotations

from array import array
import time

from hp_inference.link.acknowledgements import Ack
from hp_msgs.msg import LinkReport

# A message that seems to have waited longer here has met a clock that was set.
LONGEST_WAIT_S = 10.0


def ack_to_msg(ack: Ack) -> LinkReport:
    """Return an acknowledgement as a message."""
    return LinkReport(
        session=ack.session, receiver=ack.receiver,
        seq=array('I', ack.seq), payload_bytes=array('I', ack.payload_bytes),
        sent_s=array('d', ack.sent_s), arrived_s=array('d', ack.arrived_s),
        held_s=float(ack.held_s))


def ack_from_msg(msg: LinkReport) -> Ack:
    """Return the acknowledgement of a message. Raises BadAck."""
    return Ack(msg.session, msg.receiver, msg.seq, msg.payload_bytes, msg.sent_s,
                   msg.arrived_s, msg.held_s)


def arrived_s(info: dict) -> float:
    """
    Return when a message arrived on this process's monotonic clock, in seconds.

    The middleware says it on the system's clock, which may be set meanwhile, or does not say it:
    then it is now.
    """
    now_s, received_ns = time.monotonic(), info.get('received_timestamp') or 0
    waited_s = time.time() - received_ns * 1e-9
    return now_s - waited_s if 0 <= waited_s < LONGEST_WAIT_S else now_s
