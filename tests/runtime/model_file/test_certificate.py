"""The certificate: its JSON is read and written in one form, also that of older files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nin_edge_runtime import DEFAULT_MODEL, ModelFileError, read_model
from nin_edge_runtime.model_file import Certificate
from nin_edge_runtime.model_file.certificate import Agreement, Budget, Quantization, Threshold

# An int8 file's, its keys in their order.
COMPLETE: dict[str, Any] = {
    "golden": {
        **{"count": 8, "max_abs_difference": 0.13, "top1_agreement": 1.0, "tolerance": 1.0},
        "firm_answers": 7,
    },
    "images": {
        **{"data": "photos", "count": 90, "max_abs_difference": 0.26, "top1_agreement": 0.9},
        "tolerance": 1.0,
    },
    "accuracy": {"data": "photos", "images": 90, "measured_with": "this file", "top1": 0.91},
    "calibration": {
        **{"data": "photos", "images": 90, "measured_with": "this file"},
        **{"ece_before": 0.16, "ece_after": 0.01},
    },
    "thresholds": {
        **{"data": "photos", "split": "holdout", "images": 20, "measured_with": "this file"},
        "temperature": "fitted on these images",
        "answers": [
            {"min_score": 0.5, "coverage": 0.9, "top1": 0.95},
            {"min_score": 0.99, "coverage": 0.0, "top1": None},
        ],
    },
    "float_layers": ["stages.0.0"],
    "quantization": {"method": "entropy", "ranges": "photos", "images": 512},
    "budget": {
        **{"holdout_images": 20, "fp32_top1": 0.95, "int8_top1": 0.9, "drop_points": 5.0},
        "max_drop_points": None,
    },
}
# What the first release wrote.
OLDEST: dict[str, Any] = {
    **{key: COMPLETE[key] for key in ("golden", "accuracy")},
    **{"images": "not measured", "calibration": "not measured", "float_layers": "all"},
}


def _as_text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def test_complete_certificate_is_read_typed_and_written_as_it_was() -> None:
    certificate = Certificate.from_json(COMPLETE)
    assert certificate.golden == Agreement(None, 8, 0.13, 1.0, 1.0, firm_answers=7)
    assert certificate.images == Agreement("photos", 90, 0.26, 0.9, 1.0)
    assert certificate.accuracy is not None
    assert certificate.accuracy.top1 == 0.91
    assert certificate.calibration is not None
    assert certificate.calibration.ece_after == 0.01
    assert certificate.thresholds is not None
    assert certificate.thresholds.answers[1] == Threshold(0.99, 0.0, None)
    assert certificate.float_layers == ("stages.0.0",)
    assert certificate.quantization == Quantization("entropy", "photos", 512)
    assert certificate.budget == Budget(20, 0.95, 0.9, 5.0, None)
    assert _as_text(certificate.to_json()) == _as_text(COMPLETE)


def test_what_was_not_measured_is_none_here_and_words_there() -> None:
    certificate = Certificate(quantization=Quantization("minmax", "recorded"))
    written = certificate.to_json()
    for part in ("golden", "images", "accuracy", "calibration", "thresholds", "budget"):
        assert written[part] == "not measured"
    assert written["quantization"] == {"method": "minmax", "ranges": "recorded"}
    assert Certificate.from_json(written) == certificate
    assert not {"quantization", "budget"} & Certificate().to_json().keys()  # of int8 alone


@pytest.mark.parametrize("value", [{}, OLDEST], ids=["empty", "oldest"])
def test_older_certificates_are_read(value: dict[str, Any]) -> None:
    certificate = Certificate.from_json(value)
    assert certificate.images is certificate.thresholds is certificate.budget is None
    assert certificate.float_layers == (("all",) if value else ())
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_unknown_keys_are_ignored() -> None:
    later = {**COMPLETE, "later": 1, "accuracy": {**COMPLETE["accuracy"], "top3": [1]}}
    assert Certificate.from_json(later) == Certificate.from_json(COMPLETE)


def test_committed_files_carry_theirs(tiny_model: Path) -> None:
    for path in sorted(tiny_model.parent.glob("*.onnx")):
        assert read_model(path)[1].certificate.golden is not None
    certificate = read_model(DEFAULT_MODEL)[1].certificate
    assert certificate.accuracy is not None
    assert certificate.accuracy.images == 10_000
    assert certificate.thresholds is not None
    assert certificate.budget is not None


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("golden", "unknown", "golden: expected an object"),
        ("images", [], "images: expected an object"),
        ("accuracy", {"data": "photos"}, "accuracy: images is missing"),
        ("accuracy", {**COMPLETE["accuracy"], "top1": "0.9"}, "top1: '0.9', expected a number"),
        ("accuracy", {**COMPLETE["accuracy"], "images": 9.5}, "expected an integer"),
        ("calibration", {**COMPLETE["calibration"], "data": 7}, "data: 7, expected a string"),
        ("thresholds", {**COMPLETE["thresholds"], "answers": [3]}, "expected an object"),
        ("float_layers", [1], "1, expected a string"),
        ("float_layers", 5, "5, expected a list"),
        ("budget", {**COMPLETE["budget"], "drop_points": None}, "drop_points: None"),
    ],
)
def test_part_of_another_form_is_damage(
    tiny_bytes: bytes, forge: Callable[..., bytes], part: str, value: object, said: str
) -> None:
    forged = forge(tiny_bytes, {"certificate": json.dumps({**COMPLETE, part: value})})
    with pytest.raises(ModelFileError, match=f"damaged metadata: .*{said}"):
        read_model(forged)
