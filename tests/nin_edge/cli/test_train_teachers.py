"""`nin-edge train --distill-from`: checkpoints and model files as teachers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from torch import Tensor

from nin_edge.cli import main
from nin_edge.training.run_folder import RunFolder
from nin_edge.training.teachers import OnnxTeacher

TINY = ("--size", "16", "--width", "0.01", "--set", "batch_size=16", "--device", "cpu")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take as long as a tiny network's training."""
    monkeypatch.setattr(RunFolder, "draw", lambda *_, **__: None)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)])


def test_a_student_learns_from_teachers_and_resumes_with_them(
    shapes_folder: Path, tmp_path: Path, trained_run: Path, failed: Callable[..., None]
) -> None:
    run = tmp_path / "run"
    teacher, second = trained_run / "best.safetensors", trained_run / "last.safetensors"
    taught = ("--distill-from", teacher, "--distill-from", second, "--set", "distill_weight=1")
    options = ("--epochs", "1", *TINY, "--width", "0.2")
    result = invoke(shapes_folder, *taught, *options, "-o", run)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("a teacher that is smaller than its student") == 2
    stored = json.loads((run / "config.json").read_text())
    assert [one["weights"] for one in stored["teachers"]] == [str(teacher), str(second)]
    assert stored["recipe"]["distill_weight"] == 1
    assert invoke(shapes_folder, "-o", run, "--resume").exit_code == 0
    # Teachers may have moved; others are refused.
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(teacher.read_bytes())
    again = ("-o", run, "--resume", "--distill-from", moved)
    assert invoke(shapes_folder, *again, "--distill-from", second).exit_code == 0
    for others in ((), ("--distill-from", run / "best.safetensors")):
        failed(invoke(shapes_folder, *again, *others), 1, "was trained with different teachers")


def test_a_model_of_another_program_teaches_and_the_run_resumes_with_it(
    shapes_folder: Path,
    tmp_path: Path,
    write_teacher: Callable[..., Path],
    failed: Callable[..., None],
) -> None:
    run, weights = tmp_path / "run", np.eye(3, dtype=np.float32)
    teacher = write_teacher(tmp_path / "t.onnx", weights)
    options = (shapes_folder, *TINY, "--epochs", "1", "-o", run)
    refused = invoke(*options, "--distill-from", teacher)
    failed(refused, 1, f"{teacher}: an ONNX model of another program, expected t.json beside it")
    assert not run.exists()
    spec = {"mean": 0.5, "std": 0.25, "outputs": "logits"}
    write_teacher(teacher, weights, spec)
    result = invoke(*options, "--distill-from", teacher)
    assert result.exit_code == 0, result.output
    assert f"{teacher}: names no classes, its 3 outputs are taken for circle, squ" in result.stderr
    stored = json.loads((run / "config.json").read_text())
    assert [one["weights"] for one in stored["teachers"]] == [str(teacher)]
    assert invoke(shapes_folder, "-o", run, "--resume").exit_code == 0
    write_teacher(teacher, weights, {**spec, "labels": ["square", "circle", "triangle"]})
    resumed = invoke(shapes_folder, "-o", run, "--resume")
    failed(resumed, 1, "was trained with different teachers")


def test_a_teacher_of_photos_sees_them_at_its_own_size(
    shapes_folder: Path,
    tmp_path: Path,
    write_teacher: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, call = set(), OnnxTeacher.__call__

    def watched(teacher: OnnxTeacher, pixels: Tensor) -> Tensor:
        seen.add(tuple(pixels.shape[1:]))
        return call(teacher, pixels)

    monkeypatch.setattr(OnnxTeacher, "__call__", watched)
    spec = {"mean": 0.5, "std": 0.25, "outputs": "logits"}
    teacher = write_teacher(tmp_path / "t.onnx", np.eye(3, dtype=np.float32), spec)
    taught = (shapes_folder, *TINY, "--epochs", "1", "--distill-from", teacher)
    assert invoke(*taught, "-o", tmp_path / "run").exit_code == 0
    assert seen == {(24, 24, 3)}  # its student takes 16 x 16
    assert invoke(*taught, "--size", "32", "-o", tmp_path / "larger").exit_code == 0
    assert seen == {(24, 24, 3), (32, 32, 3)}


def test_a_teacher_of_other_classes_is_refused_by_name(
    shapes_folder: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    options = ("--distill-from", "nin-cifar10-quarter", *TINY, "-o", tmp_path / "run")
    words = ("nin-cifar10-quarter: a teacher of the classes airplane, ", "circle, square")
    failed(invoke(shapes_folder, *options), 1, *words)
    assert not (tmp_path / "run").exists()
