"""The report on an export, in numbers: what each file costs, how good it is, where it errs.

`page.py` makes the page for people of it.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.metrics import Calibration, Scores, Tally, uncalibrated
from nin_edge_export.certify import NOT_MEASURED
from nin_edge_export.export import ExportedModel
from nin_edge_export.int8.budget import Int8Plan
from nin_edge_export.seal import processor
from nin_edge_runtime import Classifier, ModelInfo
from nin_edge_runtime.bench import processor_name
from nin_edge_runtime.golden import golden_image

WORST: Final = 12
"""Most disagreements that are shown."""

_SECONDS: Final = 2.0  # of measuring latency, in all
_CALLS: Final = 5  # one after the other: as in a camera loop, with warm caches
_FEWEST_ROUNDS: Final = 3  # also where a call takes longer
_PICTURE: Final = 128  # largest side of a picture in the report, in pixels


@dataclass(frozen=True)
class Agreement:
    """How close a file's answers are to PyTorch's."""

    count: int
    """Images that both answered."""
    top1_agreement: float
    """Share of them with the same answer, 0 to 1."""
    max_abs_difference: float
    """Largest difference of a probability, 0 to 1."""


@dataclass(frozen=True, eq=False)
class FileFigures:
    """What one file costs, and how good it is."""

    info: ModelInfo
    """What it says of itself."""
    size: int
    """Bytes."""
    latency_ms: float
    """Median milliseconds of one call."""
    golden: Agreement
    """On the golden samples."""
    images: Agreement | None
    """On the test images; None without a data set."""
    scores: Scores | None
    """Accuracy, confusion and calibration on the test images; None without a data set."""
    before: Calibration | None
    """Calibration without the temperature; None without a data set or a temperature."""


@dataclass(frozen=True)
class Machine:
    """Where and how latency was measured."""

    cpu: str
    """Model of the processor."""
    processor: str
    """Its architecture and the instruction sets that matter here."""
    onnxruntime: str
    """Version of ONNX Runtime."""
    threads: int
    """Threads of one call."""
    images: int
    """Images a call: 1, or the batch that the files fix."""
    rounds: int
    """Rounds, in each of which every file was called in turn."""
    calls: int
    """Calls of a file in a round."""


@dataclass(frozen=True)
class Disagreement:
    """One test image that a file calls otherwise than PyTorch does."""

    image: str
    """Its name in the data set."""
    label: str
    """Its class."""
    pytorch: str
    """PyTorch's answer."""
    pytorch_probability: float
    """How sure PyTorch is of it, 0 to 1."""
    file: str
    """The file's answer."""
    file_probability: float
    """How sure the file is of it, 0 to 1."""
    difference: float
    """Largest difference of a probability, 0 to 1."""
    png: bytes
    """The image as the network sees it."""


@dataclass(frozen=True)
class Disagreements:
    """The images that the least precise file calls otherwise than PyTorch does."""

    precision: str
    """That file's."""
    count: int
    """How many there are."""
    worst: tuple[Disagreement, ...]
    """At most `WORST` of them, those whose probabilities differ most first."""


@dataclass(frozen=True, eq=False)
class Report:
    """All that is known of an export."""

    name: str
    """The files are called `NAME.PRECISION.onnx`."""
    files: tuple[FileFigures, ...]
    """In the order of export: fp32 first, if it is there."""
    machine: Machine
    """Where latency was measured."""
    data: str | None
    """Name of the data set that was measured on; None without one."""
    trained: Mapping[str, float]
    """What training measured with PyTorch, by name."""
    int8: Int8Plan | None
    """How int8's layers were decided; None without a data set or int8."""
    all_int8_ms: float | None
    """Latency of the int8 file if no convolution had stayed in float; None if none has."""
    disagreements: Disagreements | None
    """None without a data set."""

    @property
    def fp32(self) -> FileFigures | None:
        """The file that the others are compared with; None if it was not exported."""
        return next((file for file in self.files if file.info.precision == "fp32"), None)


def measure(
    models: Sequence[ExportedModel],
    checkpoint: Checkpoint,
    *,
    name: str,
    dataset: Dataset | None = None,
    seconds: float = _SECONDS,
) -> Report:
    """Measure what the files' certificates do not say, and gather all of it.

    Args:
        models: from `pipeline.export_models`, at least one.
        checkpoint: what they were made from.
        name: the files are called `NAME.PRECISION.onnx`.
        dataset: the data set that they were measured on, if any.
        seconds: how long to measure latency, in all.
    """
    timed = {model.info.precision: model.data for model in models}
    whole = next((model.all_int8 for model in models if model.all_int8), None)
    if whole is not None:
        timed["all int8"] = whole
    latencies, machine = _latencies(timed, seconds)
    last = models[-1]  # the least precise
    return Report(
        name=name,
        files=tuple(
            _file_figures(model, dataset, latencies[model.info.precision]) for model in models
        ),
        machine=machine,
        data=None if dataset is None else last.info.certificate["images"]["data"],
        trained=checkpoint.metrics,
        int8=next((model.plan for model in models if model.plan), None),
        all_int8_ms=latencies.get("all int8"),
        disagreements=None if dataset is None else _disagreements(last, dataset),
    )


def to_json(report: Report) -> bytes:
    """The report as strict JSON; what was not measured is said to be so."""
    fp32 = report.fp32
    missing = report.disagreements
    plan = report.int8
    value = {
        "name": report.name,
        "data": report.data or NOT_MEASURED,
        "trained": dict(report.trained),
        "machine": asdict(report.machine),
        "files": [_file_json(file, fp32) for file in report.files],
        "int8": NOT_MEASURED
        if plan is None
        else {
            "sensitivity": dict(plan.sensitivity),
            "keep_float": list(plan.keep_float),
            "budget": dict(plan.figures),
            "all_int8_latency_ms": report.all_int8_ms,
        },
        "disagreements": NOT_MEASURED
        if missing is None
        else {
            "precision": missing.precision,
            "count": missing.count,
            "worst": [
                {key: field for key, field in asdict(item).items() if key != "png"}
                for item in missing.worst
            ],
        },
    }
    return (json.dumps(value, allow_nan=False, indent=2) + "\n").encode("ascii")


def _file_json(file: FileFigures, fp32: FileFigures | None) -> dict[str, Any]:
    info = file.info
    return {
        "precision": info.precision,
        "sha256": info.sha256,
        "bytes": file.size,
        "relative_size": file.size / fp32.size if fp32 else None,
        "latency_p50_ms": file.latency_ms,
        "relative_latency": file.latency_ms / fp32.latency_ms if fp32 else None,
        "temperature": info.temperature,
        "float_layers": list(info.certificate["float_layers"]),
        "golden": asdict(file.golden),
        "agreement": asdict(file.images) if file.images else NOT_MEASURED,
        "scores": file.scores.to_json() if file.scores else NOT_MEASURED,
        "thresholds": info.certificate["thresholds"],
        "uncalibrated": {"ece": file.before.error, "calibration": file.before.to_json()}
        if file.before
        else NOT_MEASURED,
    }


def _file_figures(model: ExportedModel, dataset: Dataset | None, latency_ms: float) -> FileFigures:
    golden = model.info.certificate["golden"]
    images = scores = before = None
    if dataset is not None and model.answers is not None and model.reference is not None:
        targets = dataset.targets[dataset.test]
        images = Agreement(
            count=len(targets),
            top1_agreement=float(np.mean(_answers(model.answers) == _answers(model.reference))),
            max_abs_difference=float(np.abs(model.answers - model.reference).max()),
        )
        scores = _scores(model.info.labels, model.answers, targets)
        if model.info.temperature != 1.0:
            plain = uncalibrated(model.answers, model.info.temperature)
            before = _scores(model.info.labels, plain, targets).calibration
    return FileFigures(
        info=model.info,
        size=len(model.data),
        latency_ms=latency_ms,
        golden=Agreement(golden["count"], golden["top1_agreement"], golden["max_abs_difference"]),
        images=images,
        scores=scores,
        before=before,
    )


def _scores(
    labels: Sequence[str], probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> Scores:
    tally = Tally(labels)
    tally.add(probabilities, targets)
    return tally.scores()


def _answers(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    classes: NDArray[np.int64] = probabilities.argmax(axis=1)
    return classes


def _latencies(files: Mapping[str, bytes], seconds: float) -> tuple[dict[str, float], Machine]:
    """Median milliseconds of a call of each file, and what they were measured with.

    The files take turns, so that whatever else the machine does strikes them alike.
    """
    classifiers = {
        name: Classifier(data, provider="cpu", threads=1) for name, data in files.items()
    }
    shape = onnx.load_from_string(next(iter(files.values()))).graph.input[0].type.tensor_type.shape
    images = shape.dim[0].dim_value or 1  # 0 is a free batch
    size = next(iter(classifiers.values())).info.preprocessing.size
    picture = golden_image(0, size, size)
    found: dict[str, list[float]] = {name: [] for name in files}
    for classify in classifiers.values():
        classify(picture)  # the first call sets up its memory
    rounds, started = 0, time.perf_counter()
    while rounds < _FEWEST_ROUNDS or time.perf_counter() - started < seconds:
        for name, classify in classifiers.items():
            for _ in range(_CALLS):
                before = time.perf_counter()
                classify(picture)
                found[name].append(1e3 * (time.perf_counter() - before))
        rounds += 1
    machine = Machine(
        cpu=f"{processor_name()}, {os.cpu_count()} CPUs",
        processor=processor(),
        onnxruntime=onnxruntime.__version__,
        threads=1,
        images=images,
        rounds=rounds,
        calls=_CALLS,
    )
    return {name: statistics.median(times) for name, times in found.items()}, machine


def _disagreements(model: ExportedModel, dataset: Dataset) -> Disagreements:
    """The images that a file calls otherwise than PyTorch does, the most different first."""
    assert model.answers is not None  # there is a data set
    assert model.reference is not None
    ours, theirs = _answers(model.answers), _answers(model.reference)
    differences = np.abs(model.answers - model.reference).max(axis=1)
    differing = np.flatnonzero(ours != theirs)
    order = differing[np.argsort(-differences[differing], kind="stable")]
    labels = model.info.labels
    worst = []
    for row in order[:WORST]:
        index = dataset.test[row]
        worst.append(
            Disagreement(
                image=dataset.names[index],
                label=labels[dataset.targets[index]],
                pytorch=labels[theirs[row]],
                pytorch_probability=float(model.reference[row, theirs[row]]),
                file=labels[ours[row]],
                file_probability=float(model.answers[row, ours[row]]),
                difference=float(differences[row]),
                png=_png(dataset.images[index]),
            )
        )
    return Disagreements(model.info.precision, len(differing), tuple(worst))


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """An image (S, S, C) as a PNG file, made smaller where it is large."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.thumbnail((_PICTURE, _PICTURE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
