"""int8: static quantisation with ONNX Runtime's own quantiser, from the checkpoint's ranges or from images.

Weights are symmetric, with a scale for each output channel and seven bits (-64 to 64): the eight-bit multiply-add of
x86 processors without VNNI adds two products in 16 bits, and 2 * 255 * 64 still fits there. The same file so gives the
same integers on every processor. Activations have eight bits, one scale a tensor. The poolings lie between
quantised convolutions and are quantised with them; preprocessing, the global average and the softmax stay in fp32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator

from nin_edge.checkpoint import Checkpoint
from nin_edge_export.graph import network_nodes
from nin_edge_runtime.image import Preprocessing

METHODS: Final = ("minmax", "percentile", "entropy")
"""How a tensor's range is found: its extremes, its 99.99th percentiles, or the least divergence."""

DEFAULT_METHOD: Final = "percentile"
"""Best on the hold-out (docs/results.md)."""

_BATCH: Final = 16  # images at a time: all activations of a batch are in memory at once
_CALIBRATORS: Final = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value to represent, by tensor name."""


def quantize(model: ModelProto, ranges: Ranges, keep_float: Collection[str] = ()) -> ModelProto:
    """The int8 model of an fp32 one, in QDQ form.

    Args:
        model: from `graph.build_graph`.
        ranges: of every tensor between the network's nodes and of its input.
        keep_float: names of convolutions to leave in fp32.

    Returns:
        A new model of standard ONNX operators.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes = network_nodes(copy)
    spans = dict(ranges)
    for node, following in zip(nodes, nodes[1:], strict=False):
        if following.op_type == "Relu":  # fused with the convolution, which then has its range
            spans[node.output[0]] = spans[following.output[0]]
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in spans.items()}
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[node.name for node in nodes if node.name not in keep_float],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in nodes}),
        extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    onnx.checker.check_model(quantized, full_check=True)
    return quantized
