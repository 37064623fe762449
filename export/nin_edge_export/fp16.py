"""fp16: the network's weights and convolutions in half precision, everything around them in fp32.

Preprocessing, the global average and the softmax stay in fp32: a sum over a map can overflow half
precision. Inputs and outputs keep their types, so that an fp16 file takes an fp32 one's place.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from nin_edge.quantised_points import ActivationRange
from nin_edge_export.graph import network_nodes
from nin_edge_runtime import GateError


def to_half(model: ModelProto, ranges: Mapping[str, ActivationRange]) -> ModelProto:
    """The fp16 model of an fp32 one.

    A ReLU is wrapped in casts to fp32 and back. On a CPU without half-precision kernels ONNX
    Runtime drops these with the casts it puts around the convolutions itself, and fuses the ReLU
    with its convolution as in fp32; an fp16 ReLU it would take apart and run on its own.

    Args:
        model: from `graph.build_graph`.
        ranges: the checkpoint's, by module name; may be empty.

    Returns:
        A new model.

    Raises:
        GateError: a weight, or an activation in training, is beyond half precision's largest
            number, 65,504.
    """
    largest_half = float(np.finfo(np.float16).max)
    for name, span in ranges.items():
        if (largest := max(-span.minimum, span.maximum)) > largest_half:
            raise GateError(f"{name}: activations of {largest:g} overflow fp16")
    half = ModelProto()
    half.CopyFrom(model)
    network = network_nodes(half)
    weights = {name for node in network for name in node.input[1:]}
    for tensor in half.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor)
            if (largest := np.abs(values).max()) > largest_half:
                raise GateError(f"{tensor.name}: a weight of {largest:g} overflows fp16")
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    source, result = network[0].input[0], network[-1].output[0]
    network[0].input[0], network[-1].output[0] = f"{source}.half", f"{result}.half"
    nodes: list[NodeProto] = []
    for node in half.graph.node:
        if node.name == network[0].name:
            nodes.append(_cast(source, f"{source}.half", TensorProto.FLOAT16))
        if node.op_type == "Relu":
            (before,), (after,) = node.input, node.output
            node.input[0], node.output[0] = f"{before}.float", f"{after}.float"
            nodes.append(_cast(before, f"{before}.float", TensorProto.FLOAT))
            nodes.append(node)
            nodes.append(_cast(f"{after}.float", after, TensorProto.FLOAT16))
        else:
            nodes.append(node)
        if node.name == network[-1].name:
            nodes.append(_cast(f"{result}.half", result, TensorProto.FLOAT))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del half.graph.node[:]  # which empties the nodes themselves
    half.graph.node.extend(copies)
    checker.check_model(half, full_check=True)
    return half


def _cast(source: str, target: str, kind: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=kind)
