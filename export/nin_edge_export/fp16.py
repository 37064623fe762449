"""fp16: the network's weights and convolutions in fp16, everything around them in fp32.

Preprocessing, the global average and the softmax stay in fp32: a sum over a map can overflow fp16.
Inputs and outputs keep their types, so that an fp16 file can replace an fp32 one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from nin_edge.quantised_points import ActivationRange
from nin_edge_export.graph import network_nodes
from nin_edge_runtime import GateError


def to_fp16(model: ModelProto, ranges: Mapping[str, ActivationRange]) -> ModelProto:
    """The fp16 model of an fp32 one.

    A ReLU is wrapped in casts to fp32 and back. On a CPU without fp16 kernels ONNX Runtime removes
    these together with its own casts around the convolutions, and fuses the ReLU with its
    convolution as in fp32; an fp16 ReLU would run on its own.

    Args:
        model: from `graph.build_graph`.
        ranges: the checkpoint's activation ranges, by module name; may be empty.

    Returns:
        A new model.

    Raises:
        GateError: a weight, or an activation in training, is beyond fp16's largest number,
            65,504.
    """
    limit = float(np.finfo(np.float16).max)
    for name, span in ranges.items():
        if (largest := max(-span.minimum, span.maximum)) > limit:
            raise GateError(f"{name}: activations of {largest:g} overflow fp16")
    fp16 = ModelProto()
    fp16.CopyFrom(model)
    network = network_nodes(fp16)
    weights = {name for node in network for name in node.input[1:]}
    for tensor in fp16.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor)
            if (largest := np.abs(values).max()) > limit:
                raise GateError(f"{tensor.name}: a weight of {largest:g} overflows fp16")
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    source, result = network[0].input[0], network[-1].output[0]
    network[0].input[0], network[-1].output[0] = f"{source}.half", f"{result}.half"
    nodes: list[NodeProto] = []
    for node in fp16.graph.node:
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
    del fp16.graph.node[:]  # which empties the nodes themselves
    fp16.graph.node.extend(copies)
    checker.check_model(fp16, full_check=True)
    return fp16


def _cast(source: str, target: str, element_type: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"{target}.cast", to=element_type)
