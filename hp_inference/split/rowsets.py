# SPDX-License-Identifier: Apache-2.0
"""
Sets of rows in memory that is used again: what hp_inference.graph.rows.Rows is, in a list or array.

``s[0]`` intervals, then begin and end of each, ascending, disjoint and not touching. A set that
would need more intervals than there is room for becomes spoilt (``s[0] < 0``) and stays so.
"""

from __future__ import annotations

from hp_inference.graph.rows import Rows


def room_for(intervals: int) -> int:
    """Return how many numbers a set of at most so many intervals takes."""
    return 1 + 2 * intervals


def rows_of(s) -> Rows:
    """Return a set that is not spoilt as Rows."""
    return Rows((s[1 + 2 * i], s[2 + 2 * i]) for i in range(s[0]))


def add(s, lo, hi):
    """Add [lo, hi)."""
    if lo >= hi or s[0] < 0:
        return
    n = s[0]
    i = 0
    while i < n and s[2 + 2 * i] < lo:
        i += 1
    j = i  # intervals i..j-1 touch the new one
    while j < n and s[1 + 2 * j] <= hi:
        lo = min(lo, s[1 + 2 * j])
        hi = max(hi, s[2 + 2 * j])
        j += 1
    grown = n - (j - i) + 1
    if grown > (len(s) - 1) // 2:
        s[0] = -1
        return
    if grown > n:
        for k in range(n - 1, j - 1, -1):
            s[3 + 2 * k], s[4 + 2 * k] = s[1 + 2 * k], s[2 + 2 * k]
    elif grown < n:
        for k in range(j, n):
            to = k - (j - i) + 1
            s[1 + 2 * to], s[2 + 2 * to] = s[1 + 2 * k], s[2 + 2 * k]
    s[1 + 2 * i], s[2 + 2 * i] = lo, hi
    s[0] = grown


def add_all(s, other):
    """Add another set."""
    if other[0] < 0:
        s[0] = -1
    for i in range(other[0]):
        add(s, other[1 + 2 * i], other[2 + 2 * i])


def clip(s, other, lo, hi):
    """Make ``s`` the part of another set within [lo, hi)."""
    n = 0
    for i in range(other[0]):
        begin, end = max(other[1 + 2 * i], lo), min(other[2 + 2 * i], hi)
        if begin < end:
            s[1 + 2 * n], s[2 + 2 * n] = begin, end
            n += 1
    s[0] = -1 if other[0] < 0 else n


def add_common(s, one, other):
    """Add what two sets have in common."""
    if one[0] < 0 or other[0] < 0:
        s[0] = -1
    for i in range(one[0]):
        for j in range(other[0]):
            add(s, max(one[1 + 2 * i], other[1 + 2 * j]), min(one[2 + 2 * i], other[2 + 2 * j]))


def remove(s, other, spare):
    """Take another set away; ``spare`` is memory for a set."""
    if other[0] < 0:
        s[0] = -1
    for j in range(other[0]):
        c, d = other[1 + 2 * j], other[2 + 2 * j]
        spare[:] = s
        s[0] = min(s[0], 0)
        for i in range(spare[0]):
            a, b = spare[1 + 2 * i], spare[2 + 2 * i]
            add(s, a, min(b, c))
            add(s, max(a, d), b)


def count(s):
    """Return the number of rows."""
    total = 0
    for i in range(s[0]):
        total += s[2 + 2 * i] - s[1 + 2 * i]
    return total


def meets(s, lo, hi):
    """Return whether the set has a row in [lo, hi)."""
    for i in range(s[0]):
        if s[1 + 2 * i] < hi and lo < s[2 + 2 * i]:
            return True
    return False


def holds(s, lo, hi):
    """Return whether the set has every row of [lo, hi)."""
    if lo >= hi:
        return True
    for i in range(s[0]):
        if s[1 + 2 * i] <= lo and hi <= s[2 + 2 * i]:
            return True
    return False
