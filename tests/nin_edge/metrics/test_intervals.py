"""The 95% interval of an accuracy: its definition, its ends, and published values."""

from __future__ import annotations

import math

import pytest

from nin_edge.metrics import wilson_interval

ROUNDING = 1e-12  # of the few operations in double precision
PRINTED = 5e-5  # of values with four decimals
Z = 1.959963984540054


@pytest.mark.parametrize("total", [1, 3, 24, 372, 10_000])
def test_at_both_bounds_the_accuracy_is_as_unlikely_as_the_definition_says(total: int) -> None:
    for correct in {0, 1, total // 2, total - 1, total}:
        low, high = wilson_interval(correct, total)
        assert 0 <= low <= correct / total <= high <= 1
        for bound in (low, high):  # Wilson: |p - bound| = z * sqrt(bound * (1 - bound) / n)
            away = Z * math.sqrt(bound * (1 - bound) / total)
            assert abs(correct / total - bound) == pytest.approx(away, abs=ROUNDING)


def test_published_values_are_met() -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=PRINTED)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=PRINTED)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=PRINTED)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=PRINTED)


def test_more_images_give_a_narrower_interval_and_none_of_zero_width() -> None:
    widths = [high - low for low, high in (wilson_interval(n, n) for n in (1, 10, 100, 1000))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] > 0


@pytest.mark.parametrize(("correct", "total"), [(-1, 3), (4, 3), (0, 0), (1, -1)])
def test_impossible_counts_are_refused(correct: int, total: int) -> None:
    with pytest.raises(ValueError, match=f"{correct} correct of {total} images"):
        wilson_interval(correct, total)
