"""int8 files compute the same integers on every processor."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from nin_edge.checkpoint import Checkpoint
from nin_edge_export.graph import IR_VERSION, OPSET, build_graph
from nin_edge_export.int8.activation_ranges import recorded_ranges
from nin_edge_export.int8.quantize import quantize
from nin_edge_runtime import DEFAULT_MODEL
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.preprocessing import Preprocessing

from .conftest import constants_of, makers_of

LARGEST_WEIGHT = 64  # seven bits and a sign: what `reduce_range` leaves
INT16 = 2**15 - 1  # the eight-bit multiply-add of old x86 processors ends here
STEP = 1  # what rounding may change at a tie, in quantisation steps
TIE = 1e-3  # distance from a half at which float32's scale may round the other way


def _exact(
    x: NDArray[np.integer],
    weight: NDArray[np.int8],
    bias: NDArray[np.int32],
    scales: tuple[float, NDArray[np.float32], float],
    zeros: tuple[int, int],
) -> NDArray[np.float64]:
    """A stride-1 convolution in 64-bit integers: outputs in steps, neither rounded nor clipped."""
    side = weight.shape[2]
    pad = side // 2
    centred = np.pad(x.astype(np.int64) - zeros[0], ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(centred, (side, side), axis=(2, 3))
    sums = np.tensordot(windows, weight.astype(np.int64), axes=([1, 4, 5], [1, 2, 3]))  # (N,H,W,O)
    x_scale, w_scale, y_scale = (np.asarray(scale, dtype=np.float64) for scale in scales)
    exact = (sums + bias) * (x_scale * w_scale / y_scale) + zeros[1]
    return np.moveaxis(exact, 3, 1)


def _assert_equal(found: NDArray[np.integer], exact: NDArray[np.float64]) -> None:
    """Rounded half to even and clipped, but for ties, which float32 may round the other way."""
    limits = np.iinfo(found.dtype)
    expected = np.clip(np.rint(exact), limits.min, limits.max)
    difference = np.abs(found - expected)
    assert difference.max() <= STEP
    from_tie = np.abs(exact - np.floor(exact) - 0.5)
    assert (from_tie[difference > 0] < TIE).all()


def _session(model: ModelProto, tmp_path: Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """A session, and the operators that it really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine alone
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session, [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def _convolution(
    weight: NDArray[np.int8],
    bias: NDArray[np.int32],
    scales: tuple[float, NDArray[np.float32], float],
    zeros: tuple[int, int],
) -> ModelProto:
    """A convolution as `quantize` leaves it and x86 takes it: bytes in, bytes out."""
    x_scale, w_scale, y_scale = scales
    count, channels, side, _ = weight.shape
    constants = {
        **{"x_scale": np.float32(x_scale), "x_zero": np.uint8(zeros[0])},
        **{"w": weight, "w_scale": w_scale, "w_zero": np.zeros(count, np.int8)},
        **{"b": bias, "b_scale": x_scale * w_scale, "b_zero": np.zeros(count, np.int32)},
        **{"y_scale": np.float32(y_scale), "y_zero": np.uint8(zeros[1])},
    }

    def linear(kind: str, name: str, source: str, target: str, **axis: int) -> NodeProto:
        inputs = [source, f"{name}_scale", f"{name}_zero"]
        return helper.make_node(f"{kind}Linear", inputs, [target], **axis)

    nodes = [
        linear("Dequantize", "x", "x", "x_float"),
        linear("Dequantize", "w", "w", "w_float", axis=0),
        linear("Dequantize", "b", "b", "b_float", axis=0),
        helper.make_node("Conv", ["x_float", "w_float", "b_float"], ["conv"], pads=[side // 2] * 4),
        linear("Quantize", "y", "conv", "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", channels, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, ["N", count, "H", "W"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def _extremes(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int8]:
    """Filters of +64, of -64, of both in turns, of pairs of each, and of random extremes."""
    values = rng.choice([-LARGEST_WEIGHT, LARGEST_WEIGHT], size=shape)
    values[0], values[1] = LARGEST_WEIGHT, -LARGEST_WEIGHT
    places = np.arange(values[2].size).reshape(shape[1:])
    values[2] = LARGEST_WEIGHT * (1 - 2 * (places % 2))
    values[3] = LARGEST_WEIGHT * (1 - 2 * (places // 2 % 2))
    return values.astype(np.int8)


INPUTS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.int64]]] = {
    "all 255": lambda rng, shape: np.full(shape, 255),
    "all 0": lambda rng, shape: np.zeros(shape, int),
    "extremes": lambda rng, shape: rng.choice([0, 255], size=shape),
    "random": lambda rng, shape: rng.integers(0, 256, size=shape),
}


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("zero", [0, 131], ids=["after a ReLU", "of both signs"])
@pytest.mark.parametrize(("channels", "side"), [(3, 5), (96, 1), (64, 3), (192, 5)])
def test_convolution_equals_integer_arithmetic(
    channels: int, side: int, zero: int, given: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    count, size = 16, 6
    weight = _extremes(rng, (count, channels, side, side))
    if given == "random":
        weight = rng.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, weight.shape).astype(np.int8)
    x = INPUTS[given](rng, (2, channels, size, size)).astype(np.uint8)
    bias = rng.integers(-(2**14), 2**14, size=count).astype(np.int32)
    w_scale = rng.uniform(0.001, 0.01, size=count).astype(np.float32)
    x_scale = np.float32(0.02)
    # The largest sum just fits into the output: saturation in 16 bits could not hide behind it.
    largest = 255 * LARGEST_WEIGHT * channels * side * side + 2**14
    y_scale = np.float32(largest * x_scale * w_scale.max() / 125)
    scales, zeros = (float(x_scale), w_scale, float(y_scale)), (zero, 128)
    session, operators = _session(_convolution(weight, bias, scales, zeros), tmp_path)
    assert "QLinearConv" in operators
    assert "Conv" not in operators
    (found,) = session.run(None, {"x": x})
    _assert_equal(found, _exact(x, weight, bias, scales, zeros))


def test_shipped_model_cannot_saturate_in_16_bits() -> None:
    """Any two weights of a filter may meet in one multiply-add, with activations at 255."""
    model = onnx.load(DEFAULT_MODEL)
    constants, makers = constants_of(model), makers_of(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 9
    for node in convolutions:
        if node.input[1] in constants:
            continue  # kept in float
        weight = constants[makers[node.input[1]].input[0]].astype(np.int64)
        flat = weight.reshape(len(weight), -1)
        for sign in (1, -1):
            pair = np.sort(np.maximum(sign * flat, 0), axis=1)[:, -2:].sum(axis=1)
            assert 255 * pair.max() <= INT16, node.name
    assert 255 * 2 * LARGEST_WEIGHT <= INT16 < 255 * 2 * 127  # what eight bits would give


def _integers(
    model: ModelProto, name: str, images: NDArray[np.uint8], tmp_path: Path
) -> tuple[NDArray[np.int64], list[str]]:
    """A quantised tensor on the way through a model, and the operators that ran up to there.

    The model is cut after it. ONNX Runtime fuses nothing that makes an output of the graph, so the
    tensor leaves as floats, doubled.
    """
    quantizer = makers_of(model)[name]
    _, scale, zero = quantizer.input
    place = list(model.graph.node).index(quantizer)
    nodes = [
        *model.graph.node[: place + 1],
        helper.make_node("DequantizeLinear", [name, scale, zero], ["once"]),
        helper.make_node("Add", ["once", "once"], ["twice"]),
    ]
    output = helper.make_tensor_value_info("twice", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "cut", model.graph.input, [output], model.graph.initializer)
    cut = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    session, operators = _session(cut, tmp_path)
    (twice,) = session.run(None, {"image": images})
    constants = constants_of(model)
    steps = twice.astype(np.float64) / 2 / constants[scale]
    return np.rint(steps).astype(np.int64) + constants[zero], operators


def test_shipped_model_equals_integer_arithmetic_in_every_convolution(tmp_path: Path) -> None:
    model = onnx.load(DEFAULT_MODEL)
    constants, makers = constants_of(model), makers_of(model)
    users = {name: node for node in model.graph.node for name in node.input}
    images = np.stack(
        [np.full((32, 32, 3), value, np.uint8) for value in (0, 255)] + [golden_image(5, 32, 32)]
    )
    run: list[str] = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] in constants:
            continue
        source, after = makers[node.input[0]], users[node.output[0]]
        if after.op_type == "Relu":  # which ONNX Runtime fuses: the integers end at 0
            after = users[after.output[0]]
        x = images.transpose(0, 3, 1, 2).astype(np.int64)  # the pixels themselves
        if makers[source.input[0]].op_type == "QuantizeLinear":
            x, _ = _integers(model, source.input[0], images, tmp_path)
        found, run = _integers(model, after.output[0], images, tmp_path)
        weight, w_scale, _ = (constants[name] for name in makers[node.input[1]].input)
        bias = constants[makers[node.input[2]].input[0]]
        x_scale, x_zero = (constants[name] for name in source.input[1:])
        y_scale, y_zero = (constants[name] for name in after.input[1:])
        scales = (float(x_scale), w_scale, float(y_scale))
        exact = _exact(x, weight, bias, scales, (int(x_zero), int(y_zero)))
        _assert_equal(found.astype(constants[after.input[2]].dtype), exact)
    assert run.count("QLinearConv") > 1  # these were integers, not a simulation in floats


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors fuse other patterns"
)
def test_every_quantised_convolution_of_the_shipped_model_runs_in_integers(tmp_path: Path) -> None:
    model = onnx.load(DEFAULT_MODEL)
    constants = constants_of(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    quantised = [node for node in convolutions if node.input[1] not in constants]
    assert _session(model, tmp_path)[1].count("QLinearConv") == len(quantised) > 0


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="other processors fuse other patterns"
)
@pytest.mark.parametrize(("embedded", "pixels"), [("normalize", "image"), ("full", "pixels")])
def test_pixels_go_straight_into_the_first_convolution(
    embedded: str, pixels: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """No node between the uint8 image and the first integer convolution, and no float one."""
    steps = Preprocessing(16, 3, (100 / 255,) * 3, (0.25,) * 3)
    checkpoint = replace(checkpoint, preprocessing=steps)
    graph = build_graph(checkpoint, embedded)
    _session(quantize(checkpoint, graph, recorded_ranges(checkpoint, graph, "minmax")), tmp_path)
    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    users = [node.op_type for node in optimized.node if pixels in node.input]
    assert users == ["QLinearConv"]
    assert "Conv" not in {node.op_type for node in optimized.node}
