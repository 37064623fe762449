"""How good answers are: accuracy, calibration; NumPy alone, for answers from wherever they come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

BINS: Final = 15
"""Equal bins of confidence between 0 and 1 that calibration is measured in."""

THRESHOLDS: Final = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Values of `min_score` for which coverage and accuracy are measured."""

_ROUNDING: Final = 1e-3  # by which a softmax in half precision may exceed 1


def softmax(values: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, K) of logits (N, K) divided by a temperature, in double precision."""
    scaled = values.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def uncalibrated(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """The probabilities (N, K) as they were before the logits' division by a temperature."""
    powers = probabilities.astype(np.float64) ** temperature
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


@dataclass(frozen=True, eq=False)
class Calibration:
    """How often answers are right, by how sure they are: the curve, and its gap (Guo, section 3).

    All arrays are (bins,): bin b holds the confidences from b / bins to (b + 1) / bins.
    """

    count: NDArray[np.int64]
    """Answers in the bin."""
    confidence: NDArray[np.float64]
    """Their mean highest probability, 0 to 1; NaN where there are none."""
    accuracy: NDArray[np.float64]
    """Share of them that are right, 0 to 1; NaN where there are none."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean gap of confidence and accuracy, 0 (calibrated) to 1."""
        gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
        return float(gaps @ self.count / self.count.sum())

    def as_json(self) -> list[dict[str, Any]]:
        """Each bin as JSON can carry it: null where a share is of nothing."""
        return [
            {
                "count": int(count),
                "confidence": _or_null(confidence),
                "accuracy": _or_null(accuracy),
            }
            for count, confidence, accuracy in zip(
                self.count, self.confidence, self.accuracy, strict=True
            )
        ]


@dataclass(frozen=True)
class Threshold:
    """What a `min_score` gives: how many images are answered, and how many of those rightly."""

    min_score: float
    """Probability, 0 to 1, from which an answer counts; below it the image is unknown."""
    coverage: float
    """Share of all images that are answered, 0 to 1."""
    top1: float | None
    """Share of the answered images whose answer is right, 0 to 1; None if none is answered."""


@dataclass(frozen=True, eq=False)
class Scores:
    """How good the answers to N images of K classes are."""

    labels: tuple[str, ...]
    """(K,), the classes."""
    count: int
    """N, at least 1."""
    top1: float
    """Share of images whose most probable class is theirs, 0 to 1."""
    top5: float | None
    """Share of images whose class is among the five most probable, 0 to 1; None if K <= 5."""
    ece: float
    """Expected calibration error in 15 bins, 0 to 1."""
    precision: NDArray[np.float64]
    """(K,), share of the answers of a class that are right, 0 to 1; NaN if it is never answered."""
    recall: NDArray[np.float64]
    """(K,), share of a class's images that are found, 0 to 1; NaN if it has none."""
    f1: NDArray[np.float64]
    """(K,), harmonic mean of the two, 0 to 1; NaN if a class is in neither answers nor images."""
    support: NDArray[np.int64]
    """(K,), images of each class."""
    confusion: NDArray[np.int64]
    """(K, K), images by their class (row) and the answer (column)."""
    calibration: Calibration
    """The curve that `ece` sums up."""
    thresholds: tuple[Threshold, ...]
    """What each of `THRESHOLDS` gives."""

    def as_json(self) -> dict[str, Any]:
        """All figures, as JSON can carry them: null where a share is of nothing."""
        return {
            "images": self.count,
            "top1": self.top1,
            "top5": self.top5,
            "ece": self.ece,
            "classes": [
                {
                    "label": label,
                    "precision": _or_null(self.precision[index]),
                    "recall": _or_null(self.recall[index]),
                    "f1": _or_null(self.f1[index]),
                    "support": int(self.support[index]),
                }
                for index, label in enumerate(self.labels)
            ],
            "confusion": self.confusion.tolist(),
            "calibration": self.calibration.as_json(),
            "thresholds": [asdict(threshold) for threshold in self.thresholds],
        }


class Tally:
    """Scores answers as they come, in memory that depends on the number of classes alone."""

    def __init__(self, labels: Sequence[str]) -> None:
        """Start from nothing, for K classes in the order of the probabilities."""
        self._labels = tuple(labels)
        self._confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
        self._in_top5 = 0
        self._bins = np.zeros((3, BINS))
        self._answered = np.zeros((2, len(THRESHOLDS)))

    def add(self, probabilities: NDArray[np.floating], targets: NDArray[np.int64]) -> None:
        """Count the answers to a batch of images.

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
        self._answered += _answered_sums(probabilities, targets)

    def scores(self) -> Scores:
        """The scores of all that was added.

        Raises:
            ValueError: that was nothing.
        """
        count = int(self._confusion.sum())
        if not count:
            raise ValueError("no answers to score")
        right = np.diagonal(self._confusion)
        answered, support = self._confusion.sum(axis=0), self._confusion.sum(axis=1)
        calibration = _calibration(self._bins)
        return Scores(
            labels=self._labels,
            count=count,
            top1=float(right.sum() / count),
            top5=self._in_top5 / count if len(self._labels) > 5 else None,
            ece=calibration.error,
            precision=_share(right, answered),
            recall=_share(right, support),
            f1=_share(2 * right, answered + support),
            support=support,
            confusion=self._confusion.copy(),
            calibration=calibration,
            thresholds=_thresholds(self._answered, count),
        )


def top1(scores: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """Share of rows (N, K) whose largest score is at the target (N,); 0 to 1."""
    return float(_right(scores, targets).mean())


def divergence(reference: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean Kullback-Leibler divergence of two sets of probabilities (N, K), in nats.

    Args:
        reference: what is taken for true.
        other: what stands for it.
    """
    tiny = 1e-12  # a probability that float32 rounded to 0
    ratio = np.log((reference + tiny) / (other + tiny))
    return float((reference * ratio).sum(axis=1).mean())


def expected_calibration_error(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], bins: int = BINS
) -> float:
    """Mean gap of confidence and accuracy, over equal bins of confidence (Guo, arXiv:1706.04599).

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
    """What each of `THRESHOLDS` gives, as `min_score`: coverage, and accuracy of what is answered.

    Args:
        probabilities: (N, K), N at least 1.
        targets: (N,).
    """
    return _thresholds(_answered_sums(probabilities, targets), len(targets))


def fit_temperature(values: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """The divisor of the logits with the least negative log-likelihood (Guo, section 4.2).

    The likelihood is concave in the inverse temperature, so bisection on its derivative finds the
    one optimum. The targets give up 1 / (N + 2) of their certainty, as in Platt's scaling: a few
    images that are all answered rightly would otherwise call for a temperature of nothing.

    Args:
        values: logits (N, K) of images the network was not fitted to.
        targets: (N,).

    Returns:
        0.05 to 20.

    Raises:
        ValueError: no images.
    """
    if not len(targets):
        raise ValueError("no images to fit a temperature to")
    doubt = 1 / (len(targets) + 2)
    correct = values[np.arange(len(targets)), targets].astype(np.float64)
    correct = (1 - doubt) * correct + doubt * values.mean(axis=1, dtype=np.float64)
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(50):
        middle = (low + high) / 2
        expected = (softmax(values, math.exp(middle)) * values).sum(axis=1)
        # Where the mean logit under the model exceeds the correct one's, the model is too
        # confident.
        low, high = (middle, high) if (expected - correct).mean() > 0 else (low, middle)
    return math.exp((low + high) / 2)


def calibrated_loss(values: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the targets at the temperature that `fit_temperature` finds.

    Of few images it tells networks apart that their accuracy cannot: each image says how sure the
    answer is, not only whether it is right. The temperature takes out how sure they all are, which
    goes on rising while a network trains.

    Args:
        values: logits (N, K) of images the network was not fitted to.
        targets: (N,).

    Returns:
        Nats, 0 or more.

    Raises:
        ValueError: no images.
    """
    scaled = values.astype(np.float64) / fit_temperature(values, targets)
    correct = scaled[np.arange(len(targets)), targets]
    return float((np.logaddexp.reduce(scaled, axis=1) - correct).mean())


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training: a row of the run's metrics.csv."""

    epoch: int
    """Its number, from 1."""
    loss: float
    """Mean training loss."""
    holdout_top1: float
    """Accuracy on the hold-out, 0 to 1."""
    holdout_loss: float
    """Loss on the hold-out (`calibrated_loss`), in nats."""
    images_per_second: float
    """Training throughput since training started or was resumed."""
    seconds: float
    """Duration of the training so far, in seconds."""


def best_epoch(history: Sequence[Epoch]) -> int:
    """Index of the epoch with the lowest loss on the hold-out; the first of equal ones by accuracy.

    Args:
        history: at least one epoch.
    """
    ranks = [(epoch.holdout_loss, -epoch.holdout_top1) for epoch in history]
    return ranks.index(min(ranks))


def _right(scores: NDArray[np.floating], targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each row's largest score (the first of equal ones) is at its target; (N,)."""
    right: NDArray[np.bool_] = scores.argmax(axis=1) == targets
    return right


def _in_top(
    scores: NDArray[np.floating], targets: NDArray[np.int64], places: int
) -> NDArray[np.bool_]:
    """Whether each target is among the row's largest scores, first come first of equal ones."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :places]
    found: NDArray[np.bool_] = (best == targets[:, np.newaxis]).any(axis=1)
    return found


def _bin_sums(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], bins: int
) -> NDArray[np.float64]:
    """Number of answers in each bin of confidence, their confidences' sum, the right ones; (3, B).

    Sums, unlike means, can be added up over batches.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    weights = (np.ones_like(confidence), confidence, _right(probabilities, targets))
    return np.stack([np.bincount(places, weights=w, minlength=bins) for w in weights])


def _calibration(sums: NDArray[np.float64]) -> Calibration:
    """The curve of what `_bin_sums` gave."""
    count, confidence, right = sums
    return Calibration(
        count=count.astype(np.int64),
        confidence=_share(confidence, count),
        accuracy=_share(right, count),
    )


def _answered_sums(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Number of images answered at each threshold, and of those answered rightly; (2, T)."""
    # In double precision, as a classifier compares: float32 turns 0.9 into a little less than 0.9.
    confidence = probabilities.max(axis=1).astype(np.float64)
    answered = confidence[:, np.newaxis] >= np.array(THRESHOLDS)  # (N, T)
    right = answered & _right(probabilities, targets)[:, np.newaxis]
    return np.stack([answered.sum(axis=0), right.sum(axis=0)]).astype(np.float64)


def _thresholds(sums: NDArray[np.float64], count: int) -> tuple[Threshold, ...]:
    """What `_answered_sums` over `count` images says of each threshold."""
    answered, right = sums
    return tuple(
        Threshold(min_score, float(part / count), _or_null(top1))
        for min_score, part, top1 in zip(THRESHOLDS, answered, _share(right, answered), strict=True)
    )


def _share(part: NDArray[np.number], whole: NDArray[np.number]) -> NDArray[np.float64]:
    """Part over whole, NaN where the whole is nothing."""
    shares = np.full(part.shape, np.nan)
    np.divide(part, whole, out=shares, where=whole != 0)
    return shares


def _or_null(share: np.floating) -> float | None:
    return None if math.isnan(share) else float(share)
