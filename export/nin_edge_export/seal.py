"""The artifact: a graph, its metadata and its SHA-256 in one file (docs/artifact.md)."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import onnxruntime
from onnx import ModelProto

from nin_edge.checkpoint import Checkpoint, library_versions
from nin_edge.network import count_parameters
from nin_edge_export.graph import OLDEST_RUNTIME
from nin_edge_runtime.cpu import instruction_sets
from nin_edge_runtime.model_file import FORMAT_VERSION, Certificate, GoldenSamples, ModelInfo
from nin_edge_runtime.model_file.info import PREFIX
from nin_edge_runtime.model_file.read import file_sha256, find_sha256


def describe(
    checkpoint: Checkpoint, *, precision: str, embedded: str, golden: GoldenSamples
) -> ModelInfo:
    """The metadata of a model that was not measured yet.

    Args:
        checkpoint: what the model is made from.
        precision: `fp32`, `fp16` or `int8`.
        embedded: which preprocessing the graph does: `full`, `normalize` or `none`.
        golden: the golden samples and PyTorch's probabilities for them.
    """
    return ModelInfo(
        format_version=FORMAT_VERSION,
        labels=checkpoint.labels,
        preprocessing=checkpoint.preprocessing,
        embedded=embedded,
        precision=precision,
        temperature=checkpoint.temperature or 1.0,
        architecture=asdict(checkpoint.config),
        parameters=count_parameters(checkpoint.config),
        multiply_adds=checkpoint.config.multiply_adds(),
        data=asdict(checkpoint.data),
        versions={
            **library_versions(),
            **{name: version(name) for name in ("onnx", "onnxscript", "onnxsim")},
            "onnxruntime": onnxruntime.__version__,  # its package may be onnxruntime-gpu
            "onnxruntime-oldest": OLDEST_RUNTIME,
            "processor": instruction_sets(),
        },
        certificate=Certificate(),
        golden=golden,
        engines=None,
        sha256="",
    )


def seal(graph: ModelProto, info: ModelInfo) -> bytes:
    """A graph as a finished file: metadata, then the SHA-256 of the whole.

    Args:
        graph: the model without metadata.
        info: its metadata; the SHA-256 is computed here.
    """
    model = ModelProto()
    model.CopyFrom(graph)
    for key, value in sorted(_metadata(info).items()):
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        model.metadata_props.add(key=PREFIX + key, value=text)
    data: bytes = model.SerializeToString(deterministic=True)
    digits = find_sha256(data)
    assert digits is not None  # the loop above wrote it
    return data[: digits.start] + file_sha256(data, digits).encode() + data[digits.stop :]


def _metadata(info: ModelInfo) -> dict[str, Any]:
    """The metadata as JSON can carry it, by key; `model_file.parse` reads it."""
    values = {
        "format_version": info.format_version,
        "labels": info.labels,
        "preprocessing": {**asdict(info.preprocessing), "embedded": info.embedded},
        "precision": info.precision,
        "temperature": info.temperature,
        "architecture": info.architecture,
        "parameters": info.parameters,
        "multiply_adds": info.multiply_adds,
        "data": info.data,
        "versions": info.versions,
        "certificate": info.certificate.to_json(),
        "golden": asdict(info.golden),
        "sha256": "0" * 64,
    }
    return values if info.engines is None else {**values, "engines": info.engines}
