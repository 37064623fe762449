"""What a PyTorch network gives on images: its logits, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nin_edge.network import NiN
from nin_edge_runtime.preprocessing import Preprocessing

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


def inputs(
    preprocessing: Preprocessing,
    images: NDArray[np.uint8],
    indices: NDArray[np.int64],
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """The chosen images as the network takes them, a batch at a time, on a device.

    Args:
        preprocessing: the network's.
        images: (M, S, S, C).
        indices: (N,), which of them.
        device: where to put them.

    Yields:
        Normalised float32 (B, C, S, S), channels-last.
    """
    transform = InputTransform(preprocessing, device)
    for batch in batches(images, indices):
        yield transform(put(batch, device))


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
    parts = [
        network(batch).float().cpu().numpy()
        for batch in inputs(preprocessing, images, indices, device)
    ]
    return np.concatenate(parts) if parts else np.empty((0, network.config.classes), np.float32)
