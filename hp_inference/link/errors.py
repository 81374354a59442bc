# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between the two sides of a link."""

from __future__ import annotations


class LinkError(Exception):
    """Base of every error that the link layer raises about the other side or the connection."""


class BadChunk(LinkError):
    """A chunk that does not agree with the plan or does not decode; it must be dropped."""


class DeadlinePassed(LinkError):
    """
    Rows had not all arrived at their deadline.

    ``value_id``, ``row_begin`` and ``row_end`` name the rows; ``received`` of ``expected`` chunks
    had come by then.
    """

    def __init__(self, value_id: int, row_begin: int, row_end: int, received: int, expected: int):
        super().__init__(
            f'deadline passed: value {value_id} rows [{row_begin}, {row_end}) are missing: '
            f'{received} of {expected} chunks came in time; compute these rows on this side '
            f'or allow more time')
        self.value_id = value_id
        self.row_begin = row_begin
        self.row_end = row_end
        self.received = received
        self.expected = expected


class Aborted(LinkError):
    """The frame was given up while somebody waited for its rows; ``reason`` says why."""

    def __init__(self, reason: str):
        super().__init__(f'frame aborted: {reason}')
        self.reason = reason
