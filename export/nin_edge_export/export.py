"""Export from end to end: from a checkpoint to finished, measured files in each precision.

`export_models` is the walk-through: temperature, golden samples, the fp32 graph, then for each
precision its graph, its measurements (`certify`) and its seal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from nin_edge import metrics, predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset, DatasetError, check_labels
from nin_edge.network import NiN
from nin_edge_export.certify import Choices, Evaluation, certify
from nin_edge_export.engines import engines_of
from nin_edge_export.fp16 import to_fp16
from nin_edge_export.golden import choose_golden
from nin_edge_export.graph import OPSET, build_graph, check_opset, network_nodes
from nin_edge_export.int8.activation_ranges import (
    DEFAULT_METHOD,
    METHODS,
    Ranges,
    dataset_ranges,
    recorded_ranges,
)
from nin_edge_export.int8.budget import Int8Plan, plan_int8
from nin_edge_export.int8.quantize import quantize
from nin_edge_export.parity import Progress, pytorch_probabilities, session_probabilities
from nin_edge_export.seal import describe, seal
from nin_edge_runtime import GateError, ModelFileError, ModelInfo, NinEdgeError, read_model
from nin_edge_runtime.model_file import EMBEDDED, PRECISIONS
from nin_edge_runtime.model_file.certificate import FITTED_BEFORE, FITTED_HERE, Quantization
from nin_edge_runtime.model_file.limits import MAX_BATCH
from nin_edge_runtime.session import ModelSession


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a checkpoint."""

    precisions: tuple[str, ...] = PRECISIONS
    """Which files to make; they are made in the order of `PRECISIONS`."""
    embedded: str = "full"
    """Which preprocessing the graph does: `full`, `normalize` or `none`."""
    opset: int = OPSET
    """Version of the ONNX operators."""
    batch: int | None = None
    """Images of one run, if fixed, 1 to 4096; any number if None."""
    method: str = DEFAULT_METHOD
    """How int8's ranges are found: `minmax`, `percentile` or, over images, `entropy`."""
    calibration_images: int = 512
    """Most images to measure int8's ranges on, at least 1."""
    max_drop: float | None = None
    """Largest loss of int8's top-1 accuracy against fp32, in percentage points; None for any."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made.

        Raises:
            ValueError: a field is out of its range; the message names it.
        """
        for name, values, allowed in (
            ("precision", self.precisions, PRECISIONS),
            ("embedded preprocessing", (self.embedded,), EMBEDDED),
            ("method", (self.method,), METHODS),
        ):
            for value in values:
                if value not in allowed:
                    raise ValueError(f"{name} {value!r}: expected one of {', '.join(allowed)}")
        if not self.precisions:
            raise ValueError(f"no precision: expected some of {', '.join(PRECISIONS)}")
        check_opset(self.opset, self.embedded)
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise ValueError(f"batch {self.batch}: expected 1 to {MAX_BATCH} images")
        if self.calibration_images < 1:
            raise ValueError(f"{self.calibration_images} calibration images: expected at least 1")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise ValueError(f"max drop {self.max_drop}: expected 0 to 100 percentage points")


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A finished file, in memory."""

    data: bytes
    """What to write to `NAME.PRECISION.onnx`."""
    info: ModelInfo
    """Its metadata."""
    probabilities: NDArray[np.float32] | None
    """Its probabilities (N, K) for the data set's `scored` images; None without one."""
    reference: NDArray[np.float64] | None
    """PyTorch's probabilities (N, K) for the same images."""
    plan: Int8Plan | None = None
    """How int8's layers were decided; None without a data set and in other precisions."""
    all_int8: bytes | None = None
    """The int8 graph with every convolution quantised, never sealed; None unless some stay in
    float. The report times it."""


def export_models(
    checkpoint: Checkpoint,
    options: ExportOptions | None = None,
    *,
    dataset: Dataset | None = None,
    calibration: Dataset | None = None,
    progress: Progress | None = None,
) -> list[ExportedModel]:
    """Export a checkpoint in each precision asked for, and compare each file with PyTorch.

    The same checkpoint gives the same bytes every time, on one machine with one set of packages.

    Args:
        checkpoint: the network to export.
        options: what to make; all precisions, as a device takes them, if None.
        dataset: int8's budget and an unfitted temperature are decided on its hold-out, then
            accuracy and agreement are measured on its test split, or else its validation split;
            without it, on no real images.
        calibration: int8's ranges are measured on its training images; the ranges that training
            recorded, if None.
        progress: called with what is being done, the images done and their total.

    Raises:
        GateError: a file is too far from PyTorch or outputs no probabilities, or int8's budget
            cannot be met.
        DatasetError: a data set's labels are not the model's, or its images too few.
        NinEdgeError: int8 without ranges, or a largest drop without a data set to measure it on.
    """
    options = options or ExportOptions()
    _check_data(checkpoint, options, dataset, calibration)
    network = checkpoint.network()
    evaluation = None
    if dataset is not None:
        checkpoint, evaluation = _prepare_evaluation(checkpoint, network, dataset)
    golden = choose_golden(checkpoint, network)
    info = describe(checkpoint, precision="fp32", embedded=options.embedded, golden=golden)
    job = _Job(checkpoint, options, info, evaluation, calibration, progress)
    graph = build_graph(checkpoint, options.embedded, opset=options.opset, batch=options.batch)
    try:
        return [
            export(job, graph)
            for precision, export in _EXPORTERS.items()
            if precision in options.precisions
        ]
    except ModelFileError as error:  # a graph that overflows, whose outputs no device would accept
        raise GateError(str(error)) from error


@dataclass(frozen=True, eq=False)
class _Job:
    """What all models of one export share."""

    checkpoint: Checkpoint
    """With a temperature, if there is data to fit it on."""
    options: ExportOptions
    """What to make."""
    info: ModelInfo
    """Metadata of a model in fp32, before it is measured."""
    evaluation: Evaluation | None
    """Data to measure on."""
    calibration: Dataset | None
    """Data to measure int8's ranges on."""
    progress: Progress | None
    """Called with what is being done, the images done and their total."""

    def session(self, graph: ModelProto, precision: str) -> ModelSession:
        """A graph in the runtime, as a device would run it."""
        info = replace(self.info, precision=precision)
        name = f"the {precision} model"
        return ModelSession(graph.SerializeToString(), info, name, provider="cpu")

    def engines(self, precision: str, choices: Choices) -> tuple[str, ...] | None:
        """The other engines in which such a graph was right; None if that was not measured."""
        if precision == "int8" and choices.float_layers:
            return None
        options, steps = self.options, self.checkpoint.preprocessing
        return engines_of(steps, options.embedded, precision, options.opset, options.batch)

    def finish(self, graph: ModelProto, precision: str, choices: Choices) -> ExportedModel:
        """Measure a graph, and seal it with its certificate."""
        session = self.session(graph, precision)
        golden, evaluation = self.info.golden, self.evaluation
        measured = certify(session, self.checkpoint, golden, choices, evaluation, self.progress)
        info = replace(
            session.info,
            certificate=measured.certificate,
            golden=measured.golden,
            engines=self.engines(precision, choices),
        )
        data = seal(graph, info)
        return ExportedModel(
            data=data,
            info=read_model(data)[1],
            probabilities=measured.probabilities,
            reference=evaluation.reference if evaluation else None,
        )


def _check_data(
    checkpoint: Checkpoint,
    options: ExportOptions,
    dataset: Dataset | None,
    calibration: Dataset | None,
) -> None:
    if dataset is None and options.max_drop is not None and "int8" in options.precisions:
        raise NinEdgeError(
            "int8's largest drop of accuracy is measured on images, and there are none"
        )
    for given in (dataset, calibration):
        if given is not None:
            check_labels(given, checkpoint.labels)
    if calibration is not None and not len(calibration.train):
        raise DatasetError(f"{calibration.name}: no training images to calibrate on")
    if dataset is not None and not (len(dataset.holdout) and len(dataset.scored)):
        raise DatasetError(
            f"{dataset.name}: too few images for a hold-out and a test split, "
            "expected at least 3 a class"
        )


def _prepare_evaluation(
    checkpoint: Checkpoint, network: NiN, dataset: Dataset
) -> tuple[Checkpoint, Evaluation]:
    """Fit the temperature, if training did not, and run PyTorch over the images to score."""
    # The training data, recognised by its pixels; an empty fingerprint is of unknown data.
    trained_on = checkpoint.data.fingerprint
    same = trained_on != "" and dataset.fingerprint == trained_on
    fitted = FITTED_HERE if same else FITTED_BEFORE
    if checkpoint.temperature is None:
        logits = predict.logits(network, checkpoint.preprocessing, dataset.images, dataset.holdout)
        temperature = metrics.fit_temperature(logits, dataset.targets[dataset.holdout])
        checkpoint, fitted = replace(checkpoint, temperature=temperature), FITTED_HERE
    reference = pytorch_probabilities(checkpoint, network, dataset.images, dataset.scored)
    # The training data keeps the name that training gave it.
    name = checkpoint.data.name if same else dataset.name
    if dataset.scored_split != "test":
        name = f"{name} ({dataset.scored_split} split)"
    return checkpoint, Evaluation(dataset, name, reference, fitted)


def _export_fp32(job: _Job, graph: ModelProto) -> ExportedModel:
    convolutions = tuple(node.name for node in network_nodes(graph) if node.op_type == "Conv")
    return job.finish(graph, "fp32", Choices(float_layers=convolutions))


def _export_fp16(job: _Job, graph: ModelProto) -> ExportedModel:
    return job.finish(to_fp16(graph, job.checkpoint.ranges), "fp16", Choices())


def _export_int8(job: _Job, graph: ModelProto) -> ExportedModel:
    """The quantised model, within the budget if there is one."""
    ranges, quantization = _activation_ranges(job, graph)
    quantized = partial(quantize, job.checkpoint, graph, ranges)
    plan = None
    if job.evaluation is not None:
        dataset = job.evaluation.dataset

        def holdout_probabilities(candidate: ModelProto, title: str) -> NDArray[np.floating]:
            session = job.session(candidate, "int8")
            return session_probabilities(
                session, dataset.images, dataset.holdout, title=title, progress=job.progress
            )

        plan = plan_int8(
            graph,
            quantized,
            holdout_probabilities,
            dataset.targets[dataset.holdout],
            max_drop=job.options.max_drop,
            data=dataset.name,
        )
    kept = plan.keep_float if plan else ()
    choices = Choices(kept, quantization, plan.budget if plan else None)
    model = job.finish(quantized(kept), "int8", choices)
    all_int8 = quantized(()).SerializeToString() if kept else None
    return replace(model, plan=plan, all_int8=all_int8)


def _activation_ranges(job: _Job, graph: ModelProto) -> tuple[Ranges, Quantization]:
    """int8's ranges and their origin."""
    method = job.options.method
    if job.calibration is None:
        ranges = recorded_ranges(job.checkpoint, graph, method)
        return ranges, Quantization(method, "recorded at the end of training")
    ranges, images = dataset_ranges(
        job.checkpoint,
        graph,
        job.calibration,
        method=method,
        images=job.options.calibration_images,
        progress=job.progress,
    )
    return ranges, Quantization(method, job.calibration.name, images)


_EXPORTERS: Final[Mapping[str, Callable[[_Job, ModelProto], ExportedModel]]] = {
    "fp32": _export_fp32,
    "fp16": _export_fp16,
    "int8": _export_int8,
}
