"""The history of a training run: what each epoch gave, and which one was best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """One epoch of training, a row of a run's metrics.csv."""

    epoch: int
    """Number, from 1."""
    loss: float
    """Mean training loss, in nats."""
    holdout_top1: float
    """Accuracy on the hold-out, 0 to 1."""
    holdout_loss: float
    """`calibrated_loss` on the hold-out, in nats."""
    images_per_second: float
    """Training images a second."""
    seconds: float
    """Training time up to the end of this epoch."""


def best_epoch(history: Sequence[Epoch]) -> int:
    """Index of the epoch with the lowest hold-out loss; ties go to accuracy, then to the earlier.

    Args:
        history: at least one epoch.
    """
    ranks = [(epoch.holdout_loss, -epoch.holdout_top1) for epoch in history]
    return ranks.index(min(ranks))
