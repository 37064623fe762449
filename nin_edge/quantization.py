"""The arithmetic of int8: scales, zero points and rounding, alike in training and in export.

A real value is (integer - zero point) * scale, as in ONNX's `DequantizeLinear`. Weights are
symmetric, with a scale for each output channel and seven bits (-64 to 64): the eight-bit
multiply-add of x86 processors without VNNI adds two products in 16 bits, and 2 * 255 * 64 still
fits there. So the same file gives the same integers on every processor. Activations have eight
bits, unsigned, and one scale a tensor.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

LARGEST_WEIGHT: Final = 64
"""Largest absolute value of a quantised weight."""

LARGEST_ACTIVATION: Final = 255
"""Largest value of a quantised activation; the smallest is 0."""

_ZERO: Final = 2.0**-90  # weights below it all become 0; products of smaller scales could underflow


def weight_scales(weight: Tensor) -> Tensor:
    """The scale of each output channel, float32 (K,), for weights (K, C, k, k).

    Dividing by 64 is exact: so rounded weights have the same scale again, and rounding them once
    more changes nothing.
    """
    largest = weight.abs().amax((1, 2, 3))
    return torch.where(largest > _ZERO, largest / LARGEST_WEIGHT, torch.ones_like(largest))


def round_weights(weight: Tensor, scales: Tensor) -> Tensor:
    """Weights (K, C, k, k) as whole steps of their channel's scale (K,), float32."""
    steps = torch.round(weight / scales.view(-1, 1, 1, 1))
    return steps.clamp_(-LARGEST_WEIGHT, LARGEST_WEIGHT)


def activation_parameters(low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point of a tensor whose values lie between `low` and `high`.

    0 has an integer of its own, so the padding of a convolution is exact.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / LARGEST_ACTIVATION) or np.float32(1.0)
    return scale, round(-low / float(scale))
