"""Emulated Arm cores: the committed results, fp16 on one of them, and roots that are complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import _arm, arm
from benchmarks._result import RESULTS, Row, read
from nin_edge.checkpoint import Checkpoint
from nin_edge_export import ExportOptions, export_models
from nin_edge_runtime.doctor.fixes import ILLEGAL_RELEASE
from nin_edge_runtime.verify import TOLERANCES

IN_FLOAT = 1e-5
"""Half precision differs by more; a core without it computes fp16 files in float."""

HALF_PRECISION = ("cortex-a76", "neoverse-n1", "neoverse-n2", "max")


def _rows() -> list[Row]:
    return list(read(RESULTS / "arm.json").rows)


def test_every_core_is_within_the_tolerance_of_each_precision() -> None:
    good = [row for row in _rows() if row["onnxruntime"] != ILLEGAL_RELEASE]
    assert {row["core"] for row in good} >= {*_arm.CORES, _arm.CORE_32} - {"neoverse-n2"}
    for row in good:
        assert (row["failure"], row["label"]) == (None, "cat"), row
        for precision, tolerance in TOLERANCES.items():
            difference = row[f"{precision}_difference"]
            assert isinstance(difference, float)
            assert difference <= tolerance, row


def test_fp16_is_computed_in_half_precision_where_the_core_has_it() -> None:
    for row in _rows():
        difference = row["fp16_difference"]
        if row["architecture"] == "arm64" and isinstance(difference, float):
            assert (difference > IN_FLOAT) == (row["core"] in HALF_PRECISION), row


def test_the_excluded_release_ends_on_the_cores_that_doctor_names() -> None:
    failures = {
        row["core"]: row["failure"] for row in _rows() if row["onnxruntime"] == ILLEGAL_RELEASE
    }
    assert failures == {
        "cortex-a53": "illegal instruction",
        "cortex-a72": "illegal instruction",
        "cortex-a76": None,
    }


def test_the_same_images_have_the_same_labels_in_all_libraries() -> None:
    rows = read(RESULTS / "arm_images.json").rows
    assert len(rows) == 3 * len(TOLERANCES)
    for row in rows:
        difference = row["max_difference"]
        assert isinstance(difference, float)
        assert difference <= TOLERANCES[str(row["precision"])]
        assert row["equal_labels"] == row["count"] == 100


def test_fp16_is_within_its_tolerance_on_an_emulated_core(
    tmp_path: Path, tiny_weights: Path
) -> None:
    if (reason := _arm.missing()) is not None:
        pytest.skip(reason)
    if not (root := _arm.root_folder("arm64")).is_dir():
        pytest.skip(f"there is no {root}: python -m benchmarks.arm makes it")
    (model,) = export_models(Checkpoint.load(tiny_weights), ExportOptions(precisions=("fp16",)))
    (file := tmp_path / "fp16.onnx").write_bytes(model.data)
    with _arm.guest("arm64") as guest:
        done = guest.python("cortex-a76", "-m", "nin_edge", "verify", guest.add(file))
        assert not arm.failure(done)
    found = re.search(r"golden samples within (\S+) ", done.stdout)
    assert found is not None
    assert IN_FLOAT < float(found[1]) <= TOLERANCES["fp16"]


def test_an_interrupted_root_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs, cache = tmp_path / "bin", tmp_path / "cache"
    programs.mkdir()
    (programs / "mmdebstrap").write_text("#!/bin/sh\necho half >$5\necho no mirror >&2\nexit 25\n")
    (programs / "mmdebstrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    (cache / ".arm64-killed" / "root").mkdir(parents=True)
    with (
        pytest.raises(RuntimeError, match="mmdebstrap failed: no mirror"),
        _arm.guest("arm64", cache),
    ):
        pass
    assert [path.name for path in cache.iterdir()] == ["arm64.lock"]


@pytest.mark.parametrize("architecture", ["arm64", "armhf"])
def test_what_is_missing_is_named(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    reason = _arm.missing(architecture)
    assert reason is not None
    assert "Debian: qemu-user-static" in reason


def test_a_process_that_failed_gives_its_reason() -> None:
    def ended(code: str) -> list[str]:
        command = [sys.executable, "-c", code]
        return arm.failure(subprocess.run(command, capture_output=True, text=True, check=False))

    assert ended("") == []
    assert ended("import os; os.kill(os.getpid(), 4)") == ["illegal instruction"]
    assert ended("raise SystemExit('no model')") == ["exit code 1: no model"]
