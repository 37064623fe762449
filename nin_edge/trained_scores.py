"""What training measured with PyTorch, as a checkpoint stores it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from nin_edge.metrics import THRESHOLDS, Threshold

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class SplitScores:
    """Scores on the hold-out or on the test split; None for what was not measured."""

    top1: float
    """Accuracy, 0 to 1."""
    images: int | None = None
    """Number of images."""
    ece: float | None = None
    """Expected calibration error at the fitted temperature, 0 to 1."""
    ece_uncalibrated: float | None = None
    """Expected calibration error at temperature 1, 0 to 1."""


@dataclass(frozen=True)
class TrainedScores:
    """Scores of trained weights; None for what was not, or not yet, measured."""

    epoch: int | None = None
    """Epoch, from 1, after which these weights were saved."""
    holdout_loss: float | None = None
    """Loss on the hold-out (`metrics.calibrated_loss`) in nats, by which the epoch was chosen."""
    train_images: int | None = None
    """Number of training images."""
    train_seconds: float | None = None
    """Duration of the training, all its parts together, in seconds."""
    epochs: int | None = None
    """Number of epochs that the training took."""
    holdout: SplitScores | None = None
    """Scores on the hold-out."""
    test: SplitScores | None = None
    """Scores on the test split."""
    thresholds: tuple[Threshold, ...] = ()
    """Coverage and accuracy at each `min_score`, on the hold-out."""

    def to_json(self) -> dict[str, float]:
        """The scores as a checkpoint's header has them: one flat object, without unknown values."""
        values: dict[str, float | None] = {
            "epoch": self.epoch,
            "holdout_top1": self.holdout.top1 if self.holdout else None,
            "holdout_loss": self.holdout_loss,
            "train_images": self.train_images,
            "train_seconds": self.train_seconds,
            "epochs": self.epochs,
        }
        for split, scores in (("holdout", self.holdout), ("test", self.test)):
            if scores:
                values[f"{split}_images"] = scores.images
                values[f"{split}_top1"] = scores.top1
                values[f"{split}_ece"] = scores.ece
                values[f"{split}_ece_uncalibrated"] = scores.ece_uncalibrated
        for threshold in self.thresholds:
            values[f"holdout_coverage_at_{threshold.min_score:g}"] = threshold.coverage
            values[f"holdout_top1_at_{threshold.min_score:g}"] = threshold.top1
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, stored: Mapping[str, object]) -> TrainedScores:
        """Read what `to_json` wrote; names it does not know are ignored.

        Raises:
            ValueError: a value is not a number.
        """
        thresholds = []
        for min_score in THRESHOLDS:
            coverage = _optional(stored, f"holdout_coverage_at_{min_score:g}", float)
            if coverage is not None:
                top1 = _optional(stored, f"holdout_top1_at_{min_score:g}", float)
                thresholds.append(Threshold(min_score, coverage, top1))
        return cls(
            epoch=_optional(stored, "epoch", int),
            holdout_loss=_optional(stored, "holdout_loss", float),
            train_images=_optional(stored, "train_images", int),
            train_seconds=_optional(stored, "train_seconds", float),
            epochs=_optional(stored, "epochs", int),
            holdout=_split_scores(stored, "holdout"),
            test=_split_scores(stored, "test"),
            thresholds=tuple(thresholds),
        )


def _split_scores(stored: Mapping[str, object], split: str) -> SplitScores | None:
    top1 = _optional(stored, f"{split}_top1", float)
    if top1 is None:
        return None
    return SplitScores(
        top1=top1,
        images=_optional(stored, f"{split}_images", int),
        ece=_optional(stored, f"{split}_ece", float),
        ece_uncalibrated=_optional(stored, f"{split}_ece_uncalibrated", float),
    )


def _optional(stored: Mapping[str, object], name: str, number: type[_Number]) -> _Number | None:
    """A stored number, or None where there is none."""
    value = stored.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} {value!r}, expected a number")
    return number(value)
