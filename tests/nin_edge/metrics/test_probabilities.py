from __future__ import annotations

import numpy as np
import pytest

from nin_edge.metrics import (
    calibrated_loss,
    divergence,
    fit_temperature,
    softmax,
    uncalibrated,
)

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


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_uncalibrated_undoes_the_temperature(rng: np.random.Generator, temperature: float) -> None:
    values = rng.normal(size=(5, 4))
    found = uncalibrated(softmax(values, temperature), temperature)
    np.testing.assert_allclose(found, softmax(values), rtol=ROUNDING)


def test_divergence_is_the_mean_relative_entropy_in_nats() -> None:
    reference = np.array([[0.5, 0.5], [1.0, 0.0]])
    other = np.array([[0.25, 0.75], [0.5, 0.5]])
    first = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert divergence(reference, other) == pytest.approx((first + np.log(2)) / 2)
    assert divergence(reference, reference) == 0
    assert np.isfinite(divergence(other, reference))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_fitted_temperature_is_the_one_that_made_the_labels(
    rng: np.random.Generator, temperature: float
) -> None:
    values = 3 * rng.normal(size=(20_000, 5))
    cumulated = softmax(values, temperature).cumsum(axis=1)
    targets = (rng.random((20_000, 1)) > cumulated).sum(axis=1).clip(max=4)
    fitted = fit_temperature(values.astype(np.float32), targets)
    assert fitted == pytest.approx(temperature, rel=TEMPERATURE_TOLERANCE)


def test_a_few_right_answers_are_no_certainty() -> None:
    values = np.float32([[4, 0], [0, 4]])
    # Two images leave a doubt of 1/4, spread over both classes: 7/8 against 1/8.
    expected = 4 / np.log(7)
    found = fit_temperature(values, np.array([0, 1]))
    assert found == pytest.approx(expected, rel=TEMPERATURE_TOLERANCE)


def test_the_temperature_of_wrong_answers_stays_in_its_range() -> None:
    values = np.float32([[4, 0], [0, 4]])
    found = fit_temperature(values, np.array([1, 0]))
    assert found == pytest.approx(20.0, rel=TEMPERATURE_TOLERANCE)


def test_no_images_have_no_temperature() -> None:
    with pytest.raises(ValueError, match="no images"):
        fit_temperature(np.empty((0, 2), np.float32), np.empty(0, np.int64))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_calibrated_loss_of_many_images_is_the_least_over_temperatures(
    rng: np.random.Generator, scale: float
) -> None:
    targets = rng.integers(0, 3, size=2_000)
    values = np.eye(3)[targets] + rng.normal(size=(2_000, 3))
    own = [
        -np.log(softmax(values, temperature)[np.arange(2_000), targets]).mean()
        for temperature in np.geomspace(0.1, 10, 400)
    ]
    # However sure the logits are.
    assert calibrated_loss(scale * values, targets) == pytest.approx(min(own), abs=1e-5)


def test_the_calibrated_loss_stands_large_logits() -> None:
    values = np.float32([[1e6, 0], [0, 1e6], [1e6, 0]])
    # The first two are right, the third wrong, and so at the largest temperature, 20.
    assert calibrated_loss(values, np.array([0, 1, 1])) == pytest.approx(1e6 / 20 / 3)
