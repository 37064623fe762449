"""Trained weights as the start of another training: fine-tuning on one's own classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import nn

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NetworkConfig, NiN
from nin_edge.weights import find_weights


@dataclass(frozen=True)
class Initial:
    """Weights to start from."""

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
