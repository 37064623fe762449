"""The report as JSON: strict, complete, and open about what was not measured."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nin_edge.checkpoint import Checkpoint
from nin_edge.metrics import wilson_interval
from nin_edge_export import ExportedModel
from nin_edge_export.report import Report, measure, to_html, to_json

ROUNDING = 1e-9


def _strict(data: bytes) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(data, parse_constant=refuse)


def test_sizes_and_latencies_are_relative_to_fp32(
    report: Report, four_models: list[ExportedModel]
) -> None:
    files = _strict(to_json(report))["files"]
    assert [file["bytes"] for file in files] == [len(model.data) for model in four_models]
    assert [file["sha256"] for file in files] == [model.info.sha256 for model in four_models]
    for file in files:
        size, latency = files[0]["bytes"], files[0]["latency_p50_ms"]
        assert file["relative_size"] == pytest.approx(file["bytes"] / size, abs=ROUNDING)
        relative = file["latency_p50_ms"] / latency
        assert file["relative_latency"] == pytest.approx(relative, abs=ROUNDING)
        assert 0 < file["latency_p50_ms"] < 1e3


def test_json_is_strict_and_complete(report: Report) -> None:
    value = _strict(to_json(report))
    assert set(value) == {
        *("name", "data", "trained", "machine", "files", "int8", "disagreements"),
        "latency_target_ms",
    }
    assert (value["name"], value["data"]) == ("tiny", "four")
    assert set(value["files"][0]) == {
        *("precision", "sha256", "bytes", "relative_size", "latency_p50_ms", "relative_latency"),
        *("temperature", "float_layers", "golden", "agreement", "scores", "uncalibrated"),
        "thresholds",
    }
    assert value["files"][0]["thresholds"]["answers"][0]["coverage"] == 1.0
    scores = value["files"][-1]["scores"]
    assert scores["top1_interval"] == list(wilson_interval(2, 4))
    assert scores["confusion"] == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]
    assert len(scores["calibration"]) == 15
    assert scores["calibration"][0] == {"count": 0, "confidence": None, "accuracy": None}
    assert value["int8"]["sensitivity"] == {"stages.0.0": 2e-3, "stages.0.3": 1e-3}
    assert value["int8"]["keep_float"] == ["stages.0.0"]
    assert value["int8"]["all_int8_latency_ms"] > 0
    assert value["int8"]["budget"]["drop_points"] == 0.2
    assert value["disagreements"]["count"] == 2
    assert "png" not in value["disagreements"]["worst"][0]


def test_json_says_what_was_not_measured(unmeasured_report: Report) -> None:
    value = _strict(to_json(unmeasured_report))
    assert value["data"] == value["int8"] == value["disagreements"] == "not measured"
    for file in value["files"]:
        for part in ("scores", "agreement", "uncalibrated", "thresholds"):
            assert file[part] == "not measured"
        assert file["golden"]["count"] == 8


def test_without_fp32_nothing_is_relative(
    unmeasured: dict[str, ExportedModel], checkpoint: Checkpoint
) -> None:
    report = measure([unmeasured["fp16"], unmeasured["int8"]], checkpoint, name="tiny")
    assert _strict(to_json(report))["files"][0]["relative_size"] is None
    assert "of fp32" not in to_html(report).decode().replace("size of fp16", "")
