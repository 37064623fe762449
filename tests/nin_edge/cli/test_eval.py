"""`nin-edge eval`: what it prints, the picture, and every bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge.checkpoint import Checkpoint
from nin_edge.cli import main
from nin_edge.cli.eval import command
from nin_edge.data import SPLITS
from nin_edge.metrics import wilson_interval
from nin_edge.network import NiN

GOLDEN = ("circle", "square", "étoile")  # classes of the tiny model


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


def figures(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def with_labels(tiny_weights: Path, labels: tuple[str, ...], path: Path) -> Path:
    """A checkpoint of other classes than the tiny one's, with random weights."""
    tiny = Checkpoint.load(tiny_weights)
    config = replace(tiny.config, classes=len(labels))
    weights = NiN(config).state_dict()
    replace(tiny, config=config, weights=weights, labels=labels, ranges={}).save(path)
    return path


# --- figures --------------------------------------------------------------------------------------


def test_json_has_every_figure(data: Path, tiny_model: Path) -> None:
    answer = figures(tiny_model, data)
    about = {
        key: answer[key] for key in ("model", "engine", "precision", "provider", "data", "split")
    }
    assert about == {
        "model": str(tiny_model),
        "engine": "ONNX Runtime",
        "precision": "fp32",
        "provider": "cpu",
        "data": "data",
        "split": "test",
    }
    assert (answer["images"], answer["unreadable"], answer["top5"]) == (6, 0, None)
    assert answer["missing"] == []
    assert [entry["label"] for entry in answer["classes"]] == list(GOLDEN)
    assert all(
        set(entry) == {"label", "precision", "recall", "f1", "support"}
        for entry in answer["classes"]
    )
    assert sum(entry["count"] for entry in answer["calibration"]) == 6
    assert [row["min_score"] for row in answer["thresholds"]] == [0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
    # The tiny model never predicts this class: a share of nothing is null, and not NaN.
    assert answer["classes"][0]["precision"] is None
    assert answer["classes"][0]["recall"] == 0


@pytest.mark.parametrize(("split", "images"), [("holdout", 3), ("train", 21), ("all", 30)])
def test_a_split_is_scored(data: Path, tiny_weights: Path, split: str, images: int) -> None:
    answer = figures(tiny_weights, data, "--split", split)
    assert (answer["split"], answer["images"], answer["engine"]) == (split, images, "PyTorch")
    assert sum(map(sum, answer["confusion"])) == images


def test_the_option_names_the_splits_of_the_library() -> None:
    (option,) = (one for one in command.params if one.name == "split")
    assert tuple(option.type.choices) == SPLITS  # type: ignore[attr-defined]


def test_text_has_a_summary_and_all_tables(
    seven_models: tuple[Path, Path], patches_folder: Path
) -> None:
    answer = figures(seven_models[1], patches_folder)
    result = run(seven_models[1], patches_folder)
    summary, *rest = result.stdout.splitlines()
    low, high = answer["top1_interval"]
    assert [low, high] == list(wilson_interval(round(28 * answer["top1"]), 28))
    assert summary.startswith(
        f"top-1 {answer['top1']:.2%} (95% interval {low:.2%} to {high:.2%}), "
        f"top-5 {answer['top5']:.2%}, "
    )
    assert f"ECE {answer['ece']:.4f}, 28 images of patches (test)" in summary
    assert summary.endswith("seven.fp32.onnx (fp32) by ONNX Runtime on cpu")
    assert rest[1].split() == ["min-score", "coverage", "accuracy"]
    shown = [line.split() for line in rest[2:8]]
    assert shown == [
        [
            f"{row['min_score']:g}",
            f"{row['coverage']:.2%}",
            "-" if row["top1"] is None else f"{row['top1']:.2%}",
        ]
        for row in answer["thresholds"]
    ]
    rows = {line.split()[0]: line.split()[1:] for line in rest[10:17]}
    for entry in answer["classes"]:
        shares = [entry[name] for name in ("precision", "recall", "f1")]
        cells = ["-" if share is None else f"{share:.2%}" for share in shares]
        assert rows[entry["label"]] == [*cells, str(entry["support"])]
    matrix = [[int(cell) for cell in line.split()[2:]] for line in rest[-7:]]
    assert matrix == answer["confusion"]
    assert "\r" not in result.stderr  # no redrawn lines where it is no terminal


def test_large_confusion_matrix_is_left_to_json_and_plot(
    tmp_path: Path, tiny_weights: Path, make_folder: Callable[..., Path]
) -> None:
    labels = tuple(f"{index:02}" for index in range(21))
    weights = with_labels(tiny_weights, labels, tmp_path / "many.safetensors")
    result = run(weights, make_folder(tmp_path / "many", dict.fromkeys(labels, 3)))
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1 + 8 + 2 + 21
    assert "confusion matrix" not in result.stdout


def test_unreadable_images_are_named_and_left_out(data: Path, tiny_weights: Path) -> None:
    (data / "circle" / "bad\x1b[2J.png").write_bytes(b"I am text")
    result = run(tiny_weights, data, "--split", "all", "--json")
    assert result.exit_code == 0
    assert r"left out circle/bad\x1b[2J.png: " in result.stderr
    assert "\x1b" not in result.output
    answer = json.loads(result.stdout)
    assert (answer["images"], answer["unreadable"]) == (30, 1)


WITHOUT_TORCH = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'safetensors', 'onnx', 'matplotlib'):
            raise ModuleNotFoundError('hidden', name=name)
sys.meta_path.insert(0, Hidden())
from nin_edge.cli import main
for options in (['--json'], ['--plot', sys.argv[2] + '/plot.png']):
    try:
        main(['eval', *sys.argv[1:], *options])
    except SystemExit as ended:
        print('exit code', ended.code, file=sys.stderr)
"""


def test_model_is_evaluated_where_torch_is_not(data: Path, tiny_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, tiny_model, data],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == figures(tiny_model, data)  # nothing of the second
    *_, first, error, second = done.stderr.splitlines()
    assert first == "exit code 0"
    assert error.startswith("Error: --plot needs matplotlib")
    assert error.endswith("pip install matplotlib")
    assert second == "exit code 1"


# --- the picture ----------------------------------------------------------------------------------


def test_plot_is_a_png(
    seven_models: tuple[Path, Path], patches_folder: Path, tmp_path: Path
) -> None:
    plot = tmp_path / "confusion.png"
    plot.write_text("an older one")
    result = run(seven_models[0], patches_folder, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert str(plot) in result.stderr
    assert result.stdout == run(seven_models[0], patches_folder).stdout
    with Image.open(plot) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 300
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 10
    assert [path.name for path in tmp_path.glob("*confusion*")] == ["confusion.png"]


def test_plot_takes_any_label(
    tmp_path: Path, tiny_weights: Path, make_folder: Callable[..., Path]
) -> None:
    """A formula, a character that no font has, an escape, and one that is too long."""
    labels = ("$\\frac$", "a\x1b[2J\nb", "x" * 200, "猫")
    weights = with_labels(tiny_weights, tuple(sorted(labels)), tmp_path / "odd.safetensors")
    folder = make_folder(tmp_path / "odd", dict.fromkeys(labels, 3))
    result = run(weights, folder, "--plot", tmp_path / "odd.png")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    with Image.open(tmp_path / "odd.png") as image:
        assert max(image.size) < 1000


@pytest.mark.parametrize(
    "fault", ["no folder", "file as folder", "a folder", "sealed", "full disk"]
)
def test_plot_that_cannot_be_written_is_one_line(
    fault: str, data: Path, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plot = tmp_path / "plots" / "c.png"
    if fault == "file as folder":
        plot.parent.write_text("in the way")
    elif fault == "a folder":
        plot.mkdir(parents=True)
    elif fault == "sealed":
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere")
        plot.parent.mkdir(mode=0o500)
    elif fault == "full disk":
        plot.parent.mkdir()

        def full(handle: int) -> None:
            raise OSError(28, "No space left on device")

        assert run(tiny_model, data).exit_code == 0  # fills the cache, which needs the disk too
        monkeypatch.setattr("nin_edge.files.os.fsync", full)
    result = run(tiny_model, data, "--plot", plot)
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert str(plot) in errors[0]
    if fault == "full disk":
        assert "top-1" in result.stdout  # what was computed is not lost
        assert not list(plot.parent.iterdir())
    else:
        assert result.stdout == ""


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument 'MODEL'"),
        (("model.onnx",), "Missing argument 'DATA'"),
        (("model.onnx", "data", "--split", "dev"), "'dev' is not one of"),
        (("model.onnx", "data", "--test-split", "0"), "0.0 is not in the range 0<x<=0.9"),
        (("model.onnx", "data", "--test-split", "nan"), "nan is not in the range"),
        (("model.onnx", "data", "--provider", "tpu"), "'tpu' is not one of"),
        (("model.onnx", "data", "--plot", "c.svg"), "c.svg: expected a name that ends in .png"),
        (("model.onnx", "data", "more"), "unexpected extra argument"),
    ],
)
def test_wrong_usage_exits_with_2(
    arguments: tuple[str, ...], words: str, failed: Callable[..., None]
) -> None:
    failed(run(*arguments), 2, words)


@pytest.mark.parametrize("suffix", [".onnx", ".safetensors"])
@pytest.mark.parametrize("fault", ["missing", "truncated", "text", "folder"])
def test_bad_model_is_one_clear_line(
    fault: str,
    suffix: str,
    data: Path,
    tmp_path: Path,
    tiny_model: Path,
    tiny_weights: Path,
    failed: Callable[..., None],
) -> None:
    good = tiny_model if suffix == ".onnx" else tiny_weights
    bad = tmp_path / f"bad{suffix}"
    if fault == "truncated":
        bad.write_bytes(good.read_bytes()[:1000])
    elif fault == "text":
        bad.write_text("no model")
    elif fault == "folder":
        bad.mkdir()
    failed(run(bad, data), 1, str(bad))


def test_model_of_no_known_ending_is_refused(data: Path, failed: Callable[..., None]) -> None:
    failed(run("model.pt", data), 1, "model.pt: expected a checkpoint (.safetensors) or a model")


def test_probabilities_that_are_no_numbers_are_refused(
    data: Path, tiny_weights: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    checkpoint = Checkpoint.load(tiny_weights)
    # Finite, so that the checkpoint is read, but their products overflow.
    weights = {
        name: value.sign() * 1e38 if value.is_floating_point() and value.ndim == 4 else value
        for name, value in checkpoint.weights.items()
    }
    replace(checkpoint, weights=weights).save(tmp_path / "nan.safetensors")
    words = "nan.safetensors: invalid probabilities: a probability of nan"
    failed(run(tmp_path / "nan.safetensors", data), 1, words)


@pytest.mark.parametrize("fault", ["missing", "empty", "text", "nothing readable"])
def test_bad_data_is_one_clear_line(
    fault: str, tmp_path: Path, tiny_model: Path, failed: Callable[..., None]
) -> None:
    bad = tmp_path / "bad"
    if fault == "empty":
        bad.mkdir()
    elif fault == "text":
        bad.write_text("no data")
    elif fault == "nothing readable":
        for label in GOLDEN:
            (bad / label).mkdir(parents=True)
            (bad / label / "0.png").write_text("no image")
    failed(run(tiny_model, bad), 1, str(bad))


@pytest.mark.parametrize("split", ["test", "holdout"])
def test_empty_split_is_refused(
    split: str,
    tmp_path: Path,
    tiny_model: Path,
    make_folder: Callable[..., Path],
    failed: Callable[..., None],
) -> None:
    # One image of each class: nothing can be set aside.
    few = make_folder(tmp_path / "few", dict.fromkeys(GOLDEN, 1))
    result = run(tiny_model, few, "--split", split)
    failed(result, 1, f"few: no images in the split '{split}'; the split 'all' has 3")
    assert figures(tiny_model, few, "--split", "all")["images"] == 3


@pytest.mark.parametrize("model", ["tiny_model", "tiny_weights"])
def test_cuda_that_is_not_there_exits_with_4(
    model: str, data: Path, request: pytest.FixtureRequest, failed: Callable[..., None]
) -> None:
    import onnxruntime

    if torch.cuda.is_available() or (
        "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    ):
        pytest.skip("built with CUDA")
    failed(run(request.getfixturevalue(model), data, "--provider", "cuda"), 4, "cuda")
