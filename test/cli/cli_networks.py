# SPDX-License-Identifier: Apache-2.0
"""Small networks for the tests of the hp command, which loads this file as a user's."""

from __future__ import annotations

from dataclasses import dataclass
import sys

import torch
from torch import nn

WIDTH = 6

print('a model file may print')


@dataclass
class Options:
    classes: int = 7


def classes():
    print('so may its factory')
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.BatchNorm2d(WIDTH), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(WIDTH, Options().classes))


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.function = function

    def forward(self, x):
        print('so may its forward')
        return self.function(self.conv(x))


def mask():
    return Net(lambda x: {'out': x, 'mask': x.argmax(1)})


def unsupported():
    return Net(lambda x: torch.linalg.matrix_exp(torch.linalg.matrix_exp(x)))


def strange():
    return Net(lambda x: torch.log(x))


def parameterless():
    return nn.AvgPool2d(3)


def pixels():
    made = nn.AvgPool2d(3)
    made.takes_pixels = True
    return made


def gives_text():
    return 'text'


def raises():
    raise KeyError('no such thing')


def leaves():
    sys.exit(0)


def branches():
    return Net(lambda x: x if x.sum() > 0 else -x)


def conditional():
    return Net(lambda x: torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,)))


def random():
    return Net(lambda x: x + torch.rand_like(x))


def constant():
    return Net(lambda x: (x, torch.ones(3)))


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('calls', torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


class Faint(nn.Module):
    """Its answer is nearly its bias, as that of an untrained deep network is."""

    def __init__(self):
        super().__init__()
        self.net = classes()

    def forward(self, x):
        return 0.028 + 1e-8 * self.net(x)


class Cancels(nn.Module):
    """Float32 has five places left of its answer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return (y + 300) * (y + 300) - 600 * y - 90000


class Only32(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x) @ torch.ones(x.shape[3], 4)


class Remembers(nn.Module):
    memory = None

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        y = y if self.memory is None else y + self.memory
        self.memory = y
        return y


class Exits(Only32):
    def forward(self, x):
        sys.exit(0)
