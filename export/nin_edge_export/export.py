"""Export from end to end: a checkpoint to finished, measured files in the precisions asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from nin_edge import metrics
from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset, DatasetError, check_labels
from nin_edge_export import certify as certificate
from nin_edge_export.certify import NOT_MEASURED, Golden, Progress, Rows
from nin_edge_export.fp16 import to_half
from nin_edge_export.graph import OPSET, build_graph, network_nodes
from nin_edge_export.int8.budget import Int8Plan, plan_int8
from nin_edge_export.int8.quantize import (
    DEFAULT_METHOD,
    METHODS,
    Ranges,
    calibrate,
    quantize,
    recorded_ranges,
)
from nin_edge_export.preprocess import NORMALIZED
from nin_edge_export.seal import seal
from nin_edge_runtime import Classifier, ModelInfo, read_model
from nin_edge_runtime.model_file.read import EMBEDDED, PRECISIONS

_CALIBRATION_BATCH: Final = 16  # all activations of a batch are in memory at once


@dataclass(frozen=True)
class ExportOptions:
    """What to make of a checkpoint."""

    precisions: tuple[str, ...] = PRECISIONS
    """Which files to make."""
    embedded: str = "full"
    """Which preprocessing the graph does: `full`, `normalize` or `none`."""
    opset: int = OPSET
    """Version of the ONNX operators."""
    batch: int | None = None
    """Images a run, if fixed; any number if None."""
    method: str = DEFAULT_METHOD
    """How int8's ranges are found: `minmax`, `percentile` or, over images, `entropy`."""
    calibration_images: int = 512
    """Most images to calibrate on."""
    max_drop: float | None = None
    """Largest loss of int8's top-1 accuracy against fp32, in percentage points; None for any."""

    def __post_init__(self) -> None:
        """Refuse what cannot be made.

        Raises:
            ValueError: a field is out of its range; the message names it.
        """
        for name, value, allowed in (
            ("precision", self.precisions, PRECISIONS),
            ("embedded preprocessing", (self.embedded,), EMBEDDED),
            ("calibration method", (self.method,), METHODS),
        ):
            for item in value:
                if item not in allowed:
                    raise ValueError(f"{name} {item!r}: expected one of {', '.join(allowed)}")
        if self.batch is not None and not 1 <= self.batch <= 4096:
            raise ValueError(f"batch {self.batch}: expected 1 to 4096 images")
        if self.calibration_images < 1:
            raise ValueError(f"{self.calibration_images} calibration images: expected at least 1")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise ValueError(f"max drop {self.max_drop}: expected at least 0 percentage points")


@dataclass(frozen=True, eq=False)
class ExportedModel:
    """A finished file, in memory."""

    data: bytes
    """What to write to `NAME.PRECISION.onnx`."""
    info: ModelInfo
    """What the file says of itself."""
    answers: NDArray[np.float32] | None
    """Its probabilities (N, K) for the test split; None without a data set."""
    reference: NDArray[np.float64] | None
    """PyTorch's probabilities (N, K) for the same images."""
    all_int8: bytes | None
    """The int8 file without the budget's float convolutions, if there are any: for its speed."""
    plan: Int8Plan | None
    """How int8's layers were decided; None without a data set and in other precisions."""


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
            accuracy and agreement are measured on its test split; without it, on no real images.
        calibration: int8's ranges are measured on its training images; the ranges that training
            recorded, if None.
        progress: told what is being done.

    Raises:
        GateError: a file is too far from PyTorch, or int8's budget cannot be met.
        DatasetError: a data set's labels are not the model's, or its images too few.
        NinEdgeError: int8 without ranges.
    """
    return list(_Export(checkpoint, options or ExportOptions(), dataset, calibration, progress))


class _Export:
    """One export: what its files share."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: ExportOptions,
        dataset: Dataset | None,
        calibration: Dataset | None,
        progress: Progress | None,
    ) -> None:
        for given in (dataset, calibration):
            if given is not None:
                check_labels(given, checkpoint.labels)
        if dataset is not None and not (len(dataset.holdout) and len(dataset.test)):
            raise DatasetError(
                f"{dataset.name}: too few images for a hold-out and a test split, "
                "expected at least 3 a class"
            )
        self.options, self.dataset, self.calibration = options, dataset, calibration
        self.progress = progress
        self.network = checkpoint.network()
        # The data that it was trained on, by its pixels; unknown data is no known data.
        known = checkpoint.data.fingerprint
        same = dataset is not None and known != "" and dataset.fingerprint == known
        self.temperature_from = certificate.FITTED_HERE if same else certificate.FITTED_BEFORE
        if checkpoint.temperature is None and dataset is not None:
            logits = evaluate.logits(
                self.network, checkpoint.preprocessing, dataset.images, dataset.holdout
            )
            fitted = metrics.fit_temperature(logits, dataset.targets[dataset.holdout])
            checkpoint = replace(checkpoint, temperature=fitted)
            self.temperature_from = certificate.FITTED_HERE
        self.checkpoint = checkpoint
        self.golden: Golden = certificate.choose_golden(checkpoint, self.network)
        self.reference: NDArray[np.float64] | None = None
        self.data_name = ""
        if dataset is not None:
            # The data that it was trained on goes by the name that training gave it.
            self.data_name = checkpoint.data.name if same else dataset.name
            self.reference = certificate.pytorch_answers(
                checkpoint, self.network, dataset.images, dataset.test
            )

    def __iter__(self) -> Iterator[ExportedModel]:
        options = self.options
        graph = build_graph(
            self.checkpoint, options.embedded, opset=options.opset, batch=options.batch
        )
        for precision in options.precisions:
            if precision == "fp32":
                names = [node.name for node in network_nodes(graph) if node.op_type == "Conv"]
                yield self._finish(graph, precision, {"float_layers": names})
            elif precision == "fp16":
                yield self._finish(
                    to_half(graph, self.checkpoint.ranges), precision, {"float_layers": []}
                )
            else:
                yield self._int8(graph)

    def _int8(self, graph: ModelProto) -> ExportedModel:
        """The quantised file, within the budget if there is one."""
        ranges, source = self._ranges(graph)
        quantized = partial(quantize, self.checkpoint, graph, ranges)
        plan = None
        if self.dataset is not None:
            plan = plan_int8(
                graph,
                quantized,
                lambda model: self._opened(model, "int8"),
                self.dataset,
                self.options.max_drop,
                self.progress,
            )
        kept = plan.keep_float if plan else ()
        extra = {
            "float_layers": list(kept),
            "quantization": source,
            "budget": plan.figures if plan else NOT_MEASURED,
        }
        model = self._finish(quantized(kept), "int8", extra)
        whole = None
        if kept:
            whole = self._sealed(quantized(), "int8", self.golden.pytorch, {})
        return replace(model, plan=plan, all_int8=whole)

    def _ranges(self, graph: ModelProto) -> tuple[Ranges, dict[str, Any]]:
        """int8's ranges, and where they are from."""
        method = self.options.method
        if self.calibration is None:
            ranges = recorded_ranges(self.checkpoint, graph, method)
            return ranges, {"method": method, "ranges": "recorded at the end of training"}
        data = self.calibration
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.permutation(data.train)[: self.options.calibration_images])

        def batches() -> Iterator[NDArray[np.uint8]]:
            for start in range(0, len(chosen), _CALIBRATION_BATCH):
                yield data.images[chosen[start : start + _CALIBRATION_BATCH]]
                if self.progress:
                    done = min(start + _CALIBRATION_BATCH, len(chosen))
                    self.progress("calibrating", done, len(chosen))

        bare = build_graph(self.checkpoint, "none")
        ranges = calibrate(self.checkpoint, bare, batches(), method)
        if self.options.embedded != "none":  # the network's input has another name there
            ranges = {**ranges, NORMALIZED: ranges["image"]}
        return ranges, {"method": method, "ranges": data.name, "images": len(chosen)}

    def _finish(self, graph: ModelProto, precision: str, extra: Mapping[str, Any]) -> ExportedModel:
        """Measure a graph through the runtime, and write down what was found."""
        classify = self._opened(graph, precision)
        rows, figures = certificate.check_golden(classify, self.golden)
        measured: dict[str, Any] = {
            "golden": figures,
            "images": NOT_MEASURED,
            **certificate.trained_figures(self.checkpoint),
            **extra,
        }
        answers = None
        if self.dataset is not None and self.reference is not None:
            data = self.dataset
            what = f"{precision} on the test images"
            answers = certificate.file_answers(classify, data, data.test, what, self.progress)
            targets = data.targets[data.test]
            measured["images"] = {
                "data": self.data_name,
                **certificate.compare(answers, self.reference, precision, self.data_name),
            }
            common = {
                "data": self.data_name,
                "images": len(targets),
                "measured_with": certificate.BY_FILE,
            }
            top1 = metrics.top1(answers, targets)
            measured["accuracy"] = {**common, "top1": top1}
            plain = metrics.uncalibrated(answers, self.checkpoint.temperature or 1.0)
            measured["calibration"] = {
                **common,
                "ece_before": metrics.expected_calibration_error(plain, targets),
                "ece_after": metrics.expected_calibration_error(answers, targets),
            }
            measured["thresholds"] = self._thresholds(classify, data)
        file = self._sealed(graph, precision, rows, measured)
        return ExportedModel(
            data=file,
            info=read_model(file)[1],
            answers=answers,
            reference=self.reference,
            plan=None,
            all_int8=None,
        )

    def _thresholds(self, classify: Classifier, data: Dataset) -> dict[str, Any]:
        """What a `min_score` gives with this file; on the hold-out, since it is chosen by this."""
        what = f"{classify.info.precision} on the hold-out"
        answers = certificate.file_answers(classify, data, data.holdout, what, self.progress)
        return certificate.threshold_figures(
            metrics.at_thresholds(answers, data.targets[data.holdout]),
            data=self.data_name,
            images=len(answers),
            measured_with=certificate.BY_FILE,
            temperature=self.temperature_from,
        )

    def _opened(self, graph: ModelProto, precision: str) -> Classifier:
        """A graph in the runtime, sealed as a file that certifies nothing yet."""
        return Classifier(self._sealed(graph, precision, self.golden.pytorch, {}), provider="cpu")

    def _sealed(
        self, graph: ModelProto, precision: str, rows: Rows, measured: Mapping[str, Any]
    ) -> bytes:
        return seal(
            graph,
            self.checkpoint,
            precision=precision,
            embedded=self.options.embedded,
            golden=self.golden,
            answers=rows,
            certificate=measured,
        )
