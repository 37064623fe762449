"""fp16: half the file, the same answers, and everything that could overflow still in fp32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from nin_edge.checkpoint import Checkpoint
from nin_edge.weights import DEFAULT_WEIGHTS
from nin_edge_export.fp16 import to_fp16
from nin_edge_export.golden import MARGIN
from nin_edge_export.graph import build_graph, network_nodes
from nin_edge_export.parity import TOLERANCES
from nin_edge_runtime import GateError
from nin_edge_runtime.golden import golden_image

LARGEST = 65504.0  # of half precision
SIZE_RATIO = 0.53  # of the fp32 file; the bound
LOGIT_TOLERANCE = 1e-2  # of the largest logit: half precision has 11 bits, and errors add up


@pytest.fixture(scope="module")
def tiny(graph: ModelProto) -> ModelProto:
    return graph


@pytest.fixture(scope="module")
def shipped() -> ModelProto:
    """The default weights' fp32 graph."""
    return build_graph(Checkpoint.load(DEFAULT_WEIGHTS), "full")


def _run(model: ModelProto, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


def _scaled(model: ModelProto, name: str, change: Callable[[NDArray], NDArray]) -> ModelProto:
    """A copy of a model, one of its weights changed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == name)
    values = change(numpy_helper.to_array(tensor).copy()).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    return copy


def _kinds(model: ModelProto) -> dict[str, int]:
    """Element type of every tensor that shape inference knows."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_weights_of_the_network_alone_are_halved(tiny: ModelProto) -> None:
    half = to_fp16(tiny, {})
    before = {tensor.name: tensor for tensor in tiny.graph.initializer}
    weights = {name for node in network_nodes(tiny) for name in node.input[1:]}
    assert weights
    for tensor in half.graph.initializer:
        if tensor.name in weights:
            assert tensor.data_type == TensorProto.FLOAT16
        else:
            assert tensor == before[tensor.name]
    assert {tensor.name for tensor in half.graph.initializer} == set(before)


def test_convolutions_and_poolings_alone_compute_in_half_precision(tiny: ModelProto) -> None:
    half = to_fp16(tiny, {})
    kinds = _kinds(half)
    for node in half.graph.node:
        if node.op_type in ("Conv", "MaxPool", "AveragePool"):
            assert kinds[node.output[0]] == kinds[node.input[0]] == TensorProto.FLOAT16
        elif node.op_type != "Cast":
            assert TensorProto.FLOAT16 not in {kinds.get(name) for name in node.output}


def test_inputs_outputs_and_operators_stay(tiny: ModelProto) -> None:
    half = to_fp16(tiny, {})
    assert list(half.graph.input) == list(tiny.graph.input)
    assert list(half.graph.output) == list(tiny.graph.output)
    assert list(half.opset_import) == list(tiny.opset_import)
    plain = [node.name for node in half.graph.node if not node.name.endswith(".cast")]
    assert plain == [node.name for node in tiny.graph.node]
    assert {node.domain for node in half.graph.node} == {""}


def test_file_is_about_half(shipped: ModelProto) -> None:
    assert to_fp16(shipped, {}).ByteSize() <= SIZE_RATIO * shipped.ByteSize()


@pytest.mark.parametrize("name", ["tiny", "shipped"])
def test_answers_are_those_of_fp32(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    images = np.stack([golden_image(seed, 32, 32) for seed in range(100)])
    full, half = _run(model, images), _run(to_fp16(model, {}), images)
    expected, found = full["probabilities"], half["probabilities"]
    assert np.allclose(found, expected, rtol=0, atol=TOLERANCES["fp16"])
    ordered = np.sort(expected, axis=1)
    firm = ordered[:, -1] - ordered[:, -2] >= MARGIN
    assert firm.sum() > len(images) // 4
    assert (found.argmax(axis=1) == expected.argmax(axis=1))[firm].all()


@pytest.mark.parametrize(("value", "fits"), [(LARGEST, True), (-LARGEST, True), (65600.0, False)])
def test_weight_beyond_half_precision_is_refused(
    tiny: ModelProto, value: float, fits: bool
) -> None:
    def spoil(values: NDArray) -> NDArray:
        values.flat[5] = value
        return values

    model = _scaled(tiny, "stages.3.0.weight", spoil)
    if fits:
        halved = {t.name: numpy_helper.to_array(t) for t in to_fp16(model, {}).graph.initializer}
        assert np.isfinite(halved["stages.3.0.weight"]).all()
    else:
        with pytest.raises(GateError, match=r"stages\.3\.0\.weight: a weight of 65600 overflows"):
            to_fp16(model, {})


def test_large_class_maps_do_not_overflow_in_the_average(tiny: ModelProto) -> None:
    """Each value fits into half precision, their sum does not; so the average is not made there."""
    images = np.stack([golden_image(seed, 16, 16) for seed in range(20)])
    largest = float(np.abs(_run(tiny, images)["class_maps"]).max())
    loud = _scaled(tiny, "stages.6.6.weight", lambda w: w * (0.9 * LARGEST / largest))
    full, half = _run(loud, images), _run(to_fp16(loud, {}), images)
    maps = half["class_maps"]
    assert np.abs(maps).max() < LARGEST < np.abs(maps.astype(np.float64).sum(axis=(2, 3))).max()
    assert np.isfinite(half["probabilities"]).all()
    means, expected = maps.mean(axis=(2, 3)), full["class_maps"].mean(axis=(2, 3))
    assert np.allclose(means, expected, rtol=0, atol=LOGIT_TOLERANCE * np.abs(expected).max())
    kinds = _kinds(to_fp16(loud, {}))
    assert kinds["class_maps"] == kinds["logits"] == kinds["probabilities"] == TensorProto.FLOAT
