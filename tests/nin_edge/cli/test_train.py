from __future__ import annotations

import csv
import json
import os
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

TINY = ("--size", "16", "--width", "0.01", "--batch-size", "16", "--device", "cpu")
LONG = ("--preset", "nin", "--epochs", "12", *TINY)
PATIENCE = 60.0  # seconds to wait for a child, on a busy machine
FILES = {
    *("best.safetensors", "config.json", "confusion.png", "curves.png"),
    *("last.safetensors", "metrics.csv", "state.safetensors"),
}


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
    )


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {path} after {PATIENCE} s"
        time.sleep(0.01)


def failed(result: Result, code: int, *words: str) -> None:
    """The command failed with this exit code and one clear line, without a traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
    assert sum(line.startswith("Error: ") for line in result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--preset", "vgg"), "unknown preset 'vgg': expected one of nin, nin-bn"),
        (("--size", "8"), "size is 8: expected 16 to 512"),
        (("--size", "big"), "'big' is not a valid integer"),
        (("--channels", "2"), "channels is 2: expected 1 (grey) or 3 (RGB)"),
        (("--width", "0"), "width is 0.0: expected a multiplier above 0"),
        (("--epochs", "0"), "epochs is 0: expected 1"),
        (("--batch-size", "1"), "batch size is 1: expected 2"),
        (("--lr", "nan"), "learning rate is nan: expected"),
        (("--crop", "17"), "crop is 17: expected 0 to 16"),
        (("--cutout", "-1"), "cutout is -1: expected 0 to 32"),
        (("--cutmix", "2"), "cutmix is 2.0: expected 0 to 1"),
        (("--dropout", "1"), "dropout is 1.0: expected a probability below 1"),
        (("--init", "nin-cifar10", "--dropout", "-1"), "dropout is -1.0: expected a probability"),
        (("--seed", "-1"), "seed is -1: expected 0"),
        (("--patience", "-1"), "patience is -1: expected 0"),
        (("--freeze", "1"), "--freeze keeps the weights of --init WEIGHTS, which is missing"),
        (("--init", "nin-cifar10", "--freeze", "3"), "--freeze 3: the network has 3 blocks"),
        (("--small-images", "2"), "small images is 2.0: expected 0 to 1"),
        (("--init", "nin-cifar10", "--freeze", "-1"), "frozen blocks is -1: expected 0"),
        (
            ("--init", "nin-cifar10", "--width", "0.25"),
            "--width 0.25: the weights of --init have 1.0",
        ),
        (("--init", "nin-cifar10", "--preset", "nin"), "--preset nin: the weights of --init have"),
        (
            ("--init", "nin-cifar10", "--channels", "1"),
            "--channels 1: the weights of --init have 3",
        ),
        (("--init", "nin-cifar10", "--size", "8"), "size is 8: expected 16 to 512"),
        (("--teaching", "1"), "--teaching is the part of --distill-from WEIGHTS, which is missing"),
        (("--distill-from", "nin-cifar10", "--teaching", "2"), "teaching is 2.0: expected 0 to 1"),
        (("--compile", "--device", "cpu"), "--compile is for one process on a GPU, --device cuda"),
        (("--device", "tpu"), "'tpu' is not one of"),
        (("--colour", "red"), "No such option"),
        (("more",), "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_has_exit_code_2(
    shapes_folder: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    run = tmp_path / "run"
    failed(invoke(shapes_folder, *arguments, "-o", run), 2, words)
    assert not run.exists()


def test_data_is_mandatory() -> None:
    failed(invoke(), 2, "Missing argument 'DATA'")


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "one class"])
def test_data_that_is_no_data_set_is_refused(
    tmp_path: Path, make_folder: Callable[..., Path], kind: str
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


def test_a_used_run_folder_is_refused(shapes_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "note.txt").write_text("mine")
    failed(
        invoke(shapes_folder, *TINY, "-o", tmp_path / "run"), 1, "already used", "--resume", "-o"
    )
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["note.txt"]


def test_a_file_as_run_folder_is_refused(shapes_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    failed(invoke(shapes_folder, *TINY, "-o", tmp_path / "run"), 1, "a file, expected a folder")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize(
    "config", [None, "{", "[]", '{"network": {}}', '{"network": {"blocks": 1}}']
)
def test_there_must_be_something_to_resume(
    shapes_folder: Path, tmp_path: Path, config: str | None
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if config is not None:
        (run / "config.json").write_text(config)
    words = "nothing to resume" if config is None else "not a run's configuration"
    failed(invoke(shapes_folder, "-o", run, "--resume"), 1, str(run), words)


def test_a_run_writes_its_folder_and_says_what_is_next(shapes_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--epochs", "1", "--data-name", "Shapes", "--data-licence", "CC0")
    result = invoke(shapes_folder, *options, *TINY, "-o", run)
    assert result.exit_code == 0, result.output
    assert {file.name for file in run.iterdir()} == FILES
    assert "3 classes, 162 training images, 18 hold-out, 45 test" in result.stderr
    assert "epoch 1/1" in result.stderr
    assert "\r" not in result.stderr  # no redrawn bars where it is no terminal
    assert "on 45 test images" in result.stdout
    assert f"nin-edge export {run / 'best.safetensors'}" in result.stdout
    best = Checkpoint.load(run / "best.safetensors")
    assert (best.data.name, best.data.licence) == ("Shapes", "CC0")
    assert best.config.classes == 3

    # It can be resumed with the settings it has, and with no others.
    assert invoke(shapes_folder, "-o", run, "--resume", "--epochs", "1").exit_code == 0
    failed(
        invoke(shapes_folder, "-o", run, "--resume", "--epochs", "2"),
        2,
        "--epochs 2: the run to resume was started with 1",
    )
    assert Checkpoint.load(run / "best.safetensors").metrics == best.metrics


def test_resuming_with_other_data_is_refused(
    shapes_folder: Path, tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    run = tmp_path / "run"
    assert invoke(shapes_folder, "--epochs", "1", *TINY, "-o", run).exit_code == 0
    other = make_folder(tmp_path / "other", {"circle": 9, "square": 9, "triangle": 9}, seed=1)
    failed(invoke(other, "-o", run, "--resume"), 1, "other images than these")


def test_unreadable_images_are_named_and_training_goes_on(
    tmp_path: Path, make_folder: Callable[..., Path]
) -> None:
    data = make_folder(tmp_path / "data", {"circle": 10, "square": 10})
    (data / "circle" / "bad\x1b[2J.png").write_bytes(b"I am text")
    result = invoke(data, "--epochs", "1", *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert r"left out circle/bad\x1b[2J.png: " in result.stderr
    assert "1 unreadable file" in result.stderr
    assert "\x1b" not in result.output


def test_divergence_is_one_line(shapes_folder: Path, tmp_path: Path) -> None:
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
    assert not list(run.glob(".*"))  # no temporary files

    command = shlex.split(notes.strip().splitlines()[-1].partition("to go on: ")[2])
    assert command[:2] == ["nin-edge", "train"]
    assert command[-1] == "--resume"
    child = start(*command[2:], cwd=tmp_path)
    out, notes = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, notes
    assert "top-1" in out
    assert {file.name for file in run.iterdir()} == FILES
    with (run / "metrics.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, 13))


# --- your own photos ------------------------------------------------------------------------------


def test_fine_tuning_shipped_weights_takes_a_new_last_layer_and_says_so(
    shapes_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    name = "nin-cifar10-quarter"
    options = ("--init", name, "--size", "16", "--freeze", "2", "--epochs", "3")
    result = invoke(shapes_folder, *options, "--lr", "0.05", "--batch-size", "16", "-o", run)
    assert result.exit_code == 0, result.output
    assert f"{name}: a new last layer for 3 classes, the weights' own 10" in result.stderr
    best = Checkpoint.load(run / "best.safetensors")
    assert (best.config.width, best.config.size, best.config.classes) == (0.25, 16, 3)
    assert best.metrics["test_top1"] > 0.6  # three classes of plain shapes, at half their size
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    assert (recipe["frozen_blocks"], recipe["patience"]) == (2, 3)

    # Going on needs no --init, takes the same one, and no other.
    assert invoke(shapes_folder, "-o", run, "--resume", "--init", name).exit_code == 0
    failed(
        invoke(shapes_folder, "-o", run, "--resume", "--init", "other"),
        2,
        f"--init other: the run to resume was started with {name}",
    )
    # The same classes at the same size: the network goes on as it is.
    again = tmp_path / "again"
    options = ("--init", run / "best.safetensors", "--epochs", "1")
    result = invoke(shapes_folder, *options, "--batch-size", "16", "-o", again)
    assert result.exit_code == 0, result.output
    assert "new last layer" not in result.stderr
    assert Checkpoint.load(again / "best.safetensors").config.size == 16


@pytest.mark.parametrize("weights", ["vgg", "missing.safetensors", "text.safetensors"])
def test_weights_to_start_from_that_are_none_are_refused(
    shapes_folder: Path, tmp_path: Path, weights: str
) -> None:
    (tmp_path / "text.safetensors").write_text("I am text")
    name = weights if weights == "vgg" else tmp_path / weights
    failed(invoke(shapes_folder, "--init", name, "-o", tmp_path / "run"), 1, str(name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "balanced"), [((), True), (("--no-balance",), False), (("--balance",), True)]
)
def test_unequal_classes_are_shown_equally_often(
    tmp_path: Path, make_folder: Callable[..., Path], option: tuple[str, ...], balanced: bool
) -> None:
    data = make_folder(tmp_path / "data", {"circle": 30, "square": 10})
    result = invoke(data, *option, "--epochs", "1", *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert ("--no-balance shows each image once" in result.stderr) is not bool(option)
    recipe = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert recipe["balanced"] is balanced


def test_a_run_that_learns_no_more_ends_early_and_says_so(
    shapes_folder: Path, tmp_path: Path
) -> None:
    options = ("--preset", "nin", "--lr", "1e-9", "--epochs", "9", "--patience", "1")
    result = invoke(shapes_folder, *options, *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "ended after 2 of 9 epochs: no lower loss on the hold-out in 1" in result.stderr


def test_augmentation_by_option(shapes_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--crop", "4", "--cutout", "8", "--cutmix", "0.5", "--no-flip", "--epochs", "1")
    result = invoke(shapes_folder, *options, "--small-images", "0", *TINY, "-o", run)
    assert result.exit_code == 0, result.output
    recipe = json.loads((run / "config.json").read_text())["recipe"]
    given = [recipe[name] for name in ("crop", "cutout", "cutmix", "flip", "small_images")]
    assert given == [4, 8, 0.5, False, 0]


def test_dropout_by_option(shapes_folder: Path, tiny_weights: Path, tmp_path: Path) -> None:
    for name, options in {"new": TINY, "tuned": ("--init", tiny_weights)}.items():
        run = tmp_path / name
        result = invoke(shapes_folder, *options, "--dropout", "0.25", "--epochs", "1", "-o", run)
        assert result.exit_code == 0, result.output
        assert json.loads((run / "config.json").read_text())["network"]["dropout"] == 0.25
        assert Checkpoint.load(run / "best.safetensors").config.dropout == 0.25
    again = invoke(shapes_folder, "--resume", "--dropout", "0.5", "-o", tmp_path / "new")
    assert again.exit_code == 2
    assert "--dropout" in again.stderr


def test_tensorboard_files_by_flag(shapes_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = invoke(shapes_folder, "--tensorboard", "--epochs", "1", *TINY, "-o", run)
    assert result.exit_code == 0, result.output
    assert list((run / "tensorboard").glob("events.out.*"))


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
    run = tmp_path / "run"
    result = invoke(folder, "--epochs", "1", "--width", "0.01", "-o", run, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "not mirrored, they are digits" in result.stderr
    config = json.loads((run / "config.json").read_text())
    assert (config["network"]["size"], config["network"]["channels"]) == (28, 1)
    assert config["recipe"]["flip"] is False
    mirrored = invoke(
        folder, "--flip", "--size", "32", "--epochs", "1", "--width", "0.01", "-o", tmp_path / "two"
    )
    assert mirrored.exit_code == 0, mirrored.output
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert (config["network"]["size"], config["recipe"]["flip"]) == (32, True)


# --- students -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "run"
    assert invoke(shapes_folder, "--epochs", "1", *TINY, "-o", run).exit_code == 0
    return run / "best.safetensors"


def test_a_student_learns_from_teachers_and_goes_on_with_them(
    shapes_folder: Path, tmp_path: Path, teacher: Path
) -> None:
    run = tmp_path / "run"
    second = teacher.with_name("last.safetensors")
    taught = ("--distill-from", teacher, "--distill-from", second, "--teaching", "1")
    result = invoke(shapes_folder, *taught, "--epochs", "1", *TINY, "--width", "0.1", "-o", run)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("a teacher that is smaller than its student") == 2
    stored = json.loads((run / "config.json").read_text())
    assert [one["weights"] for one in stored["teacher"]] == [str(teacher), str(second)]
    assert stored["recipe"]["teaching"] == 1
    assert invoke(shapes_folder, "-o", run, "--resume").exit_code == 0
    # Teachers may have moved; others are refused.
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(teacher.read_bytes())
    again = ("-o", run, "--resume", "--distill-from", moved)
    assert invoke(shapes_folder, *again, "--distill-from", second).exit_code == 0
    for others in ((), ("--distill-from", run / "best.safetensors")):
        failed(invoke(shapes_folder, *again, *others), 1, "was trained with another teacher")


def test_a_run_without_its_state_is_not_started_over(shapes_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert invoke(shapes_folder, "--epochs", "1", *TINY, "-o", run).exit_code == 0
    best = (run / "best.safetensors").read_bytes()
    (run / "state.safetensors").unlink()
    failed(
        invoke(shapes_folder, "-o", run, "--resume"),
        1,
        "cannot be resumed, its state.safetensors is missing",
    )
    assert (run / "best.safetensors").read_bytes() == best


def test_weights_of_another_program_are_refused(shapes_folder: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.ones(2, dtype=torch.bfloat16)}, foreign)
    failed(
        invoke(shapes_folder, "--init", foreign, "-o", tmp_path / "run"),
        1,
        "a safetensors file without nin-edge's header, expected a checkpoint",
    )


def test_a_teacher_of_other_classes_is_refused_by_name(shapes_folder: Path, tmp_path: Path) -> None:
    result = invoke(shapes_folder, "--distill-from", "nin-cifar10", *TINY, "-o", tmp_path / "run")
    failed(result, 1, "nin-cifar10: a teacher of the classes airplane, ", "circle, square")
    assert not (tmp_path / "run").exists()
