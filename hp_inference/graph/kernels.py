# SPDX-License-Identifier: Apache-2.0
"""How a convolution is computed: torch's own operator, with its weights packed where that pays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

# On a CPU oneDNN reorders the weights of a convolution at every call, which for deep layers takes
# as long as the products, and for a slice of few rows longer. torch.compile packs them once by
# these operators; they are absent from builds without oneDNN.
_OPERATORS = ('_reorder_convolution_weight', '_convolution_pointwise', '_get_mkldnn_serialized_md')
_CAN_PACK = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)


class ConvolutionKernel:
    """
    The weights of one convolution, and their packed copies.

    Which packing is quick depends on the input's size, and a packing made for another size can be
    far slower than none. So each size of slice gets its own, and those that turn out the same
    share their memory. Packing happens at the first call: planning alone costs nothing.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, stride: Sequence[int],
                 dilation: Sequence[int], groups: int):
        self.weight, self.bias = weight, bias
        self.rest = (list(stride), list(dilation), groups)
        self.packs: dict[bytes, torch.Tensor] = {}
        self.packable = (_CAN_PACK and weight.dim() == 4 and weight.device.type == 'cpu'
                         and weight.dtype == torch.float32)

    def for_slices(self, padding: Sequence[int]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the convolution of inputs that all have one size."""
        stride, dilation, groups = self.rest
        padding, bias, weight = list(padding), self.bias, self.weight
        # oneDNN can crash where whole windows lie in the padding (torch 2.13).
        hidden = any(p > d * (k - 1) for p, d, k in zip(padding, dilation, weight.shape[2:]))
        if hidden or not self.packable:
            function = (F.conv1d, F.conv2d, F.conv3d)[weight.dim() - 3]
            return lambda x: function(x, weight, bias, stride, padding, dilation, groups)
        convolve, ready = torch.ops.mkldnn._convolution_pointwise.default, []

        def packed(x):
            if not ready:
                ready.append(self._pack(x.shape, padding))
            return convolve(x, ready[0], bias, padding, stride, dilation, groups, 'none', (), '')
        return packed

    def _pack(self, shape: Sequence[int], padding: Sequence[int]) -> torch.Tensor:
        stride, dilation, groups = self.rest
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, padding, stride, dilation, groups, list(shape))
        format_ = torch.ops.mkldnn._get_mkldnn_serialized_md(packed).numpy().tobytes()
        return self.packs.setdefault(format_, packed)
