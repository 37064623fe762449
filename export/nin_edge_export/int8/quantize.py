"""int8: static quantisation with ONNX Runtime's own quantiser.

Weights are symmetric, with a scale for each output channel and seven bits (-64 to 64): the
eight-bit multiply-add of x86 processors without VNNI adds two products in 16 bits, and
2 * 255 * 64 still fits there. So the same file gives the same integers on every processor.
Activations have eight bits, one scale a tensor. The poolings lie between quantised convolutions and
are quantised with them; preprocessing, the global average and the softmax stay in fp32.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorsData

from nin_edge.checkpoint import Checkpoint
from nin_edge.quantised_points import quantised_points
from nin_edge_export.graph import network_nodes
from nin_edge_export.int8.activation_ranges import Ranges
from nin_edge_export.int8.bias_correction import channel_means, correct_biases


def quantize(
    checkpoint: Checkpoint, model: ModelProto, ranges: Ranges, keep_float: Collection[str] = ()
) -> ModelProto:
    """The int8 model of an fp32 one, in QDQ form.

    Args:
        checkpoint: what `model` was built from.
        model: from `graph.build_graph`.
        ranges: of every tensor that int8 quantises, by its name in the model.
        keep_float: names of convolutions to leave in fp32.

    Returns:
        A new model of standard ONNX operators.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes = network_nodes(copy)
    points = quantised_points(checkpoint.network())
    spans = dict(ranges)
    for node, following in pairwise(nodes):
        # A convolution is one step with the ReLU after it. The quantiser fuses the two, but wants
        # the range between them as well.
        if node.name not in points:
            spans[node.output[0]] = spans[following.output[0]]
    data = {name: (np.float32(low), np.float32(high)) for name, (low, high) in spans.items()}
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[node.name for node in nodes if node.name not in keep_float],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted({node.op_type for node in nodes}),
        extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    correct_biases(quantized, model, channel_means(checkpoint))
    del quantized.metadata_props[:]  # the quantiser's own note
    quantized.producer_name = model.producer_name
    onnx.checker.check_model(quantized, full_check=True)
    return quantized
