from __future__ import annotations

from pathlib import Path

import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge.weights import DEFAULT_WEIGHTS, WEIGHTS, find_weights
from nin_edge_runtime import Classifier, ModelFileError


@pytest.mark.parametrize("name", WEIGHTS)
def test_shipped_weights_are_complete(name: str) -> None:
    checkpoint = Checkpoint.load(find_weights(Path(name)))
    photos = name == "nin-photo"
    assert checkpoint.data.name == ("Tiny ImageNet" if photos else "CIFAR-10") + " (JPEG q75)"
    assert checkpoint.temperature is not None
    assert checkpoint.ranges
    scores = checkpoint.trained_scores
    assert scores.test is not None
    assert scores.holdout is not None
    assert (scores.test.images, scores.holdout.images) == (10_000, 2_000 if photos else 1_000)
    assert scores.test.top1 > (0.5 if photos else 0.86)
    assert find_weights(Path(name)).stat().st_size <= 5_000_000
    assert len(scores.thresholds) == 6


def test_the_default_weights_are_those_of_the_default_model() -> None:
    assert WEIGHTS["nin-cifar10"] == DEFAULT_WEIGHTS
    assert Classifier().labels == Checkpoint.load(DEFAULT_WEIGHTS).labels


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_weights(Path("nin-cifar10")) == WEIGHTS["nin-cifar10"]
    Path("nin-cifar10").write_text("mine")
    assert find_weights(Path("nin-cifar10")) == Path("nin-cifar10")


def test_what_is_neither_is_an_error_that_lists_the_names(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"best: no such file, .* or one of nin-cifar10"):
        find_weights(tmp_path / "best")
