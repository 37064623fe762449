"""The ranges of values that int8's activations have to cover: recorded in training, or measured.

`nin_edge.quantised_points` lists the tensors. `quantize.py` turns the ranges into scales and zero
points.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.quantised_points import INPUT, quantised_points
from nin_edge_export.graph import build_graph, network_nodes
from nin_edge_export.parity import Progress
from nin_edge_runtime import NinEdgeError
from nin_edge_runtime.preprocessing import Preprocessing

METHODS: Final = ("minmax", "percentile", "entropy")
"""How a range is found: from the extremes, the 99.99th percentiles, or the least divergence."""

DEFAULT_METHOD: Final = "minmax"
"""It needs no images, and diverges little from fp32 on the hold-out (docs/results.md)."""

Ranges: TypeAlias = Mapping[str, tuple[float, float]]
"""Smallest and largest value to represent, by the name of the tensor."""

_CALIBRATORS: Final = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
_BATCH: Final = 16  # images; all activations of a batch are in memory at once


def recorded_ranges(checkpoint: Checkpoint, model: ModelProto, method: str) -> Ranges:
    """The ranges that training recorded in a checkpoint.

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
    tensors = _tensors(checkpoint, model)
    if missing := tensors.keys() - checkpoint.ranges.keys():
        raise NinEdgeError(
            f"the checkpoint's activation ranges lack {', '.join(sorted(missing))}: give "
            "--calibration DATA to measure them"
        )
    spans = {}
    for point, tensor in tensors.items():
        span = checkpoint.ranges[point]
        spans[tensor] = (
            (span.minimum, span.maximum) if method == "minmax" else (span.low, span.high)
        )
    return spans | _input_range(checkpoint.preprocessing, model)


def dataset_ranges(
    checkpoint: Checkpoint,
    model: ModelProto,
    dataset: Dataset,
    *,
    method: str,
    images: int,
    progress: Progress | None = None,
) -> tuple[Ranges, int]:
    """The ranges over some of a data set's training images.

    Args:
        checkpoint: what `model` was built from.
        model: from `graph.build_graph`.
        dataset: its images, as the network sees them.
        method: one of `METHODS`.
        images: most images to take.
        progress: called with what is being done, the images done and their total.

    Returns:
        The ranges, and the number of images that they were measured on.
    """
    chosen = np.sort(np.random.default_rng(0).permutation(dataset.train)[:images])

    def batches() -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(chosen), _BATCH):
            yield dataset.images[chosen[start : start + _BATCH]]
            if progress:
                progress("calibrating", min(start + _BATCH, len(chosen)), len(chosen))

    bare = build_graph(checkpoint, "none")
    ranges = calibrate(checkpoint, bare, batches(), method)
    # The network's input has another name where the graph does the preprocessing.
    source, target = network_nodes(bare)[0].input[0], network_nodes(model)[0].input[0]
    return {**ranges, target: ranges[source]}, len(chosen)


def calibrate(
    checkpoint: Checkpoint, model: ModelProto, batches: Iterable[NDArray[np.uint8]], method: str
) -> Ranges:
    """The ranges over images, from ONNX Runtime's calibrators.

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
            measured = calibrator.compute_data()
    spans = {
        name: (float(np.min(data.range_value[0])), float(np.max(data.range_value[1])))
        for name, data in measured.items()
    }
    return spans | _input_range(checkpoint.preprocessing, model)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """One batch, in the form that calibrators read."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._images: NDArray[np.float32] | None = images

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        images, self._images = self._images, None
        return None if images is None else {"image": images}


def _tensors(checkpoint: Checkpoint, model: ModelProto) -> dict[str, str]:
    """The model's tensor for each point that int8 quantises; nodes are named by their modules."""
    nodes = network_nodes(model)
    outputs = {node.name: node.output[0] for node in nodes}
    points = quantised_points(checkpoint.network())
    return {INPUT: nodes[0].input[0]} | {name: outputs[name] for name in points}


def _input_range(preprocessing: Preprocessing, model: ModelProto) -> dict[str, tuple[float, float]]:
    """The network's input always covers black and white, whatever images were measured."""
    scale, shift = preprocessing.scale_and_shift()
    source = network_nodes(model)[0].input[0]
    return {source: (float(shift.min()), float((255 * scale + shift).max()))}
