"""Measuring an export's latency and disagreements, and gathering all of its figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.metrics import Scores, Tally, uncalibrated
from nin_edge.page import png
from nin_edge_export.export import ExportedModel
from nin_edge_export.report.figures import (
    Disagreement,
    Disagreements,
    FileFigures,
    Machine,
    Report,
)
from nin_edge_runtime.bench import time_calls
from nin_edge_runtime.cpu import instruction_sets, processor_name
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.session import ModelSession
from nin_edge_runtime.threads import machine_cpus

WORST: Final = 12
"""Most disagreements that are shown."""

SECONDS: Final = 2.0
"""How long latency is measured, in all, where the caller does not say."""

_CALLS: Final = 5  # one after the other: as in a camera loop, with warm caches
_FEWEST_ROUNDS: Final = 3  # also where a run takes longer
_ALL_INT8: Final = "all int8"


def measure(
    models: Sequence[ExportedModel],
    checkpoint: Checkpoint,
    *,
    name: str,
    dataset: Dataset | None = None,
    seconds: float | None = None,
) -> Report:
    """Measure what the files' certificates do not say, and gather all figures.

    Args:
        models: from `export_models`, at least one.
        checkpoint: what they were made from.
        name: the files are called `NAME.PRECISION.onnx`.
        dataset: the data set that they were measured on, if any.
        seconds: how long to measure latency, in all; `SECONDS` if None.
    """
    latencies, machine = _latencies(models, SECONDS if seconds is None else seconds)
    last = models[-1]  # the least precise
    images = last.info.certificate.images
    return Report(
        name=name,
        files=tuple(
            _file_figures(model, dataset, latencies[model.info.precision]) for model in models
        ),
        machine=machine,
        latency_target_ms=checkpoint.latency_target_ms,
        data=images.data if images else None,
        trained=checkpoint.trained_scores,
        int8=next((model.plan for model in models if model.plan), None),
        all_int8_ms=latencies.get(_ALL_INT8),
        disagreements=None if dataset is None else _disagreements(last, dataset),
    )


def _file_figures(model: ExportedModel, dataset: Dataset | None, latency_ms: float) -> FileFigures:
    scores = calibration = None
    if dataset is not None and model.probabilities is not None:
        targets = dataset.targets[dataset.scored]
        scores = _scores(model.info.labels, model.probabilities, targets)
        if model.info.temperature != 1.0:
            plain = uncalibrated(model.probabilities, model.info.temperature)
            calibration = _scores(model.info.labels, plain, targets).calibration
    return FileFigures(
        info=model.info,
        size=len(model.data),
        latency_ms=latency_ms,
        scores=scores,
        uncalibrated=calibration,
    )


def _scores(
    labels: Sequence[str], probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> Scores:
    tally = Tally(labels)
    tally.add(probabilities, targets)
    return tally.scores()


def _latencies(models: Sequence[ExportedModel], seconds: float) -> tuple[dict[str, float], Machine]:
    """Median milliseconds of a run of each model, and what they were measured with."""
    graphs = {model.info.precision: (model.data, model.info) for model in models}
    for model in models:
        if model.all_int8 is not None:
            graphs[_ALL_INT8] = (model.all_int8, model.info)
    sessions = {
        name: ModelSession(data, info, name, provider="cpu", threads=1)
        for name, (data, info) in graphs.items()
    }
    steps = models[0].info.preprocessing
    # (1, S, S, C): nothing is decoded or resized
    pixels = steps.resize(golden_image(0, steps.size, steps.size))[np.newaxis]
    rounds, times = time_calls(
        {name: partial(session.run, pixels) for name, session in sessions.items()},
        seconds=seconds,
        calls=_CALLS,
        min_rounds=_FEWEST_ROUNDS,
    )
    machine = Machine(
        cpu=f"{processor_name()}, {machine_cpus()} CPUs",
        processor=instruction_sets(),
        onnxruntime=onnxruntime.__version__,
        threads=1,
        images=next(iter(sessions.values())).fixed_batch or 1,
        rounds=rounds,
        calls=_CALLS,
    )
    return {name: 1e3 * statistics.median(calls) for name, calls in times.items()}, machine


def _disagreements(model: ExportedModel, dataset: Dataset) -> Disagreements:
    """The scored images for which a file predicts another class than PyTorch."""
    assert model.probabilities is not None  # there is a data set
    assert model.reference is not None
    file, pytorch = model.probabilities.argmax(axis=1), model.reference.argmax(axis=1)
    differences = np.abs(model.probabilities - model.reference).max(axis=1)
    differing = np.flatnonzero(file != pytorch)
    order = differing[np.argsort(-differences[differing], kind="stable")]
    labels = model.info.labels
    worst = []
    for row in order[:WORST]:
        index = dataset.scored[row]
        worst.append(
            Disagreement(
                image=dataset.names[index],
                label=labels[dataset.targets[index]],
                pytorch=labels[pytorch[row]],
                pytorch_probability=float(model.reference[row, pytorch[row]]),
                file=labels[file[row]],
                file_probability=float(model.probabilities[row, file[row]]),
                difference=float(differences[row]),
                png=png(dataset.images[index]),
            )
        )
    return Disagreements(model.info.precision, len(differing), tuple(worst))
