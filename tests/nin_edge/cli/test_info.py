"""`nin-edge info`: a model's metadata as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto

from nin_edge.cli import main
from nin_edge.metrics import wilson_interval
from nin_edge_export.seal import seal
from nin_edge_runtime import DEFAULT_MODEL, read_model
from nin_edge_runtime.model_file.read import file_sha256, find_sha256


def _info(*options: str, model: Path = DEFAULT_MODEL) -> str:
    return CliRunner().invoke(main, ["info", str(model), *options]).stdout


def _lines(text: str) -> dict[str, str]:
    """The lines by their names."""
    return {line.split("  ")[0]: line for line in text.splitlines()}


def test_info_shows_what_the_file_is() -> None:
    text = _info()
    assert "airplane, automobile, bird" in text
    assert "CIFAR-10 (JPEG q75)" in text
    assert "global average pooling of the class maps" in text
    assert (
        "mlpconv blocks, channels [[192, 160, 96], [192, 192, 192], [192, 192]] at width 1" in text
    )
    values = json.loads(_info("--json"))
    assert values["bytes"] == DEFAULT_MODEL.stat().st_size
    assert len(values["labels"]) == 10
    assert np.isclose(sum(values["golden"]["file"][0]), 1, atol=1e-5)


def test_info_shows_the_certificate() -> None:
    certificate = read_model(DEFAULT_MODEL)[1].certificate
    lines = _lines(_info())
    assert certificate.accuracy is not None
    accuracy = certificate.accuracy
    interval = wilson_interval(round(accuracy.top1 * accuracy.images), accuracy.images)
    shown = f"top-1 {accuracy.top1:.2%}; 95% interval {interval[0]:.2%} to {interval[1]:.2%}"
    assert shown in lines["certificate accuracy"]
    assert certificate.thresholds is not None
    assert "split holdout" in lines["certificate thresholds"]
    for row in certificate.thresholds.answers:
        line = lines[f"certificate min score {row.min_score:g}"]
        assert f"coverage {row.coverage:.2%}; top-1 {row.top1:.2%}" in line
    expected = json.loads(json.dumps(certificate.to_json()))
    expected["accuracy"]["top1_interval"] = list(interval)
    assert json.loads(_info("--json"))["certificate"] == expected


@pytest.mark.parametrize(
    ("engines", "words"),
    [
        (("OpenVINO 1.0", "tract\x1b[2J"), "ONNX Runtime; OpenVINO 1.0, tract\\x1b[2J"),
        ((), "ONNX Runtime; no other: all failed or gave wrong probabilities"),
        (None, "ONNX Runtime; the file names no others"),
    ],
)
def test_info_names_the_engines(
    engines: tuple[str, ...] | None, words: str, tiny_model: Path, tmp_path: Path
) -> None:
    graph = onnx.load(tiny_model)
    del graph.metadata_props[:]
    info = replace(read_model(tiny_model)[1], engines=engines)
    (tmp_path / "own.onnx").write_bytes(seal(graph, info))
    assert words in _lines(_info(model=tmp_path / "own.onnx"))["engines"]
    values = json.loads(_info("--json", model=tmp_path / "own.onnx"))
    assert values["engines"] == (None if engines is None else list(engines))


def test_info_says_what_was_not_measured(tiny_model: Path) -> None:
    lines = _lines(_info(model=tiny_model))
    for part in ("images", "accuracy", "calibration", "thresholds"):
        assert lines[f"certificate {part}"].endswith("not measured")
    assert lines["certificate float layers"].endswith("all")
    assert not any("budget" in name or "quantization" in name for name in lines)


def resealed(data: bytes, metadata: dict[str, object]) -> bytes:
    """A model file with other metadata and a SHA-256 that fits, as a forger would make it."""
    model = ModelProto.FromString(data)
    for entry in model.metadata_props:
        key = entry.key.removeprefix("nin_edge.")
        if key in metadata:
            entry.value = json.dumps(metadata[key])
    forged: bytes = model.SerializeToString()
    digits = find_sha256(forged)
    assert digits is not None
    return forged[: digits.start] + file_sha256(forged, digits).encode() + forged[digits.stop :]


ESCAPE = "\x1b]0;title\x07\r\nlabels  forged"
ACCURACY = {"images": 9, "measured_with": "this file", "top1": 0.5}
ROWS = [{"min_score": 0.5, "coverage": 1.0, "top1": None}] * 5_000


@pytest.mark.parametrize(
    "metadata",
    [
        {"data": {"name": ESCAPE, "licence": ESCAPE}},
        {"versions": {ESCAPE: ESCAPE}},
        {"versions": {"x" * 500_000: "1"}},
        {"versions": {f"library {number}": "x" * 1000 for number in range(900)}},
        {"data": {"name": "x" * 500_000}},
        {"architecture": {"preset": ESCAPE, "width": 1}},
        {"architecture": {"blocks": [[8] * 50_000]}},
        {"certificate": {"accuracy": {"data": ESCAPE * 5_000, **ACCURACY}}},
        {"certificate": {"accuracy": {"data": "x", **ACCURACY, "images": 0}}},
        {"certificate": {"accuracy": {"data": "x", **ACCURACY, "top1": 7.5}}},
        {"certificate": {"float_layers": [ESCAPE] * 10_000, ESCAPE: ESCAPE}},
        {
            "certificate": {
                "thresholds": {
                    **dict.fromkeys(("data", "split", "measured_with", "temperature"), "x"),
                    "images": 1,
                    "answers": ROWS,
                }
            }
        },
    ],
    ids=lambda metadata: str(metadata)[:30],
)
def test_info_prints_little_of_a_strangers_text_and_nothing_raw(
    tiny_model: Path, tmp_path: Path, metadata: dict[str, object]
) -> None:
    model = tmp_path / "m.onnx"
    model.write_bytes(resealed(tiny_model.read_bytes(), metadata))
    text = _info(model=model)
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) < 140
    assert len(text) < 60_000
    assert sum(line.startswith("labels") for line in lines) == 1
    assert len(_info("--json", model=model)) < 40_000_000
