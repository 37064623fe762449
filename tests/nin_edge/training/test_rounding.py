"""Rounding trained weights: to the grid of int8, with little harm, and only once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nin_edge import metrics, predict
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.kernels import fold_batch_norm
from nin_edge.network import NetworkConfig, NiN
from nin_edge.quantization import round_weights, weight_scales
from nin_edge.training import rounding
from nin_edge.training.recipe import Recipe
from nin_edge.training.rounding import round_checkpoint
from nin_edge_export.graph import build_graph
from nin_edge_runtime.preprocessing import Preprocessing

STEP = 1e-3  # of a rounding step: what float32 leaves
CHANGED = 0.25  # of the logits' spread; the network is tiny, and its weights are random
SAME = 1e-4  # of logits of about 1


def _checkpoint(preset: str = "nin-bn", **changes: Any) -> Checkpoint:
    """Random weights, with statistics of batch normalisation as after a training."""
    torch.manual_seed(0)
    config = NetworkConfig.from_preset(
        preset, **{"classes": 3, "size": 16, "width": 0.1, "dropout": 0.0, **changes}
    )
    network = NiN(config)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.2, 2)  # channels of different sizes
            nn.init.normal_(module.bias)
            module.momentum = None
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.bias)
    for images in _images(config.channels, 4):
        network(images)
    grey = (100 / 255,) * config.channels
    steps = Preprocessing(config.size, config.channels, grey, (0.25,) * config.channels)
    labels = ("a", "b", "c")
    return Checkpoint(config, network.state_dict(), labels, steps, DataSource("noise"))


def _images(channels: int, count: int = 2) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(24, channels, 16, 16, generator=random) for _ in range(count)]


def _folded(checkpoint: Checkpoint) -> NiN:
    network = checkpoint.network()
    fold_batch_norm(network)
    return network


def _convolutions(checkpoint: Checkpoint) -> list[nn.Conv2d]:
    return [layer for layer in _folded(checkpoint).modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"preset": "nin"}, {"channels": 1}, {"head": "fc"}, {"block": "linear"}, {"stride": 2}],
    ids=str,
)
@torch.inference_mode()
def test_weights_are_whole_steps_and_predictions_stay(changes: dict[str, Any]) -> None:
    exact = _checkpoint(**changes)
    images = _images(exact.config.channels)
    rounded = round_checkpoint(exact, images)
    for layer in _convolutions(rounded):
        steps = layer.weight / weight_scales(layer.weight).view(-1, 1, 1, 1)
        assert (steps - steps.round()).abs().max() < STEP
    assert rounded.weights.keys() == exact.weights.keys()
    before, after = (checkpoint.network()(images[0]) for checkpoint in (exact, rounded))
    assert 0 < (after - before).abs().max() < CHANGED * before.std()


def test_rounding_twice_is_rounding_once() -> None:
    once = round_checkpoint(_checkpoint(), _images(3))
    assert round_checkpoint(once, _images(3, 4)) is once


def test_export_finds_the_very_integers_of_training() -> None:
    rounded = round_checkpoint(_checkpoint(), _images(3))
    stored = {
        tensor.name: np.frombuffer(tensor.raw_data, np.float32).reshape(tuple(tensor.dims))
        for tensor in build_graph(rounded, "none").graph.initializer
        if tensor.name.endswith(".weight")
    }
    layers = _convolutions(rounded)
    assert len(stored) == len(layers) == 9
    for layer, exported in zip(layers, stored.values(), strict=True):
        trained = round_weights(layer.weight, weight_scales(layer.weight))
        values = torch.from_numpy(exported.copy())
        assert torch.equal(round_weights(values, weight_scales(values)), trained)


@torch.inference_mode()
def test_equalised_channels_compute_the_same() -> None:
    exact, images = _folded(_checkpoint()), _images(3)
    equalised = _folded(_checkpoint())
    layers = [module for module in equalised.modules() if not list(module.children())]
    with torch.no_grad():
        rounding._equalise(layers, images)
    torch.testing.assert_close(equalised(images[0]), exact(images[0]), rtol=SAME, atol=SAME)
    spreads = []
    for network in (exact, equalised):
        first = nn.Sequential(*list(network.stages[0])[:3])  # convolution, folded, ReLU
        largest = first(images[0]).amax((0, 2, 3))
        spreads.append((largest.max() / largest[largest > 0].min()).item())
    assert spreads[1] < spreads[0] ** 0.5


def test_second_moments_round_better_than_one_by_one() -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 4, generator=random) @ torch.randn(4, 40, generator=random)
    inputs = (inputs + 0.1 * torch.randn(2000, 40, generator=random)).double()
    weight = torch.randn(6, 40, generator=random, dtype=torch.float64) * 3
    moments = inputs.T @ inputs

    def error(steps: Tensor) -> float:
        return float(((steps - weight) @ inputs.T).square().mean())

    in_turn = rounding.round_in_turn(weight, moments)
    assert torch.equal(in_turn, in_turn.round())
    assert error(in_turn) < 0.3 * error(weight.round())


@torch.inference_mode()
def test_statistics_are_those_of_the_rounded_network() -> None:
    """So that training, which uses a batch's own statistics, can go on from the weights."""
    images = _images(3)
    network = round_checkpoint(_checkpoint(), images).network()
    evaluated = network(torch.cat(images))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    trained = network(torch.cat(images))
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=0.05)


def test_dead_and_constant_channels_stay_finite() -> None:
    checkpoint = _checkpoint()
    weights = {name: value.clone() for name, value in checkpoint.weights.items()}
    weights["stages.0.0.weight"][0] = 0
    weights["stages.0.1.weight"][1] = 0
    weights["stages.0.1.bias"][:2] = torch.tensor([-5.0, 3.0])
    rounded = round_checkpoint(replace(checkpoint, weights=weights), _images(3))
    assert all(value.isfinite().all() for value in rounded.weights.values())
    assert (rounded.weights["stages.0.1.running_var"] >= 0).all()


@pytest.mark.parametrize("rounds", [True, False])
def test_a_training_rounds_unless_its_recipe_says_no(
    rounds: bool,
    tmp_path: Path,
    shapes: Any,
    short: Recipe,
    train_tiny: Callable[..., Checkpoint],
) -> None:
    recipe = replace(short, round_weights=rounds)
    best = train_tiny(tmp_path / "run", recipe=recipe)
    assert rounding._is_rounded(_folded(best)) is rounds
    logits = predict.logits(best.network(), best.preprocessing, shapes.images, shapes.holdout)
    assert best.trained_scores.holdout is not None
    top1 = metrics.top1(logits, shapes.targets[shapes.holdout])
    assert best.trained_scores.holdout.top1 == pytest.approx(top1)
