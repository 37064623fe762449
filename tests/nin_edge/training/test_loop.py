from __future__ import annotations

import csv
import errno
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nin_edge import predict as evaluate
from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset, open_dataset
from nin_edge.metrics import THRESHOLDS, calibrated_loss, softmax, top1
from nin_edge.network import NetworkConfig, NiN
from nin_edge.tensorfile import read_tensors, write_tensors
from nin_edge.training import loop as training
from nin_edge.training.completion import TrainingStoppedError
from nin_edge.training.finetune import Pretrained
from nin_edge.training.loop import (
    Progress,
    TrainingError,
    measure_preprocessing,
    train,
)
from nin_edge.training.recipe import Recipe
from nin_edge_runtime import ModelFileError, NinEdgeError

LEARNT = 0.9  # accuracy that the shapes take a few epochs to reach; chance is a third
SCORE_ROUNDING = 1e-9
PART_TOLERANCE = 1e-4  # of a loss: sums in another order
PIXEL_ROUNDING = 1e-4  # the preprocessing's numbers are kept to four decimals
FILES = [
    *("best.safetensors", "config.json", "confusion.png", "curves.png"),
    *("last.safetensors", "metrics.csv", "state.safetensors"),
]
SOURCE = DataSource("shapes", "CC0")
# 20 steps an epoch: more than one report within it.
SHORT = Recipe(epochs=2, batch_size=8, learning_rate=0.02, cutout=8)


def network(preset: str = "nin-bn", **changes: Any) -> NetworkConfig:
    options: dict[str, Any] = {"classes": 3, "size": 16, "width": 0.01, **changes}
    return NetworkConfig.from_preset(preset, **options)


class StopAfter:
    """A `should_stop` that says so after some steps, or raises, as a power cut would."""

    def __init__(self, steps: int, error: type[Exception] | None = None) -> None:
        self.left, self.error = steps, error

    def __call__(self) -> bool:
        self.left -= 1
        if self.left == 0 and self.error:
            raise self.error
        return self.left == 0


def run_in_parts(
    dataset: Dataset, config: NetworkConfig, run: Path, parts: Iterable[int], recipe: Recipe = SHORT
) -> Checkpoint:
    """Train, stopping after the given numbers of steps, to the end."""
    for steps in parts:
        with pytest.raises(TrainingStoppedError):
            train(dataset, config, recipe, SOURCE, run, should_stop=StopAfter(steps))
    return train(dataset, config, recipe, SOURCE, run)


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def outcome(run: Path) -> dict[str, Any]:
    """All that two runs must share, to the bit: weights, losses, scores; times apart."""
    columns = ("epoch", "loss", "holdout_top1", "holdout_loss")
    found: dict[str, Any] = {
        "metrics": [[row[column] for column in columns] for row in metrics(run)]
    }
    for name in ("best", "last"):
        checkpoint = Checkpoint.load(run / f"{name}.safetensors")
        figures = dict(checkpoint.metrics)
        figures.pop("train_seconds", None)
        found[name] = (figures, checkpoint.temperature, checkpoint.ranges)
        found[f"{name} weights"] = {
            key: value.numpy().tobytes() for key, value in checkpoint.weights.items()
        }
    return found


@pytest.fixture(scope="module")
def whole(
    shapes: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Any]]:
    """The outcome of an uninterrupted short run of a preset, trained once."""
    outcomes: dict[str, dict[str, Any]] = {}

    def get(preset: str) -> dict[str, Any]:
        if preset not in outcomes:
            run = tmp_path_factory.mktemp(preset)
            train(shapes, network(preset), SHORT, SOURCE, run)
            outcomes[preset] = outcome(run)
        return outcomes[preset]

    return get


@pytest.fixture(scope="module")
def trained(
    shapes: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Checkpoint, list[Progress]]:
    """A run that learns the shapes: its folder, result and reports."""
    run, reports = tmp_path_factory.mktemp("runs") / "new" / "shapes", list[Progress]()
    recipe = Recipe(epochs=6, batch_size=16)
    config = network(width=0.05)
    return run, train(shapes, config, recipe, SOURCE, run, report=reports.append), reports


# --- a whole run ----------------------------------------------------------------------------------


def test_a_tiny_network_learns_the_shapes(trained: tuple[Path, Checkpoint, Any]) -> None:
    _, best, _ = trained
    assert best.metrics["holdout_top1"] >= LEARNT
    assert best.metrics["test_top1"] >= LEARNT


def test_the_run_folder_holds_everything(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset
) -> None:
    run, best, _ = trained
    assert sorted(file.name for file in run.iterdir()) == FILES
    config = json.loads((run / "config.json").read_text())
    assert config["network"]["width"] == 0.05
    assert config["recipe"]["batch_size"] == 16
    assert config["labels"] == list(shapes.labels)
    assert config["data"]["fingerprint"] == shapes.fingerprint
    rows = metrics(run)
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    chosen = min(rows, key=lambda row: float(row["holdout_loss"]))
    assert int(chosen["epoch"]) == best.metrics["epoch"]
    assert float(chosen["holdout_top1"]) == best.metrics["holdout_top1"]
    answers = evaluate.logits(best.network(), best.preprocessing, shapes.images, shapes.holdout)
    loss = calibrated_loss(answers, shapes.targets[shapes.holdout])
    assert float(chosen["holdout_loss"]) == pytest.approx(loss, abs=1e-5)


def test_the_best_checkpoint_is_complete(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset
) -> None:
    run, best, _ = trained
    loaded = Checkpoint.load(run / "best.safetensors")
    assert loaded.metrics == best.metrics
    assert loaded.labels == shapes.labels
    assert loaded.data == replace(SOURCE, fingerprint=shapes.fingerprint)
    assert loaded.preprocessing == measure_preprocessing(shapes, 16, 3)
    assert loaded.temperature is not None
    assert len(loaded.ranges) == 12
    assert loaded.metrics["test_images"] == len(shapes.test)
    assert loaded.metrics["holdout_images"] == len(shapes.holdout)
    assert loaded.metrics["train_images"] == len(shapes.train)
    assert {"test_ece", "test_ece_uncalibrated", "holdout_ece"} <= loaded.metrics.keys()


def test_thresholds_are_measured_on_the_holdout_with_the_temperature(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset
) -> None:
    _, best, _ = trained
    logits = evaluate.logits(best.network(), best.preprocessing, shapes.images, shapes.holdout)
    probabilities = softmax(logits, best.temperature or 1.0)
    right = probabilities.argmax(1) == shapes.targets[shapes.holdout]
    recorded = {name: value for name, value in best.metrics.items() if "_at_" in name}
    expected = {}
    for threshold in THRESHOLDS:
        answered = probabilities.max(1) >= threshold
        expected[f"holdout_coverage_at_{threshold}"] = answered.mean()
        if answered.any():
            expected[f"holdout_top1_at_{threshold}"] = right[answered].mean()
    assert recorded == pytest.approx(expected, abs=SCORE_ROUNDING)


def test_the_test_score_is_that_of_the_saved_weights(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset
) -> None:
    best = Checkpoint.load(trained[0] / "best.safetensors")
    pixels = best.preprocessing.normalize(shapes.images[shapes.test])
    with torch.inference_mode():
        answers = best.network()(torch.from_numpy(pixels)).argmax(1).numpy()
    score = (answers == shapes.targets[shapes.test]).mean()
    assert best.metrics["test_top1"] == pytest.approx(score, abs=SCORE_ROUNDING)


def test_progress_is_reported_in_and_after_epochs(
    trained: tuple[Path, Checkpoint, list[Progress]],
) -> None:
    _, _, reports = trained
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    ends = [report for report in reports if report.holdout_top1 is not None]
    assert [report.epoch for report in ends] == [1, 2, 3, 4, 5, 6]
    assert len(reports) > len(ends)
    assert reports[-1].done == 1
    assert reports[-1].seconds_left == 0
    assert all(report.images_per_second > 0 for report in reports)


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_is_measured_on_the_images_to_fit(shapes_folder: Path, channels: int) -> None:
    dataset = open_dataset(shapes_folder, size=16, channels=channels)
    pixels = dataset.images[dataset.train].reshape(-1, channels) / 255
    found = measure_preprocessing(dataset, 16, channels)
    assert found.mean == pytest.approx(pixels.mean(0), abs=PIXEL_ROUNDING)
    assert found.std == pytest.approx(pixels.std(0), abs=PIXEL_ROUNDING)


def test_the_seed_decides_the_result(
    shapes: Dataset, tmp_path: Path, whole: Callable[[str], dict[str, Any]]
) -> None:
    train(shapes, network(), SHORT, SOURCE, tmp_path / "same")
    train(shapes, network(), replace(SHORT, seed=1), SOURCE, tmp_path / "other")
    assert outcome(tmp_path / "same") == whole("nin-bn")
    assert outcome(tmp_path / "other")["last weights"] != whole("nin-bn")["last weights"]


def test_the_test_split_has_no_say(
    shapes: Dataset, tmp_path: Path, whole: Callable[[str], dict[str, Any]]
) -> None:
    images, targets = shapes.images.copy(), shapes.targets.copy()
    images[shapes.test] = 255 - images[shapes.test]
    targets[shapes.test] = np.roll(targets[shapes.test], 7)
    train(replace(shapes, images=images, targets=targets), network(), SHORT, SOURCE, tmp_path)
    without, usual = outcome(tmp_path), whole("nin-bn")
    scores = [
        {key: figures.pop(key) for key in list(figures) if key.startswith("test_")}
        for figures in (without["best"][0], dict(usual["best"][0]))
    ]
    assert scores[0] != scores[1]
    kept = {key: value for key, value in usual["best"][0].items() if not key.startswith("test_")}
    assert without == usual | {"best": (kept, *usual["best"][1:])}


# --- stopping and going on ------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["nin-bn", "nin"])  # nin drops activations at random
@pytest.mark.parametrize(
    "parts",
    [(1,), (7,), (13,), (20,), (21,), (39,), (1, 1, 9, 9, 15)],
    ids=lambda parts: "+".join(map(str, parts)),
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    shapes: Dataset,
    tmp_path: Path,
    whole: Callable[[str], dict[str, Any]],
    preset: str,
    parts: tuple[int, ...],
) -> None:
    run_in_parts(shapes, network(preset), tmp_path, parts)
    found, expected = outcome(tmp_path), whole(preset)
    for key in expected:
        assert found[key] == expected[key], key


@pytest.mark.parametrize("preset", ["nin-bn", "nin"])
@pytest.mark.parametrize("step", [3, 20, 25])
def test_after_a_power_cut_the_last_state_is_taken_up(
    shapes: Dataset,
    tmp_path: Path,
    whole: Callable[[str], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    step: int,
) -> None:
    monkeypatch.setattr(training, "_STATE_SECONDS", 0.0)  # a state after every step
    with pytest.raises(ZeroDivisionError):
        train(
            shapes,
            network(preset),
            SHORT,
            SOURCE,
            tmp_path,
            should_stop=StopAfter(step, ZeroDivisionError),
        )
    _, header = read_tensors(tmp_path / "state.safetensors", "training state")
    assert header["state"]["step"] == step - 1
    monkeypatch.undo()
    train(shapes, network(preset), SHORT, SOURCE, tmp_path)
    assert outcome(tmp_path) == whole(preset)


def test_a_resumed_run_reports_the_same_losses(shapes: Dataset, tmp_path: Path) -> None:
    # The file rounds to six decimals, which hides a different last bit until one falls on an edge.
    recipe, losses = replace(SHORT, epochs=4, cutmix=0.5), dict[str, list[float]]()
    for name, parts in (("whole", ()), ("parts", (7, 9, 13, 16, 17))):
        reports: list[Progress] = []
        for steps in (*parts, 0):
            with suppress(TrainingStoppedError):
                train(
                    shapes,
                    network("nin"),
                    recipe,
                    SOURCE,
                    tmp_path / name,
                    report=reports.append,
                    should_stop=StopAfter(steps),
                )
        losses[name] = [report.loss for report in reports if report.holdout_top1 is not None]
    assert len(losses["whole"]) == recipe.epochs
    assert losses["parts"] == losses["whole"]


def test_stopping_leaves_a_checkpoint_of_that_step(shapes: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingStoppedError, match="epoch 1, after step 3 of 40"):
        train(shapes, network(), SHORT, SOURCE, tmp_path, should_stop=StopAfter(3))
    last = Checkpoint.load(tmp_path / "last.safetensors")
    state, _ = read_tensors(tmp_path / "state.safetensors", "training state")
    for name, weight in last.weights.items():
        assert torch.equal(weight, state[f"weights/{name}"]), name


def test_asking_to_stop_after_the_last_step_is_too_late(shapes: Dataset, tmp_path: Path) -> None:
    best = train(shapes, network(), SHORT, SOURCE, tmp_path, should_stop=StopAfter(40))
    assert "test_top1" in best.metrics


def test_stopping_before_the_result_is_scored_leaves_that_to_the_next_time(
    shapes: Dataset, tmp_path: Path
) -> None:
    train(shapes, network(), SHORT, SOURCE, tmp_path / "whole")
    steps = itertools.count(1)
    with pytest.raises(TrainingStoppedError, match="after the last step, before it was scored"):
        train(
            *(shapes, network(), SHORT, SOURCE, tmp_path / "parts"),
            should_stop=lambda: next(steps) >= 40,  # the last one, and from then on
        )
    train(shapes, network(), SHORT, SOURCE, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


# Two for each file: the second epoch's best weights, its state, and the final best weights.
@pytest.mark.parametrize("write", [11, 17, 19])
def test_a_full_disk_stops_a_run_that_goes_on_when_there_is_room(
    shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    train(shapes, network(), SHORT, SOURCE, tmp_path / "whole")
    writes, fsync = itertools.count(1), os.fsync

    def fail(descriptor: int) -> None:
        if next(writes) >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            train(shapes, network(), SHORT, SOURCE, tmp_path / "parts")
    for path in (tmp_path / "parts").glob("*.safetensors"):
        read_tensors(path, "training state" if path.stem == "state" else "checkpoint")
    assert not list((tmp_path / "parts").glob(".*"))
    train(shapes, network(), SHORT, SOURCE, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(shapes: Dataset, tmp_path: Path) -> None:
    train(shapes, network(), SHORT, SOURCE, tmp_path)
    before = outcome(tmp_path)
    train(shapes, network(), SHORT, SOURCE, tmp_path)
    assert outcome(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"config": network(width=0.1)}, "network"),
        ({"recipe": replace(SHORT, seed=1)}, "recipe"),
        ({"recipe": replace(SHORT, epochs=3)}, "recipe"),
        ({"source": DataSource("other")}, "data"),
        ({"fingerprint": "0" * 64}, "images"),
        ({"labels": ("a", "b", "c")}, "labels"),
    ],
)
def test_resuming_with_other_settings_is_refused(
    shapes: Dataset, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(TrainingStoppedError):
        train(shapes, network(), SHORT, SOURCE, tmp_path, should_stop=StopAfter(1))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    of_dataset = {key: changes[key] for key in ("fingerprint", "labels") if key in changes}
    with pytest.raises(TrainingError, match=rf"state\.safetensors: .* (another|other) {what}"):
        train(
            replace(shapes, **of_dataset),
            changes.get("config", network()),
            changes.get("recipe", SHORT),
            changes.get("source", SOURCE),
            tmp_path,
        )
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_state_of_before_a_setting_came_resumes_with_its_default(
    shapes: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingStoppedError):
        train(shapes, network(), SHORT, SOURCE, tmp_path, should_stop=StopAfter(1))
    path = tmp_path / "state.safetensors"
    tensors, header = read_tensors(path, "training state")
    del header["identity"]["recipe"]["teaching"]
    write_tensors(path, "training state", tensors, header)
    other = replace(SHORT, teaching=0.9)
    with pytest.raises(TrainingError, match="was trained with another recipe"):
        train(shapes, network(), other, SOURCE, tmp_path)
    assert train(shapes, network(), SHORT, SOURCE, tmp_path).metrics["epochs"] == SHORT.epochs


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "checkpoint",
        "no weights/stages.0.0.weight",
        "no momenta/stages.0.0.weight",
        "no step",
        "odd state",
        "no identity",
    ],
)
def test_a_damaged_state_is_refused_by_name(shapes: Dataset, tmp_path: Path, damage: str) -> None:
    with pytest.raises(TrainingStoppedError):
        train(shapes, network(), SHORT, SOURCE, tmp_path, should_stop=StopAfter(1))
    path = tmp_path / "state.safetensors"
    tensors, header = read_tensors(path, "training state")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "checkpoint":
        path.write_bytes((tmp_path / "last.safetensors").read_bytes())
    else:
        if damage == "no step":
            header["state"] = {"steps": 1}
        elif damage == "odd state":
            header["state"] = ["step"]
        elif damage == "no identity":
            del header["identity"]
        else:
            del tensors[damage.removeprefix("no ")]
        write_tensors(path, "training state", tensors, header)
    with pytest.raises(NinEdgeError, match=r"state\.safetensors: "):
        train(shapes, network(), SHORT, SOURCE, tmp_path)


def test_a_state_is_no_checkpoint(shapes: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingStoppedError):
        train(shapes, network(), SHORT, SOURCE, tmp_path, should_stop=StopAfter(1))
    with pytest.raises(ModelFileError, match="a nin-edge training state, expected a checkpoint"):
        Checkpoint.load(tmp_path / "state.safetensors")


# --- the recipe's choices -------------------------------------------------------------------------


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


def targets_seen(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Grows by the classes, or parts of them, of all images whose loss is computed together."""
    seen: list[list[int]] = []
    forward = torch.nn.CrossEntropyLoss.forward

    def spy(self: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(targets.tolist())
        return forward(self, logits, targets)

    monkeypatch.setattr(torch.nn.CrossEntropyLoss, "forward", spy)
    return seen


@pytest.mark.parametrize(("size", "side"), [(32, 8), (16, 4)])
def test_cutout_covers_another_square_of_each_image_with_the_mean(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, side: int
) -> None:
    dataset, seen = open_dataset(shapes_folder, size=size), images_seen(monkeypatch)
    plain = replace(SHORT, epochs=1, small_images=0.0, cutout=0)
    for name, recipe in (("plain", plain), ("covered", replace(plain, cutout=8))):
        train(dataset, network(size=size), recipe, SOURCE, tmp_path / name)
    images, covered = (torch.cat(part) for part in (seen[:20], seen[20:]))
    changed = (images != covered).any(dim=1)  # (N, S, S)
    assert changed.flatten(1).any(dim=1).all()
    assert max(changed.any(dim=2).sum(dim=1)) == max(changed.any(dim=1).sum(dim=1)) == side
    assert len({mask.numpy().tobytes() for mask in changed}) > 100  # of 160
    assert covered.movedim(1, 3)[changed].abs().max() < 0.02  # 0 is the mean, but for rounding


def test_cutmix_shows_a_square_of_another_image_and_asks_for_its_class_as_much(
    shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, targets = images_seen(monkeypatch), targets_seen(monkeypatch)
    plain = replace(SHORT, epochs=1, small_images=0.0, cutout=0)
    for name, recipe in (("plain", plain), ("mixed", replace(plain, cutmix=0.5))):
        train(shapes, network(), recipe, SOURCE, tmp_path / name)
    mixed_images = 0
    for images, mixed, classes, wanted in zip(
        seen[:20], seen[20:], targets[:20], targets[20:], strict=True
    ):
        own = torch.nn.functional.one_hot(torch.tensor(classes), len(shapes.labels)).float()
        for index, target in enumerate(torch.tensor(wanted)):
            changed = (mixed[index] != images[index]).any(dim=0)  # (S, S)
            mixed_images += bool(changed.any())
            # From an image of the batch, whose class gets at least the part that changed: what
            # looks alike in both does not show.
            part = 1 - target[classes[index]]
            assert any(
                torch.equal(mixed[index][:, changed], images[at][:, changed])
                and (other == classes[index] or part >= changed.float().mean())
                and torch.equal(target, torch.lerp(own[index], own[at], part))
                for at, other in enumerate(classes)
            )
    assert 60 <= mixed_images <= 100  # of 160, half of which are to be


@pytest.mark.parametrize(("head", "small"), [("gap", 20), ("fc", 0)])
def test_the_first_steps_see_small_images(
    shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str, small: int
) -> None:
    dataset = open_dataset(shapes_folder, size=32)
    seen = images_seen(monkeypatch)
    train(dataset, network(size=32, head=head), SHORT, SOURCE, tmp_path)
    assert [images.shape[-1] for images in seen] == [20] * small + [32] * (40 - small)


def test_a_batch_in_parts_is_the_same_step(
    shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = network("nin", dropout=0.0)
    train(shapes, config, SHORT, SOURCE, tmp_path / "whole")
    monkeypatch.setattr(training, "images_at_once", lambda config, side: 3)
    seen = targets_seen(monkeypatch)
    train(shapes, config, SHORT, SOURCE, tmp_path / "parts")
    assert set(map(len, seen)) == {2, 3}  # of a batch of eight
    losses = [[float(row["loss"]) for row in metrics(tmp_path / n)] for n in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], abs=PART_TOLERANCE)


def test_every_part_of_a_batch_is_of_all_classes(
    shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "images_at_once", lambda config, side: 20)
    seen = targets_seen(monkeypatch)
    recipe = replace(SHORT, epochs=1, batch_size=80)
    train(shapes, network(), recipe, SOURCE, tmp_path)
    # Sorted as the data set is, a quarter would hold one or two.
    assert [len(set(part)) for part in seen] == [3] * 8


def test_the_time_left_counts_small_images_as_less_work(
    shapes_folder: Path, tmp_path: Path
) -> None:
    dataset = open_dataset(shapes_folder, size=32)
    reports: list[Progress] = []
    train(dataset, network(size=32), SHORT, SOURCE, tmp_path, report=reports.append)
    first = next(report for report in reports if report.holdout_top1 is not None)
    # 20 steps of 20 x 20 are done, 20 of 32 x 32 are left: 2.56 times as much.
    done = 20 * SHORT.batch_size / first.images_per_second
    assert first.seconds_left / done == pytest.approx((32 / 20) ** 2)


def test_the_time_left_counts_what_a_teacher_costs(shapes_folder: Path, tmp_path: Path) -> None:
    dataset = open_dataset(shapes_folder, size=32)
    best = train(dataset, network(size=32), replace(SHORT, epochs=1), SOURCE, tmp_path / "one")
    reports: list[Progress] = []
    train(
        *(dataset, network(size=32), SHORT, SOURCE, tmp_path / "two"),
        teachers=[Pretrained("one", best), Pretrained("again", best)],
        report=reports.append,
    )
    first = next(report for report in reports if report.holdout_top1 is not None)
    # Each teacher is like the student, at full size throughout: a third of a step more in each.
    done = 20 * SHORT.batch_size / first.images_per_second
    assert first.seconds_left / done == pytest.approx((1 + 2 / 3) / ((20 / 32) ** 2 + 2 / 3))


def test_the_least_loss_chooses_the_weights(
    shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([(0.5, 0.9), (0.7, 0.5), (0.9, 0.8)])  # accuracy would choose the last
    monkeypatch.setattr(training._Loop, "_score", lambda loop: next(scores))
    best = train(shapes, network(), replace(SHORT, epochs=3), SOURCE, tmp_path)
    assert best.metrics["epoch"] == 2
    assert best.metrics["holdout_loss"] == 0.5
    found = outcome(tmp_path)
    assert found["best weights"] != found["last weights"]


def test_a_run_that_ended_early_before_the_loss_chose_has_ended_for_good(
    shapes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(SHORT, epochs=9, small_images=0.0, patience=2)
    scores = iter([(0.5, 0.9), (0.7, 0.5), (0.7, 0.8), (0.6, 0.9)])
    monkeypatch.setattr(training._Loop, "_score", lambda loop: next(scores))
    train(shapes, network(), recipe, SOURCE, tmp_path)
    as_before(tmp_path / "state.safetensors")
    best = train(shapes, network(), recipe, SOURCE, tmp_path)
    assert (best.metrics["epoch"], best.metrics["epochs"]) == (2, 4)


def as_before(path: Path) -> None:
    """Make a state one of before a run could have several teachers, and accuracy chose."""
    tensors, header = read_tensors(path, "training state")
    taught = header["identity"]["teacher"]
    header["identity"]["teacher"] = taught[0] if taught else None
    header["state"]["best"] = 0.5
    for row in header["state"]["history"]:
        del row["holdout_loss"]
    write_tensors(path, "training state", tensors, header)


def test_no_lower_loss_ends_the_run_early(shapes: Dataset, tmp_path: Path) -> None:
    # Nothing is learnt at this rate: to six digits, the first loss stays the least.
    recipe = replace(SHORT, epochs=9, learning_rate=1e-9, small_images=0.0, patience=2)
    best = train(shapes, network("nin"), recipe, SOURCE, tmp_path)
    losses = [float(row["holdout_loss"]) for row in metrics(tmp_path)]
    assert len(losses) == 3
    assert losses.index(min(losses)) == 0
    assert best.metrics["epochs"] == 3
    before = outcome(tmp_path)
    train(shapes, network("nin"), recipe, SOURCE, tmp_path)  # it has ended for good
    assert outcome(tmp_path) == before


def test_patience_starts_with_images_of_full_size(shapes: Dataset, tmp_path: Path) -> None:
    recipe = replace(SHORT, epochs=6, learning_rate=1e-9, small_images=0.5, patience=1)
    assert train(shapes, network("nin"), recipe, SOURCE, tmp_path).metrics["epochs"] == 5


def test_classes_are_balanced_where_asked(
    tmp_path: Path, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(tmp_path / "data", {"circle": 60, "square": 8})
    dataset = open_dataset(folder, size=16)
    shown: list[int] = []
    monkeypatch.setattr(
        training, "augment", lambda images, **_: shown.append(len(images)) or images
    )
    seen = targets_seen(monkeypatch)
    recipe = replace(SHORT, epochs=1, balanced=True)
    train(dataset, network(classes=2), recipe, SOURCE, tmp_path / "run")
    targets = [target for part in seen for target in part]
    assert sum(shown) == len(targets) == len(dataset.train) // 8 * 8
    assert abs(targets.count(0) - targets.count(1)) <= 8  # what does not fill a batch is left out


# --- starting from trained weights ----------------------------------------------------------------


def start_of(checkpoint: Checkpoint) -> Pretrained:
    return Pretrained("shapes", checkpoint)


def test_trained_weights_are_a_head_start_on_new_classes(
    trained: tuple[Path, Checkpoint, Any],
    tmp_path: Path,
    make_folder: Callable[..., Path],
) -> None:
    # The same shapes by other names: what the network knows of them is enough from the first.
    folder = make_folder(tmp_path / "data", {"circle": 40, "square": 40})
    dataset = open_dataset(folder, size=16)
    _, checkpoint, _ = trained
    config = replace(checkpoint.config, classes=2)
    recipe = Recipe(epochs=2, batch_size=8, learning_rate=0.05, frozen_blocks=2)
    best = train(dataset, config, recipe, SOURCE, tmp_path / "run", init=start_of(checkpoint))
    assert best.metrics["test_top1"] >= LEARNT
    assert best.labels == ("circle", "square")
    assert best.preprocessing == checkpoint.preprocessing
    for name, weight in best.weights.items():
        same = torch.equal(weight, checkpoint.weights[name]) if "6.6" not in name else False
        assert same == name.startswith(("stages.0.", "stages.3.")), name
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["init"]
    assert stored == {
        "weights": "shapes",
        "sha256": checkpoint.fingerprint(),
        "new_head": True,
    }


@pytest.mark.parametrize("cut", ["before the first step", "within"])
def test_fine_tuning_goes_on_without_the_weights_it_started_from(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset, tmp_path: Path, cut: str
) -> None:
    _, checkpoint, _ = trained
    recipe, start = replace(SHORT, frozen_blocks=1), start_of(checkpoint)
    train(shapes, checkpoint.config, recipe, SOURCE, tmp_path / "whole", init=start)
    run = tmp_path / "parts"
    if cut == "within":
        with pytest.raises(TrainingStoppedError):
            train(
                *(shapes, checkpoint.config, recipe, SOURCE, run),
                init=start,
                should_stop=StopAfter(7),
            )
    else:
        with pytest.raises(ZeroDivisionError):
            train(
                *(shapes, checkpoint.config, recipe, SOURCE, run),
                init=start,
                should_stop=StopAfter(1, ZeroDivisionError),
            )
    train(shapes, checkpoint.config, recipe, SOURCE, run)
    found, expected = outcome(run), outcome(tmp_path / "whole")
    for key in expected:
        assert found[key] == expected[key], key


def test_resuming_from_other_weights_is_refused(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset, tmp_path: Path
) -> None:
    _, checkpoint, _ = trained
    with pytest.raises(TrainingStoppedError):
        train(
            *(shapes, checkpoint.config, SHORT, SOURCE, tmp_path),
            init=start_of(checkpoint),
            should_stop=StopAfter(1),
        )
    weights = {name: torch.zeros_like(value) for name, value in checkpoint.weights.items()}
    other = start_of(replace(checkpoint, weights=weights))
    with pytest.raises(TrainingError, match=r"state\.safetensors: was trained with another init"):
        train(shapes, checkpoint.config, SHORT, SOURCE, tmp_path, init=other)


def test_not_all_blocks_can_be_frozen(shapes: Dataset, tmp_path: Path) -> None:
    recipe = replace(SHORT, frozen_blocks=3)
    with pytest.raises(TrainingError, match="3 blocks to freeze of 3: expected fewer"):
        train(shapes, network(), recipe, SOURCE, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- learning from a teacher ----------------------------------------------------------------------


def test_a_student_comes_closer_to_its_teacher(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset, tmp_path: Path
) -> None:
    _, checkpoint, _ = trained

    def divergence(taught: float) -> float:
        recipe = Recipe(epochs=6, batch_size=16, label_smoothing=0.0, teaching=taught)
        student = train(
            *(shapes, network(width=0.03), recipe, SOURCE, tmp_path / f"{taught}"),
            teachers=[start_of(checkpoint)],
        )
        answers = [
            softmax(
                evaluate.logits(one.network(), one.preprocessing, shapes.images, shapes.test), 1.0
            )
            for one in (checkpoint, student)
        ]
        return float((answers[0] * np.log(answers[0] / answers[1])).sum(1).mean())

    assert divergence(1.0) < 0.5 * divergence(0.0)


def test_a_student_goes_on_with_the_same_teachers_and_no_other(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset, tmp_path: Path
) -> None:
    _, checkpoint, _ = trained
    fresh = replace(checkpoint, weights=NiN(checkpoint.config).state_dict())
    teachers = [start_of(checkpoint), start_of(fresh)]
    train(shapes, network(), SHORT, SOURCE, tmp_path / "whole", teachers=teachers)
    run, stop = tmp_path / "parts", StopAfter(13)
    with pytest.raises(TrainingStoppedError):
        train(*(shapes, network(), SHORT, SOURCE, run), teachers=teachers, should_stop=stop)
    for others in ([], teachers[:1], teachers[1:]):
        with pytest.raises(TrainingError, match="was trained with another teacher"):
            train(shapes, network(), SHORT, SOURCE, run, teachers=others)
    train(shapes, network(), SHORT, SOURCE, run, teachers=teachers)
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.mark.parametrize("taught", [True, False], ids=["teacher", "none"])
def test_a_state_of_before_several_teachers_and_the_holdouts_loss_goes_on(
    trained: tuple[Path, Checkpoint, Any], shapes: Dataset, tmp_path: Path, taught: bool
) -> None:
    _, checkpoint, _ = trained
    teachers = [start_of(checkpoint)] if taught else []
    train(shapes, network(), SHORT, SOURCE, tmp_path / "whole", teachers=teachers)
    run, stop = tmp_path / "parts", StopAfter(23)
    with pytest.raises(TrainingStoppedError):
        train(*(shapes, network(), SHORT, SOURCE, run), teachers=teachers, should_stop=stop)
    as_before(run / "state.safetensors")
    best = train(shapes, network(), SHORT, SOURCE, run, teachers=teachers)
    assert best.metrics["epoch"] == SHORT.epochs
    assert outcome(run)["last weights"] == outcome(tmp_path / "whole")["last weights"]


@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_a_half_precision_learns_and_goes_on(shapes: Dataset, tmp_path: Path, kind: str) -> None:
    recipe = replace(SHORT, epochs=4, learning_rate=0.1, **{kind: True})
    best = train(shapes, network(width=0.05), recipe, SOURCE, tmp_path / "whole")
    assert best.metrics["holdout_top1"] >= LEARNT
    with pytest.raises(TrainingStoppedError):
        train(
            *(shapes, network(width=0.05), recipe, SOURCE, tmp_path / "parts"),
            should_stop=StopAfter(9),
        )
    train(shapes, network(width=0.05), recipe, SOURCE, tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method", "ignore:The CUDA Graph is empty")
@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp16", "compiled"])
def test_a_gpu_learns_and_goes_on(
    gpu: torch.device, shapes: Dataset, tmp_path: Path, kind: str
) -> None:
    recipe = replace(SHORT, epochs=4, learning_rate=0.1)
    told: Any = {"device": gpu, "compiled": kind == "compiled"}
    if kind in ("bf16", "fp16"):
        recipe = replace(recipe, **{kind: True})
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    teacher = start_of(train(shapes, network(width=0.05), recipe, SOURCE, whole, **told))
    assert teacher.checkpoint.metrics["holdout_top1"] >= LEARNT
    told["teachers"] = [teacher, teacher]
    stop = StopAfter(29)
    with pytest.raises(TrainingStoppedError):
        train(shapes, network(width=0.05), recipe, SOURCE, parts, should_stop=stop, **told)
    best = train(shapes, network(width=0.05), recipe, SOURCE, parts, **told)
    assert best.metrics["holdout_top1"] >= LEARNT
    # The scores that a GPU gave are those of the saved weights, wherever they run.
    again = evaluate.logits(best.network(), best.preprocessing, shapes.images, shapes.holdout)
    assert top1(again, shapes.targets[shapes.holdout]) == best.metrics["holdout_top1"]


# --- what cannot go well --------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["nin", "nin-bn"])
@pytest.mark.parametrize("batch_size", [8, 32, 1000], ids="batch {}".format)
@pytest.mark.parametrize("warmup", [0.0, 0.2], ids="warmup {}".format)
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_divergence_is_an_error_that_saves_no_broken_weights(
    shapes: Dataset, tmp_path: Path, preset: str, batch_size: int, warmup: float, bf16: bool
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
        train(shapes, network(preset, width=0.05), recipe, SOURCE, tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        kind = "training state" if path.stem == "state" else "checkpoint"
        for name, value in read_tensors(path, kind)[0].items():
            assert torch.isfinite(value).all(), f"{path.name}: {name}"


@pytest.mark.parametrize(
    ("found", "device", "words"),
    [
        ("triton gcc", "cpu", "compiling for the CPU: expected one process on a GPU"),
        ("gcc", "cuda", "compiling needs Triton, which is not installed"),
        ("triton", "cuda", "compiling needs a C compiler: expected gcc or clang"),
        ("triton gcc", "cuda with CC", "compiling needs a C compiler: .* or CC to name one"),
    ],
)
def test_compiling_where_it_cannot_work_is_refused(
    shapes: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: str,
    device: str,
    words: str,
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: name in found or None)
    monkeypatch.setattr("shutil.which", lambda name: name if name in found else None)
    device, _, named = device.partition(" with ")
    monkeypatch.setenv("CC", "missing-cc" if named else "")
    with pytest.raises(TrainingError, match=words):
        train(shapes, network(), SHORT, SOURCE, tmp_path / "run", device=device, compiled=True)
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_a_holdout_are_an_error_that_says_so(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    folder = make_folder(tmp_path / "data", {"circle": 2, "square": 2})

    def attempt() -> None:  # one of each class to test and one to fit leave none to hold out
        dataset = open_dataset(folder, size=16)
        train(dataset, network(classes=2), SHORT, SOURCE, tmp_path / "run")

    with pytest.raises(NinEdgeError, match=r"hold-out|images"):
        attempt()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs is 0: expected 1 to"),
        ({"batch_size": 1}, "batch size is 1: expected 2 to"),
        ({"learning_rate": 0.0}, r"learning rate is 0\.0: expected 1e-09 to 1000"),
        ({"learning_rate": math.nan}, "learning rate is nan"),
        ({"learning_rate": math.inf}, "learning rate is inf"),
        ({"warmup": 1.5}, r"warmup is 1\.5: expected 0 to 1"),
        ({"momentum": 1.0}, r"momentum is 1\.0: expected 0 to 0\.9999"),
        ({"weight_decay": -1.0}, r"weight decay is -1\.0: expected 0 to 1"),
        ({"label_smoothing": 1.0}, r"label smoothing is 1\.0: expected 0 to 0\.99"),
        ({"crop": 17}, "crop is 17: expected 0 to 16"),
        ({"cutout": 33}, "cutout is 33: expected 0 to 32"),
        ({"cutmix": 1.5}, r"cutmix is 1\.5: expected 0 to 1"),
        ({"seed": -1}, "seed is -1: expected 0 to"),
    ],
    ids=str,
)
def test_a_recipe_that_cannot_train_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Recipe(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"crop": 16}, {"cutout": 32}, {"cutmix": 1.0}, {"flip": False, "crop": 0}, {"momentum": 0.0}],
    ids=str,
)
def test_recipes_at_the_ends_of_their_ranges_run(
    shapes: Dataset, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = replace(SHORT, epochs=1, batch_size=64, **changes)
    assert train(shapes, network(), recipe, SOURCE, tmp_path).metrics["epoch"] == 1
