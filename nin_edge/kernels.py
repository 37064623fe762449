"""Work-arounds for torch: faster or safer forms of what the network is made of, equal in result."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class AveragePool(nn.AvgPool2d):
    """3 x 3 average pooling of stride 2 and padding 1 that leaves the padding out of its count."""

    def __init__(self) -> None:
        """Fix the shape."""
        super().__init__(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, maps: Tensor) -> Tensor:
        """The averages, (N, C, ceil(H / 2), ceil(W / 2)), of maps (N, C, H, W)."""
        if not maps.is_cuda:
            return super().forward(maps)
        # With padding, CUDA's gradient for channels-last maps is wrong, without a word: that of
        # other pixels (in torch 2.11; github.com/pytorch/pytorch/issues/188344).
        averages = super().forward(maps.contiguous())
        return averages.contiguous(memory_format=torch.channels_last)


class ReLU(nn.ReLU):
    """max(x, 0) in place; bfloat16 on a CPU goes as integers, in a tenth of the time."""

    def __init__(self) -> None:
        """Work in place."""
        super().__init__(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """The maps, of any shape, with 0 for all that was negative."""
        if maps.dtype == torch.bfloat16 and maps.device.type == "cpu":
            rectified: Tensor = _IntegerReLU.apply(maps)  # type: ignore[no-untyped-call]
            return rectified
        return super().forward(maps)


class _IntegerReLU(torch.autograd.Function):
    """ReLU of bfloat16 by its bits: read as int16, what has its sign bit set is negative.

    A NaN with a sign becomes 0. Training finds it all the same, in weights and statistics.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        maps.view(torch.int16).clamp_min_(0)
        ctx.mark_dirty(maps)
        ctx.save_for_backward(maps)
        return maps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        passes: Tensor = maps.view(torch.int16).clamp_max(1)  # 0 or 1
        passes *= gradient.view(torch.int16)
        return passes.view(torch.bfloat16)


def fold_batch_norm(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution before it, for faster inference.

    The answers stay the same but for rounding; the network can no longer be trained, nor its
    weights be loaded or saved.

    Args:
        network: in evaluation mode; changed in place.
    """
    for block in network.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for index, (layer, after) in enumerate(pairwise(list(block))):
            if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                block[index] = fuse_conv_bn_eval(layer, after)
                block[index + 1] = nn.Identity()


def compile_network(network: nn.Module) -> nn.Module:
    """The network's forward pass, and with it its gradient, as kernels made for each input shape.

    Made by torch.compile on first use, in about half a minute, and launched as one CUDA graph each
    (its mode `reduce-overhead`). Weights and statistics stay the network's own.

    Args:
        network: on a GPU.

    Returns:
        A module that shares them; a call overwrites what the last one gave.
    """
    return cast(nn.Module, torch.compile(network, dynamic=False, mode="reduce-overhead"))
