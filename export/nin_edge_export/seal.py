"""The artifact: a graph, its metadata, certificate and SHA-256 in one file (docs/artifact.md)."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import onnxruntime
from onnx import ModelProto

from nin_edge.checkpoint import Checkpoint, library_versions
from nin_edge.network import count_parameters
from nin_edge_export.certify import Golden, Rows
from nin_edge_export.graph import OLDEST_RUNTIME
from nin_edge_runtime.model_file.read import FORMAT_VERSION, PREFIX, file_sha256, find_sha256

# Instruction sets that ONNX Runtime picks its kernels by: results differ in the last digits between
# them.
_CPU_FLAGS: Final = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"),
    *("asimd", "asimddp", "i8mm"),
)


def seal(
    graph: ModelProto,
    checkpoint: Checkpoint,
    *,
    precision: str,
    embedded: str,
    golden: Golden,
    answers: Rows,
    certificate: Mapping[str, Any],
) -> bytes:
    """A graph as a finished file: metadata, then the SHA-256 of the whole.

    Args:
        graph: the model without metadata.
        checkpoint: what it was made from.
        precision: `fp32`, `fp16` or `int8`.
        embedded: which preprocessing the graph does: `full`, `normalize` or `none`.
        golden: the golden samples and PyTorch's probabilities for them.
        answers: the graph's own probabilities for them.
        certificate: what was measured.
    """
    metadata = {
        "format_version": FORMAT_VERSION,
        "labels": checkpoint.labels,
        "preprocessing": {**asdict(checkpoint.preprocessing), "embedded": embedded},
        "precision": precision,
        "temperature": checkpoint.temperature or 1.0,
        "architecture": asdict(checkpoint.config),
        "parameters": count_parameters(checkpoint.config),
        "multiply_adds": checkpoint.config.multiply_adds(),
        "data": asdict(checkpoint.data),
        "versions": {
            **library_versions(),
            **{name: version(name) for name in ("onnx", "onnxscript", "onnxsim")},
            "onnxruntime": onnxruntime.__version__,  # its package may be onnxruntime-gpu
            "onnxruntime-oldest": OLDEST_RUNTIME,
            "processor": processor(),
        },
        "certificate": certificate,
        "golden": {
            "formula": golden.formula,
            "images": golden.images,
            "pytorch": golden.pytorch,
            "file": answers,
        },
        "sha256": "0" * 64,
    }
    model = ModelProto()
    model.CopyFrom(graph)
    for key, value in sorted(metadata.items()):
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        model.metadata_props.add(key=PREFIX + key, value=text)
    data: bytes = model.SerializeToString(deterministic=True)
    digits = find_sha256(data)
    assert digits is not None  # the loop above wrote it
    return data[: digits.start] + file_sha256(data, digits).encode() + data[digits.stop :]


def processor() -> str:
    """Architecture and instruction sets of this machine that decide how a network is computed."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    present = next(
        (line.split(":", 1)[1].split() for line in lines if line.startswith(("flags", "Features"))),
        [],
    )
    return " ".join([platform.machine(), *(flag for flag in _CPU_FLAGS if flag in present)])
