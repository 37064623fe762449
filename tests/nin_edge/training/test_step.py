from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nin_edge.checkpoint import Checkpoint
from nin_edge.data import open_dataset
from nin_edge.network import NetworkConfig
from nin_edge.training import step
from nin_edge.training.recipe import Recipe
from nin_edge.training.step import microbatch_size

LOSS_TOLERANCE = 1e-4  # micro-batches are summed in another order

Train = Callable[..., Checkpoint]


def test_larger_networks_and_images_leave_room_for_fewer() -> None:
    def room(width: float, side: int) -> int:
        config = NetworkConfig.from_preset("nin-bn", classes=10, width=width)
        return microbatch_size(config, side)

    assert room(1.0, 32) < room(1.0, 20) < room(0.5, 20)
    assert room(1.0, 32) >= 64  # enough for statistics
    assert room(2.0, 256) == 2  # but never so few that there are none


@pytest.mark.parametrize(("head", "low"), [("gap", 2), ("fc", 0)])
def test_the_first_steps_see_low_resolution(
    shapes_folder: Path,
    train_tiny: Train,
    tiny_network: Callable[..., NetworkConfig],
    short: Recipe,
    tmp_path: Path,
    images_seen: list[torch.Tensor],
    head: str,
    low: int,
) -> None:
    dataset = open_dataset(shapes_folder, size=32)
    network, recipe = tiny_network(size=32, head=head), replace(short, batch_size=80)
    train_tiny(tmp_path, dataset=dataset, network=network, recipe=recipe)
    assert [images.shape[-1] for images in images_seen] == [20] * low + [32] * (4 - low)


def test_a_batch_in_micro_batches_is_the_same_step(
    train_tiny: Train,
    tiny_network: Callable[..., NetworkConfig],
    short: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets_seen: list[list[int]],
    metrics: Callable[[Path], list[dict[str, str]]],
) -> None:
    options: dict[str, Any] = {
        "network": tiny_network("nin", dropout=0.0),
        "recipe": replace(short, epochs=1),
    }
    train_tiny(tmp_path / "whole", **options)
    assert set(map(len, targets_seen)) == {8}
    targets_seen.clear()
    monkeypatch.setattr(step, "microbatch_size", lambda config, side: 3)
    train_tiny(tmp_path / "parts", **options)
    assert set(map(len, targets_seen)) == {2, 3}  # of a batch of eight
    losses = [float(metrics(tmp_path / name)[0]["loss"]) for name in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], abs=LOSS_TOLERANCE)


def test_every_micro_batch_has_all_classes(
    train_tiny: Train,
    short: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets_seen: list[list[int]],
) -> None:
    monkeypatch.setattr(step, "microbatch_size", lambda config, side: 20)
    train_tiny(tmp_path, recipe=replace(short, epochs=1, batch_size=80))
    # Sorted as the data set is, a quarter would have one or two.
    assert [len(set(part)) for part in targets_seen] == [3] * 8


@pytest.mark.parametrize(
    "changes",
    [{"crop": 16}, {"cutout": 32}, {"cutmix": 1.0}, {"flip": False, "crop": 0}, {"momentum": 0.0}],
    ids=str,
)
def test_recipes_at_the_ends_of_their_ranges_run(
    train_tiny: Train, short: Recipe, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = replace(short, epochs=1, batch_size=64, **changes)
    assert train_tiny(tmp_path, recipe=recipe).trained_scores.epoch == 1
