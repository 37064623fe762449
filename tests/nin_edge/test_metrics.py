from __future__ import annotations

import numpy as np
import pytest

from nin_edge.metrics import expected_calibration_error, fit_temperature, softmax, top1

ROUNDING = 1e-12  # of double precision
TEMPERATURE_TOLERANCE = 0.05  # relative; 20,000 samples


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_softmax_divides_by_the_temperature(rng: np.random.Generator, temperature: float) -> None:
    values = rng.normal(size=(5, 4))
    powers = np.exp(values / temperature)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(values, temperature), expected, rtol=ROUNDING)


def test_softmax_stands_large_logits() -> None:
    np.testing.assert_array_equal(softmax(np.float32([[1e5, 0], [-1e5, 0]])), [[1, 0], [0, 1]])


def test_top1_is_the_share_of_right_rows() -> None:
    scores = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 9.0], [1.0, 0.0]])
    assert top1(scores, np.array([0, 1, 0, 1])) == 0.5


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_a_plain_loop(rng: np.random.Generator, bins: int) -> None:
    probabilities = softmax(3 * rng.normal(size=(500, 4)))
    probabilities[0] = [0, 1, 0, 0]  # full confidence belongs to the last bin
    targets = rng.integers(0, 4, size=500)
    error = 0.0
    for bin_ in range(bins):
        rows = [
            (max(row), int(np.argmax(row)) == target)
            for row, target in zip(probabilities, targets, strict=True)
            if min(int(max(row) * bins), bins - 1) == bin_
        ]
        if rows:
            confidence, accuracy = np.mean(rows, axis=0)
            error += abs(accuracy - confidence) * len(rows) / 500
    assert expected_calibration_error(probabilities, targets, bins) == pytest.approx(
        error, abs=ROUNDING
    )


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not() -> None:
    sure = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert expected_calibration_error(sure, np.array([0, 0])) == 0
    assert expected_calibration_error(sure, np.array([1, 1])) == 1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_fitted_temperature_is_the_one_that_made_the_labels(
    rng: np.random.Generator, temperature: float
) -> None:
    values = 3 * rng.normal(size=(20_000, 5))
    cumulated = softmax(values, temperature).cumsum(axis=1)
    targets = (rng.random((20_000, 1)) > cumulated).sum(axis=1).clip(max=4)
    fitted = fit_temperature(values.astype(np.float32), targets)
    assert fitted == pytest.approx(temperature, rel=TEMPERATURE_TOLERANCE)


@pytest.mark.parametrize(("right", "limit"), [(True, 0.05), (False, 20.0)])
def test_the_temperature_stays_in_its_range(right: bool, limit: float) -> None:
    values = np.float32([[4, 0], [0, 4]])
    targets = np.array([0, 1] if right else [1, 0])
    assert fit_temperature(values, targets) == pytest.approx(limit, rel=TEMPERATURE_TOLERANCE)
