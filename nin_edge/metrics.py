"""How good answers are: accuracy, calibration; NumPy alone, for answers from wherever they come."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def softmax(values: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities (N, K) of logits (N, K) divided by a temperature, in double precision."""
    scaled = values.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def top1(scores: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """Share of rows (N, K) whose largest score is at the target (N,); 0 to 1."""
    return float((scores.argmax(axis=1) == targets).mean())


def expected_calibration_error(
    probabilities: NDArray[np.floating], targets: NDArray[np.int64], bins: int = 15
) -> float:
    """Mean gap of confidence and accuracy, over equal bins of confidence (Guo, arXiv:1706.04599).

    Args:
        probabilities: (N, K).
        targets: (N,).
        bins: number of bins between 0 and 1.

    Returns:
        0 (calibrated) to 1.
    """
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == targets) - confidence
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(places, weights=gap, minlength=bins)).sum() / len(targets))


def fit_temperature(values: NDArray[np.floating], targets: NDArray[np.int64]) -> float:
    """The divisor of the logits with the least negative log-likelihood (Guo, section 4.2).

    The likelihood is concave in the inverse temperature, so bisection on its derivative finds the
    one optimum.

    Args:
        values: logits (N, K) of images the network was not fitted to.
        targets: (N,).

    Returns:
        0.05 to 20; the ends mean that the data set no limit.
    """
    correct = values[np.arange(len(targets)), targets].astype(np.float64)
    low, high = math.log(0.05), math.log(20.0)
    for _ in range(50):
        middle = (low + high) / 2
        expected = (softmax(values, math.exp(middle)) * values).sum(axis=1)
        # Where the mean logit under the model exceeds the correct one's, the model is too
        # confident.
        low, high = (middle, high) if (expected - correct).mean() > 0 else (low, middle)
    return math.exp((low + high) / 2)
