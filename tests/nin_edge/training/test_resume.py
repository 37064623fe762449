from __future__ import annotations

import errno
import itertools
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nin_edge.checkpoint import Checkpoint, DataSource
from nin_edge.data import Dataset
from nin_edge.network import NetworkConfig
from nin_edge.tensorfile import read_tensors, write_tensors
from nin_edge.training import loop
from nin_edge.training.errors import TrainingError, TrainingStoppedError
from nin_edge.training.progress import Progress
from nin_edge.training.recipe import Recipe
from nin_edge_runtime import ModelFileError, NinEdgeError

Train = Callable[..., Checkpoint]
Outcome = Callable[[Path], dict[str, Any]]
Whole = Callable[[str], dict[str, Any]]


@pytest.fixture
def stopped(train_tiny: Train, stop_after: Any, tmp_path: Path) -> Path:
    """The folder of a run that was stopped after its first step."""
    with pytest.raises(TrainingStoppedError):
        train_tiny(tmp_path, should_stop=stop_after(1))
    return tmp_path


def check_same(parts: dict[str, Any], expected: dict[str, Any]) -> None:
    for key in expected:
        assert parts[key] == expected[key], key


@pytest.mark.parametrize("preset", ["nin-bn", "nin"])  # nin drops activations at random
def test_a_run_that_is_stopped_anywhere_ends_as_an_uninterrupted_one(
    train_tiny: Train,
    tmp_path: Path,
    outcome: Outcome,
    whole: Whole,
    stop_after: Any,
    preset: str,
) -> None:
    # After the first step, within an epoch, at its end, after its end, and before the last step.
    for stop in (1, 7, 13, 20, 21, 39):
        taken = json_state(tmp_path)["step"] if (tmp_path / "state.safetensors").exists() else 0
        with pytest.raises(TrainingStoppedError, match=f"after step {stop} of 40"):
            train_tiny(tmp_path, preset, should_stop=stop_after(stop - taken))
    train_tiny(tmp_path, preset)
    check_same(outcome(tmp_path), whole(preset))


@pytest.mark.parametrize("preset", ["nin-bn", "nin"])
def test_after_a_power_cut_the_last_state_is_resumed(
    train_tiny: Train,
    tmp_path: Path,
    outcome: Outcome,
    whole: Whole,
    stop_after: Any,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
) -> None:
    monkeypatch.setattr(loop, "_STATE_SECONDS", 0.0)  # a state after every step
    taken = 0
    for step in (3, 20, 25):  # within an epoch, at its end, and in the next one
        with pytest.raises(ZeroDivisionError):
            train_tiny(tmp_path, preset, should_stop=stop_after(step - taken, ZeroDivisionError))
        taken = json_state(tmp_path)["step"]
        assert taken == step - 1
    monkeypatch.undo()
    train_tiny(tmp_path, preset)
    check_same(outcome(tmp_path), whole(preset))


def json_state(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = read_tensors(run / "state.safetensors", "training state")[1]["state"]
    return state


def test_a_resumed_run_reports_the_same_losses(
    train_tiny: Train, tmp_path: Path, short: Recipe, stop_after: Any
) -> None:
    # The file rounds to six decimals, which hides a different last bit until one falls on an edge.
    recipe, losses = replace(short, epochs=4, cutmix=0.5), dict[str, list[float]]()
    for name, parts in (("whole", ()), ("parts", (7, 9, 13, 16, 17))):
        reports: list[Progress] = []
        for steps in (*parts, 0):
            with suppress(TrainingStoppedError):
                train_tiny(
                    tmp_path / name,
                    "nin",
                    recipe=recipe,
                    report=reports.append,
                    should_stop=stop_after(steps),
                )
        losses[name] = [report.loss for report in reports if report.holdout_top1 is not None]
    assert len(losses["whole"]) == recipe.epochs
    assert losses["parts"] == losses["whole"]


def test_stopping_leaves_a_checkpoint_of_that_step(
    train_tiny: Train, tmp_path: Path, stop_after: Any
) -> None:
    with pytest.raises(TrainingStoppedError, match="epoch 1, after step 3 of 40"):
        train_tiny(tmp_path, should_stop=stop_after(3))
    last = Checkpoint.load(tmp_path / "last.safetensors")
    state, _ = read_tensors(tmp_path / "state.safetensors", "training state")
    for name, weight in last.weights.items():
        assert torch.equal(weight, state[f"weights/{name}"]), name


def test_asking_to_stop_after_the_last_step_is_too_late(
    train_tiny: Train, tmp_path: Path, stop_after: Any
) -> None:
    best = train_tiny(tmp_path, should_stop=stop_after(40))
    assert best.trained_scores.test is not None


def test_stopping_before_the_result_is_scored_leaves_that_to_the_next_time(
    train_tiny: Train, tmp_path: Path, outcome: Outcome, whole: Whole
) -> None:
    steps = itertools.count(1)
    with pytest.raises(TrainingStoppedError, match="after the last step, before it was scored"):
        # At the last step, and from then on.
        train_tiny(tmp_path, should_stop=lambda: next(steps) >= 40)
    train_tiny(tmp_path)
    assert outcome(tmp_path) == whole("nin-bn")
    train_tiny(tmp_path)  # resuming a finished run changes nothing
    assert outcome(tmp_path) == whole("nin-bn")


# Two for each file: the second epoch's best weights, its state, and the final best weights.
@pytest.mark.parametrize("write", [11, 15, 19])
def test_a_full_disk_stops_a_run_that_resumes_when_there_is_room(
    train_tiny: Train,
    tmp_path: Path,
    outcome: Outcome,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
    write: int,
) -> None:
    writes, fsync = itertools.count(1), os.fsync

    def fail(descriptor: int) -> None:
        if next(writes) >= write:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as full:
        full.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            train_tiny(tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        content = "training state" if path.stem == "state" else "checkpoint"
        read_tensors(path, content)  # type: ignore[arg-type]
    assert not list(tmp_path.glob(".*.part"))
    train_tiny(tmp_path)
    assert outcome(tmp_path) == whole("nin-bn")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"network": {"width": 0.1}}, "different network"),
        ({"recipe": {"seed": 1}}, "different recipe"),
        ({"recipe": {"epochs": 3}}, "different recipe"),
        ({"source": DataSource("other")}, "different data"),
        ({"dataset": {"fingerprint": "0" * 64}}, "other images"),
        ({"dataset": {"labels": ("a", "b", "c")}}, "different labels"),
    ],
    ids=str,
)
def test_resuming_with_other_settings_is_refused(
    shapes: Dataset,
    short: Recipe,
    tiny_network: Callable[..., NetworkConfig],
    train_tiny: Train,
    stopped: Path,
    changes: dict[str, Any],
    named: str,
) -> None:
    before = {file.name: file.read_bytes() for file in stopped.iterdir()}
    options = {
        "network": tiny_network(**changes.get("network", {})),
        "recipe": replace(short, **changes.get("recipe", {})),
        "dataset": replace(shapes, **changes.get("dataset", {})),
    }
    if "source" in changes:
        options["source"] = changes["source"]
    with pytest.raises(TrainingError, match=rf"config\.json: was trained .* ?{named}"):
        train_tiny(stopped, **options)
    assert {file.name: file.read_bytes() for file in stopped.iterdir()} == before


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: change(tensors[name])})


ODD_TENSORS = {
    "a negative variance": replaced("weights/stages.0.1.running_var", torch.neg),
    "a counter below zero": replaced(
        "weights/stages.0.1.num_batches_tracked", lambda old: old - 99
    ),
    "weights of float64": replaced("weights/stages.0.0.weight", torch.Tensor.double),
    "a momentum of one number": replaced("momenta/stages.0.0.weight", lambda old: old.view(-1)[:1]),
    "a momentum that is not finite": replaced("momenta/stages.0.0.weight", lambda old: old / 0),
    "a tensor too many": lambda tensors: tensors.update(more=torch.zeros(3)),
}


@pytest.mark.parametrize(
    "damage",
    [
        "truncated",
        "checkpoint",
        "no weights/stages.0.0.weight",
        "no momenta/stages.0.0.weight",
        "no step",
        "odd state",
        "no digest",
        "a negative step",
        "a step beyond the last",
        "an epoch too many",
        "seconds -1e9",
        "seconds 1e300",
        "loss_sum 1e300",
        "a negative variance",
        "a counter below zero",
        "weights of float64",
        "a momentum of one number",
        "a momentum that is not finite",
        "a tensor too many",
    ],
)
def test_a_damaged_state_is_refused_by_name(train_tiny: Train, stopped: Path, damage: str) -> None:
    path = stopped / "state.safetensors"
    tensors, header = read_tensors(path, "training state")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "checkpoint":
        path.write_bytes((stopped / "last.safetensors").read_bytes())
    else:
        if damage == "no step":
            header["state"] = {"steps": 1}
        elif damage == "odd state":
            header["state"] = ["step"]
        elif damage == "a negative step":
            header["state"]["step"] = -5
        elif damage == "a step beyond the last":
            header["state"]["step"] = 10**9
        elif damage == "an epoch too many":
            row = dict.fromkeys(("loss", "holdout_loss", "images_per_second", "seconds"), 1.0)
            header["state"]["history"].append({"epoch": 1, "holdout_top1": 0.5, **row})
        elif damage.split()[0] in header["state"]:
            name, value = damage.split()
            header["state"][name] = float(value)
        elif damage in ODD_TENSORS:
            ODD_TENSORS[damage](tensors)
        elif damage == "no digest":
            del header["config_sha256"]
        else:
            del tensors[damage.removeprefix("no ")]
        write_tensors(path, "training state", tensors, header)
    with pytest.raises(NinEdgeError, match=r"state\.safetensors: "):
        train_tiny(stopped)


def test_a_state_belongs_to_its_configuration(
    train_tiny: Train, stopped: Path, short: Recipe
) -> None:
    path = stopped / "config.json"
    config = json.loads(path.read_text())
    config["recipe"]["crop"] = 4
    path.write_text(json.dumps(config))
    with pytest.raises(ModelFileError, match=r"state\.safetensors: .*config\.json .* was changed"):
        train_tiny(stopped, recipe=replace(short, crop=4))
    config["recipe"]["crop"] = short.crop
    config["location"] = {"path": "/moved", "name": "moved", "official": None}
    path.write_text(json.dumps(config))
    train_tiny(stopped)  # data may be moved


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "Expecting"),
        ("[]", "indices"),
        ("{}", "'format_version' is missing"),
        ('{"format_version": 2}', "format version 2, expected 1"),
    ],
)
def test_a_configuration_of_another_version_is_refused(
    train_tiny: Train, stopped: Path, text: str, fault: str
) -> None:
    (stopped / "config.json").write_text(text)
    with pytest.raises(
        ModelFileError, match=rf"config\.json: not a run's configuration that .*{fault}"
    ):
        train_tiny(stopped)


def test_a_state_is_not_a_checkpoint(stopped: Path) -> None:
    with pytest.raises(ModelFileError, match="a nin-edge training state, expected a checkpoint"):
        Checkpoint.load(stopped / "state.safetensors")
