# SPDX-License-Identifier: Apache-2.0
"""Operators that pick or mix rows by a fixed list, worked out by hand; images of 8 rows."""

import pytest
from rule_oracle import applied, expect, Given, random, tiny_nets
import torch
from torch import nn
import torch.nn.functional as F

from hp_inference.graph.table import GLOBAL, PARTIAL

OUT_OF_ORDER, WITH_REPEATS = torch.tensor([6, 1, 1, -1]), torch.tensor([2, 0, 2])


def upsampled(mode, **settings):
    return lambda x: F.interpolate(x, mode=mode, **settings)


# Nearest: output row j is input row floor(j * 8 / n), exact nearest floor((j + 0.5) * 8 / n).
# Bilinear, corners not aligned: (j + 0.5) * 8 / n - 0.5, aligned j * 7 / (n - 1); the two rows
# around that place. Bicubic: one more row on either side. By a factor f, 8 / n is 1 / f.
UPSAMPLED = {
    # 3 / 2 = 1 .. 5 / 2 = 2
    'nearest, twice': (upsampled('nearest', scale_factor=2),
                       {(3, 6): [(1, 3)], (15, 16): [(7, 8)]}),
    # 1.7: 13 rows; 1 / 1.7 = 0.59, 3 / 1.7 = 1.76, 12 / 1.7 = 7.06
    'nearest, odd factor': (upsampled('nearest', scale_factor=1.7),
                            {(1, 4): [(0, 2)], (12, 13): [(7, 8)]}),
    # rows 0, 2.67, 5.33: the rest is nobody's, whole or not
    'nearest, fewer': (upsampled('nearest', size=(3, 6)),
                       {(0, 1): [(0, 1)], (1, 3): [(2, 6)], (0, 3): [(0, 6)]}),
    # 1.5 / 1.7 = 0.88, 2.5 / 1.7 = 1.47
    'exact nearest, odd factor': (upsampled('nearest-exact', scale_factor=1.7),
                                  {(1, 3): [(0, 2)], (0, 1): [(0, 1)]}),
    # 0.5 * 8 / 3 = 1.33, 1.5 * 8 / 3 = 4, 2.5 * 8 / 3 = 6.67
    'exact nearest, fewer': (upsampled('nearest-exact', size=(3, 4)),
                             {(0, 1): [(1, 2)], (1, 3): [(4, 7)], (0, 3): [(1, 7)]}),
    # -0.25 is row 0 alone; row 3: 1.25; row 4: 1.75
    'bilinear, twice': (upsampled('bilinear', scale_factor=2),
                        {(0, 1): [(0, 1)], (3, 5): [(1, 3)], (15, 16): [(7, 8)]}),
    # 15 rows: row 3 is 1.5, row 4 is exactly 2, row 14 exactly 7
    'bilinear, aligned': (upsampled('bilinear', size=(15, 5), align_corners=True),
                          {(3, 4): [(1, 3)], (4, 5): [(2, 3)], (14, 15): [(7, 8)]}),
    # row 1: 1.5 / 1.7 - 0.5 = 0.38; row 5: 5.5 / 1.7 - 0.5 = 2.74
    'bilinear, odd factor': (upsampled('bilinear', scale_factor=1.7),
                             {(1, 2): [(0, 2)], (1, 6): [(0, 4)]}),
    # row 0: 0.5 * 8 / 3 - 0.5 = 0.83; row 1: 3.5; row 2: 6.17
    'bilinear, fewer': (upsampled('bilinear', size=(3, 11)), {(0, 1): [(0, 2)], (1, 3): [(3, 8)]}),
    # row 5: 5.5 / 2 - 0.5 = 2.25, so rows 1..4; row 0: -0.25, rows -2..1 kept inside
    'bicubic, twice': (upsampled('bicubic', scale_factor=2), {(5, 6): [(1, 5)], (0, 1): [(0, 2)]}),
    # row 3: 3 * 7 / 14 = 1.5, so rows 0..3; row 4 is exactly 2
    'bicubic, aligned': (upsampled('bicubic', size=(15, 5), align_corners=True),
                         {(3, 4): [(0, 4)], (4, 5): [(2, 3)]}),
    # 4 rows of two with a triangle that reaches 2 rows from the middle of row j, 2j + 1:
    # the middles 0.5, 1.5 ... of rows 2j - 1 to 2j + 2 lie within
    'bilinear, antialiased': (upsampled('bilinear', size=(4, 3), antialias=True),
                              {(0, 1): [(0, 3)], (1, 2): [(1, 5)], (3, 4): [(5, 8)]}),
    # twice as far: 2j - 3 to 2j + 4
    'bicubic, antialiased': (upsampled('bicubic', size=(4, 3), antialias=True),
                             {(0, 1): [(0, 5)], (2, 3): [(1, 8)]}),
    'bilinear of a whole value': (lambda x: F.interpolate(x.cumsum(2), size=(5, 5),
                                                          mode='bilinear'),
                                  {(1, 3): [(0, 1)]}, PARTIAL),
    'rows that are channels': (lambda x: F.interpolate(x.transpose(1, 2), size=(5, 5)),
                               {(0, 1): [(0, 8)]}, GLOBAL),
    # PyTorch's kernel goes wrong at one column: its answer is given all the same
    'antialiased to one column': (upsampled('bilinear', size=(4, 1), antialias=True),
                                  {(0, 1): [(0, 8)]}, GLOBAL),
}
PICKED = {
    # row j is row j - 3: row 3 is the first; [1, 5) wraps around and is 6, 7, 0 and 1
    'roll': (lambda x: x.roll(3, 2), {(3, 8): [(0, 5)], (0, 3): [(5, 8)],
                                      (1, 5): [(0, 2), (6, 8)]}),
    'roll back, and the columns': (lambda x: x.roll((-2, 1), (2, 3)),
                                   {(0, 6): [(2, 8)], (5, 7): [(0, 1), (7, 8)]}),
    'roll of columns': (lambda x: x.roll(2, 3), {(2, 5): [(2, 5)]}),
    'roll of everything': (lambda x: x.roll(5), {(0, 1): [(0, 8)]}, GLOBAL),
    # row j is row 7 - j
    'flip': (lambda x: x.flip(2), {(0, 2): [(6, 8)], (3, 7): [(1, 5)]}),
    'flip of rows and columns': (lambda x: x.flip((3, 2)), {(0, 2): [(6, 8)]}),
    'flip of columns': (lambda x: x.flip(3), {(2, 5): [(2, 5)]}),
    'a list of rows': (lambda x: x[:, :, OUT_OF_ORDER],
                       {(0, 1): [(6, 7)], (0, 3): [(1, 2), (6, 7)], (1, 3): [(1, 2)],
                        (2, 4): [(1, 2), (7, 8)]}),
    'a list of channels': (lambda x: x[:, WITH_REPEATS], {(2, 5): [(2, 5)]}),
    'two lists': (lambda x: x[:, WITH_REPEATS, WITH_REPEATS], {(0, 1): [(0, 8)]}, GLOBAL),
    'a computed list': (lambda x: x[:, :, x[0, 0, :, 0].argsort()],
                        {(0, 1): [[(0, 8)], [(0, 1)]]}, GLOBAL),
    'rows selected': (lambda x: x.index_select(2, OUT_OF_ORDER % 8),
                      {(0, 3): [(1, 2), (6, 7)]}),
    'columns selected': (lambda x: x.index_select(3, WITH_REPEATS), {(2, 5): [(2, 5)]}),
    'a constant selected': (lambda x: WITH_REPEATS.index_select(0, x[0, 0, 0].argsort() % 3),
                            {(0, 1): [(0, 1)]}, GLOBAL),
    # row j is row j mod 8; [6, 10) wraps around
    'repeat': (lambda x: x.repeat(2, 1, 3, 2), {(2, 5): [(2, 5)], (9, 12): [(1, 4)],
                                                (6, 10): [(0, 2), (6, 8)]}),
    'repeat in a new dimension': (lambda x: x.repeat(2, 1, 1, 1, 1), {(2, 5): [(2, 5)]}),
    'tile': (lambda x: x.tile(2, 1), {(6, 10): [(0, 2), (6, 8)]}),
    # row j is row j // 3
    'repeat each row': (lambda x: x.repeat_interleave(3, 2), {(2, 7): [(0, 3)]}),
    'repeat each column': (lambda x: x.repeat_interleave(3, 3), {(2, 5): [(2, 5)]}),
    # row j is made of channels of row j // 2
    'pixel shuffle': (lambda x: F.pixel_shuffle(x.repeat(1, 4, 1, 1), 2),
                      {(3, 4): [(1, 2)], (3, 6): [(1, 3)]}),
    'pixel unshuffle': (nn.PixelUnshuffle(2), {(1, 3): [(2, 6)]}),
    'pixel shuffle of columns': (lambda x: F.pixel_shuffle(x.mT.repeat(1, 4, 1, 1), 2),
                                 {(0, 1): [(0, 8)]}, GLOBAL),
    'pixel unshuffle of columns': (lambda x: F.pixel_unshuffle(x.mT, 2),
                                   {(0, 1): [(0, 8)]}, GLOBAL),
}
# Two rows above and one below: row j is row j - 2 of the image where that is one.
PADDED = {
    # rows 0 and 1 need nothing, row 10 neither
    'zeros': (lambda x: F.pad(x, (1, 0, 2, 1)),
              {(0, 2): [], (1, 4): [(0, 2)], (10, 11): [], (9, 11): [(7, 8)]}),
    'a number': (nn.ConstantPad2d((0, 0, 2, 1), 1.5), {(0, 1): [], (2, 5): [(0, 3)]}),
    # cropping: row 0 is row 1
    'cropped': (lambda x: F.pad(x, (-1, 0, -1, 2)), {(0, 2): [(1, 3)], (6, 9): [(7, 8)]}),
    'columns only': (lambda x: F.pad(x, (1, 2)), {(2, 5): [(2, 5)]}),
    'channels': (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), {(2, 5): [(2, 5)]}),
    # rows 0 and 1 are rows 2 and 1, row 10 is row 6
    'reflected': (nn.ReflectionPad2d((1, 0, 2, 1)), {(0, 1): [(2, 3)], (0, 3): [(0, 3)],
                                                     (10, 11): [(6, 7)], (8, 11): [(6, 8)]}),
    # rows 0 and 1 are row 0, row 10 is row 7
    'replicated': (nn.ReplicationPad2d((1, 0, 2, 1)), {(0, 2): [(0, 1)], (9, 11): [(7, 8)]}),
    # rows 0 and 1 are rows 6 and 7, row 10 is row 0
    'circular': (lambda x: F.pad(x, (1, 0, 2, 1), mode='circular'),
                 {(0, 2): [(6, 8)], (1, 4): [(0, 2), (7, 8)], (9, 11): [(0, 1), (7, 8)]}),
    'circular columns': (lambda x: F.pad(x, (1, 1, 0, 0), mode='circular'), {(2, 5): [(2, 5)]}),
    # PyTorch writes over what it wraps
    'circular and cropped': (lambda x: F.pad(x, (0, 0, 2, -1), mode='circular'),
                             {(0, 1): [(0, 8)]}, GLOBAL),
}
ALL = {'upsampled': UPSAMPLED, 'picked': PICKED, 'padded': PADDED}


@pytest.fixture(scope='module')
def nets():
    return tiny_nets({f'{kind}, {name}': entry for kind, entries in ALL.items()
                      for name, entry in entries.items()})


@pytest.mark.parametrize('kind, name', [(kind, name) for kind in ALL for name in ALL[kind]])
def test_rows(nets, kind, name):
    expect(nets.output(f'{kind}, {name}'), *ALL[kind][name][1:])


@pytest.mark.parametrize('target', ['reflection_pad', 'replication_pad'])
def test_the_older_pads_by_name(target):
    image = random(1, 3, 8, 6)
    expect(applied(f'{target}2d.default', Given(image), [1, 0, 2, 1]), {(9, 11): (
        [(6, 8)] if target.startswith('reflection') else [(7, 8)])})
    expect(applied(f'{target}1d.default', Given(image[0], 1), [1, 2]), {(2, 5): [(2, 5)]})
    expect(applied('constant_pad_nd.default', Given(image), [0, 0, 2, 1], 1.5), {(0, 2): []})
