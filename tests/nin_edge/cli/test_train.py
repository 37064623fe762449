from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from safetensors.torch import save_file

from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge.cli.train import SETTINGS, command
from nin_edge.training.run_folder import RunFolder

TINY = ("--size", "16", "--width", "0.01", "--set", "batch_size=16", "--device", "cpu")
LONG = ("--preset", "nin", "--epochs", "12", *TINY)
PICTURES = {"confusion.png", "curves.png"}
PATIENCE = 60.0  # seconds to wait for a child, on a busy machine
FILES = {
    ".nin-edge",
    *("best.safetensors", "config.json", "confusion.png", "curves.png"),
    *("last.safetensors", "metrics.csv", "state.safetensors"),
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take as long as a tiny network's training."""
    monkeypatch.setattr(RunFolder, "draw", lambda *_, **__: None)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """`nin-edge train` in a process of its own, with the tests' packages and one thread."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nin_edge", "train", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests in the background of a shell would pass on that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path} after {PATIENCE} s"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "vgg"), "unknown preset 'vgg': expected one of nin, nin-bn"),
        (("--size", "8"), "size is 8: expected 16 to 512"),
        (("--size", "big"), "'big' is not a valid integer"),
        (("--width", "0"), "width is 0.0: expected a multiplier above 0"),
        (("--epochs", "0"), "epochs is 0: expected 1"),
        (("--lr", "nan"), "learning_rate is nan: expected"),
        (("--seed", "-1"), "seed is -1: expected 0"),
        (("--set", "crop=17"), "crop is 17: expected 0 to 16"),
        (("--set", "channels=2"), "channels is 2: expected 1 (grey) or 3 (RGB)"),
        (("--set", "cutmix=x"), "cutmix is 'x': expected a number, 0 to 1"),
        (("--set", "cutmix"), "'cutmix': expected NAME=VALUE"),
        (("--set", "shade=red"), "unknown setting 'shade': expected one of balanced, batch_size"),
        (("--set", "epochs=3"), "--set epochs=3: epochs has an option of its own"),
        (("--init", "none", "--set", "frozen_blocks=1"), "frozen_blocks is 1: without init"),
        (("--set", "distill_weight=1"), "distill_weight is 1.0: without distill_from"),
        (
            ("--init", "nin-cifar10-quarter", "--width", "0.5"),
            "width is 0.5: the weights of nin-cifar10-quarter have 0.25",
        ),
        (("--compile", "--device", "cpu"), "compiled is for one process on a GPU"),
        (("--device", "tpu"), "'tpu' is not one of"),
        (("--colour", "red"), "No such option"),
        (("more",), "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_has_exit_code_2(
    shapes_folder: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: str,
    failed: Callable[..., None],
) -> None:
    run = tmp_path / "run"
    failed(invoke(shapes_folder, *arguments, "-o", run), 2, words)
    assert not run.exists()


def test_data_is_mandatory(failed: Callable[..., None]) -> None:
    failed(invoke(), 2, "Missing argument 'DATA'")


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "one class"])
def test_data_that_is_no_data_set_is_refused(
    tmp_path: Path, make_folder: Callable[..., Path], kind: str, failed: Callable[..., None]
) -> None:
    data, words = tmp_path / "data", "expected a folder"
    if kind == "empty":
        data.mkdir()
        words = "no image files in it"
    elif kind == "text":
        data.write_text("I am text")
        words = "neither a folder nor a readable"
    elif kind == "one class":
        make_folder(data, {"circle": 2})
        words = "1 class (circle)"
    failed(invoke(data, *TINY, "-o", tmp_path / "run"), 1, str(data), words)
    assert not (tmp_path / "run").exists()


def test_a_used_run_folder_is_refused(
    shapes_folder: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    failed(
        invoke(shapes_folder, *TINY, "-o", tmp_path / "run"), 1, "already used", "--resume", "-o"
    )
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["note.txt"]


def test_a_file_as_run_folder_is_refused(
    shapes_folder: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    (tmp_path / "run").write_text("mine")
    failed(invoke(shapes_folder, *TINY, "-o", tmp_path / "run"), 1, "a file, expected a folder")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    "config", [None, "{", "[]", "{}", '{"format_version": 1, "network": {"blocks": 1}}']
)
def test_what_is_no_run_is_not_resumed(
    shapes_folder: Path, tmp_path: Path, config: str | None, failed: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "note.txt").write_text("mine")
    if config is not None:
        (run / "config.json").write_text(config)
    words = "not a run's folder" if config is None else "not a run's configuration"
    failed(invoke(shapes_folder, "-o", run, "--resume"), 1, str(run), words)


@pytest.mark.parametrize("found", ["nothing", "an empty folder", "a run without a state"])
def test_resume_starts_where_there_is_no_state_yet(
    shapes_folder: Path, tmp_path: Path, found: str
) -> None:
    run, options = tmp_path / "run", (*TINY, "--epochs", "1")
    if found == "an empty folder":
        run.mkdir()
    elif found == "a run without a state":  # its process was killed before
        assert invoke(shapes_folder, *options, "-o", run).exit_code == 0
        for name in ("state.safetensors", "metrics.csv"):
            (run / name).unlink()
    result = invoke(shapes_folder, *options, "-o", run, "--resume")
    assert result.exit_code == 0, result.output
    noted = f"{run}: no run to resume, a new one starts" in result.stderr
    assert noted is (found != "a run without a state")
    assert {file.name for file in run.iterdir()} == FILES - PICTURES


def test_a_run_writes_its_folder_and_says_what_is_next(
    shapes_folder: Path,
    tmp_path: Path,
    make_folder: Callable[..., Path],
    failed: Callable[..., None],
) -> None:
    run = tmp_path / "run"
    options = ("--epochs", "1", "--set", "data_name=Shapes", "--set", "data_licence=CC0")
    result = invoke(shapes_folder, *options, "--tensorboard", *TINY, "-o", run)
    assert result.exit_code == 0, result.output
    assert {file.name for file in run.iterdir()} == FILES - PICTURES | {"tensorboard"}
    assert list((run / "tensorboard").glob("events.out.*"))
    assert "3 classes, 162 " in result.stderr
    assert "epoch 1/1" in result.stderr
    assert "\r" not in result.stderr  # no redrawn bars where it is no terminal
    number = r"\d+\.\d\d%"
    shown = rf"{number} \(95% interval {number} to {number}\)"
    assert re.search(f"top-1 {shown} on the hold-out, {shown} on 45 test images", result.stdout)
    assert f"nin-edge export {run}\n" in result.stdout
    best = Checkpoint.load(run / "best.safetensors")
    assert (best.data.name, best.data.licence) == ("Shapes", "CC0")
    assert best.config.classes == 3

    # It can be resumed with the settings it has, and with no others.
    assert invoke(shapes_folder, "-o", run, "--resume", "--epochs", "1").exit_code == 0
    for options, words in (
        (("--epochs", "2"), "epochs is 2: the run to resume was started with 1"),
        (("--set", "dropout=0.5"), "dropout is 0.5: the run to resume was started with 0.0"),
    ):
        failed(invoke(shapes_folder, "-o", run, "--resume", *options), 2, words)
    other = make_folder(tmp_path / "other", {"circle": 9, "square": 9, "triangle": 9}, seed=1)
    failed(invoke(other, "-o", run, "--resume"), 1, "other images than these")
    assert Checkpoint.load(run / "best.safetensors").trained_scores == best.trained_scores

    # Without its state, it is not started over.
    best_file = (run / "best.safetensors").read_bytes()
    (run / "state.safetensors").unlink()
    words = "cannot be resumed, its state.safetensors is missing"
    failed(invoke(shapes_folder, "-o", run, "--resume"), 1, words)
    assert (run / "best.safetensors").read_bytes() == best_file


def test_unreadable_images_are_named_and_training_goes_on(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    data = make_folder(tmp_path / "data", {"circle": 10, "square": 10})
    (data / "circle" / "bad\x1b[2J.png").write_bytes(b"I am text")
    result = invoke(data, "--epochs", "1", *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert r"left out circle/bad\x1b[2J.png: " in result.stderr
    assert "1 file left out" in result.stderr
    assert "\x1b" not in result.output


def test_divergence_is_one_line(
    shapes_folder: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    options = ("--preset", "nin", "--lr", "1000", "--epochs", "3", *TINY)
    result = invoke(shapes_folder, *options, "-o", tmp_path / "run")
    failed(result, 1, "training diverged", "learning rate below 1000")


def test_ctrl_c_saves_and_the_command_it_prints_completes_the_run(
    shapes_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "my friend's run"  # the command is to be pasted into a shell
    child = start(shapes_folder, *LONG, "-o", run, cwd=tmp_path)
    wait_for(run / "metrics.csv", child)
    child.send_signal(signal.SIGINT)
    out, notes = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130, notes
    assert out == ""
    assert "Traceback" not in notes
    assert "stopped in epoch" in notes
    assert Checkpoint.load(run / "last.safetensors").config.classes == 3
    assert not list(run.glob(".*.part"))  # no temporary files

    command = shlex.split(notes.strip().splitlines()[-1].partition("to continue: ")[2])
    assert command[:2] == ["nin-edge", "train"]
    assert command[-1] == "--resume"
    result = invoke(*command[2:])
    assert result.exit_code == 0, result.output
    assert "top-1" in result.stdout
    assert {file.name for file in run.iterdir()} == FILES - PICTURES
    with (run / "metrics.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, 13))


@pytest.mark.usefixtures("decisive")
def test_a_run_that_learns_no_more_stops_early_and_says_so(
    shapes_folder: Path, tmp_path: Path
) -> None:
    options = ("--preset", "nin", "--lr", "1e-9", "--epochs", "9", "--set", "patience=1")
    result = invoke(shapes_folder, *options, *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "stopped early after 2 of 9 epochs: no lower loss on the hold-out in 1" in result.stderr


def test_rarer_settings_by_name(shapes_folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    settings = ("crop=4", "cutout=8", "cutmix=0.5", "flip=no", "low_resolution=0", "dropout=0.25")
    pairs = [part for setting in settings for part in ("--set", setting)]
    for name, options in {"new": TINY, "tuned": ("--init", tiny_weights)}.items():
        run = tmp_path / name
        result = invoke(shapes_folder, *options, *pairs, "--epochs", "1", "-o", run)
        assert result.exit_code == 0, result.output
        recipe = json.loads((run / "config.json").read_text())["recipe"]
        given = [recipe[name] for name in ("crop", "cutout", "cutmix", "flip", "low_resolution")]
        assert given == [4, 8, 0.5, False, 0]
        assert Checkpoint.load(run / "best.safetensors").config.dropout == 0.25


@pytest.mark.parametrize(("value", "balanced"), [(None, True), ("false", False), ("true", True)])
def test_unequal_classes_are_shown_equally_often(
    tmp_path: Path, make_folder: Callable[..., Path], value: str | None, balanced: bool
) -> None:
    data = make_folder(tmp_path / "data", {"circle": 30, "square": 10})
    option = ("--set", f"balanced={value}") if value else ()
    result = invoke(data, *option, "--epochs", "1", *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert ("balanced=false shows each image once" in result.stderr) is (value is None)
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert recipe["balanced"] is balanced


def write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(header + values.tobytes())


def test_digits_keep_their_own_size_and_are_not_mirrored(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    for split, count in (("train", 300), ("t10k", 50)):
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{split}-images-idx3-ubyte", pixels)
        write_idx(folder / f"{split}-labels-idx1-ubyte", np.arange(count).astype(np.uint8) % 10)
    run, tiny = tmp_path / "run", ("--epochs", "1", "--width", "0.01", "--device", "cpu")
    result = invoke(folder, *tiny, "-o", run)
    assert result.exit_code == 0, result.output
    assert "not mirrored, they are digits" in result.stderr
    config = json.loads((run / "config.json").read_text())
    assert (config["network"]["size"], config["network"]["channels"]) == (28, 1)
    assert config["recipe"]["flip"] is False
    assert config["location"]["official"] == "mnist"
    options = ("--set", "flip=true", "--size", "32")
    mirrored = invoke(folder, *options, *tiny, "-o", tmp_path / "two")
    assert mirrored.exit_code == 0, mirrored.output
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert (config["network"]["size"], config["recipe"]["flip"]) == (32, True)


# --- trained weights ------------------------------------------------------------------------------


def test_fine_tuning_shipped_weights_takes_a_new_last_layer_and_says_so(
    shapes_folder: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    name = "nin-cifar10-quarter"
    options = ("--init", name, "--size", "16", "--set", "frozen_blocks=2", "--epochs", "3")
    result = invoke(*(shapes_folder, *options, "--lr", "0.05", "--set", "batch_size=16", "-o", run))
    assert result.exit_code == 0, result.output
    assert f"{name}: a new last layer for 3 classes, its own 10 classes are others" in result.stderr
    best = Checkpoint.load(run / "best.safetensors")
    assert (best.config.width, best.config.size, best.config.classes) == (0.25, 16, 3)
    assert best.trained_scores.test is not None
    assert best.trained_scores.test.top1 > 0.6  # three classes of shapes, at half their size
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert recipe["frozen_blocks"] == 2

    # Resuming needs no --init, takes the same one, and no other.
    assert invoke(shapes_folder, "-o", run, "--resume", "--init", name).exit_code == 0
    failed(
        invoke(shapes_folder, "-o", run, "--resume", "--init", "other"),
        2,
        f"init is other: the run to resume was started with {name}",
    )


@pytest.mark.parametrize("weights", ["vgg", "missing.safetensors", "text.safetensors", "foreign"])
def test_weights_to_start_from_that_are_none_are_refused(
    shapes_folder: Path, tmp_path: Path, weights: str, failed: Callable[..., None]
) -> None:
    (tmp_path / "text.safetensors").write_text("I am text")
    save_file({"weight": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "foreign")
    name = weights if weights == "vgg" else tmp_path / weights
    result = invoke(shapes_folder, "--init", name, "-o", tmp_path / "run")
    failed(result, 1, str(name), "expected a checkpoint" if weights == "foreign" else "")
    assert not (tmp_path / "run").exists()


# --- the help -------------------------------------------------------------------------------------


def test_the_options_are_few_and_in_groups() -> None:
    text = invoke("--help").stdout
    headings = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == ["Data:", "Network:", "Training:", "Running:", "Options:"]
    options = [line for line in text.splitlines() if line.startswith("  -")]
    assert len(options) == len(command.params) <= 21  # all but DATA, and --help
    for name in SETTINGS:
        assert name in text
