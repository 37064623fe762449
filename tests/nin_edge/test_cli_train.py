from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

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
        (("--seed", "-1"), "seed is -1: expected 0"),
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
    assert "3 classes, 162 images to fit, 18 held out, 45 to test" in result.stderr
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
