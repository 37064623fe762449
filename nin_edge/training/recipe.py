"""How a network is trained: the recipe's numbers, its schedule, its optimisers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import torch
from torch import nn

from nin_edge.network import SIZES, NetworkConfig, NiN
from nin_edge.training.muon import Muon


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; with network, data and machine it fixes the result.

    Convolutions whose output is normalised are trained by Muon, all else by SGD. docs/results.md
    has the figures behind those defaults that were compared.
    """

    epochs: int = 10
    """Passes over the training images."""
    batch_size: int = 250
    """Images a step."""
    learning_rate: float = 0.2
    """Peak of the one-cycle schedule for SGD; Muon takes `muon_rate` times as much."""
    warmup: float = 0.05
    """Part of all steps in which the learning rate rises to its peak; then it falls to 0."""
    momentum: float = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on the convolutions' weights that SGD trains (Muon keeps the length of its)."""
    muon_rate: float = 0.4
    """Muon's learning rate over SGD's; 0 trains everything by SGD."""
    muon_momentum: float = 0.6
    """Nesterov momentum of Muon."""
    label_smoothing: float = 0.2
    """Part of the target spread evenly over all classes."""
    teaching: float = 0.5
    """Part of the loss that is the divergence from a teacher's answers, where there is one."""
    small_images: float = 0.5
    """Part of all steps, the first ones, that see images at five eighths of their side."""
    crop: int = 2
    """Largest random shift of an image, in pixels per 32 of its side."""
    cutout: int = 0
    """Side of the square of an image that is covered, in pixels per 32 of its side."""
    cutmix: float = 0.0
    """Part of the images that get a square of another one; of the target, it gets as much."""
    flip: bool = True
    """Mirror images left to right in every other epoch."""
    balanced: bool = False
    """Show every class equally often: few images of each where it has many, all again where few."""
    patience: int = 0
    """Epochs, of images at full size, without a lower loss on the hold-out that end the run early;
    0 for never."""
    frozen_blocks: int = 0
    """Blocks, from the first, that keep the weights training started from."""
    bf16: bool = False
    """Compute convolutions in bfloat16, fast on AMX and recent GPUs; weights stay float32."""
    fp16: bool = False
    """Compute them in float16, with a loss scaled so that small gradients are not lost."""
    seed: int = 0
    """Seeds the weights, the order of the images, their augmentation and dropout."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot train.

        Raises:
            ValueError: a field is out of its range; the message names it.
        """
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are both on: expected one of them")
        for name, low, high in (
            ("epochs", 1, 100_000),
            ("batch_size", 2, 65_536),
            ("learning_rate", 1e-9, 1e3),
            ("warmup", 0, 1),
            ("momentum", 0, 0.9999),
            ("weight_decay", 0, 1),
            ("muon_rate", 0, 100),
            ("muon_momentum", 0, 0.9999),
            ("label_smoothing", 0, 0.99),
            ("teaching", 0, 1),
            ("small_images", 0, 1),
            ("crop", 0, 16),
            ("cutout", 0, 32),
            ("cutmix", 0, 1),
            ("patience", 0, 100_000),
            ("frozen_blocks", 0, 100),
            ("seed", 0, 2**31 - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name.replace('_', ' ')} is {getattr(self, name)}: expected {low} to {high}"
                )


RECIPES: Final = {
    # Without batch normalisation ten times the rate diverges, and SGD alone learns too little an
    # epoch from the batches that Muon takes.
    "nin": Recipe(batch_size=128, learning_rate=0.02, small_images=0.0),
    "nin-bn": Recipe(),
    "nin-imagenet": Recipe(batch_size=64),
}
"""The recipe of each network preset."""


_STEPS_PER_EPOCH: Final = 20  # at least: with fewer, epochs are over before the network has learnt
_SMALLEST_SHARE: Final = 16  # of a process: batch normalisation's statistics are poor with fewer
_ACTIVATION_BYTES: Final = (
    2 * 10**8
)  # of convolutions' outputs; normalisation and gradients add to it


def suited_batch(batch_size: int, images: int, *, processes: int = 1) -> int:
    """The batch for a data set: smaller for few images, so that an epoch has twenty steps.

    Args:
        batch_size: for many images.
        images: to fit.
        processes: which share it equally.

    Returns:
        A multiple of `processes`, with at least two images for each.
    """
    batch = min(batch_size, max(_SMALLEST_SHARE * processes, images // _STEPS_PER_EPOCH))
    return max(2 * processes, batch - batch % processes)


def small_side(size: int) -> int:
    """Side of the reduced images for networks of `size`: about five eighths, a multiple of 4.

    The multiplications of a step fall with its square, to two fifths (progressive resizing, as in
    Howard's DAWNBench entry of 2018).
    """
    return max(SIZES.start, 4 * round(size * 5 / 32))


def images_at_once(config: NetworkConfig, side: int) -> int:
    """Images of a batch whose activations fit into memory together, on a CPU; at least 2.

    A batch of more is worked through in parts, whose gradients add up; batch normalisation takes
    the statistics of each part (as "ghost" batches, Hoffer et al., arXiv:1705.08741).

    Args:
        config: the network.
        side: of the images, in pixels.
    """
    sides = replace(config, size=side).map_sides()
    values = sum(
        outputs * side**2
        for shapes, side in zip(config.layer_shapes(), sides, strict=True)
        for _, outputs, _ in shapes
    )
    return max(2, _ACTIVATION_BYTES // (4 * values))


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate: a straight rise, then a straight fall (arXiv:1708.07120).

    Args:
        step: counted from 0.
        steps: in all.
        warmup: part of the steps that the rise takes.

    Returns:
        Above 0, at most 1.
    """
    rise = max(1.0, warmup * steps)
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise), 1.0)


def make_optimizers(network: NiN, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions that are normalised, if there are any, and SGD for the rest.

    Frozen weights (`requires_grad` is False) are left out. Each group has its peak learning rate as
    `peak_lr`.
    """
    normalised = [
        next(module.parameters())  # the weight: what is normalised has no bias
        for module, after in pairwise(network.modules())
        if isinstance(module, nn.Conv2d)
        and isinstance(after, nn.BatchNorm2d)
        and module.weight.requires_grad
        and recipe.muon_rate
    ]
    chosen = set(normalised)
    rest = [w for w in network.parameters() if w.requires_grad and w not in chosen]
    rate = recipe.learning_rate
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(
            [
                {"params": [w for w in rest if w.ndim > 1], "weight_decay": recipe.weight_decay},
                {"params": [w for w in rest if w.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )
    ]
    if normalised:
        muon = Muon(normalised, rate * recipe.muon_rate, recipe.muon_momentum, bf16=recipe.bf16)
        optimizers.append(muon)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers
