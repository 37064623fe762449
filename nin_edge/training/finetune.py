"""Trained weights in another training: its start (fine-tuning), or its teachers (distillation)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from nin_edge.checkpoint import Checkpoint
from nin_edge.kernels import compile_network, fold_batch_norm
from nin_edge.network import NetworkConfig, NiN
from nin_edge.predict import InputTransform
from nin_edge.text import list_some
from nin_edge.weights import find_weights
from nin_edge_runtime import ModelFileError

_CPU_PART: Final = 32
"""Images a teacher takes together on a CPU: 128 take up to half as long again, each."""


@dataclass(frozen=True)
class Pretrained:
    """Trained weights and what they were called."""

    name: str
    """What they were called: a path, or a name of `nin_edge.weights.WEIGHTS`."""
    checkpoint: Checkpoint
    """The weights with their network, labels and preprocessing."""

    @classmethod
    def load(cls, name: Path) -> Self:
        """Read them by path or name.

        Raises:
            ModelFileError: no such weights, or a file that is none.
        """
        return cls(str(name), Checkpoint.load(find_weights(name)))

    def keeps_head(self, config: NetworkConfig, labels: tuple[str, ...]) -> bool:
        """Whether the last layers fit: the same classes and, if fully connected, the same size."""
        old = self.checkpoint
        return old.labels == labels and (config.head == "gap" or config.size == old.config.size)

    def copy_to(self, network: NiN, labels: tuple[str, ...]) -> None:
        """Give the network these weights, but for its head where that does not fit.

        Args:
            network: of the same layers; classes and size may differ.
            labels: its classes.
        """
        wanted = dict(self.checkpoint.weights)
        if not self.keeps_head(network.config, labels):
            fresh = network.state_dict()
            wanted |= {name: fresh[name] for name in fresh if name.startswith(_head(network))}
        network.load_state_dict(wanted)


class Teacher:
    """Trained networks whose mean answer another one is to give.

    After Hinton et al., arXiv:1503.02531: several teach by the mean of their probabilities, as an
    ensemble, which mostly is right more often than each of them.
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
        """Put them on a device.

        Args:
            weights: of each, at least one.
            labels: the student's classes.
            channels: of the student's input.
            device: where to compute.
            compiled: compute with kernels that torch.compile makes.

        Raises:
            ModelFileError: the classes or channels of one are not the student's; the message names
                them.
        """
        self._networks: list[tuple[nn.Module, InputTransform, int]] = []
        for one in weights:
            checkpoint = one.checkpoint
            if checkpoint.labels != labels:
                raise ModelFileError(
                    f"{one.name}: a teacher of the classes {list_some(checkpoint.labels)}, "
                    f"expected those of the data in their order: {list_some(labels)}"
                )
            if checkpoint.config.channels != channels:
                raise ModelFileError(
                    f"{one.name}: a teacher with {checkpoint.config.channels} channels, "
                    f"expected the student's {channels}"
                )
            network = checkpoint.network().requires_grad_(False)
            fold_batch_norm(network)
            network = network.to(device)
            forward = compile_network(network) if compiled else network
            transform = InputTransform(checkpoint.preprocessing, device)
            self._networks.append((forward, transform, checkpoint.config.size))

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Log-probabilities (N, K) for uint8 pixels (N, S, S, C), resized to each own side."""
        # (teachers, N, K)
        answers = torch.stack([self._answer(*network, pixels) for network in self._networks])
        return answers.logsumexp(0) - math.log(len(answers))

    @staticmethod
    def _answer(forward: nn.Module, transform: InputTransform, side: int, pixels: Tensor) -> Tensor:
        """One network's log-probabilities (N, K), float32."""
        inputs = transform(pixels)
        if inputs.shape[-1] != side:
            inputs = functional.interpolate(inputs, [side, side], mode="bilinear", antialias=True)
        parts = torch.split(inputs, _CPU_PART if inputs.device.type == "cpu" else len(inputs))
        return torch.cat([forward(part) for part in parts]).float().log_softmax(1)


def distillation_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of the student's answers from the teacher's.

    Args:
        logits: the student's, (N, K).
        taught: the teacher's log-probabilities, (N, K).

    Returns:
        A scalar, 0 where they agree.
    """
    return functional.kl_div(logits.log_softmax(1), taught, reduction="batchmean", log_target=True)


def _head(network: NiN) -> tuple[str, ...]:
    """Names, each with a dot, of the convolutions that have an output for each class."""
    convolutions = [
        f"{name}." for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    ]
    return tuple(convolutions[-(2 if network.config.head == "fc" else 1) :])


def freeze(network: NiN, blocks: int) -> None:
    """Keep the first blocks' weights as they are; `hold` does so for their statistics.

    Args:
        network: changed in place.
        blocks: how many, fewer than the network has: the last one holds the new head.
    """
    for stage in _stages(network, blocks):
        stage.requires_grad_(False)


def hold(network: NiN, blocks: int) -> None:
    """Keep frozen blocks in evaluation mode while the network trains: no dropout, no statistics."""
    for stage in _stages(network, blocks):
        stage.eval()


def _stages(network: NiN, blocks: int) -> list[nn.Module]:
    """The first blocks with what follows each of them, pooling and dropout."""
    return list(network.stages)[: 3 * blocks]
