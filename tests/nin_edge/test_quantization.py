"""The arithmetic of int8 that training and export share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nin_edge.quantization import (
    LARGEST_ACTIVATION,
    LARGEST_WEIGHT,
    activation_parameters,
    round_weights,
    weight_scales,
)


def test_rounded_weights_have_their_own_scales_again(rng: np.random.Generator) -> None:
    weight = torch.from_numpy(rng.normal(0, [[[[0.003]]], [[[2.0]]]], (2, 8, 5, 5))).float()
    scales = weight_scales(weight)
    steps = round_weights(weight, scales)
    assert torch.equal(steps, steps.round())
    assert steps.abs().amax((1, 2, 3)).tolist() == [LARGEST_WEIGHT, LARGEST_WEIGHT]
    rounded = steps * scales.view(-1, 1, 1, 1)
    assert ((rounded - weight).abs() <= 0.5001 * scales.view(-1, 1, 1, 1)).all()
    torch.testing.assert_close(weight_scales(rounded), scales, rtol=1e-6, atol=0)
    assert torch.equal(round_weights(rounded, weight_scales(rounded)), steps)


def test_a_channel_without_weights_has_a_scale() -> None:
    weight = torch.tensor([0.0, 1e-38]).view(2, 1, 1, 1)
    assert weight_scales(weight).tolist() == [1, 1]
    assert not round_weights(weight, weight_scales(weight)).any()


@pytest.mark.parametrize(
    ("low", "high", "zero_point"),
    [(0.0, 6.0, 0), (-1.0, 3.0, 64), (2.0, 5.0, 0), (-5.0, -2.0, 255)],
)
def test_the_range_of_activations_has_an_integer_for_0(
    low: float, high: float, zero_point: int
) -> None:
    scale, zero = activation_parameters(low, high)
    assert zero == zero_point
    assert (0 - zero) * scale == pytest.approx(min(low, 0), abs=float(scale) / 2)
    assert (LARGEST_ACTIVATION - zero) * scale == pytest.approx(max(high, 0), abs=float(scale) / 2)


def test_a_tensor_that_is_always_0_has_a_scale() -> None:
    assert activation_parameters(0.0, 0.0) == (1.0, 0)
