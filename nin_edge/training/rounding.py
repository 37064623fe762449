"""Rounds trained weights to the integers of int8, so that every exported precision has the same.

Three steps, on some training images and without labels:

1. Equalise the channels: where a channel's activations are small, its weights are scaled up and the
   next convolution's down (Nagel et al., arXiv:1906.04721, section 4.1). The network computes the
   same, and int8's one scale a tensor suits more channels.
2. Round each convolution's weights, one input at a time, and let the inputs that are left make up
   for the error (GPTQ, Frantar et al., arXiv:2210.17323), with the second moments of its inputs.
3. Move each bias, so that the mean of each channel stays what it was.

The weights of the result lie on the grid of `nin_edge.quantization`. So fp32, fp16 and int8 files
differ by the rounding of activations alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from nin_edge.checkpoint import Checkpoint
from nin_edge.kernels import fold_batch_norm
from nin_edge.quantization import LARGEST_WEIGHT, round_weights, weight_scales

_EQUALISED: Final = 0.5  # exponent: 0 leaves the channels as they are, 1 makes all alike
_QUANTILE: Final = 0.9999  # of a channel's activations, its size
_SMALLEST: Final = 0.02  # size of a channel relative to the largest: dead ones are not scaled up
_POSITIONS: Final = 1 << 15  # windows of a convolution to take the second moments of
_BLOCK: Final = 64  # inputs that are rounded before the error is passed on to all others
_LARGEST: Final = 8192  # inputs of a convolution, from which second moments take too much memory
_DAMPING: Final = 0.01  # added to the second moments, relative to their mean
_ON_GRID: Final = 1e-3  # of a step; float32 is a thousand times as exact

Rounding: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Rounds weights in steps, float64 (K, D), for the second moments of D inputs, (D, D)."""


@torch.no_grad()
def round_checkpoint(
    checkpoint: Checkpoint, images: Sequence[Tensor], rounding: Rounding | None = None
) -> Checkpoint:
    """The checkpoint with rounded weights; the same one if they are rounded already.

    Args:
        checkpoint: trained weights.
        images: batches of normalised training images, float32 (N, C, S, S).
        rounding: how to round; `round_in_turn` if None (`benchmarks/rounding.py` compares others).
    """
    exact = checkpoint.network()
    fold_batch_norm(exact)
    if _is_rounded(exact):
        return checkpoint
    names = [name for name, module in exact.named_modules() if not list(module.children())]
    layers = [exact.get_submodule(name) for name in names]
    _equalise(layers, images)
    weights = dict(checkpoint.weights)
    inputs, exact_inputs = list(images), list(images)
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            rounded = copy.deepcopy(layer)
            assert rounded.bias is not None  # folding gave it one
            _round(rounded, inputs, rounding or round_in_turn)
            exact_inputs = [layer(values) for values in exact_inputs]
            inputs = [rounded(values) for values in inputs]
            moved = _means(exact_inputs) - _means(inputs)
            inputs = [values + moved.view(-1, 1, 1) for values in inputs]
            rounded.bias += moved
            weights[f"{names[index]}.weight"] = rounded.weight.detach()
            if f"{names[index]}.bias" in weights:
                weights[f"{names[index]}.bias"] = rounded.bias.detach()
            else:
                weights |= _statistics(names[index + 1], rounded.bias, inputs)
        else:
            exact_inputs = [layer(values) for values in exact_inputs]
            inputs = [layer(values) for values in inputs]
    return replace(checkpoint, weights=weights)


def _is_rounded(network: nn.Module) -> bool:
    """Whether all weights are whole steps already, so that rounding has nothing left to do."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            steps = layer.weight / weight_scales(layer.weight).view(-1, 1, 1, 1)
            if (steps - steps.round()).abs().max() > _ON_GRID:
                return False
    return True


def _equalise(layers: Sequence[nn.Module], images: Sequence[Tensor]) -> None:
    """Scale the channels between each two convolutions, in place.

    ReLU, pooling and dropout in evaluation mode only pass a channel's positive scale on.
    """
    values, before, size = list(images), None, None
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            if before is not None and size is not None:
                scale = (size / size.max().clamp_min(1e-30)).clamp_min(_SMALLEST) ** -_EQUALISED
                assert before.bias is not None
                before.weight *= scale.view(-1, 1, 1, 1)
                before.bias *= scale
                layer.weight /= scale.view(-1, 1, 1)
                values = [part * scale.view(-1, 1, 1) for part in values]
            before, size = layer, None
        values = [layer(part) for part in values]
        if isinstance(layer, nn.ReLU):
            flat = torch.cat([part.transpose(0, 1).flatten(1) for part in values], dim=1)
            beyond = 1 + int((1 - _QUANTILE) * flat.shape[1])
            size = flat.topk(beyond, dim=1).values[:, -1]


def _round(convolution: nn.Conv2d, inputs: Sequence[Tensor], rounding: Rounding) -> None:
    """Round a convolution's weights in place, for inputs (N, C, h, w) like those given."""
    weight = convolution.weight.contiguous()
    scales = weight_scales(weight)
    flat = weight.flatten(1).double()  # (K, C, k, k) -> (K, D)
    if flat.shape[1] > _LARGEST:
        steps = round_weights(weight, scales).flatten(1).double()
    else:
        steps = rounding(flat / scales.double()[:, None], _moments(convolution, inputs))
    convolution.weight.copy_((steps * scales.double()[:, None]).view_as(weight))


def _moments(convolution: nn.Conv2d, inputs: Sequence[Tensor]) -> Tensor:
    """Second moments of what a convolution's filters see, float64 (D, D) with D = C * k * k."""
    (side, _), (stride, _) = convolution.kernel_size, convolution.stride
    count = _POSITIONS // len(inputs)
    total = torch.zeros(convolution.weight[0].numel(), convolution.weight[0].numel())
    random = torch.Generator().manual_seed(0)
    for values in inputs:
        padded = functional.pad(values, [int(convolution.padding[0])] * 4)
        windows = padded.unfold(2, side, stride).unfold(3, side, stride)  # (N, C, h, w, k, k)
        sizes = [windows.shape[axis] for axis in (0, 2, 3)]
        places = [torch.randint(size, (count,), generator=random) for size in sizes]
        seen = windows.permute(0, 2, 3, 1, 4, 5)[tuple(places)].flatten(1)  # (count, D)
        total += seen.T @ seen
    return total.double()


def round_in_turn(weight: Tensor, moments: Tensor) -> Tensor:
    """Round columns in turn; those that are left take over each error, as far as they can.

    The largest weight of a row stays what it is: the scale follows from it.

    Args:
        weight: in steps, float64 (K, D).
        moments: of the D inputs, float64 (D, D).

    Returns:
        (K, D), whole numbers.
    """
    mean = moments.diagonal().mean()
    moments = moments + torch.eye(len(moments)) * (_DAMPING * mean if mean > 0 else 1.0)
    order = moments.diagonal().argsort(descending=True)  # what matters most has most left after it
    left, moments = weight[:, order].clone(), moments[order][:, order]
    given, largest = left.round(), left.abs() > LARGEST_WEIGHT - _ON_GRID
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    factor = torch.linalg.cholesky(inverse, upper=True)
    steps = torch.empty_like(left)
    for start in range(0, left.shape[1], _BLOCK):
        end = min(start + _BLOCK, left.shape[1])
        errors = torch.empty_like(left[:, start:end])
        for column in range(start, end):
            steps[:, column] = left[:, column].round().clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT)
            steps[:, column] = steps[:, column].where(~largest[:, column], given[:, column])
            error = (left[:, column] - steps[:, column]) / factor[column, column]
            left[:, column:end] -= error[:, None] * factor[column, column:end]
            errors[:, column - start] = error
        left[:, end:] -= errors @ factor[start:end, end:]
    result = torch.empty_like(steps)
    result[:, order] = steps
    return result


def _means(outputs: Sequence[Tensor]) -> Tensor:
    """Mean of each channel over batches (N, C, h, w): (C,)."""
    return torch.cat([part.mean((2, 3)) for part in outputs]).mean(0)


def _statistics(name: str, bias: Tensor, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """A batch normalisation that only adds a bias: its scale undoes its variance.

    Its statistics are those of its inputs, so that training can go on from them.

    Args:
        name: its name in the network.
        bias: what it adds, (C,).
        outputs: what it gives, (N, C, h, w) each.
    """
    mean = _means(outputs)
    variance = _means([(part - mean.view(-1, 1, 1)) ** 2 for part in outputs])
    return {
        f"{name}.running_mean": mean - bias,
        f"{name}.running_var": variance,
        f"{name}.weight": (variance + nn.BatchNorm2d(1).eps).sqrt(),
        f"{name}.bias": mean,
    }
