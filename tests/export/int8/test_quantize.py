"""int8: plain QDQ, the same integers on every processor, and ranges that make sense."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NiN
from nin_edge.quantised_points import activation_ranges
from nin_edge_export.graph import IR_VERSION, OPSET, build_graph, network_nodes
from nin_edge_export.int8.quantize import (
    METHODS,
    Ranges,
    calibrate,
    channel_means,
    quantize,
    recorded_ranges,
)
from nin_edge_runtime import DEFAULT_MODEL, NinEdgeError
from nin_edge_runtime.golden import golden_image

LARGEST_WEIGHT = 64  # seven bits and a sign: what `reduce_range` leaves
INT16 = 2**15 - 1  # the eight-bit multiply-add of old x86 processors ends here
STEP = 1  # what rounding may change at a tie, in quantisation steps
TIE = 1e-3  # distance from a half at which float32's scale may round the other way
RANGE_TOLERANCE = 1e-4  # of a range: PyTorch's float32 against ONNX Runtime's
BIN = 1.02  # a histogram's bins may reach a little beyond the extremes
BATCH = 16

QDQ = {"QuantizeLinear", "DequantizeLinear"}


@pytest.fixture(scope="module")
def checkpoint(tiny_weights: Path) -> Checkpoint:
    return Checkpoint.load(tiny_weights)


@pytest.fixture(scope="module")
def varied(checkpoint: Checkpoint) -> Checkpoint:
    """Normalisations of either sign, wide, narrow, and of no width, which always give the same."""
    rng, weights = np.random.default_rng(0), dict(checkpoint.weights)
    for name in checkpoint.weights:
        layer, _, part = name.rpartition(".")
        if part == "running_var":
            count = len(checkpoint.weights[name])
            scale, shift = rng.choice([-1.5, -0.2, 0, 0.3, 2], count), rng.normal(size=count)
            weights[f"{layer}.weight"] = torch.from_numpy(scale.astype(np.float32))
            weights[f"{layer}.bias"] = torch.from_numpy(shift.astype(np.float32))
    weights["stages.6.6.bias"] = torch.tensor([-0.5, 0.25, 1.0])  # biases of 0 are left out
    return replace(checkpoint, weights=weights)


@pytest.fixture(scope="module")
def graph(checkpoint: Checkpoint) -> ModelProto:
    return build_graph(checkpoint, "full")


@pytest.fixture(scope="module")
def bare(checkpoint: Checkpoint) -> ModelProto:
    """Without preprocessing: what `calibrate` takes."""
    return build_graph(checkpoint, "none")


@pytest.fixture(scope="module")
def pixels(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    images = [golden_image(2000 + seed, 24, 24) for seed in range(48)]
    return np.stack([checkpoint.preprocessing.resize(image) for image in images])


@pytest.fixture(scope="module")
def quantized(checkpoint: Checkpoint, graph: ModelProto) -> ModelProto:
    return quantize(checkpoint, graph, recorded_ranges(checkpoint, graph, "minmax"))


def _constants(model: ModelProto) -> dict[str, NDArray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def _makers(model: ModelProto) -> dict[str, NodeProto]:
    """The node that makes each tensor."""
    return {output: node for node in model.graph.node for output in node.output}


def _batches(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    yield from (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))


# --- what is in the graph -------------------------------------------------------------------------


def test_operators_are_standard_and_sorted(quantized: ModelProto, graph: ModelProto) -> None:
    operators = {node.op_type for node in quantized.graph.node}
    assert operators - QDQ <= {node.op_type for node in graph.graph.node}
    assert operators >= QDQ
    assert {node.domain for node in quantized.graph.node} == {""}
    assert list(quantized.opset_import) == list(graph.opset_import)
    assert quantized.ir_version == graph.ir_version
    known = {"", *_constants(quantized), *(value.name for value in quantized.graph.input)}
    for node in quantized.graph.node:
        assert set(node.input) <= known, node.name
        known |= set(node.output)


def test_weights_are_symmetric_per_channel_in_seven_bits(quantized: ModelProto) -> None:
    constants, makers = _constants(quantized), _makers(quantized)
    convolutions = [node for node in quantized.graph.node if node.op_type == "Conv"]
    assert convolutions
    for node in convolutions:
        maker = makers[node.input[1]]
        weight, scale, zero = (constants[name] for name in maker.input)
        assert maker.op_type == "DequantizeLinear"
        assert weight.dtype == zero.dtype == np.int8
        assert scale.shape == zero.shape == (weight.shape[0],)
        assert not zero.any()
        assert np.abs(weight.astype(int)).max() <= LARGEST_WEIGHT
        assert np.abs(weight.astype(int)).max(axis=(1, 2, 3)).min() >= LARGEST_WEIGHT - 1


def test_poolings_lie_between_quantised_tensors(quantized: ModelProto) -> None:
    makers = _makers(quantized)
    poolings = [node for node in quantized.graph.node if node.op_type.endswith("Pool")]
    assert [node.op_type for node in poolings] == ["MaxPool", "AveragePool"]
    for node in poolings:
        before = makers[node.input[0]]
        (after,) = [other for other in quantized.graph.node if node.output[0] in other.input]
        assert (before.op_type, after.op_type) == ("DequantizeLinear", "QuantizeLinear")


def test_preprocessing_and_head_are_untouched(quantized: ModelProto, graph: ModelProto) -> None:
    network = {node.name for node in network_nodes(graph)}
    kept = {node.name: node for node in quantized.graph.node}
    for node in graph.graph.node:
        if node.name not in network:
            assert kept[node.name] == node
    assert list(quantized.graph.input) == list(graph.graph.input)
    assert list(quantized.graph.output) == list(graph.graph.output)


@pytest.mark.parametrize(
    "kept", [("stages.0.0",), ("stages.3.3",), ("stages.6.6",), ("stages.0.6", "stages.3.0")]
)
def test_kept_convolutions_stay_in_float(varied: Checkpoint, kept: tuple[str, ...]) -> None:
    graph = build_graph(varied, "full")
    model = quantize(varied, graph, recorded_ranges(varied, graph, "minmax"), kept)
    before, after, makers = _constants(graph), _constants(model), _makers(model)
    for node in model.graph.node:
        if node.op_type == "Conv":
            name = f"{node.name}.weight"
            if node.name in kept:
                assert node.input[1] == name
                assert np.array_equal(after[name], before[name])
                assert np.array_equal(after[node.input[2]], before[f"{node.name}.bias"])
            else:
                assert makers[node.input[1]].op_type == "DequantizeLinear"


# --- biases that take back what rounding weights adds ---------------------------------------------


def test_channel_means_are_those_of_normally_distributed_channels(varied: Checkpoint) -> None:
    means, expected = channel_means(varied), None
    drawn = np.random.default_rng(1).standard_normal((200_000, 1))
    for name, module in varied.network().named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            scale, shift = module.weight.detach().numpy(), module.bias.detach().numpy()
            expected = np.maximum(scale * drawn + shift, 0).mean(axis=0)
        elif name in means:  # a ReLU or a pooling
            assert expected is not None
            assert np.allclose(means[name], expected, rtol=0, atol=0.02), name
    inputs = {n.input[0] for n in network_nodes(build_graph(varied, "none")) if n.op_type == "Conv"}
    assert inputs - set(means) == {"image"}


def test_channel_means_are_unknown_without_batch_normalisation(checkpoint: Checkpoint) -> None:
    config = replace(checkpoint.config, batch_norm=False)
    plain = replace(checkpoint, config=config, weights=NiN(config).state_dict())
    assert channel_means(plain) == {}
    graph = build_graph(plain, "none")
    assert quantize(plain, graph, _wide(graph)).graph.node


def _wide(graph: ModelProto) -> Ranges:
    """Ranges for untrained weights: the same everywhere, from 0 after a ReLU."""
    return {
        name: (0.0 if node.op_type == "Relu" else -4.0, 4.0)
        for node in network_nodes(graph)
        for name in (node.input[0], *node.output)
    }


def test_biases_take_back_what_rounding_the_weights_adds(varied: Checkpoint) -> None:
    """To half a step of the bias for each of the two times that it is rounded."""
    graph = build_graph(varied, "none")
    exact, means = _constants(graph), channel_means(varied)
    model = quantize(varied, graph, _wide(graph))
    constants, makers = _constants(model), _makers(model)
    moved = 0
    for node in network_nodes(graph):
        if node.op_type != "Conv":
            continue
        quantised = next(other for other in model.graph.node if other.name == node.name)
        weight, scale, _ = (constants[one] for one in makers[quantised.input[1]].input)
        bias, step, _ = (constants[one] for one in makers[quantised.input[2]].input)
        error = weight * scale.astype(np.float64).reshape(-1, 1, 1, 1) - exact[node.input[1]]
        added = error.sum((2, 3)) @ means.get(node.input[0], np.zeros(error.shape[1]))
        off = np.abs(bias * step.astype(np.float64) + added - exact[node.input[2]])
        assert (off <= 1.001 * step).all(), node.name
        moved += int((np.abs(added) > 2 * step).sum())
    assert moved > 0


# --- the same integers on every processor ---------------------------------------------------------


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
    constants, makers = _constants(model), _makers(model)
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
    quantizer = _makers(model)[name]
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
    constants = _constants(model)
    steps = twice.astype(np.float64) / 2 / constants[scale]
    return np.rint(steps).astype(np.int64) + constants[zero], operators


def test_shipped_model_equals_integer_arithmetic_in_every_convolution(tmp_path: Path) -> None:
    model = onnx.load(DEFAULT_MODEL)
    constants, makers = _constants(model), _makers(model)
    users = {name: node for node in model.graph.node for name in node.input}
    images = np.stack(
        [np.full((32, 32, 3), value, np.uint8) for value in (0, 255)] + [golden_image(5, 32, 32)]
    )
    run: list[str] = []
    for node in model.graph.node:
        if node.op_type != "Conv" or node.input[1] in constants:
            continue
        source, after = makers[node.input[0]], users[node.output[0]]
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
    constants = _constants(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    quantised = [node for node in convolutions if node.input[1] not in constants]
    assert _session(model, tmp_path)[1].count("QLinearConv") == len(quantised) > 0


# --- ranges ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(
    checkpoint: Checkpoint, bare: ModelProto, pixels: NDArray[np.uint8]
) -> dict[str, Ranges]:
    return {method: calibrate(checkpoint, bare, _batches(pixels), method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_measured_ranges_are_sane(
    method: str, measured: dict[str, Ranges], checkpoint: Checkpoint, bare: ModelProto
) -> None:
    nodes = network_nodes(bare)
    ranges, extremes = measured[method], measured["minmax"]
    for node in nodes:
        for name in (node.input[0], *node.output):
            low, high = ranges[name]
            assert np.isfinite([low, high]).all()
            assert low <= 0 <= high
            assert low < high
            bound = BIN * max(map(abs, extremes[name]))
            assert max(-low, high) <= bound, name
        if node.op_type == "Relu":  # the quantiser drops it: only this keeps what it did
            assert ranges[node.output[0]][0] == 0
    assert quantize(checkpoint, bare, ranges).graph.node


def test_extremes_are_those_that_training_records(
    checkpoint: Checkpoint,
    bare: ModelProto,
    pixels: NDArray[np.uint8],
    measured: dict[str, Ranges],
) -> None:
    spans = activation_ranges(
        checkpoint.network(),
        evaluate.inputs(checkpoint.preprocessing, pixels, np.arange(len(pixels))),
        len(pixels),
    )
    again = recorded_ranges(replace(checkpoint, ranges=spans), bare, "minmax")
    assert len(again) == len(spans) == 12
    for name, expected in again.items():
        found = measured["minmax"][name]
        width = expected[1] - expected[0]
        assert np.allclose(found, expected, rtol=0, atol=RANGE_TOLERANCE * width), name


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_recorded_ranges_cover_every_quantised_tensor(
    checkpoint: Checkpoint, graph: ModelProto, method: str
) -> None:
    ranges = recorded_ranges(checkpoint, graph, method)
    for name in (network_nodes(graph)[0].input[0], "class_maps"):
        assert name in ranges
    span = checkpoint.ranges["stages.3.2"]
    expected = (span.minimum, span.maximum) if method == "minmax" else (span.low, span.high)
    assert ranges["stages.3.2"] == expected


@pytest.mark.parametrize("method", METHODS)
def test_input_range_covers_black_and_white(
    checkpoint: Checkpoint, bare: ModelProto, measured: dict[str, Ranges], method: str
) -> None:
    flat = np.stack([np.full((16, 16, 3), value, np.uint8) for value in (0, 255)])
    black, white = checkpoint.preprocessing.normalize(flat)
    found = [measured[method]["image"]]
    if method != "entropy":
        found.append(recorded_ranges(checkpoint, bare, method)["image"])
    for low, high in found:
        assert low <= black.min()
        assert high >= white.max()


def test_calibration_is_silent_on_stdout(
    checkpoint: Checkpoint,
    bare: ModelProto,
    pixels: NDArray[np.uint8],
    capfd: pytest.CaptureFixture[str],
) -> None:
    for method in METHODS:
        calibrate(checkpoint, bare, itertools.islice(_batches(pixels), 2), method)
    assert capfd.readouterr().out == ""


def test_checkpoint_without_ranges_says_how_to_get_them(
    checkpoint: Checkpoint, graph: ModelProto
) -> None:
    with pytest.raises(NinEdgeError, match=r"give --calibration DATA, or take best\.safetensors"):
        recorded_ranges(replace(checkpoint, ranges={}), graph, "minmax")
