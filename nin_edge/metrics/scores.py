"""How good predictions are: accuracy, confusion, calibration, thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from nin_edge.metrics.intervals import wilson_interval

BINS: Final = 15
"""Equal bins of confidence between 0 and 1 that calibration is measured in."""

THRESHOLDS: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Values of `min_score` that coverage and accuracy are measured for."""

_ROUNDING: Final = 1e-3  # by which a softmax in half precision may exceed 1


@dataclass(frozen=True, eq=False)
class Calibration:
    """Reliability diagram: accuracy by confidence, in equal bins (arXiv:1706.04599).

    All arrays are (bins,): bin b holds the confidences from b / bins to (b + 1) / bins.
    """

    count: NDArray[np.int64]
    """Predictions in the bin."""
    confidence: NDArray[np.float64]
    """Their mean highest probability, 0 to 1; NaN in an empty bin."""
    accuracy: NDArray[np.float64]
    """Their accuracy, 0 to 1; NaN in an empty bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap of confidence and accuracy, 0 (calibrated) to 1."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(gaps @ self.count / self.count.sum())

    def to_json(self) -> list[dict[str, int | float | None]]:
        """The bins; null in place of NaN."""
        return [
            {
                "count": int(count),
                "confidence": _or_none(confidence),
                "accuracy": _or_none(accuracy),
            }
            for count, confidence, accuracy in zip(
                self.count, self.confidence, self.accuracy, strict=True
            )
        ]


@dataclass(frozen=True)
class Threshold:
    """Coverage and accuracy with a `min_score`."""

    min_score: float
    """Probability, 0 to 1; an image with no class above it is unknown."""
    coverage: float
    """Share of the images that are not unknown, 0 to 1."""
    top1: float | None
    """Accuracy on those, 0 to 1; None if all are unknown."""

    def to_json(self) -> dict[str, float | None]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Scores:
    """How good the predictions for N images of K classes are."""

    labels: tuple[str, ...]
    """(K,), the classes."""
    confusion: NDArray[np.int64]
    """(K, K), number of images by true class (row) and predicted class (column)."""
    top5: float | None
    """Share of images with their class among the five most probable, 0 to 1; None if K <= 5."""
    calibration: Calibration
    """Accuracy by confidence, in `BINS` bins."""
    thresholds: tuple[Threshold, ...]
    """For each of `THRESHOLDS`."""

    @property
    def count(self) -> int:
        """Number of images N, at least 1."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """Accuracy: share of images whose most probable class is theirs, 0 to 1."""
        return float(np.diagonal(self.confusion).sum() / self.count)

    @property
    def top1_interval(self) -> tuple[float, float]:
        """The accuracy's 95% interval (`wilson_interval`)."""
        return wilson_interval(int(np.diagonal(self.confusion).sum()), self.count)

    @property
    def ece(self) -> float:
        """Expected calibration error, 0 to 1."""
        return self.calibration.error

    @property
    def support(self) -> NDArray[np.int64]:
        """(K,), images of each class."""
        support: NDArray[np.int64] = self.confusion.sum(axis=1)
        return support

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,), correct share of the predictions of a class, 0 to 1; NaN if never predicted."""
        return _share(np.diagonal(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,), correct share of the images of a class, 0 to 1; NaN if it has none."""
        return _share(np.diagonal(self.confusion), self.support)

    @property
    def f1(self) -> NDArray[np.float64]:
        """(K,), harmonic mean of precision and recall, 0 to 1; NaN for an unused class."""
        return _share(2 * np.diagonal(self.confusion), self.confusion.sum(axis=0) + self.support)

    def to_json(self) -> dict[str, Any]:
        """All figures; null in place of NaN."""
        classes = zip(self.labels, self.precision, self.recall, self.f1, self.support, strict=True)
        return {
            "images": self.count,
            "top1": self.top1,
            "top1_interval": list(self.top1_interval),
            "top5": self.top5,
            "ece": self.ece,
            "classes": [
                {
                    "label": label,
                    "precision": _or_none(precision),
                    "recall": _or_none(recall),
                    "f1": _or_none(f1),
                    "support": int(support),
                }
                for label, precision, recall, f1, support in classes
            ],
            "confusion": self.confusion.tolist(),
            "calibration": self.calibration.to_json(),
            "thresholds": [threshold.to_json() for threshold in self.thresholds],
        }


class Tally:
    """Scores predictions batch by batch, in memory that depends on the number of classes alone."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Start from nothing, for K classes in the order of the probabilities."""
        self._labels = tuple(labels)
        self._confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
        self._in_top5 = 0
        self._bins = np.zeros((3, BINS))
        self._covered = np.zeros((2, len(THRESHOLDS)))

    def add(self, probabilities: NDArray[np.floating], targets: NDArray[np.int64]) -> None:
        """Count the predictions for a batch of images.

        Args:
            probabilities: (N, K).
            targets: (N,), each image's class, 0 to K - 1.

        Raises:
            ValueError: a probability is not between 0 and 1, or is no number.
        """
        possible = (probabilities >= 0) & (probabilities <= 1 + _ROUNDING)  # false for a NaN
        if not possible.all():
            raise ValueError(f"a probability of {probabilities[~possible][0]}, expected 0 to 1")
        np.add.at(self._confusion, (targets, probabilities.argmax(axis=1)), 1)
        self._in_top5 += int(_in_top(probabilities, targets, 5).sum())
        self._bins += _bin_sums(probabilities, targets, BINS)
        self._covered += _covered_sums(probabilities, targets)

    def scores(self) -> Scores:
        """The scores of all that was added.

        Raises:
            ValueError: that was nothing.
        """
        count = int(self._confusion.sum())
        if not count:
            raise ValueError("no predictions to score")
        return Scores(
            labels=self._labels,
            confusion=self._confusion.copy(),
            top5=self._in_top5 / count if len(self._labels) > 5 else None,
            calibration=_calibration(self._bins),
            thresholds=_thresholds(self._covered, count),
        )


def top1(scores: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """Accuracy: share of rows (N, K) whose largest score is at the target (N,); 0 to 1."""
    return float(_correct(scores, targets).mean())


def expected_calibration_error(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], bins: int = BINS
) -> float:
    """Mean gap of confidence and accuracy, over equal bins of confidence.

    Args:
        probabilities: (N, K).
        targets: (N,).
        bins: number of bins between 0 and 1.

    Returns:
        0 (calibrated) to 1.
    """
    return _calibration(_bin_sums(probabilities, targets, bins)).error


def at_thresholds(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> tuple[Threshold, ...]:
    """Coverage and accuracy with each of `THRESHOLDS` as the `min_score`.

    Args:
        probabilities: (N, K), N at least 1.
        targets: (N,).
    """
    return _thresholds(_covered_sums(probabilities, targets), len(targets))


def _correct(scores: NDArray[np.floating], targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row's largest score (the first of equal ones) is at its target; (N,)."""
    correct: NDArray[np.bool_] = scores.argmax(axis=1) == targets
    return correct


def _in_top(
    scores: NDArray[np.floating], targets: NDArray[np.int64], places: int
) -> NDArray[np.bool_]:
    """Whether each target is among the row's largest scores, first come first of equal ones."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :places]
    inside: NDArray[np.bool_] = (best == targets[:, np.newaxis]).any(axis=1)
    return inside


def _bin_sums(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], bins: int
) -> NDArray[np.float64]:
    """Sums per confidence bin: predictions, confidences, correct predictions; (3, bins).

    Sums, unlike means, can be added up over batches.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    weights = (np.ones_like(confidence), confidence, _correct(probabilities, targets))
    return np.stack([np.bincount(places, weights=w, minlength=bins) for w in weights])


def _calibration(sums: NDArray[np.float64]) -> Calibration:
    """The diagram of what `_bin_sums` gave."""
    count, confidence, correct = sums
    return Calibration(
        count=count.astype(np.int64),
        confidence=_share(confidence, count),
        accuracy=_share(correct, count),
    )


def _covered_sums(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Sums per threshold: images that are not unknown, and the correct ones of these; (2, T)."""
    # In double precision, as a classifier compares: float32 turns 0.9 into a little less than 0.9.
    confidence = probabilities.max(axis=1).astype(np.float64)
    covered = confidence[:, np.newaxis] >= np.array(THRESHOLDS)  # (N, T)
    correct = covered & _correct(probabilities, targets)[:, np.newaxis]
    return np.stack([covered.sum(axis=0), correct.sum(axis=0)]).astype(np.float64)


def _thresholds(sums: NDArray[np.float64], count: int) -> tuple[Threshold, ...]:
    """Coverage and accuracy of what `_covered_sums` gave for `count` images."""
    covered, correct = sums
    return tuple(
        Threshold(min_score, float(part / count), _or_none(accuracy))
        for min_score, part, accuracy in zip(
            THRESHOLDS, covered, _share(correct, covered), strict=True
        )
    )


def _share(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    """Part over whole, NaN where the whole is nothing."""
    shares = np.full(part.shape, np.nan)
    np.divide(part, whole, out=shares, where=whole != 0)
    return shares


def _or_none(share: np.floating) -> float | None:
    return None if math.isnan(share) else float(share)
