"""The loss: cross-entropy with the labels and, with teachers, distillation."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from nin_edge.training.recipe import Recipe
from nin_edge.training.teachers import Teachers


class Objective:
    """The loss that a training minimises."""

    def __init__(self, recipe: Recipe, teachers: Teachers | None = None) -> None:
        """Combine the losses.

        Args:
            recipe: label smoothing, and the weight of the distillation loss.
            teachers: networks to learn from, too.
        """
        self._labels_loss = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
        self._teachers, self._distill_weight = teachers, recipe.distill_weight

    def teach(self, pixels: Tensor) -> Tensor | None:
        """The teachers' log-probabilities, (N, K), for uint8 pixels; None without teachers."""
        return self._teachers(pixels) if self._teachers else None

    def __call__(self, logits: Tensor, targets: Tensor, taught: Tensor | None) -> Tensor:
        """The mean loss of a batch, a scalar.

        Args:
            logits: the network's logits, float32 (N, K).
            targets: int64 (N,) classes, or float32 (N, K) probabilities.
            taught: what `teach` returned for the batch.
        """
        loss: Tensor = self._labels_loss(logits, targets)
        if taught is not None:
            loss = loss + self._distill_weight * (distillation_loss(logits, taught) - loss)
        return loss


def distillation_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's predictions from the teachers'.

    Args:
        logits: the student's logits, (N, K).
        taught: the teachers' log-probabilities, (N, K).

    Returns:
        A scalar; 0 where the predictions are equal.
    """
    return functional.kl_div(logits.log_softmax(1), taught, reduction="batchmean", log_target=True)
