"""A new last layer for trained features, fitted before any other weight changes.

The logits are the mean of the class maps, and the last convolution is 1 x 1 and linear. So they are
a linear function of the mean of its input maps, which needs computing once an image. Fitting it
first keeps what the features know: with a random last layer, the first steps would spoil them
(Kumar et al., arXiv:2202.10054).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nin_edge.data import Dataset
from nin_edge.kernels import fold_batch_norm
from nin_edge.network import NiN
from nin_edge.predict import inputs
from nin_edge_runtime.preprocessing import Preprocessing

_PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1)  # of the squared weights; one is chosen
_FOLDS: Final = 3  # of the cross-validation
_ITERATIONS: Final = 40  # of L-BFGS
_IMAGES: Final = 20_000  # at most; more change little


def has_linear_head(network: NiN) -> bool:
    """Whether the logits are a linear function of averaged maps."""
    config = network.config
    return config.head == "gap" and not config.last_relu and len(_last_block(network)) > 1


def fit_linear_head(
    network: NiN,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    flip: bool,
    balanced: bool,
    label_smoothing: float,
    device: torch.device | str = "cpu",
    progress: Callable[[str, int, int], None] = lambda task, done, total: None,
) -> None:
    """Set the last convolution's weights to the logistic regression on the layers before it.

    The strength of its L2 penalty is chosen by cross-validation over the training images.

    Args:
        network: changed in place; `has_linear_head` must be True.
        dataset: has the training images.
        preprocessing: how they become the network's input.
        flip: whether to train on the mirrored images, too.
        balanced: whether all classes count the same.
        label_smoothing: as in the training that follows, which then starts at its own optimum.
        device: where to compute the features.
        progress: called with a task, and how much of it is done.
    """
    drawn = np.random.default_rng(0).permutation(dataset.train)[:_IMAGES]
    chosen = np.sort(drawn)
    parts = list[Tensor]()
    for part in _features(network, dataset, preprocessing, chosen, flip=flip, device=device):
        parts.append(part)
        progress("computing features", sum(map(len, parts)) // (1 + flip), len(chosen))
    features = torch.cat(parts)
    targets = torch.from_numpy(dataset.targets[chosen]).repeat_interleave(1 + flip)
    scale = features.std(0).clamp_min(1e-3 * float(features.std()) or 1.0)
    mean = features.mean(0)
    features = (features - mean) / scale
    classes = len(dataset.labels)
    counts = torch.bincount(targets, minlength=classes).clamp_min(1)
    importance = len(targets) / (classes * counts) if balanced else torch.ones(classes)
    fits = count(1)

    def fit(features: Tensor, targets: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        fitted = _logistic_regression(
            features, targets, penalty, importance=importance, label_smoothing=label_smoothing
        )
        progress("fitting the last layer", next(fits), len(_PENALTIES) * _FOLDS + 1)
        return fitted

    groups = np.arange(len(chosen)).repeat(1 + flip)
    penalty = _choose_penalty(fit, features, targets, groups, importance)
    weight, bias = fit(features, targets, penalty)
    last = _last_convolution(network)
    weight = weight / scale
    with torch.no_grad():
        last.weight.copy_(weight[:, :, None, None])
        assert last.bias is not None  # a convolution without normalisation has one
        last.bias.copy_(bias - weight @ mean)


def _last_block(network: NiN) -> nn.Sequential:
    block = network.stages[-1]
    assert isinstance(block, nn.Sequential)
    return block


def _last_convolution(network: NiN) -> nn.Conv2d:
    last = _last_block(network)[-1]
    assert isinstance(last, nn.Conv2d)
    return last


@torch.no_grad()
def _features(
    network: NiN,
    dataset: Dataset,
    preprocessing: Preprocessing,
    indices: NDArray[np.int64],
    *,
    flip: bool,
    device: torch.device | str,
) -> Iterator[Tensor]:
    """Batches of averaged maps before the last convolution, (N, C), each image's mirrored next."""
    frozen = NiN(network.config)
    frozen.load_state_dict(network.state_dict())
    frozen.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fold_batch_norm(frozen)
    _last_block(frozen)[-1] = nn.Identity()
    for batch in inputs(preprocessing, dataset.images, indices, device):
        shown = torch.stack([batch, batch.flip(3)], 1).flatten(0, 1) if flip else batch
        yield frozen.class_maps(shown).mean((2, 3)).cpu()


def _choose_penalty(
    fit: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]],
    features: Tensor,
    targets: Tensor,
    photos: NDArray[np.int64],
    importance: Tensor,
) -> float:
    """The penalty of the lowest loss on what was left out; all views of a photo stay together."""
    folds = np.random.default_rng(0).permutation(photos[-1] + 1) % _FOLDS
    fold = torch.from_numpy(folds[photos])
    losses = []
    for penalty in _PENALTIES:
        loss = 0.0
        for left_out in range(_FOLDS):
            kept = fold != left_out
            weight, bias = fit(features[kept], targets[kept], penalty)
            logits = functional.linear(features[~kept], weight, bias)
            loss += float(
                functional.cross_entropy(logits, targets[~kept], importance, reduction="sum")
            )
        losses.append(loss)
    return _PENALTIES[int(np.argmin(losses))]


def _logistic_regression(
    features: Tensor,
    targets: Tensor,
    penalty: float,
    *,
    importance: Tensor,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Weights (K, C) and biases (K,) of the lowest loss, by L-BFGS from zero."""
    weight = torch.zeros(len(importance), features.shape[1], requires_grad=True)
    bias = torch.zeros(len(importance), requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        logits = functional.linear(features, weight, bias)
        value = functional.cross_entropy(
            logits, targets, importance, label_smoothing=label_smoothing
        )
        value = value + penalty * weight.square().sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()
