"""`nin-edge bench`: its tables, its JSON, what it refuses, and what it runs without.

Only the test in a process of its own measures loading; the others take made-up load costs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from nin_edge.cli import main
from nin_edge_runtime import DEFAULT_MODEL
from nin_edge_runtime.bench import measurement, timing
from nin_edge_runtime.bench.loading import Cost

QUICK = ("--rounds", "1", "--batch", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load costs that need no process."""
    monkeypatch.setattr(measurement, "load_cost", lambda *_: Cost(12.34, 70_000_000, 5_000_000))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


def tables(result: Result) -> list[list[list[str]]]:
    """The cells of each table; columns are at least two spaces apart."""
    assert result.exit_code == 0, result.output
    return [
        [[cell.strip() for cell in line.split("  ") if cell] for line in part.splitlines()]
        for part in result.stdout.split("\n\n")
    ]


def test_one_model_has_no_ratio(tiny_model: Path) -> None:
    times, costs, (machine,) = tables(run(tiny_model, *QUICK))
    assert times[0] == ["model", "batch", "p50", "p90", "p99", "images/s"]
    assert [row[:2] for row in times[1:]] == [[tiny_model.name, "1"], [tiny_model.name, "2"]]
    assert costs[0] == ["model", "load", "peak memory", "added", "provider", "threads"]
    assert costs[1][1:] == ["12.3 ms", "70.0 MB", "5.0 MB", "cpu", "1"]
    assert "ONNX Runtime" in machine[0]
    assert machine[0].endswith("; 1 round")


def test_several_models_are_compared_with_the_first(tiny_model: Path) -> None:
    times, costs, _ = tables(run(DEFAULT_MODEL, tiny_model, *QUICK))
    assert times[0][-1] == "ratio"
    names = [DEFAULT_MODEL.name, tiny_model.name]
    assert [row[:2] for row in times[1:]] == [[name, batch] for batch in "12" for name in names]
    assert [row[-1] for row in times[1:]][::2] == ["1.000", "1.000"]
    assert [row[0] for row in costs[1:]] == names


def test_models_of_one_name_are_told_apart_by_their_paths(tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / tiny_model.name
    shutil.copy(tiny_model, other)
    _, costs, _ = tables(run(tiny_model, other, *QUICK))
    assert [row[0] for row in costs[1:]] == [str(tiny_model), str(other)]


def test_without_a_model_the_default_one_is_measured() -> None:
    answer = json.loads(run(*QUICK, "--json").stdout)
    assert [model["file"] for model in answer["models"]] == [str(DEFAULT_MODEL)]


def test_json_is_one_object_with_everything(tiny_model: Path) -> None:
    result = run(tiny_model, tiny_model, *QUICK, "--json")
    answer = json.loads(result.stdout)
    assert result.stderr == ""
    assert set(answer) == {"machine", "rounds", "models"}
    assert answer["rounds"] == 1
    versions = {"python", "onnxruntime", "numpy", "nin_edge"}
    assert set(answer["machine"]) == {"processor", "cpus", "system", *versions}
    for model in answer["models"]:
        assert set(model) == {
            *("file", "bytes", "precision", "size", "provider", "threads"),
            *("load", "timings", "left_out"),
        }
        assert set(model["load"]) == {"load_ms", "peak_memory_bytes", "added_memory_bytes"}
        assert [timing["batch"] for timing in model["timings"]] == [1, 2]
        for figures in model["timings"]:
            assert set(figures) == {
                *("batch", "p50_ms", "p90_ms", "p99_ms", "images_per_second", "ratio", "calls"),
            }


def test_left_out_batches_are_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_LONGEST_CALL", 0.0)
    result = run(tiny_model, "--rounds", 1)
    assert result.exit_code == 0
    for batch in (8, 64):
        assert f"a call of {batch} images takes long here; --batch {batch} measures it" in (
            result.stderr
        )


@pytest.mark.parametrize(
    "options",
    [
        ["--rounds", "3", "--seconds", "3"],
        ["--rounds", "0"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--batch", "0"],
        ["--threads", "0"],
        ["--provider", "tpu"],
        [""],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(options: list[str], failed: Callable[..., None]) -> None:
    failed(run(*options), 2)


@pytest.mark.parametrize("model", ["missing", "text", "checkpoint", "folder"])
def test_unreadable_model_is_named(
    model: str, tiny_model: Path, tiny_weights: Path, tmp_path: Path, failed: Callable[..., None]
) -> None:
    bad = {"checkpoint": tiny_weights, "folder": tmp_path}.get(model, tmp_path / "bad.onnx")
    if model == "text":
        bad.write_text("no model")
    failed(run(tiny_model, bad, *QUICK), 1, str(bad))


def test_cuda_that_is_not_there_exits_with_4(tiny_model: Path, failed: Callable[..., None]) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("built with CUDA")
    failed(run(tiny_model, "--provider", "cuda"), 4, "cuda")


def test_interrupted_it_prints_no_table(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(timing, "interleave", interrupted)
    result = run(tiny_model, *QUICK)
    assert result.exit_code == 130
    assert result.stdout == ""
    assert result.stderr == "interrupted\n"


def test_it_needs_nothing_that_a_device_lacks(tiny_model: Path, tmp_path: Path) -> None:
    # In this process, and in those that it starts to load the model.
    hidden = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'safetensors', 'onnx', 'matplotlib'):\n"
        "            raise ModuleNotFoundError('hidden', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(hidden)
    done = subprocess.run(
        [sys.executable, "-m", "nin_edge", "bench", tiny_model, *QUICK, "--json"],
        env={"PATH": "", "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (model,) = json.loads(done.stdout)["models"]
    assert model["load"]["load_ms"] > 0
