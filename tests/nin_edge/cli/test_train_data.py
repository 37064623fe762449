"""`nin-edge train` on data as people have them: validation splits, tables, labels on show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nin_edge.api import Run
from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge.data import Location
from nin_edge.training.run_folder import RunFolder

TINY = (
    *("--size", "16", "--width", "0.01", "--set", "batch_size=16"),
    *("--device", "cpu", "--epochs", "1"),
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take as long as a tiny network's training."""
    monkeypatch.setattr(RunFolder, "draw", lambda *_, **__: None)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def split(tmp_path: Path, make_folder: Callable[..., Path]) -> Path:
    """Two classes of 20 training and 4 validation images."""
    counts = {f"train/{label}": 20 for label in ("circle", "square")}
    counts |= {f"valid/{label}": 4 for label in ("circle", "square")}
    return make_folder(tmp_path / "split", counts)


def test_a_validation_split_is_the_holdout_and_no_test_score_is_made_up(
    split: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = invoke("train", split, *TINY, "-o", run)
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert lines[:3] == [
        "split: 2 classes, 40 training images, 8 validation, 0 test",
        "labels: circle, square",
        "no test score will be measured: the data have no test split; --test-split 0.2 takes one "
        "from the training images",
    ]
    assert "on the hold-out, no test score, since there is no test split, " in result.stdout
    scores = Checkpoint.load(run / "best.safetensors").trained_scores
    assert scores.holdout is not None
    assert (scores.holdout.images, scores.test) == (8, None)


def test_a_test_split_is_taken_and_kept_by_the_run(split: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = invoke("train", split, "--test-split", "0.25", *TINY, "-o", run)
    assert result.exit_code == 0, result.output
    assert "30 training images, 8 validation, 10 test" in result.stderr
    location = Location(split, "split", None, test_split=0.25)
    assert Run.open(run).data == location  # which export measures on
    again = invoke("train", split, "--resume", "-o", run)
    assert again.exit_code == 0, again.output
    other = invoke("train", split, "--resume", "-o", run, "--test-split", "0.5")
    assert other.exit_code == 2
    assert "test_split is 0.5: the run to resume was started with 0.25" in other.stderr


def test_a_table_of_labels_trains_and_resumes(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "photos", {"circle": 40})
    (folder / "circle").rename(tmp_path / "flat")
    rows = [f"{index:03}.png,{'ab'[index % 2]}" for index in range(40)]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label", *rows]))
    monkeypatch.chdir(tmp_path)
    refused = invoke("train", "flat", *TINY, "-o", "run")
    assert refused.exit_code == 1
    assert "40 images and no folder of a class, " in refused.stderr
    result = invoke("train", "flat", "--labels", "labels.csv", *TINY, "-o", "run")
    assert result.exit_code == 0, result.output
    assert "labels: a, b" in result.stderr.splitlines()
    monkeypatch.chdir(folder)  # the run knows its table by its absolute path
    again = invoke("train", tmp_path / "flat", "--resume", "-o", tmp_path / "run")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "half", "nan"])
def test_a_share_that_cannot_be_is_wrong_usage(split: Path, tmp_path: Path, share: str) -> None:
    result = invoke("train", split, "--test-split", share, "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert "Invalid value for '--test-split'" in result.stderr


def test_folders_that_could_be_classes_or_splits_are_refused(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    counts = {f"{place}/{label}": 2 for place in ("day", "night") for label in ("cat", "dog")}
    result = invoke("train", make_folder(tmp_path / "data", counts), *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 1
    assert "day, night hold the same folders (cat, dog): classes or splits?" in result.stderr
    assert not (tmp_path / "run").exists()
