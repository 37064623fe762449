"""int8: static quantisation with ONNX Runtime's own quantiser, from the checkpoint's ranges.

Weights are symmetric, with a scale for each output channel and seven bits (-64 to 64): the
eight-bit multiply-add of x86 processors without VNNI adds two products in 16 bits, and
2 * 255 * 64 still fits there. The same file so gives the same integers on every processor.
Activations have eight bits, one scale a tensor. The poolings lie between quantised convolutions and
are quantised with them; preprocessing, the global average and the softmax stay in fp32.

Rounding the weights moves the mean of each channel, and a mean that is off adds up over the layers
and the pixels of the global average. Each bias takes that back (bias correction: Nagel et al.,
arXiv:1906.04721, section 4.2), with means that batch normalisation knows, so it needs no images.
"""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
)
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from torch import nn

from nin_edge.checkpoint import Checkpoint
from nin_edge.kernels import AveragePool, ReLU
from nin_edge_export.graph import network_nodes
from nin_edge_runtime import NinEdgeError
from nin_edge_runtime.preprocessing import Preprocessing

METHODS: Final = ("minmax", "percentile", "entropy")
"""How a tensor's range is found: its extremes, its 99.99th percentiles, or the least divergence."""

DEFAULT_METHOD: Final = "minmax"
"""It needs no images, and diverges little from fp32 on the hold-out (docs/results.md)."""

_CALIBRATORS: Final = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}

Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value to represent, by tensor name."""


def quantize(
    checkpoint: Checkpoint, model: ModelProto, ranges: Ranges, keep_float: Collection[str] = ()
) -> ModelProto:
    """The int8 model of an fp32 one, in QDQ form.

    Args:
        checkpoint: what `model` was built from.
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
    for node, following in pairwise(nodes):
        if following.op_type == "Relu":  # fused with the convolution, which then has its range
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
    _correct_biases(quantized, model, channel_means(checkpoint))
    del quantized.metadata_props[:]  # the quantiser's own note
    quantized.producer_name = model.producer_name
    onnx.checker.check_model(quantized, full_check=True)
    return quantized


def _correct_biases(
    quantized: ModelProto, model: ModelProto, means: Mapping[str, NDArray[np.float64]]
) -> None:
    """Take from each bias, in place, what rounding the convolution's weights adds to its mean."""
    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    stored = {tensor.name: tensor for tensor in quantized.graph.initializer}
    for node in network_nodes(model):
        weight, bias = f"{node.name}.weight", f"{node.name}.bias_quantized"
        if node.input[0] not in means or bias not in stored:  # in float, or 0
            continue
        steps, scale, bias_scale = (
            numpy_helper.to_array(stored[name]).astype(np.float64)
            for name in (f"{weight}_quantized", f"{weight}_scale", f"{bias}_scale")
        )
        error = steps * scale.reshape(-1, 1, 1, 1) - exact[weight]  # (out, in, k, k)
        added = error.sum((2, 3)) @ means[node.input[0]]  # (out,)
        corrected = numpy_helper.to_array(stored[bias]) - np.rint(added / bias_scale)
        stored[bias].CopyFrom(numpy_helper.from_array(corrected.astype(np.int32), bias))


def channel_means(checkpoint: Checkpoint) -> dict[str, NDArray[np.float64]]:
    """Mean of each channel after batch normalisation and ReLU, by the model's tensor names.

    What a channel's normalisation puts out has its bias as mean and its weight as standard
    deviation; taken as normally distributed, it has this mean after ReLU (Nagel et al., appendix
    C). An average pooling keeps it. A maximum's mean is higher, which makes the correction there
    too small.

    Args:
        checkpoint: trained weights.

    Returns:
        (C,) for each ReLU and pooling; nothing where there is no batch normalisation.
    """
    means: dict[str, NDArray[np.float64]] = {}
    known: NDArray[np.float64] | None = None
    for name, module in checkpoint.network().named_modules():
        if isinstance(module, nn.Conv2d):
            known = None
        elif isinstance(module, nn.BatchNorm2d):
            mean, deviation = module.bias.detach().double(), module.weight.detach().double().abs()
            ratio = mean / deviation.clamp_min(1e-12)
            density = torch.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
            known = (mean * torch.special.ndtr(ratio) + deviation * density).numpy()
        elif isinstance(module, ReLU | nn.MaxPool2d | AveragePool) and known is not None:
            means[name] = known
    return means


def recorded_ranges(checkpoint: Checkpoint, model: ModelProto, method: str) -> Ranges:
    """The ranges that training recorded in a checkpoint, by the model's tensor names.

    Args:
        checkpoint: what `model` was built from.
        model: from `graph.build_graph`.
        method: `minmax` or `percentile`.

    Raises:
        NinEdgeError: the checkpoint has no ranges, and how to get them; or `entropy`.
    """
    if method == "entropy":
        raise NinEdgeError("entropy is measured over images, and none were given to calibrate on")
    if not checkpoint.ranges:
        raise NinEdgeError(
            "the checkpoint has no activation ranges, which int8 needs: give --calibration DATA, "
            "or take best.safetensors of a finished training run"
        )
    nodes = network_nodes(model)
    names = {"input": nodes[0].input[0], nodes[-1].name: nodes[-1].output[0]}
    spans = {
        names.get(name, name): (
            (span.minimum, span.maximum) if method == "minmax" else (span.low, span.high)
        )
        for name, span in checkpoint.ranges.items()
    }
    return spans | _input_range(checkpoint.preprocessing, model)


def calibrate(
    checkpoint: Checkpoint, model: ModelProto, batches: Iterable[NDArray[np.uint8]], method: str
) -> Ranges:
    """The ranges over images, by ONNX Runtime's calibrators.

    The activations of one batch are in memory at a time, then only their extremes or histograms.

    Args:
        checkpoint: what `model` was built from.
        model: from `graph.build_graph`, with the preprocessing `none`.
        batches: preprocessed images, uint8 (N, S, S, C), of few images each.
        method: one of `METHODS`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            op_types_to_calibrate=sorted({node.op_type for node in network_nodes(model)}),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=_CALIBRATORS[method],
            extra_options={"percentile": 99.99} if method == "percentile" else {},
        )
        calibrator.set_execution_providers(["CPUExecutionProvider"])
        for batch in batches:
            reader = _Reader(checkpoint.preprocessing.normalize(batch))
            with contextlib.redirect_stdout(io.StringIO()):  # it prints a line a batch
                calibrator.collect_data(reader)
        with contextlib.redirect_stdout(io.StringIO()):
            found = calibrator.compute_data()
    spans = {
        name: (float(np.min(data.range_value[0])), float(np.max(data.range_value[1])))
        for name, data in found.items()
    }
    return spans | _input_range(checkpoint.preprocessing, model)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """One batch, in the form that calibrators read."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images: NDArray[np.float32] | None = images

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        images, self._images = self._images, None
        return None if images is None else {"image": images}


def _input_range(preprocessing: Preprocessing, model: ModelProto) -> dict[str, tuple[float, float]]:
    """The network's input takes what black and white become, whatever images were measured."""
    scale, shift = preprocessing.scale_and_shift()
    return {
        network_nodes(model)[0].input[0]: (float(shift.min()), float((255 * scale + shift).max()))
    }
