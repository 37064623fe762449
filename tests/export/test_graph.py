"""The fp32 graph: what is in it, and that it is plain ONNX of the agreed version."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge_export.graph import IR_VERSION, OPSET, _Network, _torch_export, build_graph


def _shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_versions_are_the_ones_that_old_runtimes_load(graph: onnx.ModelProto) -> None:
    assert graph.ir_version == IR_VERSION == 8
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]


@pytest.mark.parametrize(
    ("embedded", "shape", "kind"),
    [
        ("full", ["N", "H", "W", 3], onnx.TensorProto.UINT8),
        ("normalize", ["N", 16, 16, 3], onnx.TensorProto.UINT8),
        ("none", ["N", 3, 16, 16], onnx.TensorProto.FLOAT),
    ],
)
def test_input_is_as_agreed(
    checkpoint: Checkpoint, embedded: str, shape: list[str | int], kind: int
) -> None:
    (image,) = build_graph(checkpoint, embedded).graph.input
    assert (image.name, _shape(image)) == ("image", shape)
    assert image.type.tensor_type.elem_type == kind


def test_outputs_are_as_agreed(graph: onnx.ModelProto) -> None:
    assert {value.name: _shape(value) for value in graph.graph.output} == {
        "probabilities": ["N", 3],
        "class_maps": ["N", 3, 4, 4],
    }
    assert {value.type.tensor_type.elem_type for value in graph.graph.output} == {
        onnx.TensorProto.FLOAT
    }


def test_batch_normalisation_is_folded_away(graph: onnx.ModelProto) -> None:
    operators = {node.op_type for node in graph.graph.node}
    assert "BatchNormalization" not in operators
    assert {node.domain for node in graph.graph.node} == {""}


def test_every_activation_range_names_a_tensor(
    graph: onnx.ModelProto, checkpoint: Checkpoint
) -> None:
    tensors = {name for node in graph.graph.node for name in node.output}
    # The last convolution's output is the graph's output, the input's the preprocessing's.
    named = {"input": "normalized", "stages.6.6": "class_maps"}
    assert checkpoint.ranges
    assert {named.get(name, name) for name in checkpoint.ranges} <= tensors


def test_names_in_the_graph_are_unique(graph: onnx.ModelProto) -> None:
    names = [node.name for node in graph.graph.node]
    tensors = [name for node in graph.graph.node for name in node.output]
    assert len(set(names)) == len(names)
    assert len(set(tensors)) == len(tensors)
    assert all(names)


def test_fitted_temperature_divides_the_logits(checkpoint: Checkpoint) -> None:
    plain = build_graph(replace(checkpoint, temperature=None), "full")
    assert [node.op_type for node in plain.graph.node][-2:] == ["ReduceMean", "Softmax"]
    fitted = build_graph(checkpoint, "full")
    assert [node.op_type for node in fitted.graph.node][-3:] == ["ReduceMean", "Div", "Softmax"]


def test_torchs_export_is_the_same_every_time(
    checkpoint: Checkpoint, graph: onnx.ModelProto
) -> None:
    network = _Network(checkpoint.config, checkpoint.fingerprint(), checkpoint)
    again, remembered = _torch_export.__wrapped__(network), _torch_export(network)
    assert again.SerializeToString(deterministic=True) == remembered.SerializeToString(
        deterministic=True
    )
    assert build_graph(checkpoint, "full") == graph


def test_networks_with_the_same_weights_are_told_apart(checkpoint: Checkpoint) -> None:
    """Torch's export is remembered, not only by the weights."""
    paper = replace(checkpoint, config=replace(checkpoint.config, last_relu=True), temperature=None)
    operators = [node.op_type for node in build_graph(paper, "none").graph.node]
    assert operators[-3:] == ["Relu", "ReduceMean", "Softmax"]
