"""Probabilities from logits, how far two sets of them differ, and their temperature."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_TINY: Final = 1e-12  # added to probabilities, which float32 may have rounded to 0
_TEMPERATURES: Final = (0.05, 20.0)  # range that is searched
_BISECTIONS: Final = 50


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, K) of logits (N, K) divided by a temperature, in double precision."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def uncalibrated(probabilities: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Probabilities (N, K) as they were before the logits were divided by a temperature."""
    powers = probabilities.astype(np.float64) ** temperature
    plain: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return plain


def divergence(reference: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean Kullback-Leibler divergence of two sets of probabilities (N, K), in nats.

    Args:
        reference: taken as true.
        other: compared with it.
    """
    ratio = np.log((reference + _TINY) / (other + _TINY))
    return float((reference * ratio).sum(axis=1).mean())


def fit_temperature(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """The temperature with the lowest negative log-likelihood (Guo, arXiv:1706.04599, section 4.2).

    The likelihood is concave in the inverse temperature, so bisection on its derivative finds the
    only optimum. The targets are smoothed by 1 / (N + 2), as in Platt scaling: a few
    images that are all classified correctly would otherwise call for a temperature of zero.

    Args:
        logits: (N, K), of images that the network was not trained on.
        targets: (N,).

    Returns:
        0.05 to 20.

    Raises:
        ValueError: no images.
    """
    if not len(targets):
        raise ValueError("no images to fit a temperature to")
    smoothing = 1 / (len(targets) + 2)
    correct = logits[np.arange(len(targets)), targets].astype(np.float64)
    correct = (1 - smoothing) * correct + smoothing * logits.mean(axis=1, dtype=np.float64)
    low, high = map(math.log, _TEMPERATURES)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        expected = (softmax(logits, math.exp(middle)) * logits).sum(axis=1)
        # The model is overconfident where the expected logit exceeds the correct one.
        low, high = (middle, high) if (expected - correct).mean() > 0 else (low, middle)
    return math.exp((low + high) / 2)


def calibrated_loss(logits: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood at the temperature that `fit_temperature` finds.

    On small sets it ranks networks of equal accuracy: each image counts by its confidence, not
    only by being right or wrong. The temperature removes the overall confidence,
    which keeps rising while a network trains.

    Args:
        logits: (N, K), of images that the network was not trained on.
        targets: (N,).

    Returns:
        Nats, 0 or more.

    Raises:
        ValueError: no images.
    """
    scaled = logits.astype(np.float64) / fit_temperature(logits, targets)
    correct = scaled[np.arange(len(targets)), targets]
    return float((np.logaddexp.reduce(scaled, axis=1) - correct).mean())
