from __future__ import annotations

import numpy as np
import pytest
import torch

from nin_edge.network import NetworkConfig, NiN
from nin_edge.training.muon import Muon
from nin_edge.training.optimizers import make_optimizers, one_cycle
from nin_edge.training.recipe import Recipe


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


@pytest.mark.parametrize(("preset", "muon_rate"), [("nin", 0.4), ("nin-bn", 0.0)])
def test_without_normalisation_or_muon_all_is_trained_by_sgd(preset: str, muon_rate: float) -> None:
    network = NiN(NetworkConfig.from_preset(preset, classes=3, width=0.01))
    (sgd,) = make_optimizers(network, Recipe(muon_rate=muon_rate))
    assert names(network, sgd) == {name for name, _ in network.named_parameters()}


def test_frozen_weights_have_no_optimizer() -> None:
    network = NiN(NetworkConfig.from_preset("nin-bn", classes=3, width=0.01))
    network.stages[0].requires_grad_(False)
    trained = set().union(*(names(network, one) for one in make_optimizers(network, Recipe())))
    assert trained == {n for n, _ in network.named_parameters() if not n.startswith("stages.0.")}
