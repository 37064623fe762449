"""The optimizers of a network, and the schedule of their learning rate."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from nin_edge.network import NiN
from nin_edge.training.muon import Muon
from nin_edge.training.recipe import Recipe


def make_optimizers(network: NiN, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the convolutions with batch normalisation, if there are any, and SGD for the rest.

    Frozen weights (`requires_grad` is False) are left out. Each parameter group has its peak
    learning rate as `peak_lr`.

    Args:
        network: the network to train.
        recipe: learning rates, momenta and weight decay.
    """
    normalised = [
        next(module.parameters())  # the weight: a normalised convolution has no bias
        for module, after in pairwise(network.modules())
        if isinstance(module, nn.Conv2d)
        and isinstance(after, nn.BatchNorm2d)
        and module.weight.requires_grad
        and recipe.muon_rate
    ]
    by_muon = set(normalised)
    by_sgd = [w for w in network.parameters() if w.requires_grad and w not in by_muon]
    rate = recipe.learning_rate
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(
            [
                {"params": [w for w in by_sgd if w.ndim > 1], "weight_decay": recipe.weight_decay},
                {"params": [w for w in by_sgd if w.ndim <= 1], "weight_decay": 0.0},
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


def one_cycle(step: int, steps: int, warmup: float) -> float:
    """Learning rate relative to its peak: a linear rise, then a linear fall (arXiv:1708.07120).

    Args:
        step: the step, counted from 0.
        steps: number of all steps.
        warmup: fraction of the steps in which the rate rises.

    Returns:
        Above 0, at most 1.
    """
    rise = max(1.0, warmup * steps)
    return min((step + 1) / rise, (steps - step) / max(1.0, steps - rise), 1.0)
