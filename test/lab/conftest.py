# SPDX-License-Identifier: Apache-2.0
"""Two hosts would have their processors for themselves: what runs in the lab goes first."""

import os

import pytest

NICE = -15


@pytest.fixture(scope='session', autouse=True)
def first():
    """
    Have this process and all that it starts computed before other work of this machine.

    The link of the lab is the kernel's and goes by the clock; so must those who use it. A lab is
    root's, who may.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except PermissionError:  # then there is no lab either
        yield
        return
    yield
    os.setpriority(os.PRIO_PROCESS, 0, before)
