"""int8: static quantisation, as pairs of `QuantizeLinear` and `DequantizeLinear` (QDQ).

ONNX Runtime fuses each convolution with the pairs around it and computes in integers; an engine
that knows no int8 can run the file in float. The poolings lie between quantised convolutions and
are quantised with them; the global average and the softmax stay in fp32. The arithmetic is that of
`nin_edge.quantization`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from nin_edge.checkpoint import Checkpoint
from nin_edge.quantization import activation_parameters, round_weights, weight_scales
from nin_edge_export.graph import network_nodes
from nin_edge_export.int8.activation_ranges import Ranges
from nin_edge_export.int8.bias_correction import added_means, channel_means

_MAX_BIAS = 2**30  # in steps; the accumulator has 32 bits, and needs room for the products


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
    writer = _Writer(model, ranges, keep_float, channel_means(checkpoint))
    for node in model.graph.node:
        writer.add(node)
    quantized = ModelProto()
    quantized.CopyFrom(model)
    del quantized.graph.node[:], quantized.graph.initializer[:]
    quantized.graph.node.extend(writer.nodes)
    quantized.graph.initializer.extend(writer.constants())
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


class _Parameters(NamedTuple):
    """How a tensor is quantised."""

    scale: np.float32
    """Of one step."""
    zero_point: int
    """The integer that is 0."""


class _Writer:
    """Copies a graph node by node, and adds what quantises it."""

    def __init__(
        self,
        model: ModelProto,
        ranges: Ranges,
        keep_float: Collection[str],
        means: Mapping[str, NDArray[np.float64]],
    ) -> None:
        self.nodes: list[NodeProto] = []
        self._stored = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer
        }
        self._ranges, self._means = ranges, means
        self._quantised = {
            node.name
            for node in network_nodes(model)
            if node.op_type != "Relu" and node.name not in keep_float
        }
        self._points = self._choose_points(model)
        self._outputs = {value.name for value in model.graph.output}
        self._parameters: dict[str, _Parameters] = {}
        self._renamed: dict[str, str] = {}

    def _choose_points(self, model: ModelProto) -> set[str]:
        """The tensors to quantise: what a quantised layer takes and gives, after its ReLU."""
        points = set()
        for node, following in pairwise([*network_nodes(model), NodeProto()]):
            if node.name in self._quantised:
                points.add(node.input[0])
                points.add((following if following.op_type == "Relu" else node).output[0])
        return points

    def add(self, node: NodeProto) -> None:
        """Add a node and, where its output is quantised, what quantises that."""
        if node.name in self._quantised and node.input[0] not in self._parameters:
            self._add_pair(node.input[0])  # the image in float; all else was quantised before
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            copy.input[index] = self._renamed.get(name, name)
        if node.name in self._quantised and node.op_type == "Conv":
            copy.input[1:] = self._quantised_weights(*node.input)
        self.nodes.append(copy)
        (output,) = node.output
        if output not in self._points:
            return
        if node.op_type == "DequantizeLinear":  # the pixels, which are integers already
            scale, zero_point = (self._stored[name].item() for name in node.input[1:])
            self._parameters[output] = _Parameters(np.float32(scale), zero_point)
            return
        if node.op_type == "MaxPool":  # it only selects: its output has its input's integers
            self._parameters[output] = self._parameters[node.input[0]]
        if output in self._outputs:
            copy.output[0] = f"{output}_float"
        self._add_pair(output, copy.output[0])

    def _add_pair(self, tensor: str, source: str = "") -> None:
        """Quantise and dequantise a tensor; what follows takes the result."""
        if tensor not in self._parameters:
            self._parameters[tensor] = _Parameters(*activation_parameters(*self._ranges[tensor]))
        scale, zero_point = self._parameters[tensor]
        scale_name = self._constant(f"{tensor}_scale", scale)
        zero_name = self._constant(f"{tensor}_zero_point", np.uint8(zero_point))
        result = tensor if tensor in self._outputs else f"{tensor}_dequantized"
        self._linear("Quantize", [source or tensor, scale_name, zero_name], f"{tensor}_quantized")
        self._linear("Dequantize", [f"{tensor}_quantized", scale_name, zero_name], result)
        self._renamed[tensor] = result

    def _quantised_weights(self, source: str, weight: str, bias: str = "") -> list[str]:
        """A convolution's weights and bias as integers that are dequantised."""
        exact = self._stored[weight]
        step = self._parameters[source].scale
        values = torch.from_numpy(exact.copy())
        scales = weight_scales(values)
        if bias:  # a channel of tiny weights needs larger steps for its bias to fit
            smallest = np.abs(self._stored[bias]) / (float(step) * _MAX_BIAS)
            scales = torch.maximum(scales, torch.from_numpy(smallest.astype(np.float32)))
        steps = round_weights(values, scales).numpy()
        inputs = [self._dequantised(weight, steps.astype(np.int8), scales.numpy())]
        if bias:
            error = steps * scales.numpy().reshape(-1, 1, 1, 1).astype(np.float64) - exact
            added = added_means(error, self._means.get(source))
            bias_scales = step * scales.numpy()
            whole = np.rint((self._stored[bias] - added) / bias_scales)
            inputs.append(self._dequantised(bias, whole.astype(np.int32), bias_scales))
        return inputs

    def _dequantised(
        self, name: str, steps: NDArray[np.integer], scales: NDArray[np.float32]
    ) -> str:
        """Constants and the node for integers with a scale for each output channel."""
        inputs = [
            self._constant(f"{name}_quantized", steps),
            self._constant(f"{name}_scale", scales),
            self._constant(f"{name}_zero_point", np.zeros(len(scales), steps.dtype)),
        ]
        self._linear("Dequantize", inputs, f"{name}_dequantized", axis=0)
        return f"{name}_dequantized"

    def _linear(self, direction: str, inputs: list[str], output: str, **axis: Any) -> None:
        node = helper.make_node(f"{direction}Linear", inputs, [output], name=output, **axis)
        self.nodes.append(node)

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self._stored[name] = np.asarray(value)
        return name

    def constants(self) -> list[TensorProto]:
        """The initializers that the nodes take, in their order."""
        used = dict.fromkeys(name for node in self.nodes for name in node.input)
        return [
            numpy_helper.from_array(self._stored[name], name)
            for name in used
            if name in self._stored
        ]
