# SPDX-License-Identifier: Apache-2.0
"""Receipts as messages; apart from what needs a model, so that who measures links needs none."""

from __future__ import annotations

from array import array

from hp_inference.link.receipts import Receipt
from hp_msgs.msg import LinkReport


def receipt_to_msg(receipt: Receipt) -> LinkReport:
    """Return a receipt as a message."""
    return LinkReport(
        session=receipt.session, receiver=receipt.receiver,
        seq=array('I', receipt.seq), payload_bytes=array('I', receipt.payload_bytes),
        sent_s=array('d', receipt.sent_s), arrived_s=array('d', receipt.arrived_s),
        held_s=float(receipt.held_s))


def receipt_from_msg(msg: LinkReport) -> Receipt:
    """Return the receipt of a message. Raises BadReceipt."""
    return Receipt(msg.session, msg.receiver, msg.seq, msg.payload_bytes, msg.sent_s,
                   msg.arrived_s, msg.held_s)
