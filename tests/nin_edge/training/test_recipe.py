from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nin_edge.network import PRESETS, SIZES, NetworkConfig, NiN
from nin_edge.training.muon import Muon
from nin_edge.training.recipe import (
    RECIPES,
    Recipe,
    images_at_once,
    make_optimizers,
    one_cycle,
    small_side,
    suited_batch,
)


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_the_learning_rate_rises_to_its_peak_and_falls_towards_zero(
    steps: int, warmup: float
) -> None:
    rates = [one_cycle(step, steps, warmup) for step in range(steps)]
    peak = int(np.argmax(rates))
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert abs(peak - warmup * steps) <= 1


def test_the_ends_of_the_schedule() -> None:
    rates = [one_cycle(step, 100, 0.2) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 20)
    assert rates[19] == 1
    assert rates[99] == pytest.approx(1 / 80)


def test_each_preset_has_its_recipe() -> None:
    assert RECIPES.keys() == PRESETS.keys()
    assert RECIPES["nin"].learning_rate < RECIPES["nin-bn"].learning_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0: expected 1 to"),
        ({"small_images": 1.5}, "small images is 1.5: expected 0 to 1"),
        ({"patience": -1}, "patience is -1: expected 0 to"),
        ({"learning_rate": float("nan")}, "learning rate is nan: expected"),
    ],
)
def test_numbers_that_cannot_train_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


@pytest.mark.parametrize(
    ("images", "processes", "batch"),
    [
        (49_000, 1, 250),
        (5_000, 1, 250),
        (1_487, 1, 74),
        (240, 1, 16),
        (5_000, 4, 248),
        (240, 3, 48),
        (300, 9, 144),
        (5_000, 200, 400),
    ],
)
def test_few_images_are_given_smaller_batches(images: int, processes: int, batch: int) -> None:
    assert suited_batch(250, images, processes=processes) == batch


def test_small_images_cost_about_two_fifths() -> None:
    assert small_side(32) == 20
    for size in SIZES:
        side = small_side(size)
        assert SIZES.start <= side <= size
        assert side % 4 == 0
        assert size < 32 or 0.3 < (side / size) ** 2 < 0.5


def test_larger_networks_and_images_leave_room_for_fewer() -> None:
    def room(width: float, side: int) -> int:
        config = NetworkConfig.from_preset("nin-bn", classes=10, width=width)
        return images_at_once(config, side)

    assert room(1.0, 32) < room(1.0, 20) < room(0.5, 20)
    assert room(1.0, 32) >= 64  # enough for statistics
    assert room(8.0, 512) == 2  # but never so few that there are none


def names(network: NiN, optimizer: torch.optim.Optimizer) -> set[str]:
    weights = {w for group in optimizer.param_groups for w in group["params"]}
    return {name for name, weight in network.named_parameters() if weight in weights}


def test_muon_trains_what_is_normalised_and_sgd_the_rest() -> None:
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=3, width=0.01))
    sgd, muon = make_optimizers(network, Recipe())
    assert isinstance(muon, Muon)
    convolutions = {name for name, weight in network.named_parameters() if weight.ndim == 4}
    last = max(convolutions)
    assert names(network, muon) == convolutions - {last}
    assert names(network, sgd) == {n for n, _ in network.named_parameters()} - names(network, muon)
    decayed = {w for g in sgd.param_groups if g["weight_decay"] for w in g["params"]}
    assert decayed == {dict(network.named_parameters())[last]}


def test_frozen_weights_have_no_optimizer() -> None:
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=3, width=0.01))
    network.stages[0].requires_grad_(False)
    trained = set().union(*(names(network, one) for one in make_optimizers(network, Recipe())))
    assert trained == {n for n, _ in network.named_parameters() if not n.startswith("stages.0.")}
