"""What training measured with PyTorch, as a checkpoint stores it."""

from __future__ import annotations

from dataclasses import dataclass

from nin_edge.metrics import THRESHOLDS, Threshold, wilson_interval
from nin_edge_runtime.model_file.strict_json import JsonObject, number


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

    @property
    def interval(self) -> tuple[float, float] | None:
        """The accuracy's 95% interval; None if the number of images is not known."""
        if not self.images:
            return None
        return wilson_interval(round(self.top1 * self.images), self.images)


@dataclass(frozen=True)
class TrainedScores:
    """Scores of trained weights; None for what was not, or not yet, measured."""

    epoch: int | None = None
    """Epoch, from 1, after which these weights were saved."""
    holdout_loss: float | None = None
    """Loss on the hold-out (`metrics.calibrated_loss`) in nats; from 200 images on it chooses."""
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
    def from_json(cls, values: object) -> TrainedScores:
        """Read what `to_json` wrote; names it does not know are ignored.

        Raises:
            ValueError: a value is not a number of its range.
        """
        stored = JsonObject("metrics", values)
        thresholds = []
        for min_score in THRESHOLDS:
            coverage = stored.optional(f"holdout_coverage_at_{min_score:g}", _share)
            if coverage is not None:
                top1 = stored.optional(f"holdout_top1_at_{min_score:g}", _share)
                thresholds.append(Threshold(min_score, coverage, top1))
        return cls(
            epoch=stored.optional_integer("epoch"),
            holdout_loss=stored.optional("holdout_loss", _amount),
            train_images=stored.optional_integer("train_images"),
            train_seconds=stored.optional("train_seconds", _amount),
            epochs=stored.optional_integer("epochs"),
            holdout=_split_scores(stored, "holdout"),
            test=_split_scores(stored, "test"),
            thresholds=tuple(thresholds),
        )


def _split_scores(stored: JsonObject, split: str) -> SplitScores | None:
    top1 = stored.optional(f"{split}_top1", _share)
    if top1 is None:
        return None
    return SplitScores(
        top1=top1,
        images=stored.optional_integer(f"{split}_images"),
        ece=stored.optional(f"{split}_ece", _share),
        ece_uncalibrated=stored.optional(f"{split}_ece_uncalibrated", _share),
    )


def _share(value: object) -> float:
    """A number from 0 to 1."""
    share = number(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{share}, expected a number from 0 to 1")
    return share


def _amount(value: object) -> float:
    """A number of at least 0."""
    amount = number(value)
    if amount < 0:
        raise ValueError(f"{amount}, expected a number of at least 0")
    return amount
