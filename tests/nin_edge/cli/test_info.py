"""`nin-edge info`: a model's metadata as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from nin_edge.cli import main
from nin_edge_runtime import DEFAULT_MODEL, read_model


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
    assert f"top-1 {certificate.accuracy.top1:.2%}" in lines["certificate accuracy"]
    assert certificate.thresholds is not None
    assert "split holdout" in lines["certificate thresholds"]
    for row in certificate.thresholds.answers:
        line = lines[f"certificate min score {row.min_score:g}"]
        assert f"coverage {row.coverage:.2%}; top-1 {row.top1:.2%}" in line
    assert json.loads(_info("--json"))["certificate"] == json.loads(
        json.dumps(certificate.to_json())
    )


def test_info_says_what_was_not_measured(tiny_model: Path) -> None:
    lines = _lines(_info(model=tiny_model))
    for part in ("images", "accuracy", "calibration", "thresholds"):
        assert lines[f"certificate {part}"].endswith("not measured")
    assert lines["certificate float layers"].endswith("all")
    assert not any("budget" in name or "quantization" in name for name in lines)
