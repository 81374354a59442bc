# SPDX-License-Identifier: Apache-2.0
"""Any settings of an operator, any interval: the block is the whole operator's, and no more."""

from math import prod

from draws import drawn
from hypothesis import assume, given
from hypothesis import strategies as st
import pytest
from rule_oracle import applied, check_blocks, check_tight, Given, random
import torch

ROWS = st.integers(1, 12)
SMALL = st.integers(1, 3)


def check_drawn(case, data, slack: int = 0, tight: bool = True) -> None:
    """Check two intervals, one within the other, and the whole."""
    assert case.rule.axis is not None
    a, d = sorted(data.draw(st.lists(st.integers(0, case.rows), min_size=2, max_size=2,
                                     unique=True), label='outer interval'))
    b = data.draw(st.integers(a, d - 1), label='inner begin')
    c = data.draw(st.integers(b + 1, d), label='inner end')
    check_blocks(case, [(a, d), (b, c), (0, case.rows)])
    if tight:
        check_tight(case, b, c, slack)


def pairs(numbers):
    return st.lists(numbers, min_size=2, max_size=2)


@drawn(30, 100)
@given(st.data(), pairs(st.integers(1, 4)), pairs(st.integers(1, 4)), pairs(st.integers(0, 5)),
       pairs(SMALL), st.sampled_from([1, 2]), st.sampled_from([2, 3, None]),
       st.lists(ROWS, min_size=2, max_size=2), st.booleans())
def test_convolution(data, kernel, stride, padding, dilation, groups, axis, size, bias):
    reach = [n + 2 * p - d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel)]
    assume(min(reach) >= 1 and (axis or (reach[0] - 1) // stride[0] > 0))
    case = applied('conv2d.default', Given(random(1, 2, *size), axis),
                   random(4, 2 // groups, *kernel), random(4) if bias else None, stride, padding,
                   dilation, groups)
    # Where the padding hides whole windows, the last of them may name a row all the same.
    hidden = any(p > d * (k - 1) for p, d, k in zip(padding, dilation, kernel))
    check_drawn(case, data, slack=max(dilation) - 1 + hidden * max(stride))


@drawn(30, 100)
@given(st.data(), pairs(st.integers(1, 4)), pairs(SMALL), pairs(st.integers(0, 2)), pairs(SMALL),
       st.sampled_from([1, 4]), st.sampled_from([2, 3, None]),
       st.lists(ROWS, min_size=2, max_size=2), st.booleans())
def test_convolution_in_single_precision(data, kernel, stride, padding, dilation, groups, axis,
                                         size, bias):
    # Its kernels are others than those of double precision; whole numbers add up alike in both.
    # PyTorch's own crash on few columns where padding hides whole windows: not drawn here.
    padding = [min(p, d * (k - 1)) for p, d, k in zip(padding, dilation, kernel)]
    reach = [n + 2 * p - d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel)]
    assume(min(reach) >= 1 and (axis or (reach[0] - 1) // stride[0] > 0))
    image, weight, offset = ((2 * random(*shape, dtype=torch.float32)).round() for shape in (
        (1, 4, *size), (8, 4 // groups, *kernel), (8,)))
    image = image.contiguous(memory_format=torch.channels_last)
    case = applied('conv2d.default', Given(image, axis), weight, offset if bias else None, stride,
                   padding, dilation, groups)
    check_drawn(case, data, tight=False)


@drawn(20, 60)
@given(st.data(), pairs(st.integers(1, 4)), pairs(SMALL), st.sampled_from(['same', 'valid']),
       st.sampled_from([2, 3]), st.lists(ROWS, min_size=2, max_size=2))
def test_convolution_with_padding_by_name(data, kernel, dilation, padding, axis, size):
    assume(padding == 'same' or all(n > d * (k - 1) for n, d, k in zip(size, dilation, kernel)))
    case = applied('conv2d.padding', Given(random(1, 2, *size), axis), random(3, 2, *kernel),
                   None, [1, 1], padding, dilation)
    check_drawn(case, data, slack=max(dilation) - 1)


@drawn(20, 60)
@given(st.data(), st.sampled_from([1, 3]), st.integers(1, 4), SMALL, st.integers(0, 3), SMALL,
       st.booleans())
def test_convolution_in_one_and_three_dimensions(data, places, kernel, stride, padding, dilation,
                                                 transposed):
    size = data.draw(st.lists(st.integers(1, 6), min_size=places, max_size=places))
    axis = 2 + data.draw(st.integers(0, places - 1))
    x = Given(random(1, 2, *size), axis)
    weight = random(2, 2, *[kernel] * places)
    settings = ([stride] * places, [padding] * places)
    if transposed:
        assume(all((n - 1) * stride - 2 * padding + dilation * (kernel - 1) >= 0 for n in size))
        name = 'conv_transpose1d.default' if places == 1 else 'conv_transpose3d.input'
        case = applied(name, x, weight, random(2), *settings, [0] * places, 1, [dilation] * places)
    else:
        assume(all(n + 2 * padding > dilation * (kernel - 1) for n in size))
        case = applied(f'conv{places}d.default', x, weight, random(2), *settings,
                       [dilation] * places, 1)
    check_drawn(case, data, slack=dilation)


@drawn(30, 100)
@given(st.data(), pairs(st.integers(1, 4)), pairs(st.integers(1, 5)), pairs(st.integers(0, 4)),
       pairs(SMALL), pairs(st.integers(0, 4)), st.sampled_from([1, 2]),
       st.sampled_from([2, 3, None]), st.lists(st.integers(1, 7), min_size=2, max_size=2))
def test_transposed_convolution(data, kernel, stride, padding, dilation, more, groups, axis, size):
    more = [min(m, max(s, d) - 1) for m, s, d in zip(more, stride, dilation)]
    out = [(n - 1) * s - 2 * p + d * (k - 1) + m + 1 for n, s, p, d, k, m
           in zip(size, stride, padding, dilation, kernel, more)]
    assume(min(out) >= 1 and (axis or out[0] > 1))
    case = applied('conv_transpose2d.input', Given(random(1, 2, *size), axis),
                   random(2, 2, *kernel), random(2 * groups), stride, padding, more, groups,
                   dilation)
    check_drawn(case, data, slack=max(dilation))


def pool_settings(data):
    """Draw (size, kernel, stride, padding) that a pool takes."""
    kernel, stride = data.draw(pairs(st.integers(1, 4))), data.draw(pairs(st.integers(1, 4)))
    padding = [data.draw(st.integers(0, k // 2)) for k in kernel]
    return data.draw(st.lists(ROWS, min_size=2, max_size=2)), kernel, stride, padding


@drawn(30, 100)
@given(st.data(), pairs(SMALL), st.booleans(), st.sampled_from([1, 2, 3, None]))
def test_max_pool(data, dilation, ceil, axis):
    size, kernel, stride, padding = pool_settings(data)
    reach = [n + 2 * p - d * (k - 1) for n, p, d, k in zip(size, padding, dilation, kernel)]
    assume(min(reach) >= 1 and (axis or (reach[0] - 1) // stride[0] > 0))
    case = applied('max_pool2d.default', Given(random(1, 2, *size), axis), kernel, stride,
                   padding, dilation, ceil)
    check_drawn(case, data, slack=max(dilation) - 1)


@drawn(30, 100)
@given(st.data(), st.booleans(), st.booleans(), st.sampled_from([None, None, 1, 5, -3]),
       st.sampled_from([1, 2, 3, None]))
def test_average_pool(data, ceil, include_pad, divisor, axis):
    size, kernel, stride, padding = pool_settings(data)
    reach = [n + 2 * p - k + 1 for n, p, k in zip(size, padding, kernel)]
    assume(min(reach) >= 1 and (axis or (reach[0] - 1) // stride[0] > 0))
    case = applied('avg_pool2d.default', Given(random(1, 2, *size), axis), kernel, stride,
                   padding, ceil, include_pad, divisor)
    check_drawn(case, data)


@drawn(20, 60)
@given(st.data(), ROWS, st.integers(2, 15), st.sampled_from(['avg', 'max']),
       st.sampled_from([1, 2, 3]))
def test_adaptive_pool(data, rows, out_rows, kind, axis):
    size, out = ([rows, 5], [out_rows, 3]) if axis < 3 else ([5, rows], [3, out_rows])
    case = applied(f'adaptive_{kind}_pool2d.default', Given(random(1, 2, *size), axis), out,
                   item=0 if kind == 'max' else None)
    check_drawn(case, data)


@pytest.mark.parametrize('name', ['upsample_nearest2d', '_upsample_nearest_exact2d',
                                  'upsample_bilinear2d', 'upsample_bicubic2d',
                                  '_upsample_bilinear2d_aa', '_upsample_bicubic2d_aa'])
@drawn(10, 40)
@given(data=st.data(), size=st.lists(st.integers(2, 9), min_size=2, max_size=2),
       corners=st.booleans(), by_factor=st.booleans(), axis=st.sampled_from([2, 2, None]))
def test_upsample(name, data, size, corners, by_factor, axis):
    corners = () if 'nearest' in name else (corners,)
    if by_factor:
        factors = data.draw(pairs(st.sampled_from([0.5, 0.7, 1.0, 1.3, 1.7, 2.0, 2.5, 3.0])))
        out, given_size = [int(n * f) for n, f in zip(size, factors)], None
    else:
        out = data.draw(st.lists(st.integers(1, 19), min_size=2, max_size=2))
        given_size, factors = out, None
    assume((axis or out[0] > 1) and min(out) > 0 and (out[1] > 1 or '_aa' not in name))
    case = applied(f'{name}.vec', Given(random(1, 2, *size), axis), given_size, *corners, factors)
    check_drawn(case, data)


@pytest.mark.parametrize('mode', ['constant', 'reflect', 'replicate', 'circular'])
@drawn(20, 60)
@given(data=st.data(), size=st.lists(ROWS, min_size=2, max_size=2), axis=st.integers(0, 3))
def test_pad(mode, data, size, axis):
    widths = []
    for n in reversed(size):
        most = {'reflect': n - 1, 'circular': n}.get(mode, 5)
        ends = data.draw(pairs(st.integers(1 - n, most)))
        assume(n + min(ends[0], 0) + min(ends[1], 0) >= 1)
        assume(mode != 'circular' or not min(ends) < 0 < max(ends))
        widths += ends
    value = 0.5 if mode == 'constant' else None
    case = applied('pad.default', Given(random(2, 3, *size), axis), widths, mode, value)
    check_drawn(case, data)


def grouped(data, factors: list[int]) -> list[int]:
    """Draw a shape whose dimensions are products of consecutive factors, ones among them."""
    shape, count = [1], 0
    for factor in factors:
        shape[-1] *= factor
        count += 1
        shape += [1] * data.draw(st.sampled_from([0, 1, 1, 2]))
    return shape


@drawn(40, 120)
@given(st.data(), st.permutations([2, 3, 2, 5]))
def test_view(data, factors):
    source, target = grouped(data, factors), grouped(data, factors)
    axis = data.draw(st.integers(0, len(source) - 1))
    case = applied('reshape.default', Given(random(*source), axis), target)
    outer = prod(source[:axis])
    if source[axis] > 1:
        # The axis lives on where the dimensions before it do.
        assert (case.rule.axis is not None) == (
            outer in [prod(target[:place]) for place in range(len(target))])
    if case.rule.axis is not None:
        check_drawn(case, data)


@drawn(20, 60)
@given(st.data(), st.integers(0, 2), st.integers(0, 2),
       st.lists(st.tuples(st.integers(1, 5), st.sampled_from(['rows', 'whole', 'constant'])),
                min_size=1, max_size=4))
def test_cat(data, axis, dim, parts):
    assume(any(kind == 'rows' for _, kind in parts))
    tensors = []
    for number, (size, kind) in enumerate(parts):
        shape = [3, 4, 2]
        shape[dim] = size
        tensor = random(*shape, seed=number)
        tensors.append(tensor if kind == 'constant'
                       else Given(tensor, axis if kind == 'rows' else None))
    check_drawn(applied('cat.default', tensors, dim), data, tight=axis == dim)


@drawn(20, 60)
@given(st.data(), ROWS, st.integers(-14, 14), st.integers(-14, 14), st.integers(1, 4),
       st.integers(0, 2))
def test_slice(data, rows, start, end, step, dim):
    shape = [5, 5, 5]
    shape[dim] = rows
    assume(len(range(rows)[start:end:step]) > 0)
    axis = data.draw(st.integers(0, 2))
    case = applied('slice.Tensor', Given(random(*shape), axis), dim, start, end, step)
    check_drawn(case, data)


@drawn(30, 100)
@given(st.data(), SMALL, SMALL, SMALL, SMALL, st.lists(SMALL, max_size=2),
       st.lists(st.booleans(), min_size=4, max_size=4))
def test_matmul(data, rows, summed, columns, other, batch, broadcast):
    left = [1 if cut else n for cut, n in zip(broadcast, batch)] + [rows, summed]
    right = [1 if cut else n for cut, n in zip(broadcast[2:], batch)] + [summed, columns]
    sides = []
    for number, shape in enumerate((left, right)):
        kind = data.draw(st.sampled_from(['constant', 'whole', 'rows', 'rows']))
        axis = data.draw(st.integers(0, len(shape) - 1)) if kind == 'rows' else None
        tensor = random(*shape, seed=number)
        sides.append(tensor if kind == 'constant' else Given(tensor, axis))
    assume(any(isinstance(side, Given) for side in sides))
    case = applied('matmul.default', *sides)
    if case.rule.axis is None:
        check_blocks(case)
    else:
        check_drawn(case, data, tight=False)


def test_padding_beyond_the_kernel_in_single_precision_is_copied_around_short_slices():
    image, weight = random(1, 4, 8, 2, dtype=torch.float32), random(8, 4, 1, 1, dtype=torch.float32)
    case = applied('conv2d.default', Given(image.round()), weight.round(), None, [1, 1], [2, 0])
    check_blocks(case)


def test_a_number_of_rows_that_divides_nothing_is_cut_anywhere():
    x = Given(random(1, 3, 227, 5))
    case = applied('conv2d.default', x, random(4, 3, 7, 3), None, [3, 1], [2, 1], [2, 1])
    check_blocks(case)
    check_blocks(applied('avg_pool2d.default', x, [3, 3], [2, 2], [1, 1], True, False))
    assert torch.equal(case.rule.block(0, case.rows).run(*case.inputs), case.whole)
