"""Other ways to get weights of whole steps than the one that training takes: what `rounding` tries.

They round a trained network (to the nearest, or AdaRound), or train it further while its weights
and activations are rounded (straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import Dataset
from nin_edge.kernels import fold_batch_norm
from nin_edge.network import NiN
from nin_edge.predict import InputTransform
from nin_edge.quantised_points import ActivationRange, activation_ranges, quantised_points
from nin_edge.quantization import (
    LARGEST_ACTIVATION,
    LARGEST_WEIGHT,
    activation_parameters,
    round_weights,
    weight_scales,
)
from nin_edge.training.batches import Batches
from nin_edge.training.finetune import Pretrained
from nin_edge.training.objective import distillation_loss
from nin_edge.training.plan import Plan
from nin_edge.training.recipe import Recipe
from nin_edge.training.rounding import round_checkpoint
from nin_edge.training.workers import Workers

_STRETCH: Final = (-0.1, 1.1)  # of AdaRound's sigmoid, before it is cut to 0 and 1 (equation 23)
_SHARPNESS: Final = (20.0, 2.0)  # of its regulariser, at the start and at the end (equation 24)
_WITHOUT: Final = 0.2  # of the iterations, before the regulariser counts
_RATE: Final = 0.01  # of Adam


def trained(weights: str, data: Dataset) -> Checkpoint:
    """A checkpoint with one mean and one scale for all channels, as networks are trained today.

    The first convolution of an older one takes over the difference.

    Args:
        weights: path or name.
        data: what they were trained on.
    """
    start = Pretrained.load(weights)
    old = start.checkpoint
    network = NiN(old.config)
    start.copy_to(network, data.labels)
    preprocessing = start.preprocessing(old.config.size)
    return replace(old, weights=network.state_dict(), preprocessing=preprocessing)


def to_nearest(weight: Tensor, moments: Tensor) -> Tensor:
    """Each weight to the nearest whole step: a `nin_edge.training.rounding.Rounding`."""
    del moments
    return weight.round().clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT)


@torch.enable_grad()
def adaptive(weight: Tensor, moments: Tensor, *, iterations: int) -> Tensor:
    """Each weight up or down, by what keeps a convolution's outputs (AdaRound, arXiv:2004.10568).

    The error of the outputs is computed from the inputs' second moments: it is that over all of
    them, where the paper draws batches. Its unit here is the error of rounding to the nearest.

    Args:
        weight: in steps, float64 (K, D).
        moments: of the D inputs, float64 (D, D).
        iterations: steps of Adam.
    """
    weight, moments = weight.float(), moments.float()
    low, high = _STRETCH
    nearest = weight - weight.round()
    unit = (nearest @ moments * nearest).sum().clamp_min(1e-30)
    down = weight.floor()
    share = ((weight - down - low) / (high - low)).logit().requires_grad_()
    optimizer = torch.optim.Adam([share], lr=_RATE)
    for step in range(iterations):
        up = (share.sigmoid() * (high - low) + low).clamp(0, 1)
        error = down + up - weight
        # The gradient of the quadratic form, by one product of matrices instead of two.
        loss = ((error @ moments).detach() * 2 / unit * error).sum()
        done = step / iterations
        if done >= _WITHOUT:
            first, last = _SHARPNESS
            sharpness = first + (last - first) * (done - _WITHOUT) / (1 - _WITHOUT)
            loss = loss + (1 - (2 * up - 1).abs() ** sharpness).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rounded = down + (share.detach() > 0)  # 0 is the middle of the stretched sigmoid
    return rounded.clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT).double()


def train_rounded(
    checkpoint: Checkpoint, images: Sequence[Tensor], data: Dataset, *, epochs: int, rate: float
) -> Checkpoint:
    """Train on with rounded weights and activations (Jacob et al., arXiv:1712.05877).

    Batch normalisation is folded first, and the channels are equalised as before rounding. Ranges
    of activations stay those of the start. The network at the start teaches.

    Args:
        checkpoint: trained weights.
        images: batches of normalised training images, float32 (N, C, S, S).
        data: what they were trained on.
        epochs: number of passes over the training images.
        rate: learning rate at the start; it falls to 0 as a cosine.
    """
    start = round_checkpoint(checkpoint, images, lambda weight, _: weight)
    network, teacher = start.network(), checkpoint.network().eval()
    points = list(quantised_points(network))
    ranges = activation_ranges(network, images, sum(map(len, images)))
    fold_batch_norm(network)
    _round_activations(network, points, ranges)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        parametrize.register_parametrization(convolution, "weight", _Rounded())
    recipe = Recipe(epochs=epochs, crop=4, cutmix=0.5, low_resolution=0.0)
    plan = Plan.of(recipe, checkpoint.config, len(data.train))
    device = torch.device("cpu")
    batches = Batches(
        data, recipe, plan, checkpoint.preprocessing, workers=Workers(), device=device
    )
    normalize = InputTransform(checkpoint.preprocessing)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, plan.steps)
    for step in range(plan.steps):
        inputs = normalize(batches.get(step)[0])
        with torch.no_grad():
            taught = teacher(inputs).log_softmax(1)
        loss = distillation_loss(network(inputs), taught)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return replace(start, weights=dict(start.weights) | _folded_weights(start.network(), network))


class _Rounded(nn.Module):
    """Weights as whole steps, with the gradient of the weights themselves."""

    def forward(self, weight: Tensor) -> Tensor:
        scales = weight_scales(weight.detach())
        rounded = round_weights(weight.detach(), scales) * scales.view(-1, 1, 1, 1)
        return weight + (rounded - weight.detach())


def _round_activations(
    network: nn.Module, points: Sequence[str], ranges: Mapping[str, ActivationRange]
) -> None:
    """Round what the named modules give, with the gradient of what is within the range."""

    def rounded(_: nn.Module, __: object, values: Tensor, *, low: float, high: float) -> Tensor:
        scale, zero_point = activation_parameters(low, high)
        step = float(scale)
        inside = values.clamp(-zero_point * step, (LARGEST_ACTIVATION - zero_point) * step)
        return inside + ((inside / step).round() * step - inside).detach()

    for name in points:
        span = ranges[name]
        hook = partial(rounded, low=span.minimum, high=span.maximum)
        network.get_submodule(name).register_forward_hook(hook)


def _folded_weights(plain: NiN, folded: nn.Module) -> dict[str, Tensor]:
    """The weights of a folded network, by the names of one with batch normalisation.

    Each batch normalisation then adds the folded bias, and nothing else.
    """
    names = [name for name, module in plain.named_modules() if not list(module.children())]
    weights: dict[str, Tensor] = {}
    for name, after in zip(names, [*names[1:], ""], strict=True):
        layer = folded.get_submodule(name)
        if not isinstance(layer, nn.Conv2d):
            continue
        assert layer.bias is not None  # folding gave it one
        weights[f"{name}.weight"], bias = layer.weight.detach(), layer.bias.detach()
        if after and isinstance(norm := plain.get_submodule(after), nn.BatchNorm2d):
            zero = torch.zeros_like(bias)
            weights[f"{after}.running_mean"], weights[f"{after}.bias"] = zero, bias
            weights[f"{after}.running_var"] = zero + 1 - norm.eps
            weights[f"{after}.weight"] = zero + 1
        else:
            weights[f"{name}.bias"] = bias
    return weights
