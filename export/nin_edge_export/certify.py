"""The certificate of a model: what was measured of it, and what training measured before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nin_edge import metrics
from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge_export.golden import check_golden
from nin_edge_export.parity import Progress, compare, session_probabilities
from nin_edge_runtime.model_file import Certificate, GoldenSamples
from nin_edge_runtime.model_file.certificate import (
    BY_FILE,
    BY_PYTORCH,
    FITTED_HERE,
    Accuracy,
    Budget,
    Calibration,
    Quantization,
    Threshold,
    Thresholds,
)
from nin_edge_runtime.session import ModelSession

_HOLDOUT: Final = "holdout"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The data that every model of an export is measured on."""

    dataset: Dataset
    """Its `scored` images are for accuracy and agreement, its hold-out for `min_score`."""
    name: str
    """The data set's name in certificates."""
    reference: NDArray[np.float64]
    """PyTorch's probabilities (N, K) for the `scored` images."""
    temperature: str
    """`FITTED_HERE` or `FITTED_BEFORE`: whether the temperature was fitted on its hold-out."""


@dataclass(frozen=True)
class Choices:
    """What was decided about a model before it was measured."""

    float_layers: tuple[str, ...] = ()
    """Convolutions that compute in fp32."""
    quantization: Quantization | None = None
    """Origin of int8's activation ranges."""
    budget: Budget | None = None
    """What int8 costs on the hold-out."""


@dataclass(frozen=True, eq=False)
class Measured:
    """All that was measured of one model."""

    certificate: Certificate
    """For its metadata."""
    golden: GoldenSamples
    """With the model's own probabilities."""
    probabilities: NDArray[np.float32] | None
    """Its probabilities (N, K) for the `scored` images; None without data."""


def certify(
    session: ModelSession,
    checkpoint: Checkpoint,
    golden: GoldenSamples,
    choices: Choices,
    evaluation: Evaluation | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure a model, and compare it with PyTorch.

    Args:
        session: the model.
        checkpoint: what it was made from.
        golden: from `choose_golden`.
        choices: what was decided about it.
        evaluation: data to measure on; without any, training's figures stand in the certificate.
        progress: called with what is being done, the images done and their total.

    Raises:
        GateError: the model is too far from PyTorch.
    """
    measured_golden, agreement = check_golden(session, golden)
    images = probabilities = None
    if evaluation is None:
        accuracy, calibration = trained_accuracy(checkpoint), trained_calibration(checkpoint)
        thresholds = trained_thresholds(checkpoint)
    else:
        data, precision = evaluation.dataset, session.info.precision
        targets = data.targets[data.scored]
        probabilities = session_probabilities(
            session,
            data.images,
            data.scored,
            title=f"{precision} on the {data.scored_split} images",
            progress=progress,
        )
        images = compare(probabilities, evaluation.reference, precision, evaluation.name)
        accuracy = Accuracy(
            evaluation.name, len(targets), BY_FILE, metrics.top1(probabilities, targets)
        )
        plain = metrics.uncalibrated(probabilities, checkpoint.temperature or 1.0)
        calibration = Calibration(
            evaluation.name,
            len(targets),
            BY_FILE,
            ece_before=metrics.expected_calibration_error(plain, targets),
            ece_after=metrics.expected_calibration_error(probabilities, targets),
        )
        thresholds = measured_thresholds(session, evaluation, progress)
    certificate = Certificate(
        golden=agreement,
        images=images,
        accuracy=accuracy,
        calibration=calibration,
        thresholds=thresholds,
        float_layers=choices.float_layers,
        quantization=choices.quantization,
        budget=choices.budget,
    )
    return Measured(certificate, measured_golden, probabilities)


def measured_thresholds(
    session: ModelSession, evaluation: Evaluation, progress: Progress | None
) -> Thresholds:
    """Coverage and accuracy per `min_score`, on the hold-out: thresholds are chosen there."""
    data = evaluation.dataset
    probabilities = session_probabilities(
        session,
        data.images,
        data.holdout,
        title=f"{session.info.precision} on the hold-out",
        progress=progress,
    )
    rows = metrics.at_thresholds(probabilities, data.targets[data.holdout])
    return Thresholds(
        data=evaluation.name,
        split=_HOLDOUT,
        images=len(probabilities),
        measured_with=BY_FILE,
        temperature=evaluation.temperature,
        answers=_certified(rows),
    )


def trained_accuracy(checkpoint: Checkpoint) -> Accuracy | None:
    """The accuracy that training measured with PyTorch on the test split, if it did."""
    test = checkpoint.trained_scores.test
    if test is None or test.images is None:
        return None
    return Accuracy(checkpoint.data.name, test.images, BY_PYTORCH, test.top1)


def trained_calibration(checkpoint: Checkpoint) -> Calibration | None:
    """The calibration error that training measured with PyTorch on the test split, if it did."""
    test = checkpoint.trained_scores.test
    if checkpoint.temperature is None or test is None or test.images is None:
        return None
    if test.ece is None or test.ece_uncalibrated is None:
        return None
    return Calibration(
        checkpoint.data.name,
        test.images,
        BY_PYTORCH,
        ece_before=test.ece_uncalibrated,
        ece_after=test.ece,
    )


def trained_thresholds(checkpoint: Checkpoint) -> Thresholds | None:
    """What a `min_score` gave with PyTorch on the hold-out, if training measured it."""
    scores = checkpoint.trained_scores
    if checkpoint.temperature is None or not scores.thresholds:
        return None
    if scores.holdout is None or scores.holdout.images is None:
        return None
    return Thresholds(
        data=checkpoint.data.name,
        split=_HOLDOUT,
        images=scores.holdout.images,
        measured_with=BY_PYTORCH,
        temperature=FITTED_HERE,
        answers=_certified(scores.thresholds),
    )


def _certified(rows: Sequence[metrics.Threshold]) -> tuple[Threshold, ...]:
    """The rows as the runtime, which cannot import the toolkit, has them."""
    return tuple(Threshold(row.min_score, row.coverage, row.top1) for row in rows)
