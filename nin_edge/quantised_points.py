"""Which tensors of the network int8 quantises, and their activation ranges.

Training records the ranges in the checkpoint. Export turns them into scales and zero points
(`nin_edge_export/int8/quantize.py`). Both ask this module which tensors these are: the network's
input and each layer's output. A convolution is fused with the batch normalisation and the ReLU
after it, so its own output is not quantised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from nin_edge.network import NiN

INPUT: Final = "input"
"""Name of the network's normalised input; other tensors are named by the module they come from."""


@dataclass(frozen=True)
class ActivationRange:
    """Range of one tensor's values over the calibration images, which int8 has to represent."""

    minimum: float
    """Smallest value."""
    maximum: float
    """Largest value."""
    low: float
    """0.01th percentile."""
    high: float
    """99.99th percentile."""


def quantised_points(network: NiN) -> dict[str, nn.Module]:
    """The modules whose output int8 quantises, by name, in the network's order.

    These are ReLUs, poolings, and convolutions that neither batch normalisation nor a ReLU follows.
    The network's input (`INPUT`) is quantised too.
    """
    layers = [
        (name, module) for name, module in network.named_modules() if not list(module.children())
    ]
    following = [*(module for _, module in layers[1:]), None]
    points = {}
    for (name, module), after in zip(layers, following, strict=True):
        linear = isinstance(module, nn.Conv2d) and not isinstance(after, nn.BatchNorm2d | nn.ReLU)
        if linear or isinstance(module, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d):
            points[name] = module
    return points


@torch.inference_mode()
def activation_ranges(
    network: NiN, batches: Iterable[Tensor], count: int
) -> dict[str, ActivationRange]:
    """The range of every quantised tensor over some images.

    The percentiles are exact. To save memory, only the values beyond them are kept.

    Args:
        network: a network on the CPU; put into evaluation mode and left in it.
        batches: normalised images without augmentation, float32 (N, C, S, S) each.
        count: number of images in all batches.

    Returns:
        The ranges by module name, and that of the input by `INPUT`.
    """
    network.eval()
    tails: dict[str, tuple[Tensor, Tensor]] = {}
    totals: dict[str, int] = {}

    def observe(name: str, values: Tensor) -> None:
        flat = values.flatten()
        totals[name] = totals.get(name, 0) + flat.numel()
        keep = math.ceil(flat.numel() / values.shape[0] * count * 1e-4) + 1
        low, high = tails.get(name, (flat.new_empty(0), flat.new_empty(0)))
        low = torch.cat([low, flat.topk(min(keep, flat.numel()), largest=False).values])
        high = torch.cat([high, flat.topk(min(keep, flat.numel())).values])
        tails[name] = (
            low.topk(min(keep, low.numel()), largest=False).values,
            high.topk(min(keep, high.numel())).values,
        )

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: observe(name, output))
        for name, module in quantised_points(network).items()
    ]
    try:
        for inputs in batches:
            observe(INPUT, inputs)
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    ranges = {}
    for name, (low, high) in tails.items():
        beyond = int(totals[name] * 1e-4)
        ranges[name] = ActivationRange(
            low[0].item(), high[0].item(), low[beyond].item(), high[beyond].item()
        )
    return ranges
