"""int8 graphs: plain QDQ around the network, symmetric weights, float layers left alone."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from nin_edge.checkpoint import Checkpoint
from nin_edge_export.graph import build_graph, network_nodes
from nin_edge_export.int8.activation_ranges import recorded_ranges
from nin_edge_export.int8.quantize import quantize

from .conftest import constants_of, makers_of

LARGEST_WEIGHT = 64  # seven bits and a sign: what `reduce_range` leaves

QDQ = {"QuantizeLinear", "DequantizeLinear"}


@pytest.fixture(scope="module")
def quantized(checkpoint: Checkpoint, graph: ModelProto) -> ModelProto:
    return quantize(checkpoint, graph, recorded_ranges(checkpoint, graph, "minmax"))


def test_operators_are_standard_and_sorted(quantized: ModelProto, graph: ModelProto) -> None:
    operators = {node.op_type for node in quantized.graph.node}
    assert operators - QDQ <= {node.op_type for node in graph.graph.node}
    assert operators >= QDQ
    assert {node.domain for node in quantized.graph.node} == {""}
    assert list(quantized.opset_import) == list(graph.opset_import)
    assert quantized.ir_version == graph.ir_version
    known = {"", *constants_of(quantized), *(value.name for value in quantized.graph.input)}
    for node in quantized.graph.node:
        assert set(node.input) <= known, node.name
        known |= set(node.output)


def test_weights_are_symmetric_per_channel_in_seven_bits(quantized: ModelProto) -> None:
    constants, makers = constants_of(quantized), makers_of(quantized)
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        maker = makers[node.input[1]]
        weight, scale, zero = (constants[name] for name in maker.input)
        assert maker.op_type == "DequantizeLinear"
        assert weight.dtype == zero.dtype == np.int8
        assert scale.shape == zero.shape == (weight.shape[0],)
        assert not zero.any()
        assert np.abs(weight.astype(int)).max() <= LARGEST_WEIGHT
        assert np.abs(weight.astype(int)).max(axis=(1, 2, 3)).min() >= LARGEST_WEIGHT - 1


def test_poolings_lie_between_quantised_tensors(quantized: ModelProto) -> None:
    makers = makers_of(quantized)
    poolings = [node for node in quantized.graph.node if node.op_type.endswith("Pool")]
    assert [node.op_type for node in poolings] == ["MaxPool", "AveragePool"]
    for node in poolings:
        before = makers[node.input[0]]
        (after,) = [other for other in quantized.graph.node if node.output[0] in other.input]
        assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")


def test_preprocessing_and_head_are_untouched(quantized: ModelProto, graph: ModelProto) -> None:
    network = {node.name for node in network_nodes(graph)}
    kept = {node.name: node for node in quantized.graph.node}
    for node in graph.graph.node:
        if node.name not in network:
            assert kept[node.name] == node
    assert list(quantized.graph.input) == list(graph.graph.input)
    assert list(quantized.graph.output) == list(graph.graph.output)


@pytest.mark.parametrize(
    "kept", [("stages.0.0",), ("stages.3.3",), ("stages.6.6",), ("stages.0.6", "stages.3.0")]
)
def test_kept_convolutions_stay_in_float(varied: Checkpoint, kept: tuple[str, ...]) -> None:
    graph = build_graph(varied, "full")
    model = quantize(varied, graph, recorded_ranges(varied, graph, "minmax"), kept)
    before, after, makers = constants_of(graph), constants_of(model), makers_of(model)
    for node in model.graph.node:
        if node.op_type == "Conv":
            name = f"{node.name}.weight"
            if node.name in kept:
                assert node.input[1] == name
                assert np.array_equal(after[name], before[name])
                assert np.array_equal(after[node.input[2]], before[f"{node.name}.bias"])
            else:
                assert makers[node.input[1]].op_type == "DequantizeLinear"
