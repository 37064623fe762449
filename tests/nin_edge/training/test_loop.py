from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset, open_dataset
from nin_edge.metrics import THRESHOLDS, calibrated_loss, softmax, top1
from nin_edge.network import NetworkConfig
from nin_edge.tensorfile import read_tensors
from nin_edge.training import loop
from nin_edge.training.batches import measure_preprocessing
from nin_edge.training.errors import TrainingError, TrainingStoppedError
from nin_edge.training.finetune import Pretrained
from nin_edge.training.progress import Progress
from nin_edge.training.recipe import Recipe
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.step import Learner

LEARNT = 0.9  # accuracy that the shapes take a few epochs to reach; chance is a third
SCORE_ROUNDING = 1e-9
ROUNDED = 0.05  # nats that rounding the weights changes of the loss

Train = Callable[..., Checkpoint]
Outcome = Callable[[Path], dict[str, Any]]
Rows = Callable[[Path], list[dict[str, str]]]


@pytest.fixture(scope="module")
def best(trained_run: Path) -> Checkpoint:
    return Checkpoint.load(trained_run / "best.safetensors")


# --- a whole run ----------------------------------------------------------------------------------


def test_a_tiny_network_learns_the_shapes(best: Checkpoint) -> None:
    scores = best.trained_scores
    assert scores.holdout is not None
    assert scores.test is not None
    assert scores.holdout.top1 >= LEARNT
    assert scores.test.top1 >= LEARNT


def test_the_run_folder_has_everything(
    trained_run: Path, best: Checkpoint, shapes: Dataset, metrics: Rows
) -> None:
    assert sorted(file.name for file in trained_run.iterdir()) == [
        ".nin-edge",
        *("best.safetensors", "config.json", "confusion.png", "curves.png"),
        *("last.safetensors", "metrics.csv", "state.safetensors"),
    ]
    config = RunFolder.open(trained_run).read_config()
    assert config.network.width == 0.05
    assert config.recipe.batch_size == 16
    assert config.labels == shapes.labels
    assert config.data.fingerprint == shapes.fingerprint
    assert config.location is not None
    assert config.location.name == "shapes"
    rows = metrics(trained_run)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    chosen = rows[-1]  # few images are held out
    scores = best.trained_scores
    assert scores.holdout is not None
    assert int(chosen["epoch"]) == scores.epoch
    assert float(chosen["holdout_loss"]) == pytest.approx(scores.holdout_loss, abs=1e-6)
    logits = predict.logits(best.network(), best.preprocessing, shapes.images, shapes.holdout)
    loss = calibrated_loss(logits, shapes.targets[shapes.holdout])
    assert float(chosen["holdout_loss"]) == pytest.approx(loss, abs=ROUNDED)
    assert scores.holdout.top1 == top1(logits, shapes.targets[shapes.holdout])


def test_the_best_checkpoint_is_complete(best: Checkpoint, shapes: Dataset) -> None:
    assert best.labels == shapes.labels
    assert best.data == DataSource("shapes", "CC0", shapes.fingerprint)
    assert best.preprocessing == measure_preprocessing(shapes, 16, 3)
    assert best.temperature is not None
    assert len(best.ranges) == 12
    scores = best.trained_scores
    assert scores.train_images == len(shapes.train)
    assert scores.epochs == 6
    for split, images in ((scores.holdout, shapes.holdout), (scores.test, shapes.test)):
        assert split is not None
        assert split.images == len(images)
        assert split.ece is not None
        assert split.ece_uncalibrated is not None


def test_thresholds_are_measured_on_the_holdout_with_the_temperature(
    best: Checkpoint, shapes: Dataset
) -> None:
    logits = predict.logits(best.network(), best.preprocessing, shapes.images, shapes.holdout)
    probabilities = softmax(logits, best.temperature or 1.0)
    right = probabilities.argmax(1) == shapes.targets[shapes.holdout]
    thresholds = best.trained_scores.thresholds
    assert tuple(threshold.min_score for threshold in thresholds) == THRESHOLDS
    for threshold in thresholds:
        answered = probabilities.max(1) >= threshold.min_score
        assert threshold.coverage == pytest.approx(answered.mean(), abs=SCORE_ROUNDING)
        if answered.any():
            assert threshold.top1 == pytest.approx(right[answered].mean(), abs=SCORE_ROUNDING)
        else:
            assert threshold.top1 is None


def test_the_test_score_is_that_of_the_saved_weights(best: Checkpoint, shapes: Dataset) -> None:
    pixels = best.preprocessing.normalize(shapes.images[shapes.test])
    with torch.inference_mode():
        predicted = best.network()(torch.from_numpy(pixels)).argmax(1).numpy()
    score = (predicted == shapes.targets[shapes.test]).mean()
    assert best.trained_scores.test is not None
    assert best.trained_scores.test.top1 == pytest.approx(score, abs=SCORE_ROUNDING)


def test_progress_is_reported_in_and_after_epochs(train_tiny: Train, tmp_path: Path) -> None:
    reports = list[Progress]()
    train_tiny(tmp_path, report=reports.append)
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    ends = [report for report in reports if report.holdout_top1 is not None]
    assert [report.epoch for report in ends] == [1, 2]
    assert len(reports) > len(ends)
    assert reports[-1].done == 1
    assert reports[-1].seconds_left == 0
    assert all(report.images_per_second > 0 for report in reports)


def test_the_seed_decides_the_result(
    train_tiny: Train,
    tmp_path: Path,
    short: Recipe,
    outcome: Outcome,
    whole: Callable[[str], dict[str, Any]],
) -> None:
    train_tiny(tmp_path / "same")
    train_tiny(tmp_path / "other", recipe=replace(short, seed=1))
    assert outcome(tmp_path / "same") == whole("nin-bn")
    assert outcome(tmp_path / "other")["last weights"] != whole("nin-bn")["last weights"]


def test_the_test_split_decides_nothing(
    shapes: Dataset,
    train_tiny: Train,
    tmp_path: Path,
    outcome: Outcome,
    whole: Callable[[str], dict[str, Any]],
) -> None:
    images, targets = shapes.images.copy(), shapes.targets.copy()
    images[shapes.test] = 255 - images[shapes.test]
    targets[shapes.test] = np.roll(targets[shapes.test], 7)
    train_tiny(tmp_path, dataset=replace(shapes, images=images, targets=targets))
    without, usual = outcome(tmp_path), whole("nin-bn")
    scores = [
        {key: found.pop(key) for key in list(found) if key.startswith("test_")}
        for found in (without["best"][0], dict(usual["best"][0]))
    ]
    assert scores[0] != scores[1]
    kept = {key: value for key, value in usual["best"][0].items() if not key.startswith("test_")}
    assert without == usual | {"best": (kept, *usual["best"][1:])}


# --- which weights are kept, and when a run ends --------------------------------------------------


@pytest.mark.usefixtures("decisive")
def test_the_lowest_loss_chooses_the_weights(
    train_tiny: Train,
    tmp_path: Path,
    short: Recipe,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scores = iter([(0.5, 0.9), (0.7, 0.5), (0.9, 0.8)])  # accuracy would choose the last
    monkeypatch.setattr(loop, "score_holdout", lambda *_: next(scores))
    best = train_tiny(tmp_path, recipe=replace(short, epochs=3))
    assert best.trained_scores.epoch == 2
    assert best.trained_scores.holdout_loss == 0.5
    parts = outcome(tmp_path)
    assert parts["best weights"] != parts["last weights"]


@pytest.mark.usefixtures("decisive")
@pytest.mark.parametrize(
    ("losses", "low_resolution", "epochs"),
    [
        ((0.9, 0.5, 0.8, 0.9), 0.0, 4),
        ((0.9, 0.9, 0.9), 0.0, 3),  # the first one stays the lowest
        # While images are at low resolution, patience has not started.
        ((0.1, 0.2, 0.9, 0.8, 0.9, 0.9), 0.25, 6),
    ],
)
def test_no_lower_loss_ends_the_run_early_and_for_good(
    train_tiny: Train,
    tmp_path: Path,
    short: Recipe,
    metrics: Rows,
    outcome: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    losses: tuple[float, ...],
    low_resolution: float,
    epochs: int,
) -> None:
    scores = iter(losses)
    monkeypatch.setattr(loop, "score_holdout", lambda *_: (0.5, next(scores)))
    recipe = replace(short, epochs=8, batch_size=32, patience=2, low_resolution=low_resolution)
    best = train_tiny(tmp_path, recipe=recipe)
    assert best.trained_scores.epochs == epochs == len(metrics(tmp_path))
    before = outcome(tmp_path)
    train_tiny(tmp_path, recipe=recipe)
    assert outcome(tmp_path) == before


# --- precisions and devices -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_and_resumes(
    train_tiny: Train,
    tiny_network: Callable[..., NetworkConfig],
    tmp_path: Path,
    short: Recipe,
    outcome: Outcome,
    stop_after: Any,
    precision: str,
) -> None:
    recipe = replace(short, epochs=3, learning_rate=0.1, **{precision: True})
    options = {"recipe": recipe, "network": tiny_network(width=0.05)}
    best = train_tiny(tmp_path / "whole", **options)
    assert best.trained_scores.holdout is not None
    assert best.trained_scores.holdout.top1 >= LEARNT
    with pytest.raises(TrainingStoppedError):
        train_tiny(tmp_path / "parts", should_stop=stop_after(9), **options)
    train_tiny(tmp_path / "parts", **options)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method", "ignore:The CUDA Graph is empty")
@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "compiled"])
def test_a_gpu_learns_and_resumes(
    gpu: torch.device,
    shapes: Dataset,
    train_tiny: Train,
    tiny_network: Callable[..., NetworkConfig],
    tmp_path: Path,
    short: Recipe,
    stop_after: Any,
    precision: str,
) -> None:
    recipe = replace(short, epochs=4, learning_rate=0.1)
    if precision in ("bf16", "fp16"):
        recipe = replace(recipe, **{precision: True})
    options: dict[str, Any] = {
        "recipe": recipe,
        "network": tiny_network(width=0.05),
        "device": gpu,
        "compiled": precision == "compiled",
    }
    teacher = Pretrained("whole", train_tiny(tmp_path / "whole", **options))
    assert teacher.checkpoint.trained_scores.holdout is not None
    assert teacher.checkpoint.trained_scores.holdout.top1 >= LEARNT
    options["teachers"] = [teacher, teacher]
    with pytest.raises(TrainingStoppedError):
        train_tiny(tmp_path / "parts", should_stop=stop_after(29), **options)
    best = train_tiny(tmp_path / "parts", **options)
    assert best.trained_scores.holdout is not None
    assert best.trained_scores.holdout.top1 >= LEARNT
    # The scores that a GPU gave are those of the saved weights, wherever they run.
    again = predict.logits(best.network(), best.preprocessing, shapes.images, shapes.holdout)
    assert top1(again, shapes.targets[shapes.holdout]) == best.trained_scores.holdout.top1


# --- what cannot go well --------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["nin", "nin-bn"])
@pytest.mark.parametrize("batch_size", [8, 32, 1000], ids="batch {}".format)
@pytest.mark.parametrize("warmup", [0.0, 0.2], ids="warmup {}".format)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_divergence_is_an_error_that_saves_no_broken_weights(
    train_tiny: Train,
    tiny_network: Callable[..., NetworkConfig],
    tmp_path: Path,
    preset: str,
    batch_size: int,
    warmup: float,
    bf16: bool,
) -> None:
    # Such a decay alone makes weights 999 times as long in a step: no seed survives it.
    recipe = Recipe(
        epochs=20,
        batch_size=batch_size,
        learning_rate=1e3,
        warmup=warmup,
        weight_decay=1.0,
        bf16=bf16,
    )
    with pytest.raises(TrainingError, match=r"diverged.* learning rate below 1000"):
        train_tiny(tmp_path, recipe=recipe, network=tiny_network(preset, width=0.05))
    for path in tmp_path.glob("*.safetensors"):
        content = "training state" if path.stem == "state" else "checkpoint"
        for name, value in read_tensors(path, content)[0].items():  # type: ignore[arg-type]
            assert torch.isfinite(value).all(), f"{path.name}: {name}"


def test_too_little_memory_on_a_gpu_names_the_batch(
    train_tiny: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")

    monkeypatch.setattr(Learner, "step", step)
    with pytest.raises(TrainingError, match=r"for steps of \d+ images of 16 x 16: .* batch_size"):
        train_tiny(tmp_path)


def test_too_few_images_for_a_holdout_all_train(
    train_tiny: Train, tmp_path: Path, make_folder: Callable[..., Path], metrics: Rows
) -> None:
    # One of each class for testing and one for training: none is left.
    folder = make_folder(tmp_path / "data", {"circle": 2, "square": 2})
    dataset = open_dataset(folder, size=16)
    assert not len(dataset.holdout)
    network = NetworkConfig.from_preset("nin-bn", classes=2, size=16, width=0.01)
    best = train_tiny(tmp_path / "run", dataset=dataset, network=network)
    assert best.temperature is None
    assert best.trained_scores.holdout is None
    assert best.trained_scores.epoch == best.trained_scores.epochs == 2
    assert best.trained_scores.test is not None
    assert [row["holdout_loss"] for row in metrics(tmp_path / "run")] == ["", ""]
