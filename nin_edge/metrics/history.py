"""The history of a training run: what each epoch gave, and which one was best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DECISIVE: Final = 200
"""Held-out images from which the loss on them chooses an epoch; that of fewer is mostly noise."""


@dataclass(frozen=True)
class Epoch:
    """One epoch of training, a row of a run's metrics.csv."""

    epoch: int
    """Number, from 1."""
    loss: float
    """Mean training loss, in nats."""
    holdout_top1: float | None
    """Accuracy on the hold-out, 0 to 1; None if no image is held out."""
    holdout_loss: float | None
    """`calibrated_loss` on the hold-out, in nats; None if no image is held out."""
    images_per_second: float
    """Training images a second."""
    seconds: float
    """Training time up to the end of this epoch."""


def best_epoch(history: Sequence[Epoch], held_out: int) -> int:
    """Index of the epoch with the lowest hold-out loss; ties go to accuracy, then to the earlier.

    If fewer than `DECISIVE` images are held out, it is the last epoch.

    Args:
        history: at least one epoch.
        held_out: number of held-out images.
    """
    ranks = [
        (epoch.holdout_loss, -epoch.holdout_top1)
        for epoch in history
        if epoch.holdout_loss is not None and epoch.holdout_top1 is not None
    ]
    return ranks.index(min(ranks)) if ranks and held_out >= DECISIVE else len(history) - 1
