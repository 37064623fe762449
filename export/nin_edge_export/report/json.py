"""The report as JSON: every figure, and "not measured" for what is missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from nin_edge_export.int8.budget import Int8Plan
from nin_edge_export.report.figures import Disagreements, FileFigures, Report
from nin_edge_runtime.model_file import NOT_MEASURED
from nin_edge_runtime.model_file.certificate import Agreement


def to_json(report: Report) -> bytes:
    """The report as strict JSON."""
    value = {
        "name": report.name,
        "data": report.data or NOT_MEASURED,
        "trained": report.trained.to_json(),
        "machine": asdict(report.machine),
        "latency_target_ms": report.latency_target_ms,
        "files": [_file(file, report.fp32) for file in report.files],
        "int8": _int8(report.int8, report.all_int8_ms) if report.int8 else NOT_MEASURED,
        "disagreements": (
            _disagreements(report.disagreements) if report.disagreements else NOT_MEASURED
        ),
    }
    return (json.dumps(value, allow_nan=False, indent=2) + "\n").encode("ascii")


def _file(file: FileFigures, fp32: FileFigures | None) -> dict[str, Any]:
    info, certificate = file.info, file.info.certificate
    before = file.uncalibrated
    return {
        "precision": info.precision,
        "sha256": info.sha256,
        "bytes": file.size,
        "relative_size": file.size / fp32.size if fp32 else None,
        "latency_p50_ms": file.latency_ms,
        "relative_latency": file.latency_ms / fp32.latency_ms if fp32 else None,
        "temperature": info.temperature,
        "float_layers": list(certificate.float_layers),
        "golden": _agreement(certificate.golden),
        "agreement": _agreement(certificate.images),
        "scores": file.scores.to_json() if file.scores else NOT_MEASURED,
        "thresholds": certificate.to_json()["thresholds"],
        "uncalibrated": (
            {"ece": before.error, "calibration": before.to_json()} if before else NOT_MEASURED
        ),
    }


def _agreement(agreement: Agreement | None) -> dict[str, Any] | str:
    if agreement is None:
        return NOT_MEASURED
    return {
        "count": agreement.count,
        "top1_agreement": agreement.top1_agreement,
        "max_abs_difference": agreement.max_abs_difference,
    }


def _int8(plan: Int8Plan, all_int8_ms: float | None) -> dict[str, Any]:
    return {
        "sensitivity": dict(plan.sensitivity),
        "keep_float": list(plan.keep_float),
        "budget": plan.budget._asdict(),
        "all_int8_latency_ms": all_int8_ms,
    }


def _disagreements(disagreements: Disagreements) -> dict[str, Any]:
    return {
        "precision": disagreements.precision,
        "count": disagreements.count,
        "worst": [
            {key: value for key, value in asdict(item).items() if key != "png"}
            for item in disagreements.worst
        ],
    }
