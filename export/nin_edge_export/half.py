"""fp16: the network's weights and convolutions in half precision, everything around them in fp32.

Preprocessing, the global average and the softmax stay in fp32: a sum over a map can overflow half
precision. Inputs and outputs keep their types, so that an fp16 file takes an fp32 one's place.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from nin_edge_export.graph import network_nodes


def to_half(model: ModelProto) -> ModelProto:
    """The fp16 model of an fp32 one.

    Args:
        model: from `graph.build_graph`.

    Returns:
        A new model with a `Cast` on either side of the network.

    Raises:
        ValueError: a weight is beyond half precision's largest number, 65,504.
    """
    half = ModelProto()
    half.CopyFrom(model)
    nodes = network_nodes(half)
    first, last = nodes[0], nodes[-1]
    weights = {name for node in nodes for name in node.input[1:]}
    for tensor in half.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.to_array(tensor)
            if np.abs(values).max() > np.finfo(np.float16).max:
                raise ValueError(
                    f"{tensor.name}: a weight of {np.abs(values).max():g} overflows fp16"
                )
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
    enter = helper.make_node(
        "Cast", [first.input[0]], ["half_input"], name="half.enter", to=TensorProto.FLOAT16
    )
    leave = helper.make_node(
        "Cast", ["half_class_maps"], [last.output[0]], name="half.leave", to=TensorProto.FLOAT
    )
    first.input[0], last.output[0] = "half_input", "half_class_maps"
    place = list(half.graph.node).index(first)
    half.graph.node.insert(place, enter)
    half.graph.node.insert(place + len(nodes) + 1, leave)
    checker.check_model(half, full_check=True)
    return half
