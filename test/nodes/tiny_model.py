# SPDX-License-Identifier: Apache-2.0
"""The model of the node tests, which the nodes load as a user's file."""

import time

from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1),
                         nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1))


def gray():
    return nn.Conv2d(1, 2, 3, padding=1)


def endless():
    """Take for ever, as the capture of a large model seems to."""
    time.sleep(3600)
