"""The interval of a share: published values, the edges, and how often it holds the true share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nin_edge.metrics import wilson_interval

ROUNDED = 5e-5
"""Half a unit of the published values' last place."""


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=ROUNDED)


@pytest.mark.parametrize("total", [1, 3, 10, 10_000, 10**9])
def test_interval_holds_the_share_and_stays_within_0_and_1(total: int) -> None:
    for correct in {0, 1, total // 2, total - 1, total}:
        low, high = wilson_interval(correct, total)
        assert 0 <= low <= correct / total <= high <= 1
        mirrored = wilson_interval(total - correct, total)
        assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_95_of_100_intervals_hold_the_true_share(rng: np.random.Generator) -> None:
    intervals = [wilson_interval(int(count), 200) for count in rng.binomial(200, 0.9, 4000)]
    held = np.mean([low <= 0.9 <= high for low, high in intervals])
    assert math.isclose(held, 0.95, abs_tol=0.02)


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_no_share_is_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"{correct} of {total}: expected 0 to total"):
        wilson_interval(correct, total)
