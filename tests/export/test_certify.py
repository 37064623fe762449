"""The certificate: each file's own figures, training's where there are no data, or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nin_edge import metrics
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.trained_scores import TrainedScores
from nin_edge_export import PRECISIONS, ExportedModel, ExportOptions, export_models
from nin_edge_export.parity import TOLERANCES
from nin_edge_runtime import Classifier
from nin_edge_runtime.model_file.certificate import (
    Accuracy,
    Agreement,
    Calibration,
    Quantization,
    Threshold,
    Thresholds,
)

FIGURE_TOLERANCE = 1e-6  # of a figure that is computed again from the same probabilities


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_file_certifies_its_own_figures(
    precision: str, measured: dict[str, ExportedModel], dataset: Dataset
) -> None:
    targets = dataset.targets[dataset.test]
    assert tuple(measured) == PRECISIONS
    model = measured[precision]
    certificate = model.info.certificate
    probabilities, reference = model.probabilities, model.reference
    assert probabilities is not None
    assert reference is not None
    classify = Classifier(model.data, provider="cpu", threads=1)
    again = classify.batch(list(dataset.images[dataset.test]))
    assert np.allclose(
        probabilities, [each.probabilities for each in again], rtol=0, atol=FIGURE_TOLERANCE
    )
    top1 = float((probabilities.argmax(axis=1) == targets).mean())
    assert certificate.accuracy == Accuracy(
        "synthetic", len(targets), "this file", pytest.approx(top1)
    )
    assert certificate.images == Agreement(
        data="synthetic",
        count=len(targets),
        max_abs_difference=pytest.approx(np.abs(probabilities - reference).max(), rel=0.05),
        top1_agreement=(probabilities.argmax(axis=1) == reference.argmax(axis=1)).mean(),
        tolerance=TOLERANCES[precision],
    )
    plain = probabilities.astype(np.float64) ** model.info.temperature
    plain /= plain.sum(axis=1, keepdims=True)
    before, after = (
        metrics.expected_calibration_error(values, targets) for values in (plain, probabilities)
    )
    assert certificate.calibration == Calibration(
        *("synthetic", len(targets), "this file"),
        ece_before=pytest.approx(before, abs=FIGURE_TOLERANCE),
        ece_after=pytest.approx(after, abs=FIGURE_TOLERANCE),
    )
    assert certificate.golden is not None
    assert certificate.golden.tolerance == TOLERANCES[precision]
    assert certificate.golden.max_abs_difference <= TOLERANCES[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_thresholds_are_those_of_the_file_on_the_holdout(
    precision: str, measured: dict[str, ExportedModel], dataset: Dataset
) -> None:
    model, holdout = measured[precision], dataset.targets[dataset.holdout]
    classify = Classifier(model.data, provider="cpu", threads=1)
    again = classify.batch(list(dataset.images[dataset.holdout]))
    scores = np.array([each.score for each in again])
    correct = np.array([each.probabilities.argmax() for each in again]) == holdout
    thresholds = model.info.certificate.thresholds
    assert thresholds is not None
    for row in thresholds.answers:
        answered = scores >= row.min_score
        assert row.coverage == pytest.approx(answered.mean())
        assert row.top1 == (correct[answered].mean() if answered.any() else None)
    assert thresholds._replace(answers=()) == Thresholds(
        *("synthetic", "holdout", len(holdout), "this file", "fitted on these images"), answers=()
    )


def test_layers_in_float_are_named(measured: dict[str, ExportedModel]) -> None:
    layers = {name: model.info.certificate.float_layers for name, model in measured.items()}
    assert len(layers["fp32"]) == 9
    assert layers["fp16"] == ()
    plan = measured["int8"].plan
    assert plan is not None
    assert layers["int8"] == plan.keep_float
    assert set(plan.sensitivity) == set(layers["fp32"])


def test_origin_of_int8s_ranges_is_named(
    checkpoint: Checkpoint, measured: dict[str, ExportedModel]
) -> None:
    certificate = measured["int8"].info.certificate
    assert certificate.quantization == Quantization("minmax", "synthetic", 10)
    assert certificate.budget is not None
    assert certificate.budget.holdout_images == 12
    assert certificate.budget.max_drop_points == 100.0
    for precision in ("fp32", "fp16"):
        assert measured[precision].info.certificate.quantization is None
    options = ExportOptions(precisions=("int8",), method="percentile")
    (model,) = export_models(checkpoint, options)
    recorded = Quantization("percentile", "recorded at the end of training")
    assert model.info.certificate.quantization == recorded


def test_what_was_not_measured_is_said_to_be_so(unmeasured: dict[str, ExportedModel]) -> None:
    for precision, model in unmeasured.items():
        certificate = model.info.certificate
        assert certificate.images is certificate.accuracy is None
        assert certificate.calibration is certificate.thresholds is certificate.budget is None
        assert model.probabilities is model.reference is model.plan is model.all_int8 is None
        assert (certificate.quantization is not None) == (precision == "int8")
        assert certificate.golden is not None
        assert certificate.golden.count == 8
        assert certificate.golden.top1_agreement == 1.0
        written = certificate.to_json()
        assert written["images"] == written["accuracy"] == written["thresholds"] == "not measured"


def test_trainings_figures_stand_where_there_is_no_data(checkpoint: Checkpoint) -> None:
    figures = {
        **{"test_top1": 0.8, "test_images": 100},
        **{"test_ece": 0.02, "test_ece_uncalibrated": 0.07},
    }
    trained = replace(checkpoint, trained_scores=TrainedScores.from_json(figures))
    common = ("golden images", 100, "PyTorch, fp32")
    for temperature, calibration in (
        (1.5, Calibration(*common, ece_before=0.07, ece_after=0.02)),
        (None, None),
    ):
        options = ExportOptions(precisions=("fp32",))
        (model,) = export_models(replace(trained, temperature=temperature), options)
        assert model.info.certificate.accuracy == Accuracy(*common, top1=0.8)
        assert model.info.certificate.calibration == calibration
        assert model.info.temperature == (temperature or 1.0)


@pytest.mark.parametrize("tested", [True, False])
def test_trainings_thresholds_stand_where_there_is_no_data(
    checkpoint: Checkpoint, tested: bool
) -> None:
    figures = {
        **{"holdout_images": 30, "holdout_top1": 0.6},
        **{"holdout_coverage_at_0.5": 0.9, "holdout_top1_at_0.5": 0.7},
        "holdout_coverage_at_0.99": 0.0,
        **({"test_top1": 0.8, "test_images": 9} if tested else {}),
        **({"test_ece": 0.02, "test_ece_uncalibrated": 0.07} if tested else {}),
    }
    options = ExportOptions(precisions=("fp32",))
    expected = Thresholds(
        *("golden images", "holdout", 30, "PyTorch, fp32", "fitted on these images"),
        answers=(Threshold(0.5, 0.9, 0.7), Threshold(0.99, 0.0, None)),
    )
    for temperature in (1.5, None):
        scores = TrainedScores.from_json(figures)
        trained = replace(checkpoint, trained_scores=scores, temperature=temperature)
        (model,) = export_models(trained, options)
        assert model.info.certificate.thresholds == (expected if temperature else None)


@pytest.mark.parametrize(
    ("trained_on", "fitted", "name"),
    [
        ("a" * 64, "fitted on these images", "golden images"),
        ("b" * 64, "fitted in training", "synthetic"),
        ("", "fitted in training", "synthetic"),
    ],
)
def test_training_data_are_known_by_their_pixels(
    checkpoint: Checkpoint, dataset: Dataset, trained_on: str, fitted: str, name: str
) -> None:
    """They keep the name that training gave them, and its temperature flatters their hold-out."""
    given = replace(checkpoint, data=replace(checkpoint.data, fingerprint=trained_on))
    data = replace(dataset, fingerprint="a" * 64 if trained_on else "")
    (model,) = export_models(given, ExportOptions(precisions=("fp32",)), dataset=data)
    thresholds = model.info.certificate.thresholds
    assert thresholds is not None
    assert (thresholds.temperature, thresholds.data) == (fitted, name)


def test_without_a_test_split_the_validation_split_is_scored_and_named(
    checkpoint: Checkpoint, dataset: Dataset
) -> None:
    data = replace(dataset, test=dataset.test[:0], splits=("train", "validation"))
    (model,) = export_models(checkpoint, ExportOptions(precisions=("fp32",)), dataset=data)
    certificate = model.info.certificate
    assert certificate.accuracy is not None
    assert certificate.images is not None
    assert (certificate.accuracy.data, certificate.accuracy.images) == (
        "synthetic (validation split)",
        len(data.holdout),
    )
    assert certificate.images.data == "synthetic (validation split)"


def test_progress_counts_the_images(checkpoint: Checkpoint, dataset: Dataset) -> None:
    seen: list[tuple[str, int, int]] = []
    export_models(
        checkpoint,
        ExportOptions(precisions=("fp32",)),
        dataset=dataset,
        progress=lambda title, done, total: seen.append((title, done, total)),
    )
    assert seen == [("fp32 on the test images", 12, 12), ("fp32 on the hold-out", 12, 12)]
