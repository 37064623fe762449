"""What `nin-edge export` writes, what it refuses, and the names of the files."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nin_edge.cli import main
from nin_edge_runtime.golden import golden_image

pytestmark = pytest.mark.usefixtures("quick_report")


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def _one_line(result: Result) -> str:
    """The error, which has to be one line on stderr with nothing else."""
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_export_writes_models_that_run_takes_and_compares_them_on_real_images(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for label in ("circle", "square", "étoile"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for index in range(10):
            image = Image.fromarray(golden_image(index, 20, 20))
            image.save(tmp_path / "data" / label / f"{index}.png")
    run = tmp_path / "birds"
    run.mkdir()
    shutil.copy(tiny_weights, run / "best.safetensors")  # its models are named after the run
    weights = run / "best.safetensors"
    result = _run("export", weights, "-o", tmp_path / "out", "--eval-data", tmp_path / "data")
    assert result.exit_code == 0
    assert re.search(
        r"top-1 \d+\.\d\d% \(95% interval \d+\.\d\d% to \d+\.\d\d%\), top-1 agr", result.stdout
    )
    assert "top-1 agreement with PyTorch 100.00% on 6 images" in result.stdout
    models = {"birds.fp32.onnx", "birds.fp16.onnx", "birds.int8.onnx"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*models, "birds.report.json", "birds.report.html"}
    for name in (*models, "birds.report.html"):
        assert str(tmp_path / "out" / name) in result.stdout
    picture = tmp_path / "data" / "circle" / "0.png"
    assert _run("run", picture, "--model", tmp_path / "out" / "birds.int8.onnx").exit_code == 0


def test_export_takes_a_runs_folder_and_measures_on_its_data(
    trained_run: Path, tmp_path: Path
) -> None:
    options = ("-o", tmp_path / "out", "--precision", "fp32")
    measured = _run("export", trained_run, *options)
    assert measured.exit_code == 0, measured.output
    assert "shapes: 3 classes" in measured.stderr
    assert "on 45 images of shapes" in measured.stdout
    assert (tmp_path / "out" / f"{trained_run.name}.fp32.onnx").exists()
    unmeasured = _run("export", trained_run, *options, "--no-eval")
    assert unmeasured.exit_code == 0
    assert "golden samples" in unmeasured.stdout
    assert "shapes: 3 classes" not in unmeasured.stderr


def test_export_writes_a_repository_for_triton(tiny_weights: Path, tmp_path: Path) -> None:
    options = ("-o", tmp_path / "out", "--precision", "fp32", "--triton", tmp_path / "served")
    result = _run("export", tiny_weights, *options)
    assert result.exit_code == 0, result.output
    for name in ("tiny-fp32", "tiny-fp32-python"):
        folder = tmp_path / "served" / name / "1"
        assert f"{folder}: model {name} for Triton" in result.stdout
        model = (tmp_path / "out" / "tiny.fp32.onnx").read_bytes()
        assert (folder / "model.onnx").read_bytes() == model
    (tmp_path / "file").touch()
    refused = _run("export", tiny_weights, "-o", tmp_path / "new", "--triton", tmp_path / "file")
    assert "file: a file, expected a folder to write to" in _one_line(refused)
    assert not (tmp_path / "new").exists()


def test_export_of_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    result = _run("export", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert f"{tmp_path}: not a run's folder, expected one with config.json" in _one_line(result)


def test_export_beyond_the_tolerance_exits_with_3_and_writes_nothing(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nin_edge_export import parity

    monkeypatch.setitem(parity.TOLERANCES, "fp32", 0.0)
    result = _run("export", tiny_weights, "-o", tmp_path / "out", "--precision", "fp32")
    assert result.exit_code == 3
    assert "differs from PyTorch" in _one_line(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such file"),
        (b"", "not a readable checkpoint"),
        (b"garbage" * 100, "not a readable checkpoint"),
        ("half", "not a readable checkpoint"),
        ("model", "an ONNX model, expected a checkpoint"),
    ],
)
def test_export_says_what_is_wrong_with_a_checkpoint(
    content: bytes | str | None, reason: str, tmp_path: Path, tiny_weights: Path, tiny_model: Path
) -> None:
    path = tmp_path / "w.safetensors"
    if content == "model":
        path = tiny_model
    elif content == "half":
        path.write_bytes(tiny_weights.read_bytes()[: tiny_weights.stat().st_size // 2])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    result = _run("export", path, "-o", tmp_path / "out")
    assert result.exit_code == 1
    line = _one_line(result)
    assert str(path) in line
    assert reason in line
    assert not (tmp_path / "out").exists()


def test_export_to_a_file_in_the_way_is_refused(tiny_weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    result = _run("export", tiny_weights, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert str(tmp_path / "out") in _one_line(result)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_export_to_a_folder_that_is_not_writable_is_refused(
    tiny_weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "sealed"
    folder.mkdir(mode=0o500)
    result = _run("export", tiny_weights, "-o", folder)
    assert result.exit_code == 1
    assert str(folder) in _one_line(result)
