"""Bias correction: biases remove the mean error that weight rounding adds to each channel.

Such errors add up over the layers and over the pixels of the global average (Nagel et al.,
arXiv:1906.04721, section 4.2). Batch normalisation knows the means, so no images are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from torch import nn

from nin_edge.checkpoint import Checkpoint
from nin_edge.quantised_points import quantised_points
from nin_edge_export.graph import network_nodes


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


def correct_biases(
    quantized: ModelProto, model: ModelProto, means: Mapping[str, NDArray[np.float64]]
) -> None:
    """Subtract from each bias, in place, what rounding the convolution's weights adds to its mean.

    Args:
        quantized: the int8 model, which is changed.
        model: the fp32 model that it was made from.
        means: from `channel_means`.
    """
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for node in network_nodes(model):
        weight, bias = f"{node.name}.weight", f"{node.name}.bias_quantized"
        if node.input[0] not in means or bias not in stored:  # in float, or a bias of 0
            continue
        steps, scale, bias_scale = (
            numpy_helper.to_array(stored[name]).astype(np.float64)
            for name in (f"{weight}_quantized", f"{weight}_scale", f"{bias}_scale")
        )
        error = steps * scale.reshape(-1, 1, 1, 1) - exact[weight]  # (out, in, k, k)
        added = error.sum((2, 3)) @ means[node.input[0]]  # (out, in) @ (in,) -> (out,)
        corrected = numpy_helper.to_array(stored[bias]) - np.rint(added / bias_scale)
        stored[bias].CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), bias))
