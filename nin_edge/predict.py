"""What a PyTorch network gives on images: logits, and the ranges of its activations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nin_edge.checkpoint import ActivationRange
from nin_edge.network import NiN
from nin_edge_runtime.image import Preprocessing

# Pixels at a time, 64 images of 32 x 32: full-width activations, and copies of them to find their
# ranges, stay below what a training step takes.
_BATCH_PIXELS = 64 * 32 * 32


class InputTransform:
    """Preprocessed pixels -> the network's input: the torch side of `Preprocessing.normalize`."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device | str = "cpu") -> None:
        """Put the normalisation's numbers on `device`."""
        scale, shift = preprocessing.scale_and_shift()
        self._scale = torch.from_numpy(scale).to(device).view(-1, 1, 1)
        self._shift = torch.from_numpy(shift).to(device).view(-1, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 (N, S, S, C) on the device to normalised float32 (N, C, S, S), channels-last."""
        # permute() leaves NHWC memory, which is channels-last.
        return pixels.permute(0, 3, 1, 2).float().mul_(self._scale).add_(self._shift)


def put(values: NDArray[Any], device: torch.device | str) -> Tensor:
    """An array as a tensor on a device; on the CPU it may be the array's own memory."""
    tensor = torch.from_numpy(values)
    if torch.device(device).type != "cuda":
        return tensor
    # From pinned memory, the copy does not wait for what the GPU has still to do.
    return tensor.pin_memory().to(device, non_blocking=True)


def batches(images: NDArray[np.uint8], indices: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
    """The chosen images, copied from a possibly memory-mapped array, a batch at a time."""
    count = max(1, _BATCH_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(indices), count):
        yield images[indices[start : start + count]]


@contextmanager
def _whole_fp32() -> Iterator[None]:
    """In which a GPU's convolutions do not round their inputs to TF32's 10 bits, its default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@torch.inference_mode()
@_whole_fp32()
def logits(
    network: NiN,
    preprocessing: Preprocessing,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """The network's logits for the chosen images, in evaluation mode, which it is left in.

    Args:
        network: already on `device`.
        preprocessing: its preprocessing.
        images: (M, S, S, C).
        indices: (N,), which of them.
        device: where to compute.

    Returns:
        (N, K).
    """
    network.eval()
    transform = InputTransform(preprocessing, device)
    parts = [
        network(transform(put(batch, device))).float().cpu().numpy()
        for batch in batches(images, indices)
    ]
    return np.concatenate(parts) if parts else np.empty((0, network.config.classes), np.float32)


@torch.inference_mode()
def activation_ranges(
    network: NiN,
    preprocessing: Preprocessing,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
) -> dict[str, ActivationRange]:
    """Range of every tensor that int8 export quantises: the input, and what each layer hands on.

    The percentiles are exact: the few values beyond them are kept, and all others dropped as they
    come.

    Args:
        network: on the CPU; evaluated in evaluation mode, which it is left in.
        preprocessing: its preprocessing.
        images: (M, S, S, C).
        indices: (N,), which of them to run, unaugmented.

    Returns:
        By module name, after its ReLU where it has one; `input` is the normalised input.
    """
    network.eval()
    tails: dict[str, tuple[Tensor, Tensor]] = {}
    counts: dict[str, int] = {}

    def observe(name: str, values: Tensor) -> None:
        flat = values.flatten()
        counts[name] = counts.get(name, 0) + flat.numel()
        keep = math.ceil(flat.numel() / values.shape[0] * len(indices) * 1e-4) + 1
        low, high = tails.get(name, (flat.new_empty(0), flat.new_empty(0)))
        low = torch.cat([low, flat.topk(min(keep, flat.numel()), largest=False).values])
        high = torch.cat([high, flat.topk(min(keep, flat.numel())).values])
        tails[name] = (
            low.topk(min(keep, low.numel()), largest=False).values,
            high.topk(min(keep, high.numel())).values,
        )

    hooks = []
    layers = [
        (name, module) for name, module in network.named_modules() if not list(module.children())
    ]
    following = [*(module for _, module in layers[1:]), None]
    for (name, module), after in zip(layers, following, strict=True):
        linear = isinstance(module, nn.Conv2d) and not isinstance(after, nn.BatchNorm2d | nn.ReLU)
        if linear or isinstance(module, nn.ReLU | nn.MaxPool2d | nn.AvgPool2d):
            hooks.append(
                module.register_forward_hook(lambda _, __, output, name=name: observe(name, output))
            )
    try:
        transform = InputTransform(preprocessing)
        for batch in batches(images, indices):
            values = transform(torch.from_numpy(batch))
            observe("input", values)
            network(values)
    finally:
        for hook in hooks:
            hook.remove()
    ranges = {}
    for name, (low, high) in tails.items():
        beyond = int(counts[name] * 1e-4)
        ranges[name] = ActivationRange(
            low[0].item(), high[0].item(), low[beyond].item(), high[beyond].item()
        )
    return ranges
