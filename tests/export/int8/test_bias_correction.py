"""Biases that take back what rounding the weights adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from onnx import ModelProto

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NiN
from nin_edge_export.graph import build_graph, network_nodes
from nin_edge_export.int8.activation_ranges import Ranges
from nin_edge_export.int8.bias_correction import channel_means
from nin_edge_export.int8.quantize import quantize

from .conftest import constants_of, makers_of


def test_channel_means_are_those_of_normally_distributed_channels(varied: Checkpoint) -> None:
    means, expected = channel_means(varied), None
    drawn = np.random.default_rng(1).standard_normal((200_000, 1))
    for name, module in varied.network().named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            scale, shift = module.weight.detach().numpy(), module.bias.detach().numpy()
            expected = np.maximum(scale * drawn + shift, 0).mean(axis=0)
        elif name in means:  # a ReLU or a pooling
            assert expected is not None
            assert np.allclose(means[name], expected, rtol=0, atol=0.02), name
    inputs = {n.input[0] for n in network_nodes(build_graph(varied, "none")) if n.op_type == "Conv"}
    assert inputs - set(means) == {"image"}


def test_channel_means_are_unknown_without_batch_normalisation(checkpoint: Checkpoint) -> None:
    config = replace(checkpoint.config, batch_norm=False)
    plain = replace(checkpoint, config=config, weights=NiN(config).state_dict())
    assert channel_means(plain) == {}
    graph = build_graph(plain, "none")
    assert quantize(plain, graph, _wide(graph)).graph.node


def _wide(graph: ModelProto) -> Ranges:
    """Ranges for untrained weights: the same everywhere, from 0 after a ReLU."""
    return {
        name: (0.0 if node.op_type == "Relu" else -4.0, 4.0)
        for node in network_nodes(graph)
        for name in (node.input[0], *node.output)
    }


def test_biases_take_back_what_rounding_the_weights_adds(varied: Checkpoint) -> None:
    """To half a step of the bias for each of the two times that it is rounded."""
    graph = build_graph(varied, "none")
    exact, means = constants_of(graph), channel_means(varied)
    model = quantize(varied, graph, _wide(graph))
    constants, makers = constants_of(model), makers_of(model)
    moved = 0
    for node in network_nodes(graph):
        if node.op_type != "Conv":
            continue
        quantised = next(other for other in model.graph.node if other.name == node.name)
        weight, scale, _ = (constants[one] for one in makers[quantised.input[1]].input)
        bias, step, _ = (constants[one] for one in makers[quantised.input[2]].input)
        error = weight * scale.astype(np.float64).reshape(-1, 1, 1, 1) - exact[node.input[1]]
        added = error.sum((2, 3)) @ means.get(node.input[0], np.zeros(error.shape[1]))
        off = np.abs(bias * step.astype(np.float64) + added - exact[node.input[2]])
        assert (off <= 1.001 * step).all(), node.name
        moved += int((np.abs(added) > 2 * step).sum())
    assert moved > 0
