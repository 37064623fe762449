"""The loss: cross-entropy with the labels and, with teachers, distillation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from nin_edge.kernels import compile_network, fold_batch_norm
from nin_edge.predict import InputTransform
from nin_edge.text import list_some
from nin_edge.training.finetune import Pretrained
from nin_edge.training.recipe import Recipe
from nin_edge_runtime import ModelFileError

_CPU_BATCH: Final = 32  # images per teacher batch; at 128, each image takes up to 50% longer


class Teachers:
    """Trained networks whose mean prediction another network learns (Hinton et al., 1503.02531).

    The mean of their probabilities is an ensemble, which is mostly more accurate than each of them.
    """

    def __init__(
        self,
        weights: Sequence[Pretrained],
        labels: tuple[str, ...],
        channels: int,
        device: torch.device | str = "cpu",
        *,
        compiled: bool = False,
    ) -> None:
        """Put the networks on a device.

        Args:
            weights: weights of each teacher, at least one.
            labels: the student's classes.
            channels: channels of the student's input.
            device: device to compute on.
            compiled: whether to compile the networks with torch.compile.

        Raises:
            ModelFileError: a teacher's classes or channels are not the student's; the message names
                both.
        """
        self._networks: list[tuple[nn.Module, InputTransform, int]] = []
        for teacher in weights:
            _check(teacher, labels, channels)
            checkpoint = teacher.checkpoint
            network = checkpoint.network().requires_grad_(False)
            fold_batch_norm(network)
            network = network.to(device)
            forward = compile_network(network) if compiled else network
            transform = InputTransform(checkpoint.preprocessing, device)
            self._networks.append((forward, transform, checkpoint.config.size))

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """The log of the mean probabilities, (N, K), for uint8 pixels (N, S, S, C) of any size."""
        each = torch.stack([self._predict(*network, pixels) for network in self._networks])
        return each.logsumexp(0) - math.log(len(each))  # (teachers, N, K) -> (N, K)

    @staticmethod
    def _predict(
        forward: nn.Module, transform: InputTransform, side: int, pixels: Tensor
    ) -> Tensor:
        """The log-probabilities of one network, float32 (N, K)."""
        inputs = transform(pixels)
        if inputs.shape[-1] != side:
            inputs = functional.interpolate(inputs, [side, side], mode="bilinear", antialias=True)
        batch = _CPU_BATCH if inputs.device.type == "cpu" else len(inputs)
        return (
            torch.cat([forward(part) for part in torch.split(inputs, batch)]).float().log_softmax(1)
        )


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


def _check(teacher: Pretrained, labels: tuple[str, ...], channels: int) -> None:
    """Raise ModelFileError unless a teacher has the student's classes and channels."""
    checkpoint = teacher.checkpoint
    if checkpoint.labels != labels:
        raise ModelFileError(
            f"{teacher.name}: a teacher of the classes {list_some(checkpoint.labels)}, "
            f"expected those of the data in their order: {list_some(labels)}"
        )
    if checkpoint.config.channels != channels:
        raise ModelFileError(
            f"{teacher.name}: a teacher with {checkpoint.config.channels} channels, "
            f"expected the student's {channels}"
        )
