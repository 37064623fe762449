"""int8's activation ranges, recorded in training or measured: for every tensor, and sane."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.quantised_points import activation_ranges
from nin_edge_export.graph import build_graph, network_nodes
from nin_edge_export.int8.activation_ranges import METHODS, Ranges, calibrate, recorded_ranges
from nin_edge_export.int8.quantize import quantize
from nin_edge_runtime import NinEdgeError
from nin_edge_runtime.golden import golden_image

RANGE_TOLERANCE = 1e-4  # of a range: PyTorch's float32 against ONNX Runtime's
BIN = 1.02  # a histogram's bins may reach a little beyond the extremes
BATCH = 16


@pytest.fixture(scope="module")
def bare(checkpoint: Checkpoint) -> ModelProto:
    """Without preprocessing: what `calibrate` takes."""
    return build_graph(checkpoint, "none")


@pytest.fixture(scope="module")
def pixels(checkpoint: Checkpoint) -> NDArray[np.uint8]:
    images = [golden_image(2000 + seed, 24, 24) for seed in range(48)]
    return np.stack([checkpoint.preprocessing.resize(image) for image in images])


def _batches(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    yield from (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))


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
        predict.inputs(checkpoint.preprocessing, pixels, np.arange(len(pixels))),
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
