"""Checkpoint -> fp32 ONNX graph: preprocessing, the network, global average, softmax."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import numpy as np
import onnx
import onnxsim
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from nin_edge.checkpoint import Checkpoint
from nin_edge.kernels import AveragePool, ReLU
from nin_edge.network import NetworkConfig, NiN
from nin_edge_export.preprocess import build_input, build_preprocessing
from nin_edge_runtime import ModelFileError

OPSET: Final = 18
"""The first opset whose `Resize` is anti-aliased; ONNX Runtime has run it since 1.14."""

OLDEST_OPSET: Final = 13
"""The oldest opset of a graph without `Resize`: the first with `QuantizeLinear` by channel."""

NEWEST_OPSET: Final = 22
"""The newest opset that the graph was tested with."""

OLDEST_RUNTIME: Final = "1.15.0"
"""The oldest ONNX Runtime that all precisions are tested with (tests/packaging/test_oldest.py)."""

IR_VERSION: Final = 8
"""The file format that belongs to opset 18: old runtimes load it; `onnx` writes a newer one."""

# The modules that become nodes of the network, by type.
_OPERATORS: Final = {
    nn.Conv2d: "Conv",
    ReLU: "Relu",
    nn.MaxPool2d: "MaxPool",
    AveragePool: "AveragePool",
}


def build_graph(
    checkpoint: Checkpoint, embedded: str, *, opset: int = OPSET, batch: int | None = None
) -> ModelProto:
    """The fp32 model of a checkpoint, checked, without metadata.

    Nodes and tensors of the network carry their module's name (`stages.0.3`), the key of the
    checkpoint's activation ranges too.

    Args:
        checkpoint: weights, preprocessing and temperature.
        embedded: which preprocessing the graph does: `full`, `normalize` or `none`.
        opset: version of the operators. From `OPSET` to `NEWEST_OPSET` the nodes are the same.
            Below it, down to `OLDEST_OPSET`, there is no `full`, and the global average is a
            `GlobalAveragePool`, which compilers for such opsets know.
        batch: N, if it is to be fixed; free if None.

    Returns:
        Input `image`; outputs `probabilities` [N, K] and `class_maps` [N, K, h, w], both float32.

    Raises:
        ValueError: the opset is out of its range, or too old for `full`.
        ModelFileError: a run of the batch is more work than a model file may ask for.
        RuntimeError: torch's exporter gave other operators than the network's modules.
    """
    check_opset(opset, embedded)
    try:
        checkpoint.config.work().check(batch or 1)
    except ValueError as error:
        raise ModelFileError(str(error)) from None
    image, last = build_input(checkpoint.preprocessing, embedded, batch)
    before, before_constants = build_preprocessing(checkpoint.preprocessing, embedded)
    middle, weights = _export_network(checkpoint, last)
    after, after_constants = _build_head(checkpoint.temperature or 1.0, opset)
    side = 1 if checkpoint.config.head == "fc" else checkpoint.config.map_sides()[-1]
    classes = checkpoint.config.classes
    outputs = [
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [batch or "N", classes]),
        helper.make_tensor_value_info(
            "class_maps", TensorProto.FLOAT, [batch or "N", classes, side, side]
        ),
    ]
    graph = helper.make_graph(
        [*before, *middle, *after],
        "nin",
        [image],
        outputs,
        initializer=[*before_constants, *weights, *after_constants],
    )
    operators = helper.make_opsetid("", opset)
    version = max(IR_VERSION, helper.find_min_ir_version_for([operators]))
    model = helper.make_model(graph, opset_imports=[operators], ir_version=version)
    model.producer_name = "nin-edge"
    onnx.checker.check_model(model, full_check=True)
    return model


def check_opset(opset: int, embedded: str) -> None:
    """Refuse an opset that a graph cannot have.

    Args:
        opset: version of the operators.
        embedded: which preprocessing the graph does: `full`, `normalize` or `none`.

    Raises:
        ValueError: it is out of its range.
    """
    oldest, reason = (
        (OPSET, " with full preprocessing") if embedded == "full" else (OLDEST_OPSET, "")
    )
    if not oldest <= opset <= NEWEST_OPSET:
        raise ValueError(f"opset {opset}: expected {oldest} to {NEWEST_OPSET}{reason}")


def network_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes of the network itself, without preprocessing and head, in their order."""
    return [node for node in model.graph.node if node.op_type in _OPERATORS.values()]


def _export_network(
    checkpoint: Checkpoint, source: str
) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes and weights from the tensor `source`, float32 [N, C, S, S], to `class_maps`."""
    simple = _torch_export(_Network(checkpoint.config, checkpoint.fingerprint(), checkpoint))
    modules = [
        (name, _OPERATORS[type(module)])
        for name, module in checkpoint.network().named_modules()
        if type(module) in _OPERATORS
    ]
    if [operator for _, operator in modules] != [node.op_type for node in simple.graph.node]:
        raise RuntimeError(
            f"torch exported {[node.op_type for node in simple.graph.node]}, expected {modules}"
        )
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in simple.graph.initializer}
    nodes, weights, last = [], [], source
    for (name, operator), node in zip(modules, simple.graph.node, strict=True):
        inputs = [last]
        for role, tensor in zip(("weight", "bias"), node.input[1:], strict=False):
            weights.append(
                numpy_helper.from_array(np.ascontiguousarray(stored[tensor]), f"{name}.{role}")
            )
            inputs.append(f"{name}.{role}")
        last = "class_maps" if node is simple.graph.node[-1] else name
        renamed = helper.make_node(operator, inputs, [last], name=name)
        renamed.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
        nodes.append(renamed)
    return nodes, weights


class _ClassMaps(nn.Module):
    """The part of the network that torch exports: everything but the global average."""

    def __init__(self, network: NiN) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.class_maps(images)


@dataclass(frozen=True)
class _Network:
    """A network as the key of a cache."""

    config: NetworkConfig
    """Its shape."""
    fingerprint: str
    """Of its weights."""
    checkpoint: Checkpoint = field(compare=False)
    """The network itself."""


@lru_cache(maxsize=8)
def _torch_export(network: _Network) -> ModelProto:
    """Torch's export of a network, its batch normalisation folded into the convolutions.

    It takes seconds, so the graphs of one network share it: they differ in preprocessing, opset,
    batch and temperature, which it does not see. Callers must not change it.
    """
    config = network.config
    module = _ClassMaps(network.checkpoint.network()).eval()
    example = torch.zeros(2, config.channels, config.size, config.size)
    # torch logs each torchvision operator that is missing, and warns of its own deprecations.
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                external_data=False,
                verbose=False,
            )
    finally:
        exporter.setLevel(level)
    assert program is not None  # only exports to a file return nothing
    simple: ModelProto
    simple, sound = onnxsim.simplify(program.model_proto)
    if not sound:
        raise RuntimeError("onnxsim's result differs from what it was given")
    return simple


def _build_head(temperature: float, opset: int) -> tuple[list[NodeProto], list[TensorProto]]:
    """Global average pooling and softmax: `class_maps` to `probabilities`."""
    constants: list[TensorProto] = []
    if opset < OPSET:
        nodes = [
            helper.make_node("GlobalAveragePool", ["class_maps"], ["averages"], name="head.mean"),
            helper.make_node("Flatten", ["averages"], ["logits"], name="head.flatten", axis=1),
        ]
    else:
        constants.append(numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "map_axes"))
        nodes = [
            helper.make_node(
                "ReduceMean", ["class_maps", "map_axes"], ["logits"], name="head.mean", keepdims=0
            )
        ]
    last = "logits"
    if temperature != 1.0:
        constants.append(
            numpy_helper.from_array(np.array(temperature, dtype=np.float32), "temperature")
        )
        nodes.append(
            helper.make_node("Div", [last, "temperature"], ["calibrated"], name="head.calibrate")
        )
        last = "calibrated"
    nodes.append(
        helper.make_node("Softmax", [last], ["probabilities"], name="head.softmax", axis=1)
    )
    return nodes, constants
