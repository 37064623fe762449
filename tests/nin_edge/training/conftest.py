"""Short trainings of tiny networks, and what two of them have to share."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset
from nin_edge.network import NetworkConfig, NiN
from nin_edge.training.loop import train
from nin_edge.training.recipe import Recipe
from nin_edge.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take as long as a tiny network's training."""
    monkeypatch.setattr(RunFolder, "draw", lambda *_, **__: None)


@pytest.fixture(scope="session")
def short() -> Recipe:
    """Two epochs of 20 steps: more than one report in each."""
    return Recipe(epochs=2, batch_size=8, learning_rate=0.02, cutout=8)


@pytest.fixture(scope="session")
def tiny_network() -> Callable[..., NetworkConfig]:
    """Makes the configuration of a network of 8 channels a layer for the shapes, at 16 x 16."""

    def make(preset: str = "nin-bn", **changes: Any) -> NetworkConfig:
        return NetworkConfig.from_preset(
            preset, **{"classes": 3, "size": 16, "width": 0.01, **changes}
        )

    return make


@pytest.fixture(scope="session")
def train_tiny(
    shapes: Dataset, short: Recipe, tiny_network: Callable[..., NetworkConfig]
) -> Callable[..., Checkpoint]:
    """Trains a tiny network on the shapes by the short recipe, or as the keywords say."""

    def train_it(run: Path, preset: str = "nin-bn", **options: Any) -> Checkpoint:
        return train(
            options.pop("dataset", shapes),
            options.pop("network", None) or tiny_network(preset),
            options.pop("recipe", short),
            options.pop("source", DataSource("shapes", "CC0")),
            run,
            **options,
        )

    return train_it


class StopAfter:
    """A `should_stop` that says so after some steps, or raises, as a power cut would."""

    def __init__(self, steps: int, error: type[Exception] | None = None) -> None:
        self.left, self.error = steps, error

    def __call__(self) -> bool:
        self.left -= 1
        if self.left == 0 and self.error:
            raise self.error
        return self.left == 0


@pytest.fixture(scope="session")
def stop_after() -> type[StopAfter]:
    return StopAfter


def read_metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def all_of(run: Path) -> dict[str, Any]:
    columns = ("epoch", "loss", "holdout_top1", "holdout_loss")
    parts: dict[str, Any] = {
        "metrics": [[row[column] for column in columns] for row in read_metrics(run)]
    }
    for name in ("best", "last"):
        checkpoint = Checkpoint.load(run / f"{name}.safetensors")
        scores = checkpoint.trained_scores.to_json()
        scores.pop("train_seconds", None)
        parts[name] = (scores, checkpoint.temperature, checkpoint.ranges)
        parts[f"{name} weights"] = {
            key: value.numpy().tobytes() for key, value in checkpoint.weights.items()
        }
    return parts


@pytest.fixture(scope="session")
def metrics() -> Callable[[Path], list[dict[str, str]]]:
    """Reads the rows of a run's metrics.csv."""
    return read_metrics


@pytest.fixture(scope="session")
def outcome() -> Callable[[Path], dict[str, Any]]:
    """All that two runs have to share, to the bit: weights, losses, scores; times excepted."""
    return all_of


@pytest.fixture(scope="session")
def whole(
    train_tiny: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """The outcome of an uninterrupted short run of a preset, trained once."""
    outcomes: dict[str, dict[str, Any]] = {}

    def get(preset: str) -> dict[str, Any]:
        if preset not in outcomes:
            run = tmp_path_factory.mktemp(preset)
            train_tiny(run, preset)
            outcomes[preset] = all_of(run)
        return outcomes[preset]

    return get


@pytest.fixture
def images_seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Grows by every batch that a network is trained on, normalised (N, C, S, S)."""
    seen: list[torch.Tensor] = []
    forward = NiN.forward

    def spy(self: NiN, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(images.clone())
        return forward(self, images)

    monkeypatch.setattr(NiN, "forward", spy)
    return seen


@pytest.fixture
def targets_seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Grows by the targets of all images whose loss is computed together."""
    seen: list[list[int]] = []
    forward = torch.nn.CrossEntropyLoss.forward

    def spy(self: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets.tolist())
        return forward(self, logits, targets)

    monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", spy)
    return seen
