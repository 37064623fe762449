"""Writing an export: names, files and the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge_export import ExportedModel, export_name, write_export
from nin_edge_runtime import read_model


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ("photos.safetensors", "photos"),
        ("runs/birds/best.safetensors", "birds"),
        ("runs/birds/last.safetensors", "birds"),
        ("/best.safetensors", "best"),
    ],
)
def test_files_are_named_after_the_weights_or_their_run(weights: str, name: str) -> None:
    assert export_name(Path(weights)) == name


def test_run_is_found_from_inside_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "birds").mkdir()
    monkeypatch.chdir(tmp_path / "birds")
    assert export_name(Path("best.safetensors")) == "birds"


def test_models_and_report_are_written(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint, tmp_path: Path
) -> None:
    models = [unmeasured["fp32"], unmeasured["int8"]]
    exported = write_export(models, checkpoint, name="tiny", output=tmp_path / "a" / "b")
    assert exported.models == tuple(models)
    assert [path.name for path in exported.files] == ["tiny.fp32.onnx", "tiny.int8.onnx"]
    for path, model in zip(exported.files, models, strict=True):
        assert read_model(path) == (model.data, model.info)
    assert json.loads(exported.report_json.read_bytes())["name"] == "tiny"
    page = exported.report_html.read_bytes()
    assert b"tiny: export report" in page
    assert b"<code>tiny.report.json</code>" in page
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {
        *("tiny.fp32.onnx", "tiny.int8.onnx", "tiny.report.json", "tiny.report.html")
    }
