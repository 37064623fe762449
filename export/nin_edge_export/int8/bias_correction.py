"""Bias correction: biases remove the mean error that weight rounding adds to each channel.

Such errors add up over the layers and over the pixels of the global average (Nagel et al.,
arXiv:1906.04721, section 4.2). Batch normalisation knows the means, so no images are needed.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nin_edge.checkpoint import Checkpoint
from nin_edge.quantised_points import quantised_points


def channel_means(checkpoint: Checkpoint) -> dict[str, NDArray[np.float64]]:
    """Mean of each channel after batch normalisation and ReLU, by the model's tensor names.

    A normalised channel has its bias as mean and its weight as standard deviation; if it is
    normally distributed, it has this mean after ReLU (Nagel et al., appendix C). An average pooling
    keeps the mean. A maximum raises it, so the correction is too small there.

    Args:
        checkpoint: trained weights.

    Returns:
        (C,) for each ReLU and pooling; empty without batch normalisation.
    """
    network = checkpoint.network()
    points = quantised_points(network)
    means: dict[str, NDArray[np.float64]] = {}
    known: NDArray[np.float64] | None = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            known = None
        elif isinstance(module, nn.BatchNorm2d):
            mean, deviation = module.bias.detach().double(), module.weight.detach().double().abs()
            ratio = mean / deviation.clamp_min(1e-12)
            density = torch.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
            known = (mean * torch.special.ndtr(ratio) + deviation * density).numpy()
        elif name in points and known is not None:
            means[name] = known
    return means


def added_means(
    error: NDArray[np.float64], means: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """What an error of a convolution's weights adds to the mean of each output channel.

    Args:
        error: rounded weights minus exact ones, (K, C, k, k).
        means: of the input's channels, (C,); None if unknown.

    Returns:
        (K,); 0 where the means are unknown.
    """
    return np.zeros(len(error)) if means is None else error.sum((2, 3)) @ means
