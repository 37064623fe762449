"""Starting from trained weights: fine-tuning with a new last layer and frozen blocks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from torch import nn

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NetworkConfig, NiN
from nin_edge.weights import find_weights

_STAGES_PER_BLOCK = 3  # in `NiN.stages`: the block, its pooling, its dropout


@dataclass(frozen=True)
class Pretrained:
    """Trained weights and their name."""

    name: str
    """Path of the weights, or a name of `nin_edge.weights.WEIGHTS`."""
    checkpoint: Checkpoint
    """The weights with their network, labels and preprocessing."""

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> Self:
        """Read weights by path or name.

        Raises:
            ModelFileError: there are no such weights, or the file is not a checkpoint.
        """
        return cls(os.fspath(name), Checkpoint.load(find_weights(name)))

    def keeps_head(self, config: NetworkConfig, labels: tuple[str, ...]) -> bool:
        """Whether the last layers fit: equal classes and, if fully connected, an equal size."""
        own = self.checkpoint
        return own.labels == labels and (config.head == "gap" or config.size == own.config.size)

    def copy_to(self, network: NiN, labels: tuple[str, ...]) -> None:
        """Copy the weights into a network, except for the last layers where they do not fit.

        Args:
            network: a network of the same layers; classes and size may differ.
            labels: its classes.
        """
        weights = dict(self.checkpoint.weights)
        if not self.keeps_head(network.config, labels):
            own = network.state_dict()
            weights |= {name: own[name] for name in own if name.startswith(_head(network))}
        network.load_state_dict(weights)


def freeze(network: NiN, blocks: int) -> None:
    """Exclude the first blocks' weights from training (see `keep_frozen_in_eval`, too).

    Args:
        network: changed in place.
        blocks: number of blocks, fewer than the network has.
    """
    for stage in _first_stages(network, blocks):
        stage.requires_grad_(False)


def keep_frozen_in_eval(network: NiN, blocks: int) -> None:
    """Put frozen blocks into evaluation mode: no dropout, and no update of their statistics."""
    for stage in _first_stages(network, blocks):
        stage.eval()


def _first_stages(network: NiN, blocks: int) -> list[nn.Module]:
    """The first blocks, with the pooling and dropout after each."""
    return list(network.stages)[: _STAGES_PER_BLOCK * blocks]


def _head(network: NiN) -> tuple[str, ...]:
    """Prefixes of the parameters of the convolutions that have one output per class."""
    convolutions = [
        f"{name}." for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    ]
    return tuple(convolutions[-(2 if network.config.head == "fc" else 1) :])
