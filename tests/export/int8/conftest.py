"""What the int8 tests share: a varied network, and looking into graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from nin_edge.checkpoint import Checkpoint


def constants_of(model: ModelProto) -> dict[str, NDArray]:
    """The initializers as arrays."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def makers_of(model: ModelProto) -> dict[str, NodeProto]:
    """The node that makes each tensor."""
    return {output: node for node in model.graph.node for output in node.output}


@pytest.fixture(scope="session")
def varied(checkpoint: Checkpoint) -> Checkpoint:
    """Normalisations of either sign, wide, narrow, and of no width, which always give the same."""
    rng, weights = np.random.default_rng(0), dict(checkpoint.weights)
    for name in checkpoint.weights:
        layer, _, part = name.rpartition(".")
        if part == "running_var":
            count = len(checkpoint.weights[name])
            scale, shift = rng.choice([-1.5, -0.2, 0, 0.3, 2], count), rng.normal(size=count)
            weights[f"{layer}.weight"] = torch.from_numpy(scale.astype(np.float32))
            weights[f"{layer}.bias"] = torch.from_numpy(shift.astype(np.float32))
    weights["stages.6.6.bias"] = torch.tensor([-0.5, 0.25, 1.0])  # biases of 0 are left out
    return replace(checkpoint, weights=weights)
