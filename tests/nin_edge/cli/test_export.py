"""`nin-edge export` on bad input: what it says, its exit code, and what it leaves on the disk."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge import predict
from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge.quantised_points import ActivationRange, activation_ranges
from nin_edge_runtime import read_model
from nin_edge_runtime.golden import golden_image
from nin_edge_runtime.model_file.certificate import Quantization

pytestmark = pytest.mark.usefixtures("quick_report")

LABELS = ("circle", "square", "étoile")  # of the tiny network
ABSURD = 1e6  # factor of a range in which every activation rounds to nothing
ANSWERED = 200  # images, labelled by the network itself
DISK = 100_000  # bytes


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


@pytest.fixture
def data(make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """Ten images of each class."""
    return make_folder(tmp_path / "data", dict.fromkeys(LABELS, 10))


@pytest.fixture(scope="module")
def varied(tiny_weights: Path) -> Checkpoint:
    """The tiny network with its last biases moved: it predicts all three classes."""
    checkpoint = Checkpoint.load(tiny_weights)
    images = np.stack([golden_image(seed, 16, 16) for seed in range(ANSWERED)])
    every, steps = np.arange(ANSWERED), checkpoint.preprocessing
    weights = {name: value.clone() for name, value in checkpoint.weights.items()}
    logits = predict.logits(checkpoint.network(), steps, images, every)
    weights["stages.6.6.bias"] -= torch.from_numpy(logits.mean(axis=0))
    moved = replace(checkpoint, weights=weights)
    ranges = activation_ranges(moved.network(), predict.inputs(steps, images, every), len(every))
    return replace(moved, ranges=ranges)


@pytest.fixture
def answered(varied: Checkpoint, tmp_path: Path) -> Path:
    """Images in folders of the labels that this network gives them."""
    images = np.stack([golden_image(seed, 16, 16) for seed in range(ANSWERED)])
    logits = predict.logits(varied.network(), varied.preprocessing, images, np.arange(ANSWERED))
    for label in LABELS:
        (tmp_path / "answered" / label).mkdir(parents=True)
    for index, answer in enumerate(logits.argmax(axis=1)):
        path = tmp_path / "answered" / LABELS[answer] / f"{index:03}.png"
        Image.fromarray(images[index]).save(path)
    return tmp_path / "answered"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 kB, or the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# --- wrong usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-drop", "0.3"), "--eval-data DATA, which is missing"),
        (("--calibration-method", "entropy"), "entropy needs --calibration DATA"),
        (("--calibration-method", "best"), "'best' is not one of"),
        (("--opset", "12"), "12 is not in the range"),
        (("--opset", "17"), "--embed-preprocess normalize or none"),
        (("--opset", "23"), "23 is not in the range"),
        (("--batch", "0"), "0 is not in the range"),
        (("--max-drop", "-1", "--eval-data", "."), "-1"),
        (("--calibration-images", "0"), "0 is not in the range"),
        (("--precision", "fp8"), "'fp8' is not one of"),
        (("--no-eval", "--eval-data", "."), "exclude each other"),
    ],
)
def test_wrong_usage_exits_with_2(
    options: tuple[str, ...],
    words: str,
    tiny_weights: Path,
    tmp_path: Path,
    failed: Callable[..., None],
) -> None:
    result = _run(tiny_weights, "-o", tmp_path / "out", *options)
    failed(result, 2, words)
    assert not (tmp_path / "out").exists()


# --- calibration ----------------------------------------------------------------------------------


def test_unreadable_calibration_images_are_named_and_left_out(
    data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    (data / "circle" / "bad\x1b[2J.png").write_text("no image")
    result = _run(
        *(tiny_weights, "-o", tmp_path / "out", "--precision", "int8", "--calibration", data)
    )
    assert result.exit_code == 0, result.output
    assert r"left out circle/bad\x1b[2J.png: " in result.stderr
    assert "\x1b" not in result.output
    _, info = read_model(tmp_path / "out" / "tiny.int8.onnx")
    quantization = info.certificate.quantization
    assert quantization is not None
    assert (quantization.ranges, quantization.method) == ("data", "minmax")
    assert quantization.images is not None
    assert 0 < quantization.images <= 30


def test_most_calibration_images_are_as_asked(
    data: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    options = ("--calibration-images", 7, "--calibration-method", "entropy", "--precision", "int8")
    result = _run(tiny_weights, "-o", tmp_path, "--calibration", data, *options)
    assert result.exit_code == 0, result.output
    _, info = read_model(tmp_path / "tiny.int8.onnx")
    assert info.certificate.quantization == Quantization("entropy", "data", 7)


@pytest.mark.parametrize("option", ["--calibration", "--eval-data"])
@pytest.mark.parametrize("kind", ["nothing readable", "empty", "missing"])
def test_data_without_images_is_refused(
    kind: str,
    option: str,
    data: Path,
    tiny_weights: Path,
    tmp_path: Path,
    failed: Callable[..., None],
) -> None:
    folder = tmp_path / "bad"
    if kind != "missing":
        folder.mkdir()
    if kind == "nothing readable":
        for label in LABELS:
            (folder / label).mkdir()
            (folder / label / "0.png").write_text("no image")
    result = _run(tiny_weights, "-o", tmp_path / "out", option, folder)
    failed(result, 1, str(folder))
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("option", ["--calibration", "--eval-data"])
def test_other_labels_are_named(
    option: str, data: Path, tiny_weights: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    (data / "étoile").rename(data / "star")
    result = _run(tiny_weights, "-o", tmp_path / "out", option, data)
    failed(result, 1, "data: the model does not know the label star", "étoile")
    assert not list(tmp_path.glob("out/*"))


def test_checkpoint_without_ranges_says_how_to_get_them(
    tiny_weights: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    bare = tmp_path / "bare.safetensors"
    replace(Checkpoint.load(tiny_weights), ranges={}).save(bare)
    failed(_run(bare, "-o", tmp_path / "out"), 1, "--calibration DATA", "best.safetensors")
    assert not list(tmp_path.glob("out/*"))
    assert _run(bare, "-o", tmp_path / "out", "--precision", "fp16").exit_code == 0
    assert [path.name for path in tmp_path.glob("out/*.onnx")] == ["bare.fp16.onnx"]


# --- gates ----------------------------------------------------------------------------------------


def test_budget_that_cannot_be_met_exits_with_3_and_writes_nothing(
    answered: Path, varied: Checkpoint, tmp_path: Path, failed: Callable[..., None]
) -> None:
    absurd = {
        name: ActivationRange(*(ABSURD * np.array([s.minimum, s.maximum, s.low, s.high])))
        for name, s in varied.ranges.items()
    }
    replace(varied, ranges=absurd).save(tmp_path / "absurd.safetensors")
    result = _run(
        *(tmp_path / "absurd.safetensors", "-o", tmp_path / "out"),
        *("--precision", "fp32", "--precision", "int8"),
        *("--eval-data", answered, "--max-drop", "0.3"),
    )
    failed(result, 3, "on the hold-out of answered", "the budget is 0.3")
    assert not list(tmp_path.glob("out/*"))


def test_budget_that_is_met_is_certified(
    answered: Path, varied: Checkpoint, tmp_path: Path
) -> None:
    varied.save(tmp_path / "varied.safetensors")
    result = _run(
        *(tmp_path / "varied.safetensors", "-o", tmp_path / "out", "--precision", "int8"),
        *("--eval-data", answered, "--max-drop", "50"),
    )
    assert result.exit_code == 0, result.output
    _, info = read_model(tmp_path / "out" / "varied.int8.onnx")
    budget, accuracy = info.certificate.budget, info.certificate.accuracy
    assert budget is not None
    assert budget.drop_points <= 50
    assert budget.fp32_top1 == 1.0
    assert accuracy is not None
    assert accuracy.measured_with == "this file"
    assert "points lost on the hold-out" in result.stdout
    shown = CliRunner().invoke(main, ["info", str(tmp_path / "out" / "varied.int8.onnx")]).stdout
    assert f"holdout images {budget.holdout_images}; fp32 top-1 100.00%" in shown


def test_weight_that_overflows_fp16_is_one_line(
    tiny_weights: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    checkpoint = Checkpoint.load(tiny_weights)
    weights = {name: value.clone() for name, value in checkpoint.weights.items()}
    weights["stages.6.6.weight"][0, 0] = 1e5
    replace(checkpoint, weights=weights).save(tmp_path / "huge.safetensors")
    result = _run(tmp_path / "huge.safetensors", "-o", tmp_path / "out", "--precision", "fp16")
    assert result.exit_code in (1, 3)
    failed(result, result.exit_code, "stages.6.6.weight", "overflows fp16")
    assert not list(tmp_path.glob("out/*"))


# --- the disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [0, 1])
def test_full_disk_is_one_line_and_leaves_nothing_half_written(
    files: int, disk: Path, tiny_model: Path, tiny_weights: Path
) -> None:
    """There is room for so many of the files, but not for the next."""
    room = 8192 + files * tiny_model.stat().st_size
    (disk / "ballast").write_bytes(bytes(DISK - room))
    result = _run(tiny_weights, "-o", disk)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert str(disk) in errors[0]
    assert "No space left" in errors[0]
    left = [path for path in disk.iterdir() if path.name != "ballast"]
    assert [path.name for path in left] == ["tiny.fp32.onnx"][:files]
    for path in left:
        read_model(path)  # whole, or it raises


@pytest.mark.parametrize(
    "options", [["--max-drop", "0", "--eval-data", "x"], ["--calibration", "x"]]
)
def test_options_of_int8_without_int8_are_a_usage_error(options: list[str]) -> None:
    assert _run("x.safetensors", "--precision", "fp32", *options).exit_code == 2
