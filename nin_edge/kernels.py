"""Work-arounds for torch: faster or safer versions of the network's layers, with equal results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nin_edge_runtime.threads import thread_budget


@contextmanager
def budgeted_threads() -> Iterator[None]:
    """Keeps torch to the threads that help here (`thread_budget`), which it does not look up.

    It never gets more than it would take, unless `NIN_EDGE_THREADS` says so.
    """
    before, (budget, limit) = torch.get_num_threads(), thread_budget()
    torch.set_num_threads(budget if limit == "NIN_EDGE_THREADS" else min(before, budget))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class AveragePool(nn.AvgPool2d):
    """3 x 3 average pooling with stride 2 and padding 1; the padding is not counted."""

    def __init__(self) -> None:
        """Fix the kernel, stride and padding."""
        super().__init__(3, stride=2, padding=1, count_include_pad=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Average pooling: (N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        if not maps.is_cuda:
            return super().forward(maps)
        # With padding, CUDA's gradient for channels-last maps is silently wrong
        # (in torch 2.11; github.com/pytorch/pytorch/issues/188344).
        averages = super().forward(maps.contiguous())
        return averages.contiguous(memory_format=torch.channels_last)


class ReLU(nn.ReLU):
    """max(x, 0) in place; for bfloat16 on a CPU by integer operations, ten times as fast."""

    def __init__(self) -> None:
        """Make it an in-place operation."""
        super().__init__(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        """The same tensor, of any shape, with negative values replaced by 0."""
        if maps.dtype == torch.bfloat16 and maps.device.type == "cpu":
            rectified: Tensor = _IntegerReLU.apply(maps)  # type: ignore[no-untyped-call]
            return rectified
        return super().forward(maps)


class _IntegerReLU(torch.autograd.Function):
    """ReLU of bfloat16 by its bits: read as int16, a value with the sign bit set is negative.

    A NaN with the sign bit set becomes 0. Training still detects it, by the weights and the batch
    statistics that it reaches.
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

    Outputs change by rounding only. Afterwards the network cannot be trained, and its weights
    cannot be saved or loaded.

    Args:
        network: a network in evaluation mode; changed in place.
    """
    for block in network.modules():
        if not isinstance(block, nn.Sequential):
            continue
        for index, (layer, after) in enumerate(pairwise(list(block))):
            if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                block[index] = fuse_conv_bn_eval(layer, after)
                block[index + 1] = nn.Identity()


def compile_network(network: nn.Module) -> nn.Module:
    """Compile the forward and backward pass with torch.compile, once for each input shape.

    Compiling takes about half a minute, at the first call with a shape. The mode `reduce-overhead`
    launches each pass as one CUDA graph.

    Args:
        network: a network on a GPU.

    Returns:
        A module that shares the network's weights and statistics. Each call overwrites the output
        of the previous one.
    """
    return cast(nn.Module, torch.compile(network, dynamic=False, mode="reduce-overhead"))
