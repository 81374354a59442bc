# SPDX-License-Identifier: Apache-2.0
"""Constructions of real networks: the rows live through the whole of them."""

from rule_oracle import captured, check, expect
import torch
from torch import nn

from hp_inference.graph.table import GLOBAL, LOCAL


def kinds(net):
    return {case.kind for case in net.cases}


def needs_of_image(net, begin, end):
    """Return the image rows that rows [begin, end) of the output need, through all operators."""
    from hp_inference.graph.rows import Rows
    wanted = {net.graph.outputs['output']: Rows.of(begin, end)}
    for case in reversed(net.cases):
        for a, b in wanted.get(case.view.op.output, ()):
            for ref, need in zip(case.view.op.refs, case.rule.block(a, b).needs):
                wanted[ref] = wanted.get(ref, Rows()) | need
    return list(wanted[0])


def test_channel_shuffle_by_views_keeps_the_rows():
    def shuffle(x):
        return x.view(1, 3, 2, 8, 6).transpose(1, 2).reshape(1, 6, 8, 6)
    net = captured(nn.Conv2d(3, 6, 1), shuffle)
    assert kinds(net) == {LOCAL}
    check(net)
    assert needs_of_image(net, 2, 5) == [(2, 5)]


def windows(x):
    """Cut [1, 8, 6, C] into 4 x 3 windows of 2 x 2 tokens: [12, 4, C]."""
    return x.view(1, 4, 2, 3, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(12, 4, -1)


def unwindows(x):
    """Put the windows back."""
    return x.view(1, 4, 3, 2, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(1, 8, 6, -1)


def test_windows_are_cut_and_put_back_by_rows():
    # Windows 3 to 6 are the second row of windows: image rows 2 and 3.
    net = captured(lambda x: windows(x.permute(0, 2, 3, 1)))
    assert kinds(net) == {LOCAL} and net.layout.axes[-1] == 0
    assert needs_of_image(net, 3, 6) == [(2, 4)]
    # Back again: a row needs the windows that it lies in.
    net = captured(lambda x: unwindows(windows(x.permute(0, 2, 3, 1))))
    assert kinds(net) == {LOCAL} and net.layout.axes[-1] == 1
    assert needs_of_image(net, 3, 4) == [(2, 4)]
    check(net)


class ShiftedWindows(nn.Module):
    """Attention within shifted windows, as in a Swin transformer."""

    def __init__(self):
        super().__init__()
        self.norm, self.project, self.out = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, image):
        image = image.permute(0, 2, 3, 1)
        x = windows(self.norm(image).roll((-1, -1), (1, 2)))
        query, key, value = self.project(x).view(12, 4, 3, 1, 4).permute(2, 0, 3, 1, 4)
        x = (query @ key.transpose(-2, -1)).softmax(-1) @ value
        x = self.out(x.transpose(1, 2).reshape(12, 4, 4))
        return image + unwindows(x).roll((1, 1), (1, 2))


def test_attention_in_shifted_windows_is_by_rows():
    # Row 3 of the result is row 2 before it is shifted back, in the second row of windows: rows
    # 2 and 3 of the shifted image, rows 3 and 4 of the image. Row 0 comes from row 7 of it, so
    # from rows 6 and 7 there: rows 7 and 0 of the image.
    net = captured(nn.Conv2d(3, 4, 1), ShiftedWindows())
    assert kinds(net) == {LOCAL} and not net.layout.unsupported
    assert needs_of_image(net, 3, 4) == [(3, 5)]
    assert needs_of_image(net, 0, 1) == [(0, 1), (7, 8)]
    check(net)


def test_patches_are_tokens_and_only_attention_asks_for_others():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.project = nn.Conv2d(3, 4, 2, 2), nn.Linear(4, 12)
            self.token = nn.Parameter(torch.zeros(1, 1, 4))

        def forward(self, image):
            x = self.patches(image).flatten(2).transpose(1, 2)  # 12 tokens, 3 in a row
            x = torch.cat([self.token, x], 1)
            query, key, value = self.project(x).chunk(3, -1)
            x = x + nn.functional.scaled_dot_product_attention(query, key, value)
            return x[:, 0]
    net = captured(Patches())
    assert kinds(net) == {LOCAL, 'partial', GLOBAL}
    expect(net.case('scaled_dot'), {(3, 7): [[(3, 7)], [(0, 13)], [(0, 13)]]}, 'partial')
    # The class token is row 0; only the keys and values need the image for it.
    expect(net.case('select'), {(0, 1): [(0, 1)]}, GLOBAL)
    check(net)


def test_a_bottleneck_with_a_skip_asks_for_its_halo_once():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(),
                                      nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                                      nn.Conv2d(4, 3, 1))

        def forward(self, x):
            return (x + self.body(x)).relu()
    net = captured(Residual(), Residual())
    assert kinds(net) == {LOCAL} and not any('batch_norm' in name for name in net.ops())
    assert needs_of_image(net, 3, 5) == [(1, 7)]  # one row above and below, twice
    check(net)


def test_a_u_net_joins_what_it_has_halved_and_doubled():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 4, 2, 2), nn.ConvTranspose2d(4, 3, 2, 2)
            self.last = nn.Conv2d(6, 2, 3, padding=1)

        def forward(self, x):
            return self.last(torch.cat([self.up(self.down(x).relu()), x], 1))
    net = captured(UNet())
    assert kinds(net) == {LOCAL}
    # Row 4 reads 3..5 of the join; there the halved rows 1 and 2 are image rows 2..5.
    assert needs_of_image(net, 4, 5) == [(2, 6)]
    check(net)
