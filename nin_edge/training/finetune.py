"""Starting from trained weights: fine-tuning with a new last layer and frozen blocks."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from nin_edge.checkpoint import Checkpoint
from nin_edge.network import NetworkConfig, NiN
from nin_edge.weights import find_weights
from nin_edge_runtime.preprocessing import Preprocessing

_FIRST, _FIRST_NORM = "stages.0.0.weight", "stages.0.1"  # the first convolution, and what follows
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

    def preprocessing(self, size: int) -> Preprocessing:
        """Its preprocessing at another size, with one mean and one scale for all channels.

        Args:
            size: side of the images in pixels.
        """
        own = replace(self.checkpoint.preprocessing, size=size)
        if own.zero_point is not None:
            return own
        channels = own.channels
        zero_point, std = round(255 * sum(own.mean) / channels), sum(own.std) / channels
        return replace(own, mean=(zero_point / 255,) * channels, std=(round(std, 4),) * channels)

    def copy_to(self, network: NiN, labels: tuple[str, ...]) -> None:
        """Copy the weights into a network, except for the last layers where they do not fit.

        The first layer takes over what `preprocessing` changed of the normalisation. It computes
        the same, except at the border, where the padding was another colour.

        Args:
            network: a network of the same layers; classes and size may differ.
            labels: its classes.
        """
        weights = dict(self.checkpoint.weights) | self._first_layer()
        if not self.keeps_head(network.config, labels):
            own = network.state_dict()
            weights |= {name: own[name] for name in own if name.startswith(_head(network))}
        network.load_state_dict(weights)

    def _first_layer(self) -> dict[str, Tensor]:
        """The first convolution's weights, and what is added to it, for `preprocessing`."""
        own = self.checkpoint.preprocessing
        if own.zero_point is not None:
            return {}
        (scale, shift), (new_scale, new_shift) = (
            map(torch.from_numpy, steps.scale_and_shift())
            for steps in (own, self.preprocessing(own.size))
        )
        ratio = scale / new_scale  # own = new * ratio + offset
        offset = shift - new_shift * ratio
        weights = self.checkpoint.weights
        weight, added = weights[_FIRST], weights[_FIRST].sum((2, 3)) @ offset  # (K, C) @ (C,)
        mean, bias = f"{_FIRST_NORM}.running_mean", _FIRST.replace("weight", "bias")
        moved = {mean: weights[mean] - added} if mean in weights else {bias: weights[bias] + added}
        return {_FIRST: weight * ratio.view(-1, 1, 1)} | moved


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
